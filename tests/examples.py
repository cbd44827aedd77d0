#!/usr/bin/env python3
"""Runs the quickstart as its README says, and checks every resource of the examples.

The binary is that of the environment variable OUTRIGGER, else target/debug/outrigger. The last line counts.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("OUTRIGGER", str(ROOT / "target/debug/outrigger"))
QUICKSTART = "examples/quickstart"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def quickstart(folder):
    """Its paths are those of the repository's root, so a copy of it in an empty folder is used."""
    app, http, grpc, metrics = free_ports(4)
    command = [BINARY, "run", "--app-id", "shop", "--app-port", app, "--dapr-http-port", http, "--dapr-grpc-port", grpc,
               "--metrics-port", metrics, "--resources-path", f"{QUICKSTART}/resources", "--",
               sys.executable, f"{QUICKSTART}/app.py"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, f"exit code {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def the_quickstart_does_its_job_and_ends(folder):
    out = quickstart(folder)
    for wanted in ("the store holds 0 orders", "received  1 x honey, kept as order-5", "says: 5 orders", "| done"):
        assert wanted in out, f"no `{wanted}` in\n{out}"


def a_second_run_finds_the_state_of_the_first(folder):
    quickstart(folder)
    out = quickstart(folder)
    assert "the store holds 5 orders" in out and "says: 10 orders" in out, out


def every_resource_is_right(folder):
    for resources in sorted((folder / "examples").glob("*/resources")):
        ended = subprocess.run([BINARY, "check", str(resources)], capture_output=True, text=True, timeout=30)
        assert ended.returncode == 0, ended.stdout


def the_commands_of_the_readmes_are_the_same(folder):
    del folder
    line = next(line for line in (ROOT / "README.md").read_text().split("\n") if line.startswith("cargo run "))
    assert line in (ROOT / QUICKSTART / "README.md").read_text()


def main():
    passed = failed = 0
    for test in (the_quickstart_does_its_job_and_ends, a_second_run_finds_the_state_of_the_first,
                 every_resource_is_right, the_commands_of_the_readmes_are_the_same):
        with tempfile.TemporaryDirectory(prefix="outrigger-examples-") as name:
            folder = pathlib.Path(name)
            shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.db*"))
            try:
                test(folder)
                passed += 1
                print(f"{test.__name__}: ok")
            except Exception as error:
                failed += 1
                print(f"{test.__name__}: failed\n{error}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
