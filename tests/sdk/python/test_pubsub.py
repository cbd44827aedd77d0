"""Publishing with the SDK, and the three ways to subscribe: HTTP callbacks, gRPC callbacks, streams."""

import base64
import json
import queue
import unittest

import grpc
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import BulkPublishEntry
from dapr.clients.grpc._response import TopicEventResponse
from dapr.common.pubsub.subscription import StreamCancelledError, StreamInactiveError
from dapr.ext.grpc import App, Rule

from support import PATIENCE, GrpcApp, HttpApp, Sidecar, eventually


def to(topic, route=None, **more):
    return {"pubsubname": "pubsub", "topic": topic, "route": route or f"/{topic}", **more}


class HttpCallbacks(unittest.TestCase):
    def test_an_event_reaches_its_route_as_a_cloud_event(self):
        with HttpApp([to("orders")]) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "orders", json.dumps({"n": 1}), data_content_type="application/json")
            request = app.next()
            self.assertEqual((request["method"], request["path"]), ("POST", "/orders"))
            self.assertEqual(request["headers"]["content-type"], "application/cloudevents+json")
            event = json.loads(request["body"])
            self.assertEqual(event["data"], {"n": 1})
            self.assertEqual((event["topic"], event["pubsubname"], event["source"], event["specversion"]),
                             ("orders", "pubsub", "app", "1.0"))

    def test_text_and_bytes_keep_their_form(self):
        with HttpApp([to("orders")]) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "orders", "plain", data_content_type="text/plain")
            self.assertEqual(json.loads(app.next()["body"])["data"], "plain")
            client.publish_event("pubsub", "orders", b"\x00\xff", data_content_type="application/octet-stream")
            event = json.loads(app.next()["body"])
            self.assertEqual(base64.b64decode(event["data_base64"]), b"\x00\xff")

    def test_a_ready_made_cloud_event_keeps_its_id(self):
        own = {"specversion": "1.0", "id": "mine", "source": "me", "type": "t", "data": {"n": 1}}
        with HttpApp([to("orders")]) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "orders", json.dumps(own), data_content_type="application/cloudevents+json")
            event = json.loads(app.next()["body"])
            self.assertEqual((event["id"], event["source"], event["type"]), ("mine", "me", "t"))

    def test_a_raw_payload_travels_without_an_envelope(self):
        topics = [to("raw", metadata={"rawPayload": "true"})]
        with HttpApp(topics) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "raw", b"just this", publish_metadata={"rawPayload": "true"})
            event = json.loads(app.next()["body"])
            self.assertEqual(base64.b64decode(event["data_base64"]), b"just this")

    def test_rules_choose_the_route(self):
        rules = {"rules": [{"match": "event.type == 'big'", "path": "/big"}], "default": "/rest"}
        topics = [{"pubsubname": "pubsub", "topic": "orders", "routes": rules}]
        with HttpApp(topics) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            for kind, path in (("big", "/big"), ("small", "/rest")):
                client.publish_event("pubsub", "orders", "1", publish_metadata={"cloudevent.type": kind})
                self.assertEqual(app.next()["path"], path)

    def test_a_dropped_event_goes_to_the_dead_letter_topic(self):
        def answer(request):
            status = b'{"status": "DROP"}' if request["path"] == "/orders" else b""
            return 200, status, {}

        topics = [to("orders", deadLetterTopic="dead"), to("dead")]
        with HttpApp(topics, answer) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "orders", "1")
            self.assertEqual([app.next()["path"], app.next()["path"]], ["/orders", "/dead"])

    def test_a_failed_event_comes_again(self):
        seen = []

        def answer(request):
            seen.append(request)
            return (500 if len(seen) == 1 else 200), b"", {}

        with HttpApp([to("orders")], answer) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "orders", "1")
            self.assertEqual(json.loads(app.next()["body"])["id"], json.loads(app.next()["body"])["id"])

    def test_many_are_published_at_once(self):
        with HttpApp([to("orders")]) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            answer = client.publish_events("pubsub", "orders", [str(n) for n in range(10)],
                                           data_content_type="text/plain")
            self.assertEqual(answer.failed_entries, [])
            self.assertEqual(sorted(json.loads(app.next()["body"])["data"] for _ in range(10)),
                             sorted(str(n) for n in range(10)))

    def test_entries_of_a_bulk_have_their_own_content_type(self):
        with HttpApp([to("orders")]) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            client.publish_events("pubsub", "orders", [
                BulkPublishEntry(event='{"n": 1}', content_type="application/json"),
                BulkPublishEntry(event="text", content_type="text/plain"),
            ])
            found = [json.loads(app.next()["body"])["data"] for _ in range(2)]
            self.assertIn({"n": 1}, found)
            self.assertIn("text", found)

    def test_many_are_delivered_at_once_when_asked_for(self):
        bulk = {"enabled": True, "maxMessagesCount": 10, "maxAwaitDurationMs": 300}

        def answer(request):
            if request["path"] != "/orders":
                return 404, b"", {}
            entries = json.loads(request["body"])["entries"]
            statuses = [{"entryId": entry["entryId"], "status": "SUCCESS"} for entry in entries]
            return 200, json.dumps({"statuses": statuses}).encode(), {}

        topics = [to("orders", bulkSubscribe=bulk)]
        with HttpApp(topics, answer) as app, Sidecar(app=app) as sidecar, sidecar.client() as client:
            client.publish_events("pubsub", "orders", [str(n) for n in range(10)])
            got = 0
            while got < 10:
                got += len(json.loads(app.next()["body"])["entries"])
            self.assertEqual(got, 10)

    def test_the_apps_token_comes_with_every_delivery(self):
        with HttpApp([to("orders")]) as app:
            with Sidecar(app=app, environment={"APP_API_TOKEN": "hush"}) as sidecar, sidecar.client() as client:
                client.publish_event("pubsub", "orders", "1")
                self.assertEqual(app.next()["headers"]["dapr-api-token"], "hush")

    def test_metadata_lists_the_subscription(self):
        with HttpApp([to("orders")]) as app, Sidecar(app=app) as sidecar:
            listed = sidecar.get("/v1.0/metadata")["subscriptions"]
            self.assertEqual([(one["pubsubname"], one["topic"]) for one in listed], [("pubsub", "orders")])


