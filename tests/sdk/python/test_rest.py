"""Secrets, metadata, health, wait, the end, tokens, dependencies that are down, and what is not configured."""

import asyncio
import json
import time
import unittest
import urllib.error
import urllib.request

import grpc
from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.health import DaprHealth

from support import STANDARD, HttpApp, Sidecar, component, eventually, free_port

SECRETS = (
    *STANDARD,
    component("env", "secretstores.local.env"),
    component("file", "secretstores.local.file", secretsFile="$FOLDER/secrets.json"),
    component("nested", "secretstores.local.file", secretsFile="$FOLDER/secrets.json", multiValued="true"),
)


class Secrets(unittest.TestCase):
    def sidecar(self, **more):
        sidecar = Sidecar(resources=SECRETS, environment={"SHOP_SECRET": "from the environment"}, **more)
        (sidecar.folder / "secrets.json").write_text(json.dumps({"plain": "p", "db": {"user": "u", "password": "w"}}))
        return sidecar

    def test_one_secret_of_each_store(self):
        with self.sidecar() as sidecar, sidecar.client() as client:
            read = lambda store, key: client.get_secret(store, key).secret  # noqa: E731
            self.assertEqual(read("env", "SHOP_SECRET"), {"SHOP_SECRET": "from the environment"})
            self.assertEqual(read("file", "plain"), {"plain": "p"})
            self.assertEqual(read("file", "db:user"), {"db:user": "u"})
            self.assertEqual(read("nested", "db"), {"user": "u", "password": "w"})

    def test_all_secrets_at_once(self):
        with self.sidecar() as sidecar, sidecar.client() as client:
            self.assertEqual(client.get_bulk_secret("file").secrets, {
                "plain": {"plain": "p"}, "db:user": {"db:user": "u"}, "db:password": {"db:password": "w"}})
            self.assertIn("SHOP_SECRET", client.get_bulk_secret("env").secrets)

    def test_an_unknown_secret_and_an_unknown_store_are_told(self):
        with self.sidecar() as sidecar, sidecar.client() as client:
            for store, key, code in (("file", "nothing", grpc.StatusCode.INTERNAL),
                                     ("nowhere", "plain", grpc.StatusCode.INVALID_ARGUMENT)):
                with self.subTest(store=store):
                    with self.assertRaises(grpc.RpcError) as caught:
                        client.get_secret(store, key)
                    self.assertEqual(caught.exception.code(), code)

    def test_a_scope_withholds_secrets(self):
        scopes = json.dumps({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "metadata": {"name": "c"},
            "spec": {"secrets": {"scopes": [{"storeName": "file", "defaultAccess": "deny",
                                             "allowedSecrets": ["plain"]}]}}})
        with self.sidecar(configuration=scopes) as sidecar, sidecar.client() as client:
            self.assertEqual(client.get_secret("file", "plain").secret, {"plain": "p"})
            with self.assertRaises(grpc.RpcError) as caught:
                client.get_secret("file", "db:user")
            self.assertEqual(caught.exception.code(), grpc.StatusCode.PERMISSION_DENIED)


