"""Calls between services: HTTP, gRPC's InvokeService, and gRPC services of the user's own."""

import json
import tempfile
import unittest

import grpc
from dapr.clients.exceptions import DaprInternalError
from dapr.ext.grpc import App, InvokeMethodResponse
from google.protobuf.wrappers_pb2 import StringValue

from support import GrpcApp, HttpApp, Sidecar, eventually, sqlite_names


def echo(request):
    answer = {"method": request["method"], "path": request["path"], "body": request["body"].decode(),
              "caller": request["headers"].get("dapr-caller-app-id", ""), "own": request["headers"].get("x-own", "")}
    if request["path"].startswith("/teapot"):
        return 418, b'{"short": "stout"}', {"x-kettle": "yes"}
    return 200, json.dumps(answer).encode(), {"x-echo": "yes"}


class Pair:
    """A caller's sidecar and a called one, which find each other through a file."""

    def __init__(self, app):
        self.folder = tempfile.TemporaryDirectory(prefix="outrigger-names-")
        names = sqlite_names(self.folder.name)
        self.called = Sidecar("called", app=app, configuration=names)
        self.caller = Sidecar("caller", configuration=names)

    def __enter__(self):
        self.called.__enter__()
        self.caller.__enter__()
        return self.caller

    def __exit__(self, *why):
        self.caller.__exit__(*why)
        self.called.__exit__(*why)
        self.folder.cleanup()


class Http(unittest.TestCase):
    def test_another_service_is_called_with_verb_body_headers_and_query(self):
        with HttpApp(answer=echo) as app, Pair(app) as caller, caller.client() as client:
            answer = client.invoke_method("called", "add/1", "{}", content_type="application/json", http_verb="PUT",
                                          metadata=(("x-own", "mine"),), http_querystring=(("a", "1"), ("b", "2")))
            self.assertEqual(answer.json(), {"method": "PUT", "path": "/add/1?a=1&b=2", "body": "{}",
                                             "caller": "caller", "own": "mine"})
            self.assertEqual(answer.status_code, 200)
            self.assertEqual({k.lower(): v for k, v in answer.headers.items()}["x-echo"], ["yes"])

    def test_an_answer_that_is_an_error_comes_through_whole(self):
        with HttpApp(answer=echo) as app, Pair(app) as caller, caller.client() as client:
            with self.assertRaises(DaprInternalError) as caught:
                client.invoke_method("called", "teapot", "", http_verb="GET")
            self.assertEqual(caught.exception.as_dict()["raw_response_bytes"], b'{"short": "stout"}')

    def test_the_own_app_can_be_called(self):
        with HttpApp(answer=echo) as app, Sidecar("me", app=app) as sidecar, sidecar.client() as client:
            self.assertEqual(client.invoke_method("me", "self", "x", http_verb="POST").json()["path"], "/self")

    def test_an_unknown_service_is_an_error_and_the_next_call_works(self):
        with HttpApp(answer=echo) as app, Pair(app) as caller, caller.client() as client:
            with self.assertRaises(DaprInternalError) as caught:
                client.invoke_method("nobody", "x", "", http_verb="GET")
            self.assertEqual(caught.exception.as_dict()["errorCode"], "ERR_DIRECT_INVOKE")
            self.assertEqual(client.invoke_method("called", "x", "", http_verb="GET").status_code, 200)

    def test_a_body_of_three_megabytes_goes_both_ways(self):
        body = b"x" * (3 * 1024 * 1024)
        mirror = lambda request: (200, request["body"], {})  # noqa: E731
        with HttpApp(answer=mirror) as app, Pair(app) as caller, caller.client() as client:
            answer = client.invoke_method("called", "mirror", body, http_verb="POST",
                                          content_type="application/octet-stream")
            self.assertEqual(answer.data, body)

    def test_mdns_finds_a_sidecar_on_this_machine(self):
        with HttpApp(answer=echo) as app, Sidecar("called-by-mdns", app=app), Sidecar("caller") as caller:
            with caller.client() as client:
                found = eventually("it is found", lambda: client.invoke_method(
                    "called-by-mdns", "hello", "", http_verb="GET"))
                self.assertEqual(found.json()["caller"], "caller")


