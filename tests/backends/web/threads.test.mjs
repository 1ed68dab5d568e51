// The pool of threads: SPARSECC_WEB is a folder with stress.wasm and the scripts of a module.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";

const root = process.env.SPARSECC_WEB;
const STACK = 1 << 20;

const { Partner } = await import(pathToFileURL(join(root, "messages.js")));

test("every part of every job is done once, by whoever is there", async () => {
  const module = await WebAssembly.compile(await readFile(join(root, "stress.wasm")));
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 1024, shared: true });
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  assert.equal(exports.stress(50, 100, 10), 0); // alone
  const workers = [];
  for (let i = 0; i < 3; i++) {
    const worker = new Partner(new Worker(pathToFileURL(join(root, "thread.js"))));
    workers.push(worker);
    await worker.ask({ module, memory, top: exports.sc_web_alloc(BigInt(STACK)) + STACK });
    assert.equal(exports.stress(300, 100, 1000), 0);
    assert.equal(exports.stress(2000, 2, 1), 0);
    assert.equal(exports.stress(100, 4096, 10), 0);
    await new Promise((resolve) => setTimeout(resolve, 30)); // by now they sleep
    assert.equal(exports.stress(10, 1000, 2000), 0);
    assert.equal(exports.stress(5, 1, 1), 0);
    assert.equal(exports.stress(5, 0, 1), 0);
  }
  for (const worker of workers) worker.end();
});
