// A published model in Chromium, on the main thread and in workers: SPARSECC_WEB is the folder of models.py.
import assert from "node:assert/strict";
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { serve } from "../../../backends/web/demo/serve.mjs";
import { open, withBrowser } from "../../../benchmarks/web/chromium.mjs";

const root = process.env.SPARSECC_WEB;
const MISSING = /404/; // what the browser logs where a test asks for a file that is not there

await copyFile(join(dirname(fileURLToPath(import.meta.url)), "behaviour.js"), join(root, "behaviour.js"));
await writeFile(join(root, "index.html"), '<!doctype html><link rel="icon" href="data:,"><title>test</title>');

for (const isolated of [true, false]) {
  test(`models in a page that is ${isolated ? "" : "not "}cross-origin isolated`, async (each) => {
    const server = await serve(root, { isolated });
    await withBrowser(async (context) => {
      const { page, wrong } = await open(context, server.url, { expected: MISSING });
      for (const options of [{}, { worker: true }, { threads: 3 }, { worker: true, threads: 2 }]) {
        await each.test(JSON.stringify(options), async () => assert.deepEqual(await page.evaluate(inPage, options), {}));
      }
      const kind = await page.evaluate(what, { threads: 3 });
      assert.deepEqual(kind, { simd: "relaxed", threads: isolated ? 3 : 1, isolated });
      assert.deepEqual(wrong, []);
    });
    server.close();
  });
}

test("weights are loaded once, and again when others are published", async () => {
  const server = await serve(root);
  await withBrowser(async (context) => {
    const { page } = await open(context, server.url);
    const asked = [];
    page.on("request", (request) => asked.push(new URL(request.url()).pathname));
    const weights = () => asked.filter((path) => path.endsWith("weights.bin")).length;
    const run = () => page.evaluate(answerOf, JSON.parse(cases).numbers[0]);
    const cases = await readFile(join(root, "cases.json"), "utf8");
    const isKept = async () => (await (await caches.open("sparsecc")).keys()).length === 1;
    assert.equal(await run(), true);
    await page.waitForFunction(isKept);
    for (let round = 0; round < 2; round++) assert.equal(await run(), true);
    assert.equal(weights(), 1);
    await page.reload();
    assert.equal(await run(), true);
    assert.equal(weights(), 1);
    const kept = await page.evaluate(async () => (await (await caches.open("sparsecc")).keys()).map(({ url }) => url));
    assert.equal(kept.length, 1);
    // What lies in the cache under another hash goes when the weights of this one come.
    await page.evaluate(async (url) => {
      const cache = await caches.open("sparsecc");
      await cache.delete(url);
      await cache.put(url.replace(/sparsecc=.*/, "sparsecc=old"), new Response("old"));
    }, kept[0]);
    assert.equal(await run(), true);
    assert.equal(weights(), 2);
    await page.waitForFunction(async (url) => (await (await caches.open("sparsecc")).keys()).map((each) => each.url).join() === url, kept[0]);
  });
  server.close();
});

test("many weights are kept too, from a page with threads as well", async () => {
  const server = await serve(root);
  await withBrowser(async (context) => {
    const { page } = await open(context, server.url);
    const size = 40 << 20;
    await page.route("**/big.bin", (route) => route.fulfill({ body: Buffer.alloc(size, 7) }));
    const kept = await page.evaluate(async (bytes) => {
      const { Weights } = await import("/numbers/files.js");
      const url = new URL("/big.bin", location).href;
      const memory = new WebAssembly.Memory({ initial: 1024, maximum: 1024, shared: true });
      const view = (from, count) => new Uint8Array(memory.buffer, from, count);
      await new Weights(url, { bytes, hash: "big" }).read(view);
      for (let i = 0; i < 100; i++) {
        const hit = await (await caches.open("sparsecc")).match(`${url}?sparsecc=big`);
        if (hit) return [(await hit.arrayBuffer()).byteLength, view(bytes - 1, 1)[0]];
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      return [];
    }, size);
    assert.deepEqual(kept, [size, 7]);
  });
  server.close();
});

test("weights that are wrong do not stay in the cache", async () => {
  const server = await serve(root);
  await withBrowser(async (context) => {
    const { page } = await open(context, server.url);
    const kept = await page.evaluate(async () => {
      const { load } = await import("/flipped/index.js");
      await load("/flipped/").catch(() => {});
      return (await (await caches.open("sparsecc")).keys()).length;
    });
    assert.equal(kept, 0);
  });
  server.close();
});

async function inPage(options) {
  const { runChecks } = await import("/behaviour.js");
  const cases = await (await fetch("/cases.json")).json();
  const load = async (name, more) => (await import(`/${name === "nowhere" ? "numbers" : name}/index.js`)).load(`/${name}`, more);
  return await runChecks({ load, cases, options });
}

async function what(options) {
  const { load } = await import("/numbers/index.js");
  const { simd, threads } = await load("/numbers/", options);
  return { simd, threads, isolated: crossOriginIsolated };
}

async function answerOf({ feeds, answers }) {
  const [{ load }, { typed, same }] = await Promise.all([import("/numbers/index.js"), import("/behaviour.js")]);
  const model = await load("/numbers/");
  same(await model.run(typed(feeds)), answers, model.outputs);
  model.dispose();
  return true;
}
