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
      const weights = new Weights(url, { bytes, hash: "big" });
      await weights.read(view);
      await weights.keep();
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

test("kept weights that are damaged are fetched again", async () => {
  const server = await serve(root);
  const cases = JSON.parse(await readFile(join(root, "cases.json"), "utf8"));
  await withBrowser(async (context) => {
    const { page } = await open(context, server.url);
    const kept = async () => {
      const cache = await caches.open("sparsecc");
      const [key] = await cache.keys();
      return key && (await (await cache.match(key)).arrayBuffer()).byteLength;
    };
    await page.evaluate(answerOf, cases.numbers[0]);
    await page.waitForFunction(kept);
    const whole = await page.evaluate(kept);
    for (const size of [whole - 8, whole, whole + 8]) {
      await page.evaluate(async (bytes) => {
        const cache = await caches.open("sparsecc");
        await cache.put((await cache.keys())[0], new Response(new Uint8Array(bytes)));
      }, size);
      assert.equal(await page.evaluate(answerOf, cases.numbers[1]), true);
    }
  });
  server.close();
});

test("a page in place of a file is named as one", async () => {
  const server = await serve(root);
  await withBrowser(async (context) => {
    const { page } = await open(context, server.url);
    for (const file of ["weights.bin", "model.relaxed.wasm"]) {
      await page.route(`**/${file}`, (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html><title>not found</title>" }));
      const said = await page.evaluate(async () => {
        const { load } = await import("/numbers/index.js");
        return await load("/numbers/", { threads: 1 }).catch(({ name, message }) => `${name}: ${message}`);
      });
      assert.match(said, new RegExp(`ModelError: .*/numbers/${file} is not there \\(a page of HTML came instead\\): publish the whole folder`));
      await page.unroute(`**/${file}`);
    }
  });
  server.close();
});

test("when a page has room for no more models, that is an error, and the others go on", async () => {
  const server = await serve(root);
  const cases = JSON.parse(await readFile(join(root, "cases.json"), "utf8"));
  await withBrowser(async (context) => {
    const { page } = await open(context, server.url);
    const said = await page.evaluate(async ({ feeds, answers }) => {
      const [{ load }, { typed, same }] = await Promise.all([import("/numbers/index.js"), import("/behaviour.js")]);
      const models = [];
      try {
        while (models.length < 1000) models.push(await load("/numbers/", { threads: 1 }));
        return "there was room for a thousand";
      } catch (error) {
        same(await models[0].run(typed(feeds)), answers, models[0].outputs);
        return `${error.name}: ${error.message}`;
      }
    }, cases.numbers[0]);
    assert.match(said, /ModelError: .*no room for another model's memory: dispose/);
  });
  server.close();
});

test("a server that calls WebAssembly something else will do", async () => {
  const server = await serve(root);
  const cases = JSON.parse(await readFile(join(root, "cases.json"), "utf8"));
  await withBrowser(async (context) => {
    const { page } = await open(context, server.url);
    await page.route("**/*.wasm", async (route) => route.fulfill({ contentType: "text/plain", body: await (await route.fetch()).body() }));
    assert.equal(await page.evaluate(answerOf, cases.numbers[0]), true);
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
