// Runs every `*.test.mjs` of this folder and ends with one line: `N passed, N failed`.

import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { fileURLToPath } from "node:url";

const folder = dirname(fileURLToPath(import.meta.url));
const wanted = process.argv.slice(2);
const files = readdirSync(folder)
  .filter((name) => name.endsWith(".test.mjs") && (!wanted.length || wanted.includes(name)))
  .map((name) => join(folder, name));

let passed = 0;
let failed = 0;
const isTest = (event) => event.details?.type !== "suite" && !event.name.endsWith(".test.mjs");
const stream = run({ files, concurrency: 1, timeout: 600_000 });
stream.on("test:pass", (event) => {
  if (!isTest(event)) return;
  // A test that was left out has not passed.
  if (event.skip !== undefined || event.todo !== undefined) failed += 1;
  else passed += 1;
});
stream.on("test:fail", (event) => {
  // A file that fails as a whole, without a failing test in it, counts too.
  if (isTest(event) || event.details?.error?.failureType === "testCodeFailure") failed += 1;
});
stream.on("end", () => {
  setImmediate(() => {
    console.log(`${passed} passed, ${failed} failed`);
    process.exit(failed || !passed ? 1 : 0);
  });
});
stream.compose(spec).pipe(process.stdout);
