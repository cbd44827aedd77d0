#!/usr/bin/env python3
"""Runs the recipes of examples/compose in containers: A44 and A46 of lifecycle.md, and restarts of each part.

A Docker engine of its own is started for it, in a network of its own, with images made of programs of this machine; no
registry is asked, and no other engine is touched. For root, with what the list NEEDS names (Debian, Ubuntu: apt-get install
docker.io docker-compose redis-server). Without these it says `not run` and exits with 77. The binary is that of the
environment variable OUTRIGGER, else target/debug/outrigger. The last line counts.
"""

import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPES = ROOT / "examples/compose"
BINARY = pathlib.Path(os.environ.get("OUTRIGGER", ROOT / "target/debug/outrigger"))
NEEDS = ("dockerd", "docker", "docker-compose", "redis-server", "unshare", "ip")
NOT_RUN = 77


def until(what, limit, seen):
    """Waits for a truth; it and how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < limit:
        found = seen()
        if found:
            return found, time.monotonic() - began
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {limit} s")


def run(*words, check=True, **more):
    ended = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           timeout=300, **more)
    assert not check or ended.returncode == 0, f"{words}: {ended.returncode}\n{ended.stdout}"
    return ended.stdout


class Engine:
    """A Docker engine for as long as it is needed."""

    def __init__(self, folder):
        self.folder = folder
        self.socket = f"unix://{folder}/socket"
        command = f"ip link set lo up && exec dockerd --data-root {folder}/data --exec-root {folder}/exec " \
                  f"--host {self.socket} --pidfile {folder}/pid --bip 10.97.0.1/24"
        self.log = open(folder / "log", "w")
        self.process = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", command],
                                        stdout=self.log, stderr=self.log)
        os.environ["DOCKER_HOST"] = self.socket
        until("Docker engine", 30, lambda: subprocess.run(["docker", "version"], capture_output=True).returncode == 0)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def libraries(program):
    """Every file that a program is linked with; `ldd` tells."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return set(re.findall(r"(/\S+) \(0x", told))


def image(folder):
    """Python, Redis, a shell: what the recipes find in images of a registry."""
    stdlib = pathlib.Path(sysconfig.get_path("stdlib")).resolve()
    python = pathlib.Path(sys.executable).resolve()
    programs = {"python3": python}
    for name in ("sh", "sleep", "redis-server"):
        programs[name] = pathlib.Path(shutil.which(name)).resolve()
    modules = sorted(stdlib.rglob("*.so"))
    linked = set().union(*(libraries(path) for path in [BINARY, *programs.values(), *modules]))
    packed = folder / "image.tar"
    with tarfile.open(packed, "w") as tar:
        def link(name, target):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, str(target)
            tar.addfile(entry)

        def skip(entry):
            return None if re.search(r"/(test|tests|site-packages|dist-packages|__pycache__|config-[^/]*)$", entry.name) else entry

        tar.add(stdlib, str(stdlib).lstrip("/"), filter=skip)
        places = {str(path) for path in linked} | {str(path) for path in programs.values()}
        for place in sorted(places):
            # Under the name that it is asked for by, whatever that is a link to.
            tar.add(os.path.realpath(place), "real" + place)
            link(place.lstrip("/"), "/real" + place)
        for name, path in programs.items():
            if str(path) != f"/usr/bin/{name}":
                link(f"usr/bin/{name}", path)
        link("bin/sh", "/usr/bin/sh") if "/bin/sh" not in places else None
        for name in ("tmp", "usr/local/bin"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
    return packed


def images(folder):
    packed = image(folder)
    home = pathlib.Path(sys.base_prefix).resolve()
    settings = ["--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin", "--change", f"ENV PYTHONHOME={home}",
                "--change", "ENV PYTHONUNBUFFERED=1"]
    run("docker", "import", *settings, packed, "python:3.13-slim")
    for name in ("redis:7", "debian:bookworm-slim"):
        run("docker", "tag", "python:3.13-slim", name)
    with tarfile.open(folder / "binary.tar", "w") as tar:
        tar.add(BINARY.resolve(), "outrigger")
    run("docker", "import", folder / "binary.tar", "outrigger-binary")
    for target, name in (("sidecar", "outrigger-example"), ("one-container", "outrigger-example-shop")):
        run("docker", "build", "--file", RECIPES / "Dockerfile", "--target", target, "--tag", name,
            "--build-arg", "BINARY=outrigger-binary", ROOT, env={**os.environ, "DOCKER_BUILDKIT": "1"})


class Recipe:
    """One compose file, from up to down."""

    def __init__(self, name):
        self.ids = {}
        self.words = ["docker-compose", "--project-name", name, "--file", RECIPES / f"{name}.yaml"]

    def __enter__(self):
        self.compose("up", "--detach", "--no-build")
        return self

    def __exit__(self, kind, *_):
        if kind:
            print(self.compose("logs", "--no-color", check=False))
        self.compose("down", "--volumes", "--timeout", "1", check=False)

    def compose(self, *words, **more):
        return run(*self.words, *words, **more)

    def id(self, service):
        if service not in self.ids:
            self.ids[service] = self.compose("ps", "--quiet", service).strip()
        return self.ids[service]

    def log(self, service):
        return run("docker", "logs", self.id(service))

    def says(self, service, text, limit=60, times=1):
        return until(f"{text!r} of {service}", limit, lambda: self.log(service).count(text) >= times)[1]

    def when(self, service, text, nth):
        """When a container has said something for the nth time; the engine's clock tells."""
        lines = [line for line in run("docker", "logs", "--timestamps", self.id(service)).split("\n") if text in line]
        stamp = lines[nth - 1].split(" ")[0]
        return datetime.datetime.fromisoformat(stamp[:26] + "+00:00").timestamp()

    def inspect(self, service):
        return json.loads(run("docker", "inspect", self.id(service)))[0]

    def orders(self, service):
        """The names of the orders that were kept."""
        return re.findall(r"order (\w+) kept", self.log(service))

    def goes_on(self, service, limit=30):
        """Waits for an order that is kept from now on; how long that took."""
        before = len(self.orders(service))
        return until("another order", limit, lambda: len(self.orders(service)) > before)[1]

    def alive(self, service):
        state = self.inspect(service)
        return state["State"]["Running"] and state["RestartCount"], state["State"]["StartedAt"]


def zombies(recipe, service):
    return [line for line in run("docker", "top", recipe.id(service), "-o", "pid,stat,args").split("\n")[1:]
            if re.match(r"\s*\d+\s+Z", line)]


def order(recipe, service, seconds):
    said = recipe.compose("exec", "-T", service, "python3", "/app.py", "order", str(seconds))
    assert "accepted: 204" in said, said
    recipe.says(service, f"order long taken, it needs {seconds:.1f} s")


def a44_one_container_finishes_its_work_and_leaves_no_zombie():
    with Recipe("one-container") as recipe:
        recipe.says("shop", "order 1 not accepted")
        recipe.says("shop", "order 1 kept")
        # An orphan: process 1 inherits it.
        recipe.compose("exec", "-T", "shop", "sh", "-c", "sleep 0.2 &")
        order(recipe, "shop", 15)
        until("end of the orphan", 5, lambda: not zombies(recipe, "shop"))
        began = time.monotonic()
        run("docker", "stop", "--time", "40", recipe.id("shop"))
        took = time.monotonic() - began
        state = recipe.inspect("shop")["State"]
        log = recipe.log("shop")
        assert state["ExitCode"] == 0 and not state["OOMKilled"], state
        assert log.index("order long kept") < log.index("told to end") < log.index("last order: 204"), log
        assert 12 <= took <= 20, took
        return f"docker stop with 15 s of work in hand: exit 0 after {took:.1f} s"


def one_container_starts_an_app_again_that_dies():
    with Recipe("one-container") as recipe:
        recipe.says("shop", "order 1 kept")
        before = recipe.alive("shop")
        app = next(line.split()[0] for line in run("docker", "top", recipe.id("shop"), "-o", "pid,args").split("\n")
                   if "python3 /app.py" in line and "outrigger" not in line)
        run("kill", "-9", app)
        recipe.says("shop", "is to be started again", 5)
        took = recipe.goes_on("shop")
        assert recipe.alive("shop") == before, "the container was not to be restarted"
        return f"app killed: next order kept after {took:.1f} s, container untouched"


def separate_namespaces_survive_a_restart_of_each_part():
    with Recipe("separate-namespaces") as recipe:
        recipe.says("shop", "order 1 kept")
        sidecar = recipe.alive("shop-sidecar")
        run("docker", "restart", "--time", "5", recipe.id("shop"))
        app = recipe.goes_on("shop")
        assert recipe.alive("shop-sidecar") == sidecar
        run("docker", "restart", "--time", "20", recipe.id("shop-sidecar"))
        took = recipe.goes_on("shop")
        order(recipe, "shop", 5)
        recipe.compose("stop", "--timeout", "41")
        assert recipe.inspect("shop-sidecar")["State"]["ExitCode"] == 0
        assert "long" in recipe.orders("shop")
        return f"next order kept {app:.1f} s after a restart of the app, {took:.1f} s after one of the sidecar"


def an_app_that_joins_the_sidecars_network_may_be_restarted():
    with Recipe("app-joins-sidecar") as recipe:
        recipe.says("shop", "order 1 kept")
        sidecar = recipe.alive("shop-sidecar")
        for way in ("restart", "kill"):
            run("docker", way, recipe.id("shop"))
            if way == "kill":
                run("docker", "start", recipe.id("shop"))
            took = recipe.goes_on("shop")
        assert recipe.alive("shop-sidecar") == sidecar
        recipe.compose("stop", "--timeout", "41")
        codes = [recipe.inspect(service)["State"]["ExitCode"] for service in ("shop", "shop-sidecar")]
        assert codes == [0, 0], codes
        return f"next order kept {took:.1f} s after the app was killed and started, sidecar untouched"


def a46_a_sidecar_whose_network_is_gone_comes_back_in_the_new_one():
    with Recipe("sidecar-joins-app") as recipe:
        recipe.says("shop", "order 1 kept")
        began = time.monotonic()
        before = len(recipe.orders("shop"))
        run("docker", "restart", "--time", "5", recipe.id("shop"))
        until("restart of the sidecar", 30, lambda: recipe.inspect("shop-sidecar")["RestartCount"] == 1)
        until("another order", 30, lambda: len(recipe.orders("shop")) > before + 1)
        restarted = recipe.when("shop", "the shop is open", 2)
        reported = recipe.when("shop-sidecar", "NETWORK_NAMESPACE_LOST", 1) - restarted
        back = recipe.when("shop-sidecar", "Status: Running", 2) - restarted
        kept = recipe.when("shop", "order 1 kept", 2) - restarted
        events = run("docker", "events", "--since", f"{int(time.monotonic() - began) + 5}s", "--until", "0s",
                     "--filter", f"container={recipe.id('shop-sidecar')}", "--filter", "event=die",
                     "--format", "{{.Actor.Attributes.exitCode}}")
        assert events.split() == ["75"], events
        assert reported <= 15 and kept <= 20, (reported, back, kept)
        return f"after the restart: reported {reported:.1f} s, exit 75, ready again {back:.1f} s, next order kept {kept:.1f} s"


TESTS = (a44_one_container_finishes_its_work_and_leaves_no_zombie, one_container_starts_an_app_again_that_dies,
         separate_namespaces_survive_a_restart_of_each_part, an_app_that_joins_the_sidecars_network_may_be_restarted,
         a46_a_sidecar_whose_network_is_gone_comes_back_in_the_new_one)


def main():
    missing = [name for name in NEEDS if not shutil.which(name)]
    if missing or os.geteuid() != 0 or not BINARY.is_file():
        why = f"missing: {', '.join(missing)}" if missing else "only root can" if os.geteuid() else f"there is no {BINARY}"
        print(f"not run: no Docker engine can be started here ({why})")
        sys.exit(NOT_RUN)
    passed = failed = 0
    chosen = [test for test in TESTS if not sys.argv[1:] or test.__name__ in sys.argv[1:]]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="outrigger-compose-"))
    engine = Engine(folder)
    try:
        images(folder)
        for test in chosen:
            try:
                print(f"{test.__name__}: ok, {test()}", flush=True)
                passed += 1
            except Exception as error:
                failed += 1
                print(f"{test.__name__}: failed\n{error!r}", flush=True)
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