class GrpcCallbacks(unittest.TestCase):
    def setUp(self):
        self.seen = queue.Queue()

    def next(self):
        return self.seen.get(timeout=PATIENCE)

    def test_an_event_reaches_its_handler(self):
        app = App()

        @app.subscribe("pubsub", "orders")
        def orders(event):
            self.seen.put(event)

        with GrpcApp(app) as served, Sidecar(app=served) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "orders", '{"n": 1}', data_content_type="application/json")
            event = self.next()
            self.assertEqual(json.loads(event.Data()), {"n": 1})
            self.assertEqual((event.Source(), event.Subject()), ("app", "orders"))

    def test_bytes_stay_what_they_are(self):
        app = App()

        @app.subscribe("pubsub", "orders")
        def orders(event):
            self.seen.put(event.Data())

        with GrpcApp(app) as served, Sidecar(app=served) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "orders", b"\x00\xff", data_content_type="application/octet-stream")
            self.assertEqual(self.next(), b"\x00\xff")

    def test_rules_choose_the_handler(self):
        app = App()

        @app.subscribe("pubsub", "orders", rule=Rule("event.type == 'big'", 1))
        def big(event):
            self.seen.put("big")

        @app.subscribe("pubsub", "orders", rule=Rule("event.type.startsWith('s')", 2))
        def rest(event):
            self.seen.put("rest")

        with GrpcApp(app) as served, Sidecar(app=served) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "orders", "1", publish_metadata={"cloudevent.type": "big"})
            self.assertEqual(self.next(), "big")
            client.publish_event("pubsub", "orders", "1", publish_metadata={"cloudevent.type": "small"})
            self.assertEqual(self.next(), "rest")

    def test_what_is_not_taken_goes_to_the_dead_letter_topic(self):
        app = App()
        answers = iter(["retry", "drop"])

        @app.subscribe("pubsub", "orders", dead_letter_topic="dead")
        def orders(event):
            self.seen.put("orders")
            return TopicEventResponse(next(answers))

        @app.subscribe("pubsub", "dead")
        def dead(event):
            self.seen.put("dead")

        with GrpcApp(app) as served, Sidecar(app=served) as sidecar, sidecar.client() as client:
            client.publish_event("pubsub", "orders", "1")
            # With a dead letter topic and no policy, a message that is to be tried again goes there at once.
            self.assertEqual([self.next(), self.next()], ["orders", "dead"])
            client.publish_event("pubsub", "orders", "2")
            self.assertEqual([self.next(), self.next()], ["orders", "dead"])

    def test_the_apps_health_check_opens_the_way(self):
        app = App()
        healthy = []

        def check():
            if not healthy:
                raise ValueError("not yet")

        app.register_health_check(check)

        @app.subscribe("pubsub", "orders")
        def orders(event):
            self.seen.put(event.Data())

        flags = ["--enable-app-health-check", "--app-health-probe-interval", "1"]
        with GrpcApp(app) as served:
            sidecar = Sidecar(app=served, flags=flags)
            try:
                sidecar.start(ready=False)
                eventually("calls are served", lambda: sidecar.status("/v1.0/healthz/outbound") == 204)
                self.assertEqual(sidecar.status("/v1.0/healthz"), 500)
                healthy.append(True)
                eventually("the app is found healthy", lambda: sidecar.status("/v1.0/healthz") == 204)
                with sidecar.client() as client:
                    client.publish_event("pubsub", "orders", "1")
                    self.assertEqual(self.next(), b"1")
            finally:
                sidecar.__exit__(None)