class InvokeService(unittest.TestCase):
    def app(self):
        app = App()

        @app.method("upper")
        def upper(request):
            return InvokeMethodResponse(request.text().upper(), "text/plain")

        @app.method("wrap")
        def wrap(request):
            value = StringValue()
            request.unpack(value)
            return StringValue(value=value.value + "!")

        @app.method("fail")
        def fail(request):
            raise ValueError("on purpose")

        return GrpcApp(app)

    def test_a_method_answers_text(self):
        with self.app() as app, Pair(app) as caller, caller.client("grpc") as client:
            answer = client.invoke_method("called", "upper", "quiet")
            self.assertEqual((answer.text(), answer.content_type), ("QUIET", "text/plain"))

    def test_a_message_goes_both_ways(self):
        with self.app() as app, Pair(app) as caller, caller.client("grpc") as client:
            value = StringValue()
            client.invoke_method("called", "wrap", StringValue(value="hi")).unpack(value)
            self.assertEqual(value.value, "hi!")

    def test_an_unknown_method_and_a_failing_one_keep_their_codes(self):
        with self.app() as app, Pair(app) as caller, caller.client("grpc") as client:
            for method, code in (("nothing", grpc.StatusCode.UNIMPLEMENTED), ("fail", grpc.StatusCode.UNKNOWN)):
                with self.subTest(method=method), self.assertRaises(grpc.RpcError) as caught:
                    client.invoke_method("called", method, "")
                self.assertEqual(caught.exception.code(), code)

    def test_an_http_app_is_reached_with_its_verb(self):
        with HttpApp(answer=echo) as app, Pair(app) as caller, caller.client("grpc") as client:
            answer = client.invoke_method("called", "add", "1", http_verb="PUT", http_querystring=(("a", "1"),))
            self.assertEqual((answer.json()["method"], answer.json()["path"]), ("PUT", "/add?a=1"))


def count(request, context):
    for n in range(int(request)):
        yield str(n)


def join(requests, context):
    return ",".join(requests)


def chat(requests, context):
    context.set_trailing_metadata((("x-trailer", "end"),))
    for request in requests:
        yield f"re: {request}"


def say(request, context):
    found = dict(context.invocation_metadata())
    if request == "fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")
    return f"{request} from {found.get('dapr-caller-app-id')}"


SERVICE, TEXT = "test.Talk", {"request_deserializer": bytes.decode, "response_serializer": str.encode}


def register(_, server):
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {
        "Say": grpc.unary_unary_rpc_method_handler(say, **TEXT),
        "Count": grpc.unary_stream_rpc_method_handler(count, **TEXT),
        "Join": grpc.stream_unary_rpc_method_handler(join, **TEXT),
        "Chat": grpc.stream_stream_rpc_method_handler(chat, **TEXT),
    }),))


class Proxying(unittest.TestCase):
    """A gRPC service of the user's own, called through both sidecars."""

    @classmethod
    def setUpClass(cls):
        app = App()
        app.add_external_service(register, None)
        cls.app = GrpcApp(app)
        cls.app.__enter__()
        cls.pair = Pair(cls.app)
        caller = cls.pair.__enter__()
        cls.channel = grpc.insecure_channel(f"127.0.0.1:{caller.grpc}")

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.pair.__exit__(None)
        cls.app.__exit__()

    def method(self, kind, name):
        call = getattr(self.channel, kind)(f"/{SERVICE}/{name}", request_serializer=str.encode,
                                           response_deserializer=bytes.decode)
        return lambda request: call(request, metadata=(("dapr-app-id", "called"),), timeout=20)

    def test_one_request_one_answer(self):
        self.assertEqual(self.method("unary_unary", "Say")("hello"), "hello from caller")

    def test_one_request_many_answers(self):
        self.assertEqual(list(self.method("unary_stream", "Count")("50")), [str(n) for n in range(50)])

    def test_many_requests_one_answer(self):
        self.assertEqual(self.method("stream_unary", "Join")(iter("abc")), "a,b,c")

    def test_a_conversation_with_trailers(self):
        call = self.method("stream_stream", "Chat")(iter("ab"))
        self.assertEqual(list(call), ["re: a", "re: b"])
        self.assertIn(("x-trailer", "end"), list(call.trailing_metadata()))

    def test_the_apps_status_comes_through(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.method("unary_unary", "Say")("fail")
        self.assertEqual((caught.exception.code(), caught.exception.details()),
                         (grpc.StatusCode.FAILED_PRECONDITION, "not now"))
