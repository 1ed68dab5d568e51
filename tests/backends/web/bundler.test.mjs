// A page that a bundler makes of a model: SPARSECC_WEB is the folder of models.py.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { build } from "vite";

import { serve } from "../../../backends/web/demo/serve.mjs";
import { open, withBrowser } from "../../../benchmarks/web/chromium.mjs";

const root = process.env.SPARSECC_WEB;

test("vite publishes the weights and the modules with the page, workers too", async () => {
  const app = await mkdtemp(join(tmpdir(), "sparsecc-vite-"));
  const cases = await readFile(join(root, "cases.json"), "utf8");
  await writeFile(join(app, "index.html"), '<!doctype html><link rel="icon" href="data:,"><script type="module" src="main.js"></script>');
  await writeFile(
    join(app, "main.js"),
    `import { load } from ${JSON.stringify(join(root, "pictures", "index.js"))};
     globalThis.answers = async (data, options) => {
       const model = await load(undefined, options);
       const { output } = await model.run({ image: Float32Array.from(data) });
       model.dispose();
       return [model.threads, [...output]];
     };`,
  );
  await build({ root: app, logLevel: "error", worker: { format: "es" }, build: { assetsInlineLimit: 0, target: "esnext" } });
  const server = await serve(join(app, "dist"));
  await withBrowser(async (context) => {
    const { page, wrong } = await open(context, server.url);
    const [{ feeds, answers }] = JSON.parse(cases).pictures;
    for (const [options, threads] of [[{}, undefined], [{ threads: 2 }, 2], [{ worker: true, threads: 2 }, 2]]) {
      const [count, output] = await page.evaluate(([data, more]) => globalThis.answers(data, more), [feeds.image.data, options]);
      if (threads) assert.equal(count, threads);
      answers.output.data.forEach((value, i) => assert.ok(Math.abs(value - output[i]) < 1e-4));
    }
    assert.deepEqual(wrong, []);
  });
  server.close();
  await rm(app, { recursive: true });
});
