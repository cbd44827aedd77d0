"""Runs a command on a terminal of its own, and types: terminal.py TEXT=KEY... -- COMMAND.

KEY is typed when a line with TEXT has been printed: `c` and `z` with the control key. A command that is stopped is told
and continued. What the command prints is printed, and its exit code is ours.
"""

import os
import pty
import sys
import threading

end = sys.argv.index("--")
typed = dict(word.rsplit("=", 1) for word in sys.argv[1:end])
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[end + 1], sys.argv[end + 1:])


def relay():
    text = ""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            return
        if not data:
            return
        os.write(1, data.replace(b"\r\n", b"\n"))
        text += data.decode()
        for wanted in [wanted for wanted in typed if wanted in text]:
            os.write(terminal, {"c": b"\x03", "z": b"\x1a"}[typed.pop(wanted)])


reader = threading.Thread(target=relay)
reader.start()
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.write(1, b"terminal: stopped\n")
    os.kill(child, 18)
reader.join()
sys.exit(os.waitstatus_to_exitcode(status))