class Streams(unittest.TestCase):
    def test_a_handler_gets_every_event(self):
        seen = queue.Queue()
        with Sidecar() as sidecar, sidecar.client() as client:

            def handle(message):
                seen.put((message.topic(), message.data()))
                return TopicEventResponse("success")

            close = client.subscribe_with_handler("pubsub", "orders", handle)
            for n in range(20):
                client.publish_event("pubsub", "orders", json.dumps({"n": n}), data_content_type="application/json")
            self.assertEqual([seen.get(timeout=PATIENCE) for _ in range(20)],
                             [("orders", {"n": n}) for n in range(20)])
            close()

    def test_messages_can_be_pulled_one_by_one(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            subscription = client.subscribe("pubsub", "orders")
            client.publish_event("pubsub", "orders", "text", data_content_type="text/plain")
            message = subscription.next_message()
            self.assertEqual((message.data(), message.pubsub_name(), message.source()), ("text", "pubsub", "app"))
            subscription.respond_success(message)
            subscription.close()
            with self.assertRaises((StreamInactiveError, StreamCancelledError)):
                subscription.next_message()

    def test_a_message_that_is_to_be_tried_again_comes_again(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            subscription = client.subscribe("pubsub", "orders")
            client.publish_event("pubsub", "orders", "1")
            first = subscription.next_message()
            subscription.respond_retry(first)
            second = subscription.next_message()
            self.assertEqual(first.id(), second.id())
            subscription.respond_success(second)
            subscription.close()

    def test_a_dropped_message_goes_to_the_dead_letter_topic(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            dead = client.subscribe("pubsub", "dead")
            subscription = client.subscribe("pubsub", "orders", dead_letter_topic="dead")
            client.publish_event("pubsub", "orders", "1")
            subscription.respond_drop(subscription.next_message())
            message = dead.next_message()
            self.assertEqual(message.raw_data(), b"1")
            dead.respond_success(message)
            subscription.close()
            dead.close()

    def test_a_subscription_that_was_closed_can_be_made_again(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            client.subscribe("pubsub", "orders").close()

            def again():
                subscription = client.subscribe("pubsub", "orders")
                client.publish_event("pubsub", "orders", "1")
                message = subscription.next_message()
                subscription.respond_success(message)
                subscription.close()
                return message.raw_data() == b"1"

            self.assertTrue(eventually("it is subscribed again", again))

    def test_an_unknown_component_is_told(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            with self.assertRaises(Exception) as caught:
                client.subscribe("nowhere", "orders")
            self.assertIn("nowhere", str(caught.exception))


class Refusals(unittest.TestCase):
    def test_an_unknown_component_and_an_empty_topic_are_told(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            with self.assertRaises(DaprGrpcError) as caught:
                client.publish_event("nowhere", "orders", "1")
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn("nowhere", caught.exception.details())
            with self.assertRaises(DaprGrpcError):
                client.publish_event("pubsub", "", "1")
