// Invocation, secrets, metadata, health, waiting, the end, tokens, and what is down.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { GRPC, HTTP, HttpMethod, STANDARD, Sidecar, component, freePort, withServer, withSidecar } from "./support.mjs";

const both = [
  ["HTTP", HTTP],
  ["gRPC", GRPC],
];

for (const [name, protocol] of both) {
  test(`${name}: another service is called, with a body and without`, async () => {
    const names = {
      apiVersion: "dapr.io/v1alpha1", kind: "Configuration", metadata: { name: "names" },
      spec: { nameResolution: { component: "sqlite", version: "v1", configuration: { connectionString: "" } } },
    };
    const folder = mkdtempSync(join(tmpdir(), "outrigger-names-"));
    names.spec.nameResolution.configuration.connectionString = join(folder, "names.db");
    await withServer(
      protocol,
      async (server) => {
        await server.invoker.listen("hello", async () => ({ hello: "world" }), { method: HttpMethod.GET });
        await server.invoker.listen("double", async (data) => ({ got: JSON.parse(data.body ?? "{}").n * 2 }), {
          method: HttpMethod.POST,
        });
      },
      () =>
        withSidecar({ appId: "caller", configuration: names }, async (caller) => {
          const client = caller.client(protocol);
          assert.deepEqual(await client.invoker.invoke("called", "hello", HttpMethod.GET), { hello: "world" });
          assert.deepEqual(await client.invoker.invoke("called", "double", HttpMethod.POST, { n: 21 }), { got: 42 });
          await assert.rejects(client.invoker.invoke("nobody", "hello", HttpMethod.GET));
          await client.stop();
        }),
      { appId: "called", configuration: names },
    );
    rmSync(folder, { recursive: true });
  });

  test(`${name}: secrets, one and all`, async () => {
    const resources = [
      component("env", "secretstores.local.env"),
      component("file", "secretstores.local.file", { secretsFile: "$FOLDER/secrets.json" }),
    ];
    const files = { "secrets.json": JSON.stringify({ plain: "p", db: { user: "u" } }) };
    await withSidecar({ resources, files, env: { SHOP_SECRET: "e" } }, async (sidecar) => {
      const client = sidecar.client(protocol);
      assert.deepEqual(await client.secret.get("env", "SHOP_SECRET"), { SHOP_SECRET: "e" });
      assert.deepEqual(await client.secret.get("file", "db:user"), { "db:user": "u" });
      const all = await client.secret.getBulk("file");
      assert.deepEqual(Object.keys(all).sort(), ["db:user", "plain"]);
      await assert.rejects(client.secret.get("nowhere", "a"));
      await client.stop();
    });
  });

  test(`${name}: metadata is read and added to`, async () => {
    await withSidecar({ appId: "shop" }, async (sidecar) => {
      const client = sidecar.client(protocol);
      assert.ok(await client.metadata.set("team", "blue"));
      const metadata = await client.metadata.get();
      assert.equal(metadata.id, "shop");
      assert.deepEqual(metadata.components.map((one) => one.name).sort(), ["memory", "pubsub"]);
      const { extended } = await (await fetch(sidecar.url("/v1.0/metadata"))).json();
      assert.equal(extended.team, "blue");
      assert.ok(JSON.parse(extended["outrigger.dev/components"]).every((one) => one.state === "ready"));
      await client.stop();
    });
  });

  test(`${name}: health, waiting for a sidecar that is late, and the end`, async () => {
    const sidecar = await Sidecar.start();
    const client = sidecar.client(protocol);
    await client.start();
    assert.equal(await client.health.isHealthy(), true);
    await client.sidecar.shutdown();
    assert.equal(await sidecar.ended, 0);
    assert.equal(await client.health.isHealthy().catch(() => false), false);
    await client.stop();
    await sidecar.stop();
  });

  test(`${name}: the API token is sent, and a wrong one refused`, async () => {
    await withSidecar({ env: { DAPR_API_TOKEN: "secret" } }, async (sidecar) => {
      const client = sidecar.client(protocol);
      assert.equal((await client.state.save("memory", [{ key: "a", value: 1 }])).error, undefined);
      await client.stop();
      const wrong = { headers: { "dapr-api-token": "wrong" } };
      assert.equal((await fetch(sidecar.url("/v1.0/state/memory/a"), wrong)).status, 401);
    });
  });

  test(`${name}: a store that is down is told, and harms nothing else`, async () => {
    const redis = component("redis", "state.redis", { redisHost: `127.0.0.1:${await freePort()}` });
    await withSidecar({ resources: [...STANDARD, redis] }, async (sidecar) => {
      const client = sidecar.client(protocol);
      await assert.rejects(client.state.get("redis", "a"), /redis/);
      assert.equal((await client.state.save("memory", [{ key: "a", value: 1 }])).error, undefined);
      assert.equal(await client.state.get("memory", "a"), 1);
      await client.stop();
    });
  });
}

test("a store that is down answers 503 with a hint when to come again", async () => {
  const redis = component("redis", "state.redis", { redisHost: `127.0.0.1:${await freePort()}` });
  await withSidecar({ resources: [redis] }, async (sidecar) => {
    const answer = await fetch(sidecar.url("/v1.0/state/redis/a"));
    assert.equal(answer.status, 503);
    assert.equal((await answer.json()).errorCode, "ERR_COMPONENT_NOT_READY");
    const after = Number(answer.headers.get("retry-after"));
    assert.ok(after >= 1 && after <= 30, `${after}`);
  });
});
