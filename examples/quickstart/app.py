#!/usr/bin/env python3
"""A shop in one file, with Python's standard library and a Dapr sidecar.

It takes orders from a topic, keeps them in a state store, and answers calls of other services. Its SQLite file outlives
it, so a second run goes on counting where the first one stopped. It ends by itself; with `--stay` it waits for Ctrl-C.

Start it beside a sidecar:

    outrigger run --app-port 6001 --resources-path examples/quickstart/resources -- python3 examples/quickstart/app.py
"""

import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

APP_ID = os.environ.get("APP_ID", "shop")
APP_PORT = int(os.environ.get("APP_PORT", "6001"))
SIDECAR = f"http://127.0.0.1:{os.environ.get('DAPR_HTTP_PORT', '3500')}"
STORE, BROKER, TOPIC = "statestore", "pubsub", "orders"
ORDERS = [("apples", 3), ("bread", 1), ("cheese", 2), ("tea", 5), ("honey", 1)]


def sidecar(method, path, body=None):
    """Calls the sidecar's API; the answer's JSON, or None when there is none."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(SIDECAR + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


class App(BaseHTTPRequestHandler):
    """What the sidecar calls."""

    protocol_version = "HTTP/1.1"
    handled = threading.Semaphore(0)

    def do_GET(self):
        if self.path == "/dapr/subscribe":
            self.answer(200, [{"pubsubname": BROKER, "topic": TOPIC, "route": "/new-order"}])
        elif self.path == "/count":
            self.answer(200, {"orders": sidecar("GET", f"/v1.0/state/{STORE}/count") or 0})
        else:
            self.answer(404, None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != "/new-order":
            self.answer(404, None)
            return
        order = json.loads(body)["data"]  # a CloudEvent; what was published is its data
        key = f"order-{order['number']}"
        # Both are written, or neither.
        sidecar("POST", f"/v1.0/state/{STORE}/transaction", {"operations": [
            {"operation": "upsert", "request": {"key": key, "value": order}},
            {"operation": "upsert", "request": {"key": "count", "value": order["number"]}},
        ]})
        print(f"received  {order['amount']} x {order['item']}, kept as {key}")
        self.answer(200, {"status": "SUCCESS"})
        self.handled.release()

    def answer(self, status, body):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def wait_until_ready():
    """The sidecar is ready when it has found this app and knows its subscriptions."""
    pause = threading.Event()
    for _ in range(300):
        try:
            sidecar("GET", "/v1.0/healthz")
            return
        except (urllib.error.URLError, ConnectionError):
            pause.wait(0.1)
    sys.exit("the sidecar did not get ready within 30 s")


def trade():
    first = (sidecar("GET", f"/v1.0/state/{STORE}/count") or 0) + 1
    print(f"the store holds {first - 1} orders of earlier runs")
    for number, (item, amount) in enumerate(ORDERS, first):
        order = {"number": number, "item": item, "amount": amount}
        sidecar("POST", f"/v1.0/publish/{BROKER}/{TOPIC}", order)
        print(f"published order {number}")
    for _ in ORDERS:
        if not App.handled.acquire(timeout=20):
            sys.exit("an order did not arrive within 20 s")
    keys = [f"order-{number}" for number in range(first, first + len(ORDERS))]
    kept = sidecar("POST", f"/v1.0/state/{STORE}/bulk", {"keys": keys})
    assert all(item["data"]["number"] for item in kept), kept
    count = sidecar("GET", f"/v1.0/invoke/{APP_ID}/method/count")["orders"]
    print(f"the shop, called through the sidecar, says: {count} orders")
    metadata = sidecar("GET", "/v1.0/metadata")
    states = json.loads(metadata["extended"].get("outrigger.dev/components", "[]"))
    for component in states:
        print(f"component {component['name']} ({component['type']}) is {component['state']}")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("127.0.0.1", APP_PORT), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wait_until_ready()
    trade()
    if "--stay" in sys.argv[1:]:
        print("waiting for orders; stop with Ctrl-C")
        threading.Event().wait()
    print("done")


if __name__ == "__main__":
    main()
