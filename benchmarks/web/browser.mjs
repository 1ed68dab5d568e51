// Runs a race in headless Chromium: `node browser.mjs JOB.json RESULT.json`. The page has the files of the job's folder.
import { cp, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { serve } from "../../backends/web/demo/serve.mjs";
import { open, withBrowser } from "./chromium.mjs";

const PAGE = '<!doctype html><link rel="icon" href="data:,"><title>race</title>';

const [, , jobFile, resultFile] = process.argv;
const folder = dirname(jobFile);
const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(import.meta.url);
await writeFile(join(folder, "index.html"), PAGE);
await cp(join(here, "race.js"), join(folder, "race.js"));
for (const name of ["onnxruntime-web", "@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-wasm"]) {
  const dist = dirname(require.resolve(name));
  await cp(dist, join(folder, "dist", basename(dirname(dist))), { recursive: true, filter: (file) => !file.endsWith(".map") });
}

const server = await serve(folder);
await withBrowser(async (context) => {
  const { page } = await open(context, server.url);
  page.on("console", (message) => console.error(message.text()));
  const job = JSON.parse(await readFile(jobFile, "utf8"));
  if (job.engines.some(({ kind }) => kind === "tensorflow")) {
    await page.addScriptTag({ url: "/dist/tfjs-core/tf-core.min.js" });
    await page.addScriptTag({ url: "/dist/tfjs-backend-wasm/tf-backend-wasm.min.js" });
  }
  await writeFile(resultFile, JSON.stringify(await page.evaluate(inPage, job)));
});
server.close();

async function inPage(job) {
  const { onnxruntime, race, sparsecc, tensorflow, typed } = await import("/race.js");
  const read = async (name) => (await fetch(`/${name}`)).arrayBuffer();
  job.inputs = typed(job.inputs, await Promise.all(job.inputs.map(({ file }) => read(file))));
  job.expected = new Float32Array(await read(job.expectedFile));
  const openers = { sparsecc: sparsecc((path) => import(`/${path}/index.js`)) };
  for (const engine of job.engines) {
    if (engine.kind === "onnxruntime") {
      const ort = await import("/dist/onnxruntime-web/ort.wasm.min.mjs");
      ort.env.wasm.wasmPaths = "/dist/onnxruntime-web/";
      openers.onnxruntime = onnxruntime(ort);
      engine.model = `/${engine.model}`;
    } else if (engine.kind === "tensorflow") {
      const { tf } = globalThis;
      tf.wasm.setWasmPaths("/dist/tfjs-backend-wasm/");
      tf.wasm.setThreadsCount(engine.threads);
      engine.weights = new Float32Array(await read(engine.weightsFile));
      openers.tensorflow = tensorflow(tf);
    }
  }
  return await race(job, openers, (what) => console.log(what));
}
