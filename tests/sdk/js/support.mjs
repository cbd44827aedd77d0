// A sidecar for one test: its process, its resources in a folder of its own, free ports.
// The binary is that of the environment variable OUTRIGGER, else target/debug/outrigger.

import { spawn } from "node:child_process";
import { mkdtempSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import dapr from "@dapr/dapr";

export const { DaprClient, DaprServer, CommunicationProtocolEnum, DaprPubSubStatusEnum, HttpMethod } = dapr;
export const { HTTP, GRPC } = CommunicationProtocolEnum;

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../../..");
const BINARY = process.env.OUTRIGGER ?? join(ROOT, "target/debug/outrigger");
const PATIENCE = 20_000;
const QUIET = { level: "error", service: { error() {}, warn() {}, info() {}, verbose() {}, debug() {} } };

export function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Waits until `found()` is true, and tells what it saw last when it never is. */
export async function eventually(what, found, patience = PATIENCE) {
  const deadline = Date.now() + patience;
  for (;;) {
    let seen;
    try {
      seen = await found();
      if (seen) return seen;
    } catch (error) {
      seen = error;
    }
    if (Date.now() > deadline) throw new Error(`${what}: not within ${patience} ms, last seen: ${seen}`);
    await pause(50);
  }
}

/** What was put in and is taken out one by one. */
export class Inbox {
  #items = [];
  put(item) {
    this.#items.push(item);
  }
  next() {
    return eventually("something arrives", () => this.#items.length && { item: this.#items.shift() }).then(
      ({ item }) => item,
    );
  }
}

export function component(name, type, metadata = {}) {
  return {
    apiVersion: "dapr.io/v1alpha1",
    kind: "Component",
    metadata: { name },
    spec: { type, version: "v1", metadata: Object.entries(metadata).map(([name, value]) => ({ name, value })) },
  };
}

export const STANDARD = [component("memory", "state.in-memory"), component("pubsub", "pubsub.in-memory")];

/** A sidecar that is up; `stop` ends it. */
export class Sidecar {
  static async start({ appId = "app", resources = STANDARD, appPort, protocol = "http", flags = [], env = {}, files = {},
    configuration } = {}) {
    const sidecar = new Sidecar();
    sidecar.folder = mkdtempSync(join(tmpdir(), "outrigger-sdk-"));
    const path = join(sidecar.folder, "resources");
    mkdirSync(path);
    for (const [name, text] of Object.entries(files)) writeFileSync(join(sidecar.folder, name), text);
    const text = resources.map((one) => JSON.stringify(one)).join("\n---\n").replaceAll("$FOLDER", sidecar.folder);
    writeFileSync(join(path, "all.yaml"), text);
    [sidecar.http, sidecar.grpc, sidecar.internal] = [await freePort(), await freePort(), await freePort()];
    const args = ["sidecar", "--app-id", appId, "--resources-path", path, "--dapr-http-port", sidecar.http,
      "--dapr-grpc-port", sidecar.grpc, "--dapr-internal-grpc-port", sidecar.internal,
      "--dapr-listen-addresses", "127.0.0.1", "--enable-metrics=false", "--drain-quiet", "50ms", ...flags];
    if (appPort) args.push("--app-port", appPort, "--app-protocol", protocol);
    if (configuration) {
      const file = join(sidecar.folder, "configuration.yaml");
      writeFileSync(file, JSON.stringify(configuration));
      args.push("--config", file);
    }
    sidecar.log = join(sidecar.folder, "log");
    const log = openSync(sidecar.log, "a");
    sidecar.process = spawn(BINARY, args.map(String), { stdio: ["ignore", log, log], env: { ...process.env, ...env } });
    sidecar.ended = new Promise((resolve) => sidecar.process.on("exit", resolve));
    sidecar.token = env.DAPR_API_TOKEN;
    return sidecar;
  }

  url(path) {
    return `http://127.0.0.1:${this.http}${path}`;
  }

  async ready() {
    try {
      await eventually("the sidecar is ready", async () => (await fetch(this.url("/v1.0/healthz"))).status === 204);
    } catch (error) {
      process.stderr.write(readFileSync(this.log, "utf8").slice(-6000));
      throw error;
    }
    return this;
  }

  clientOptions(protocol) {
    return {
      daprHost: "127.0.0.1",
      daprPort: String(protocol === GRPC ? this.grpc : this.http),
      communicationProtocol: protocol,
      daprApiToken: this.token,
      logger: QUIET,
    };
  }

  client(protocol = HTTP) {
    return new DaprClient(this.clientOptions(protocol));
  }

  /** Its exit code. */
  async stop() {
    this.process.kill("SIGTERM");
    const code = await Promise.race([this.ended, pause(40_000, "never ended", { ref: false })]);
    this.process.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
    return code;
  }
}

/** Runs `body` with a sidecar that is ready. */
export async function withSidecar(options, body) {
  const sidecar = await Sidecar.start(options);
  try {
    await sidecar.ready();
    return await body(sidecar);
  } finally {
    await sidecar.stop();
  }
}

/** The SDK's server beside a sidecar; `prepare` registers what it handles, `body` is run when both are ready. */
export async function withServer(protocol, prepare, body, options = {}) {
  const port = await freePort();
  const sidecar = await Sidecar.start({ appPort: port, protocol: protocol === GRPC ? "grpc" : "http", ...options });
  const server = new DaprServer({
    serverHost: "127.0.0.1",
    serverPort: String(port),
    communicationProtocol: protocol,
    clientOptions: sidecar.clientOptions(protocol),
    logger: QUIET,
  });
  try {
    await prepare(server);
    await server.start();
    await sidecar.ready();
    return await body(server, sidecar);
  } finally {
    await server.client.stop().catch(() => {});
    // First the sidecar: the server waits for its callers to leave.
    await sidecar.stop();
    await Promise.race([server.stop(), pause(3000, undefined, { ref: false })]);
  }
}
