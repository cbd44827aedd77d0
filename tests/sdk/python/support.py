"""A sidecar and an app for one test.

Owns: the sidecar's process, its resources in a folder of its own, free ports, the SDK's global settings.
The binary is that of the environment variable OUTRIGGER, else target/debug/outrigger.
"""

import json
import os
import pathlib
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dapr.clients import DaprClient
from dapr.conf import settings

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARY = os.environ.get("OUTRIGGER", str(ROOT / "target" / "debug" / "outrigger"))
PATIENCE = 20


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(what, found, patience=PATIENCE):
    """Waits until `found()` is true, and tells what it saw last when it never is."""
    deadline = time.monotonic() + patience
    while True:
        try:
            seen = found()
            if seen:
                return seen
        except Exception as error:  # whatever it is, it may pass
            seen = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {patience} s, last seen: {seen!r}")
        time.sleep(0.05)


def component(name, kind, scopes=(), annotations="", **metadata):
    lines = ["apiVersion: dapr.io/v1alpha1", "kind: Component", "metadata:", f"  name: {name}", "spec:",
             f"  type: {kind}", "  version: v1"]
    if metadata:
        lines.append("  metadata:")
        for key, value in metadata.items():
            lines += [f"    - name: {key}", f"      value: {json.dumps(str(value))}"]
    if scopes:
        lines += ["scopes:"] + [f"  - {scope}" for scope in scopes]
    return "\n".join(lines) + "\n"


STANDARD = (component("memory", "state.in-memory"), component("pubsub", "pubsub.in-memory"))


class Sidecar:
    """A sidecar that is up when the `with` block begins and gone when it ends."""

    def __init__(self, app_id="app", resources=STANDARD, app=None, flags=(), environment=None, configuration=None):
        self.app_id = app_id
        self.http, self.grpc, self.internal = free_port(), free_port(), free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="outrigger-sdk-")
        self.folder = pathlib.Path(self._folder.name)
        resources_path = self.folder / "resources"
        resources_path.mkdir()
        (resources_path / "all.yaml").write_text("---\n".join(resources).replace("$FOLDER", str(self.folder)))
        self.command = [
            BINARY, "sidecar", "--app-id", app_id, "--resources-path", str(resources_path),
            "--dapr-http-port", str(self.http), "--dapr-grpc-port", str(self.grpc),
            "--dapr-internal-grpc-port", str(self.internal), "--dapr-listen-addresses", "127.0.0.1",
            "--enable-metrics=false", "--drain-quiet", "50ms",
        ]
        if configuration:
            path = self.folder / "configuration.yaml"
            path.write_text(configuration)
            self.command += ["--config", str(path)]
        if app is not None:
            self.command += ["--app-port", str(app.port), "--app-protocol", app.protocol]
        self.command += list(flags)
        self.environment = {**os.environ, **(environment or {})}
        self.token = (environment or {}).get("DAPR_API_TOKEN")
        self.has_app = app is not None
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def start(self, ready=True):
        self.log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, env=self.environment)
        self.select()
        if ready:
            try:
                eventually(f"{self.app_id} is ready", lambda: self.status("/v1.0/healthz") == 204)
            except AssertionError:
                self.__exit__(AssertionError)
                raise

    def select(self):
        """Makes it the one that the SDK talks to."""
        settings.DAPR_HTTP_PORT, settings.DAPR_GRPC_PORT = self.http, self.grpc
        settings.DAPR_API_TOKEN = self.token
        settings.DAPR_HEALTH_TIMEOUT = PATIENCE
        settings.DAPR_API_METHOD_INVOCATION_PROTOCOL = "http"

    def client(self, protocol="http"):
        self.select()
        settings.DAPR_API_METHOD_INVOCATION_PROTOCOL = protocol
        return DaprClient(f"127.0.0.1:{self.grpc}")

    def status(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=2) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
            return json.loads(answer.read())

    def stop(self):
        """Its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=40)

    def __exit__(self, kind, *_):
        self.log.flush()
        if kind is not None:
            sys.stderr.write((self.folder / "log").read_text(errors="replace")[-6000:])
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self._folder.cleanup()


class HttpApp:
    """An app that records what it is sent and answers as it was told."""

    protocol = "http"

    def __init__(self, subscriptions=(), answer=None):
        self.port = free_port()
        self.seen = queue.Queue()
        answer = answer or (lambda request: (200, b"", {}))
        app = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                request = {"method": self.command, "path": self.path, "body": body,
                           "headers": {key.lower(): value for key, value in self.headers.items()}}
                if self.path == "/dapr/subscribe":
                    status, data, headers = 200, json.dumps(list(subscriptions)).encode(), {}
                elif self.path == "/dapr/config":
                    status, data, headers = 404, b"", {}
                else:
                    app.seen.put(request)
                    status, data, headers = answer(request)
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = handle_any

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def next(self):
        return self.seen.get(timeout=PATIENCE)


class GrpcApp:
    """The SDK's own gRPC app, served while the `with` block runs."""

    protocol = "grpc"

    def __init__(self, app):
        self.port = free_port()
        self.app = app

    def __enter__(self):
        threading.Thread(target=self.app.run, args=(self.port, "127.0.0.1"), daemon=True).start()
        eventually("the app listens", lambda: socket.create_connection(("127.0.0.1", self.port), 1).close() is None)
        return self

    def __exit__(self, *_):
        self.app.stop()


def sqlite_names(folder):
    """A Configuration with name resolution by a file that several sidecars share."""
    return json.dumps({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "metadata": {"name": "names"},
        "spec": {"nameResolution": {"component": "sqlite", "version": "v1", "configuration": {
            "connectionString": f"{folder}/names.db"}}},
    })
