"""State, over the SDK's gRPC client, on both stores that need no server."""

import json
import unittest

import grpc
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions

from support import STANDARD, Sidecar, component, eventually

RESOURCES = (*STANDARD, component("sqlite", "state.sqlite", connectionString="$FOLDER/state.db"))
FIRST_WRITE = StateOptions(concurrency=Concurrency.first_write, consistency=Consistency.strong)


class State:
    """What both stores do alike."""

    store = ""

    @classmethod
    def setUpClass(cls):
        cls.sidecar = Sidecar("shop", RESOURCES)
        cls.sidecar.__enter__()
        cls.client = cls.sidecar.client()

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.sidecar.__exit__(None)

    def save(self, key, value, **more):
        return self.client.save_state(self.store, key, value, **more)

    def read(self, key):
        return self.client.get_state(self.store, key)

    def fails(self, code, call, *arguments, **named):
        with self.assertRaises(DaprGrpcError) as caught:
            call(*arguments, **named)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        return caught.exception

    def test_a_saved_value_is_read_back_with_an_etag(self):
        self.save("a", json.dumps({"n": 1}))
        answer = self.read("a")
        self.assertEqual(answer.json(), {"n": 1})
        self.assertTrue(answer.etag)

    def test_an_absent_key_is_empty_and_no_error(self):
        answer = self.read("absent")
        self.assertEqual((answer.data, answer.etag), (b"", ""))

    def test_bytes_and_text_stay_what_they_are(self):
        for value in (b"\x00\xff\xfe", "grüße", "", "12", '"quoted"'):
            with self.subTest(value=value):
                self.save("raw", value)
                expected = value if isinstance(value, bytes) else value.encode()
                self.assertEqual(self.read("raw").data, expected)

    def test_an_old_etag_is_refused_and_the_right_one_accepted(self):
        self.save("tagged", "1")
        old = self.read("tagged").etag
        self.save("tagged", "2", etag=old)
        error = self.fails(grpc.StatusCode.ABORTED, self.save, "tagged", "3", etag=old)
        self.assertIn("etag mismatch", error.details())
        self.assertEqual(self.read("tagged").data, b"2")

    def test_the_first_write_wins_when_asked_for(self):
        self.save("first", "1", options=FIRST_WRITE)
        self.fails(grpc.StatusCode.ABORTED, self.save, "first", "2", options=FIRST_WRITE)
        self.assertEqual(self.read("first").data, b"1")

    def test_many_are_saved_and_read_at_once(self):
        items = [StateItem(key=f"bulk-{n}", value=str(n)) for n in range(20)]
        self.client.save_bulk_state(self.store, items)
        keys = [item.key for item in items] + ["bulk-absent"]
        found = {item.key: item.data for item in self.client.get_bulk_state(self.store, keys, parallelism=4).items}
        self.assertEqual(found, {**{f"bulk-{n}": str(n).encode() for n in range(20)}, "bulk-absent": b""})

    def test_a_deleted_key_is_gone_and_deleting_again_is_fine(self):
        self.save("gone", "1")
        self.client.delete_state(self.store, "gone")
        self.client.delete_state(self.store, "gone")
        self.assertEqual(self.read("gone").data, b"")

    def test_a_delete_with_an_old_etag_is_refused(self):
        self.save("kept", "1")
        old = self.read("kept").etag
        self.save("kept", "2")
        self.fails(grpc.StatusCode.ABORTED, self.client.delete_state, self.store, "kept", etag=old)
        self.assertEqual(self.read("kept").data, b"2")

    def test_a_transaction_writes_and_deletes(self):
        self.save("t-old", "1")
        self.client.execute_state_transaction(self.store, [
            TransactionalStateOperation(key="t-new", data="2"),
            TransactionalStateOperation(operation_type=TransactionOperationType.delete, key="t-old"),
        ])
        self.assertEqual((self.read("t-new").data, self.read("t-old").data), (b"2", b""))

    def test_a_transaction_with_an_old_etag_changes_nothing(self):
        self.save("t-a", "1")
        old = self.read("t-a").etag
        self.save("t-a", "2")
        with self.assertRaises(DaprGrpcError):
            self.client.execute_state_transaction(self.store, [
                TransactionalStateOperation(key="t-b", data="new"),
                TransactionalStateOperation(key="t-a", data="3", etag=old),
            ])
        self.assertEqual((self.read("t-a").data, self.read("t-b").data), (b"2", b""))

    def test_a_value_with_a_time_to_live_expires(self):
        self.save("short", "1", state_metadata={"ttlInSeconds": "1"})
        self.assertEqual(self.read("short").data, b"1")
        eventually("it is over", lambda: self.read("short").data == b"", 10)

    def test_a_bad_time_to_live_is_refused(self):
        with self.assertRaises(DaprGrpcError):
            self.save("bad", "1", state_metadata={"ttlInSeconds": "soon"})

    def test_a_large_value_fits(self):
        value = b"x" * (3 * 1024 * 1024)
        self.save("large", value)
        self.assertEqual(self.read("large").data, value)

    def test_an_empty_key_is_refused(self):
        self.fails(grpc.StatusCode.INVALID_ARGUMENT, self.save, "", "1")

    def test_a_query_is_refused(self):
        with self.assertRaises(DaprGrpcError):
            self.client.query_state(self.store, '{"filter": {}}')


class InMemoryState(State, unittest.TestCase):
    store = "memory"


class SqliteState(State, unittest.TestCase):
    store = "sqlite"

    def test_values_outlive_the_sidecar(self):
        self.save("durable", "yes")
        self.client.close()
        self.assertEqual(self.sidecar.stop(), 0)
        self.sidecar.start()
        type(self).client = self.sidecar.client()
        self.assertEqual(self.read("durable").data, b"yes")


class NoStore(unittest.TestCase):
    def test_an_unknown_store_is_named_with_its_code(self):
        with Sidecar() as sidecar, sidecar.client() as client:
            with self.assertRaises(DaprGrpcError) as caught:
                client.get_state("nowhere", "a")
            error = caught.exception
            self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(error.error_code(), "DAPR_STATE_NOT_FOUND")
            self.assertIn("nowhere", error.details())

    def test_a_key_prefix_of_its_own_works_over_both_protocols(self):
        named = component("named", "state.sqlite", connectionString="$FOLDER/state.db", keyPrefix="name")
        with Sidecar("a", (named,)) as sidecar, sidecar.client() as client:
            client.save_state("named", "k", "1")
            self.assertEqual(client.get_state("named", "k").data, b"1")
            self.assertEqual(sidecar.get("/v1.0/state/named/k"), 1)
