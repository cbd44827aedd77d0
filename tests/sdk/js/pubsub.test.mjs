// Publishing over both protocols; subscribing with HTTP callbacks, gRPC callbacks and a stream.

import assert from "node:assert/strict";
import { test } from "node:test";

import { DaprPubSubStatusEnum, GRPC, HTTP, Inbox, withServer, withSidecar } from "./support.mjs";

for (const protocol of [HTTP, GRPC]) {
  const name = protocol === HTTP ? "HTTP" : "gRPC";

  test(`${name}: objects and texts reach their handler`, async () => {
    const inbox = new Inbox();
    await withServer(
      protocol,
      (server) => server.pubsub.subscribe("pubsub", "orders", async (data) => inbox.put(data)),
      async ({ client }) => {
        assert.equal((await client.pubsub.publish("pubsub", "orders", { n: 1 })).error, undefined);
        assert.deepEqual(await inbox.next(), { n: 1 });
        await client.pubsub.publish("pubsub", "orders", "text");
        assert.equal(await inbox.next(), "text");
      },
    );
  });

  test(`${name}: many are published at once`, async () => {
    const inbox = new Inbox();
    await withServer(
      protocol,
      (server) => server.pubsub.subscribe("pubsub", "orders", async (data) => inbox.put(data)),
      async ({ client }) => {
        const messages = [{ n: 1 }, { n: 2 }, { n: 3 }];
        assert.deepEqual((await client.pubsub.publishBulk("pubsub", "orders", messages)).failedMessages, []);
        const got = [await inbox.next(), await inbox.next(), await inbox.next()];
        assert.deepEqual(got.map((one) => one.n).sort(), [1, 2, 3]);
      },
    );
  });

  test(`${name}: a dropped event goes to the dead letter topic`, async () => {
    const inbox = new Inbox();
    await withServer(
      protocol,
      async (server) => {
        await server.pubsub.subscribeWithOptions("pubsub", "orders", {
          callback: async () => DaprPubSubStatusEnum.DROP,
          deadLetterTopic: "dead",
        });
        await server.pubsub.subscribe("pubsub", "dead", async (data) => inbox.put(data));
      },
      async ({ client }) => {
        await client.pubsub.publish("pubsub", "orders", { n: 1 });
        assert.deepEqual(await inbox.next(), { n: 1 });
      },
    );
  });

  test(`${name}: an unknown component is an error`, async () => {
    await withSidecar({}, async (sidecar) => {
      const client = sidecar.client(protocol);
      const told = await client.pubsub.publish("nowhere", "orders", { n: 1 }).catch((error) => error);
      assert.ok(told.error, JSON.stringify(told));
      await client.stop();
    });
  });
}

test("HTTP: rules choose the handler", async () => {
  const inbox = new Inbox();
  await withServer(
    HTTP,
    async (server) => {
      await server.pubsub.subscribeWithOptions("pubsub", "orders", {
        route: { rules: [{ match: `event.type == "big"`, path: "big" }], default: "rest" },
      });
      server.pubsub.subscribeToRoute("pubsub", "orders", "big", async () => inbox.put("big"));
      server.pubsub.subscribeToRoute("pubsub", "orders", "rest", async () => inbox.put("rest"));
    },
    async ({ client }) => {
      const publish = (type) =>
        client.pubsub.publish("pubsub", "orders", { n: 1 }, { metadata: { "cloudevent.type": type } });
      await publish("big");
      assert.equal(await inbox.next(), "big");
      await publish("small");
      assert.equal(await inbox.next(), "rest");
    },
  );
});

test("HTTP: many are delivered at once when asked for", async () => {
  const inbox = new Inbox();
  await withServer(
    HTTP,
    (server) =>
      server.pubsub.subscribeBulk("pubsub", "orders", async (data) => inbox.put(data), {
        maxMessagesCount: 3,
        maxAwaitDurationMs: 300,
      }),
    async ({ client }) => {
      await client.pubsub.publishBulk("pubsub", "orders", [{ n: 1 }, { n: 2 }, { n: 3 }]);
      const got = [await inbox.next(), await inbox.next(), await inbox.next()];
      assert.deepEqual(got.map((one) => one.n).sort(), [1, 2, 3]);
    },
  );
});

test("a stream gets events and acknowledges them", async () => {
  await withSidecar({}, async (sidecar) => {
    const client = sidecar.client(GRPC);
    await client.start();
    const api = await client.daprClient.getClient();
    const answers = new Inbox();
    let open = true;
    async function* asking() {
      yield { subscribeTopicEventsRequestType: { case: "initialRequest", value: { pubsubName: "pubsub", topic: "orders" } } };
      while (open) yield await answers.next();
    }
    const ending = new AbortController();
    const stream = api.subscribeTopicEventsAlpha1(asking(), { signal: ending.signal })[Symbol.asyncIterator]();
    const { value: first } = await stream.next();
    assert.equal(first.subscribeTopicEventsResponseType.case, "initialResponse");
    for (const n of [1, 2]) {
      await client.pubsub.publish("pubsub", "orders", { n });
      const { value } = await stream.next();
      const event = value.subscribeTopicEventsResponseType.value;
      assert.deepEqual(JSON.parse(Buffer.from(event.data).toString()), { n });
      answers.put({
        subscribeTopicEventsRequestType: { case: "eventProcessed", value: { id: event.id, status: { status: 0 } } },
      });
    }
    open = false;
    answers.put({ subscribeTopicEventsRequestType: { case: "eventProcessed", value: { id: "none" } } });
    ending.abort();
    await stream.next().catch(() => {});
    await client.stop();
  });
});
