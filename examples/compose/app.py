#!/usr/bin/env python3
"""A shop that publishes an order from time to time, receives it, works on it for as long as it says, and keeps it.

    app.py                 the shop
    app.py order SECONDS   publishes one order that takes this long

Only Python's standard library, and plain HTTP to the sidecar.
"""

import http.server
import itertools
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request

SIDECAR = os.environ.get("DAPR_HTTP_ENDPOINT") or f"http://127.0.0.1:{os.environ.get('DAPR_HTTP_PORT', '3500')}"
HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("APP_PORT", "8080"))

ending = threading.Event()
lock = threading.Lock()
in_hand = 0


def say(text):
    # In one piece: other threads print, too.
    os.write(1, f"{text}\n".encode())


def call(path, value):
    """The status of a POST to the sidecar, and for how long to wait if it is not to be had now."""
    request = urllib.request.Request(SIDECAR + path, json.dumps(value).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        return f"{error.code} {json.loads(error.read() or b'{}').get('errorCode', '')}", int(error.headers.get("Retry-After", 1))
    except OSError as error:
        return str(error), 1


def publish(order):
    return call("/v1.0/publish/pubsub/orders", order)


class Shop(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, value=None):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/dapr/subscribe":
            return self.answer(200, [{"pubsubname": "pubsub", "topic": "orders", "route": "/orders"}])
        return self.answer(404)

    def do_POST(self):
        global in_hand
        order = json.loads(self.rfile.read(int(self.headers["content-length"])))["data"]
        with lock:
            in_hand += 1
        say(f"order {order['name']} taken, it needs {order['seconds']} s")
        time.sleep(order["seconds"])
        kept, _ = call("/v1.0/state/statestore", [{"key": f"order-{order['name']}", "value": order}])
        say(f"order {order['name']} kept" if kept == 204 else f"order {order['name']} not kept: {kept}")
        self.answer(200, {"status": "SUCCESS" if kept == 204 else "RETRY"})
        with lock:
            in_hand -= 1


def customers():
    """An order every three seconds, once the last one was accepted."""
    for name in itertools.count(1):
        while True:
            accepted, pause = publish({"name": name, "seconds": 0.1})
            if accepted == 204:
                say(f"order {name} accepted")
                break
            say(f"order {name} not accepted, again in {pause} s: {accepted}")
            if ending.wait(pause):
                return
        if ending.wait(3):
            return


def close(*_):
    def later():
        say("told to end")
        ending.set()
        say(f"last order: {publish({'name': 'last', 'seconds': 0})[0]}")
        while in_hand:
            time.sleep(0.01)
        os._exit(0)

    threading.Thread(target=later).start()


if sys.argv[1:2] == ["order"]:
    say(f"accepted: {publish({'name': 'long', 'seconds': float(sys.argv[2])})[0]}")
    sys.exit()
signal.signal(signal.SIGTERM, close)
shop = http.server.ThreadingHTTPServer((HOST, PORT), Shop)
say(f"the shop is open on {HOST}:{PORT}, its sidecar is {SIDECAR}")
threading.Thread(target=customers, daemon=True).start()
shop.serve_forever()