class MetadataAndHealth(unittest.TestCase):
    def test_metadata_names_the_app_and_its_components(self):
        with Sidecar("shop") as sidecar, sidecar.client() as client:
            metadata = client.get_metadata()
            self.assertEqual(metadata.application_id, "shop")
            self.assertEqual({c.name: c.type for c in metadata.registered_components},
                             {"memory": "state.in-memory", "pubsub": "pubsub.in-memory"})
            self.assertIn("ETAG", next(c for c in metadata.registered_components if c.name == "memory").capabilities)
            self.assertIn("daprRuntimeVersion", metadata.extended_metadata)

    def test_metadata_can_be_added_to(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            client.set_metadata("team", "blue")
            self.assertEqual(client.get_metadata().extended_metadata["team"], "blue")
            self.assertEqual(sidecar.get("/v1.0/metadata")["extended"]["team"], "blue")

    def test_the_states_of_components_are_in_metadata(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            states = json.loads(client.get_metadata().extended_metadata["outrigger.dev/components"])
            self.assertEqual({one["name"]: one["state"] for one in states}, {"memory": "ready", "pubsub": "ready"})

    def test_wait_and_the_health_check_end_when_the_sidecar_is_there(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            client.wait(5)
            DaprHealth.wait_for_sidecar()

    def test_wait_outlasts_a_late_sidecar(self):
        sidecar = Sidecar()
        sidecar.start(ready=False)
        try:
            DaprHealth.wait_for_sidecar()
            with sidecar.client() as client:
                client.wait(10)
                client.save_state("memory", "a", "1")
        finally:
            sidecar.__exit__(None)

    def test_the_grpc_health_service_answers(self):
        with Sidecar() as sidecar, grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc}") as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=bytes,
                                        response_deserializer=bytes)
            self.assertEqual(check(b"", timeout=5), b"\x08\x01")  # SERVING

    def test_shutdown_ends_the_process_cleanly(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            client.shutdown()
            self.assertEqual(sidecar.process.wait(timeout=20), 0)


class Tokens(unittest.TestCase):
    def test_the_sdk_sends_the_api_token_and_others_are_refused(self):
        with HttpApp() as app, Sidecar("me", app=app, environment={"DAPR_API_TOKEN": "secret"}) as sidecar:
            with sidecar.client() as client:
                client.save_state("memory", "a", "1")
                self.assertEqual(client.get_state("memory", "a").data, b"1")
            with self.assertRaises(urllib.error.HTTPError) as caught:
                sidecar.get("/v1.0/state/memory/a")
            self.assertEqual(caught.exception.code, 401)
            sidecar.token = "wrong"
            with sidecar.client() as client, self.assertRaises(DaprGrpcError) as caught:
                client.get_state("memory", "a")
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED)


class Dependencies(unittest.TestCase):
    def test_a_store_that_is_down_is_unavailable_with_a_hint_and_harms_nothing_else(self):
        port = free_port()
        resources = (*STANDARD, component("redis", "state.redis", redisHost=f"127.0.0.1:{port}"))
        with Sidecar(resources=resources) as sidecar, sidecar.client() as client:
            began = time.monotonic()
            with self.assertRaises(DaprGrpcError) as caught:
                client.get_state("redis", "a")
            self.assertLess(time.monotonic() - began, 4)
            error = caught.exception
            self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertEqual(error.error_code(), "DAPR_COMPONENT_NOT_READY")
            self.assertIsNotNone(error.status_details().retry_info)
            client.save_state("memory", "a", "1")
            states = json.loads(client.get_metadata().extended_metadata["outrigger.dev/components"])
            self.assertIn({one["name"]: one["state"] for one in states}["redis"], ("unavailable", "connecting"))
            self.assertIsNone(sidecar.process.poll())

    def test_a_resource_that_is_wrong_is_rejected_and_harms_nothing_else(self):
        resources = (*STANDARD, component("typo", "state.redsi"))
        with Sidecar(resources=resources) as sidecar, sidecar.client() as client:
            with self.assertRaises(DaprGrpcError) as caught:
                client.get_state("typo", "a")
            self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
            client.save_state("memory", "a", "1")


class NotConfigured(unittest.TestCase):
    def test_what_is_not_configured_is_told_at_once(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            calls = {
                "binding": lambda: client.invoke_binding("nowhere", "create", "1"),
                "configuration": lambda: client.get_configuration("nowhere", ["a"]),
                "lock": lambda: client.try_lock("nowhere", "a", "me", 10),
                "job": lambda: client.get_job("a"),
            }
            for name, call in calls.items():
                with self.subTest(block=name):
                    began = time.monotonic()
                    with self.assertRaises(grpc.RpcError):
                        call()
                    self.assertLess(time.monotonic() - began, 3)


class Async(unittest.TestCase):
    def test_the_asynchronous_client_saves_reads_and_streams(self):
        async def talk(sidecar):
            async with AsyncClient(f"127.0.0.1:{sidecar.grpc}") as client:
                await client.save_state("memory", "a", "1")
                self.assertEqual((await client.get_state("memory", "a")).data, b"1")
                subscription = await client.subscribe("pubsub", "orders")
                await client.publish_event("pubsub", "orders", "text", data_content_type="text/plain")
                message = await asyncio.wait_for(subscription.next_message(), 20)
                self.assertEqual(message.data(), "text")
                await subscription.respond_success(message)
                await subscription.close()
                self.assertEqual((await client.get_metadata()).application_id, "app")

        with Sidecar() as sidecar:
            asyncio.run(talk(sidecar))
