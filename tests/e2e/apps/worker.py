"""An app that works on messages, as told by its environment, and prints what happens to it.

WORK      seconds that a message takes
CRASHES   how many deliveries it dies on, counted over all its lives in the file `crashes` of the current folder
SIGNAL    what it dies of: the number of a signal; otherwise it exits with 1
ON_TERM   what it publishes when it is told to end, before it does

It ends by itself once told, when nothing is in hand. Messages of the topic `work` are worked on, those of `dead` noted.
"""

import http.server
import json
import os
import pathlib
import signal
import threading
import time
import urllib.request

SIDECAR = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}"
CRASHES = pathlib.Path("crashes")
lock = threading.Lock()
in_hand = 0


def say(text):
    # In one piece: others may print, too.
    os.write(1, f"{text}\n".encode())


def crash_is_due():
    with lock:
        count = int(CRASHES.read_text()) if CRASHES.exists() else 0
        if count >= int(os.environ.get("CRASHES", 0)):
            return False
        CRASHES.write_text(str(count + 1))
        return True


def die():
    if "SIGNAL" in os.environ:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        time.sleep(10)
    os._exit(1)


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/dapr/subscribe":
            own = {"pubsubname": "bus", "topic": "work", "route": "/work", "deadLetterTopic": "dead"}
            dead = {"pubsubname": "bus", "topic": "dead", "route": "/dead"}
            return self.answer(200, json.dumps([own, dead]).encode())
        return self.answer(404)

    def do_POST(self):
        global in_hand
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = event["data"]
        if self.path == "/dead":
            say(f"dead {text}")
            return self.answer(200)
        with lock:
            in_hand += 1
        say(f"took {text}")
        if crash_is_due():
            die()
        time.sleep(float(os.environ.get("WORK", 0)))
        say(f"did {text}")
        self.answer(200)
        with lock:
            in_hand -= 1


def publish(text):
    body = json.dumps(text).encode()
    request = urllib.request.Request(f"{SIDECAR}/v1.0/publish/bus/last", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.status


def end(*_):
    def later():
        say("told to end")
        if "ON_TERM" in os.environ:
            say(f"last words: {publish(os.environ['ON_TERM'])}")
        while in_hand:
            time.sleep(0.01)
        os._exit(0)

    threading.Thread(target=later).start()


signal.signal(signal.SIGTERM, end)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), App)
say("started")
server.serve_forever()
