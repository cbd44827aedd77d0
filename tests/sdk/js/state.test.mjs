// State, over both of the SDK's protocols, on both stores that need no server.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { GRPC, HTTP, STANDARD, Sidecar, component, eventually } from "./support.mjs";

let sidecar;
before(async () => {
  const sqlite = component("sqlite", "state.sqlite", { connectionString: "$FOLDER/state.db" });
  sidecar = await Sidecar.start({ resources: [...STANDARD, sqlite] });
  await sidecar.ready();
});
after(async () => {
  assert.equal(await sidecar.stop(), 0);
});

for (const protocol of [HTTP, GRPC]) {
  for (const store of ["memory", "sqlite"]) {
    describe(`${protocol === HTTP ? "HTTP" : "gRPC"}, ${store}`, () => {
      let state;
      let client;
      before(() => {
        client = sidecar.client(protocol);
        ({ state } = client);
      });
      after(() => client.stop());
      const key = (name) => `${protocol}-${name}`;

      test("values of every kind are read back", async () => {
        const values = { text: "hello", number: 12.5, object: { a: [1, null, "x"] }, list: [1, 2], yes: true };
        const pairs = Object.entries(values).map(([name, value]) => ({ key: key(name), value }));
        assert.equal((await state.save(store, pairs)).error, undefined);
        for (const [name, value] of Object.entries(values)) {
          assert.deepEqual(await state.get(store, key(name)), value, name);
        }
      });

      test("an absent key is empty", async () => {
        assert.equal(await state.get(store, key("absent")), "");
      });

      test("many are read at once, with their etags", async () => {
        await state.save(store, [1, 2, 3].map((n) => ({ key: key(`bulk${n}`), value: n })));
        const found = await state.getBulk(store, [1, 2, 3].map((n) => key(`bulk${n}`)));
        assert.deepEqual(found.map((one) => one.data).sort(), [1, 2, 3]);
        assert.ok(found.every((one) => one.etag));
      });

      test("an old etag is refused, for saving and for deleting", async () => {
        const one = key("tagged");
        await state.save(store, [{ key: one, value: 1 }]);
        const [{ etag }] = await state.getBulk(store, [one]);
        await state.save(store, [{ key: one, value: 2 }]);
        // Over HTTP the SDK hands the error back, over gRPC it throws it.
        const told = (call) => call.then((answer) => answer.error, (error) => error);
        assert.match(String(await told(state.save(store, [{ key: one, value: 3, etag }]))), /etag mismatch/);
        assert.match(String(await told(state.delete(store, one, { etag }))), /etag mismatch/);
        assert.equal(await state.get(store, one), 2);
      });

      test("a deleted key is gone", async () => {
        await state.save(store, [{ key: key("gone"), value: 1 }]);
        assert.equal((await state.delete(store, key("gone"))).error, undefined);
        assert.equal(await state.get(store, key("gone")), "");
      });

      test("a transaction writes and deletes", async () => {
        await state.save(store, [{ key: key("old"), value: 1 }]);
        await state.transaction(store, [
          // Over gRPC the SDK takes texts only.
          { operation: "upsert", request: { key: key("new"), value: JSON.stringify({ n: 2 }) } },
          { operation: "delete", request: { key: key("old") } },
        ]);
        const found = await state.get(store, key("new"));
        assert.deepEqual(typeof found === "string" ? JSON.parse(found) : found, { n: 2 });
        assert.equal(await state.get(store, key("old")), "");
      });

      test("a value with a time to live expires", async () => {
        await state.save(store, [{ key: key("short"), value: 1, metadata: { ttlInSeconds: "1" } }]);
        assert.equal(await state.get(store, key("short")), 1);
        await eventually("it is over", async () => (await state.get(store, key("short"))) === "");
      });
    });
  }

  test(`${protocol === HTTP ? "HTTP" : "gRPC"}: an unknown store is an error that names it`, async () => {
    const client = sidecar.client(protocol);
    await assert.rejects(client.state.get("nowhere", "a"), /nowhere/);
    await client.stop();
  });
}
