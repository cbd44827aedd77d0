#!/usr/bin/env python3
"""Publishes one order a second. An order that is not accepted is published again until it is."""

import itertools
import json
import os
import sys
import time
import urllib.error
import urllib.request

SIDECAR = f"http://127.0.0.1:{os.environ.get('DAPR_HTTP_PORT', '3500')}"
LAST = int(sys.argv[1]) if len(sys.argv) > 1 else None


def publish(order):
    """None when it was accepted, else (seconds to wait, why)."""
    request = urllib.request.Request(f"{SIDECAR}/v1.0/publish/pubsub/orders", json.dumps(order).encode(),
                                     {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=40):
            return None
    except urllib.error.HTTPError as error:
        told = json.loads(error.read() or b"{}")
        return float(error.headers.get("retry-after", 1)), f"{error.code} {told.get('errorCode')}: {told.get('message')}"
    except OSError as error:
        return 1.0, str(error)


def main():
    for number in itertools.count(1):
        while refused := publish({"number": number}):
            wait, why = refused
            print(f"order {number} was not accepted, again in {wait:.0f} s: {why}")
            time.sleep(wait)
        print(f"order {number} accepted")
        if number == LAST:
            return
        time.sleep(1)


if __name__ == "__main__":
    main()
