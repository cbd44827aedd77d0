#!/usr/bin/env python3
"""Runs the quickstart as its README says, checks every resource of the examples, and starts what compose files start.

Needs PyYAML. Containers are the business of tests/compose.py.
The binary is that of the environment variable OUTRIGGER, else target/debug/outrigger. The last line counts.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import yaml

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


def services(folder):
    """(recipe, name, service) of everything that is to run Outrigger."""
    for file in sorted((folder / "examples/compose").glob("*.yaml")):
        recipe = yaml.safe_load(file.read_text())
        for name, service in recipe["services"].items():
            if "build" in service:
                yield file, recipe, name, service


def compose_files_fit_together(folder):
    dockerfile = (folder / "examples/compose/Dockerfile").read_text()
    found = 0
    for file, recipe, name, service in services(folder):
        found += 1
        where = f"{file.name}, {name}"
        assert f" AS {service['build']['target']}\n" in dockerfile, where
        assert (file.parent / service["build"]["context"]).resolve() == folder.resolve(), where
        seconds = {word: int(value.rstrip("s")) for word, value in
                   [word.split("=") for word in service["command"] if "-timeout=" in word]}
        assert int(service["stop_grace_period"].rstrip("s")) > seconds["--drain-timeout"] + 5, where
        assert "redis" in service["depends_on"], where
    for file in sorted((folder / "examples/compose").glob("*.yaml")):
        recipe = yaml.safe_load(file.read_text())["services"]
        for name, service in recipe.items():
            for volume in service.get("volumes", []):
                assert (file.parent / volume.split(":")[0]).exists(), f"{file.name}, {name}: {volume}"
            for other in service.get("depends_on", []):
                assert other in recipe, f"{file.name}, {name}: {other}"
            owner = service.get("network_mode", f"service:{name}").removeprefix("service:")
            assert owner in recipe, f"{file.name}, {name}: {owner}"
    assert found == 4, f"{found} recipes"


def what_compose_files_start_starts(folder):
    """Their flags, with ports of our own; Redis is not there, which ends nothing."""
    for file, _, name, service in services(folder):
        words = [word.replace("/resources", str(file.parent / "resources")) for word in service["command"]]
        http, grpc, metrics, internal = free_ports(4)
        own = ["--dapr-http-port", http, "--dapr-grpc-port", grpc, "--metrics-port", metrics, "--dapr-internal-grpc-port", internal]
        if "--" in words:
            words = words[:words.index("--")] + own + ["--", "true"]
            ended = subprocess.run([BINARY, "run", *words], capture_output=True, text=True, timeout=60)
            assert ended.returncode == 0, f"{file.name}, {name}:\n{ended.stdout}{ended.stderr}"
            continue
        sidecar = subprocess.Popen([BINARY, "sidecar", *words, *own], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            until_served(http)
        finally:
            sidecar.terminate()
            out = sidecar.communicate(timeout=60)[0]
        assert sidecar.returncode == 0, f"{file.name}, {name}:\n{out}"


def until_served(port):
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1.0/healthz/outbound", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("no calls are served")


def main():
    passed = failed = 0
    for test in (the_quickstart_does_its_job_and_ends, a_second_run_finds_the_state_of_the_first,
                 every_resource_is_right, the_commands_of_the_readmes_are_the_same,
                 compose_files_fit_together, what_compose_files_start_starts):
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
