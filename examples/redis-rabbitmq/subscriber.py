#!/usr/bin/env python3
"""Keeps every order in the state store and says which of them are missing. An order that cannot be kept comes again."""

import json
import os
import signal
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

APP_PORT = int(os.environ.get("APP_PORT", "6002"))
SIDECAR = f"http://127.0.0.1:{os.environ.get('DAPR_HTTP_PORT', '3500')}"
kept = set()


def keep(order):
    """None when the store has it, else why not."""
    body = json.dumps([{"key": f"order-{order['number']}", "value": order}]).encode()
    request = urllib.request.Request(f"{SIDECAR}/v1.0/state/statestore", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=40):
            return None
    except urllib.error.HTTPError as error:
        return f"{error.code} {json.loads(error.read() or b'{}').get('errorCode')}"
    except OSError as error:
        return str(error)


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/dapr/subscribe":
            self.answer(200, [{"pubsubname": "pubsub", "topic": "orders", "route": "/order"}])
        else:
            self.answer(404, None)

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["content-length"])))["data"]
        failure = keep(order)
        if failure:
            print(f"order {order['number']} was not kept, it will come again: {failure}")
            self.answer(200, {"status": "RETRY"})
            return
        again = " again" if order["number"] in kept else ""
        kept.add(order["number"])
        missing = sorted(set(range(1, max(kept))) - kept)
        print(f"order {order['number']} kept{again}" + (f", on the way: {missing}" if missing else ""))
        self.answer(200, {"status": "SUCCESS"})

    def answer(self, status, body):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("127.0.0.1", APP_PORT), App).serve_forever()
