// Starts a model in fresh processes of Node and fresh pages of Chromium: `node start.mjs JOB.json RESULT.json`.
//
// Its weights are on the disk, or in the browser's cache from a visit before. `readMs` is what reading them alone takes there.
import { execFile } from "node:child_process";
import { cp, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { serve } from "../../backends/web/demo/serve.mjs";
import { open, withBrowser } from "./chromium.mjs";
import { typed } from "./race.js";
import { onThreads, start } from "./start.js";

const STARTS = 9;
const [, script, jobFile, resultFile, what] = process.argv;
const root = dirname(jobFile);
const { engines, inputs } = JSON.parse(await readFile(jobFile, "utf8"));
const { folder } = engines.find(({ kind }) => kind === "sparsecc");

if (what) {
  await writeFile(resultFile, JSON.stringify(await here(what)));
  process.exit(0); // it has threads
}
await writeFile(resultFile, JSON.stringify({ node: await all(inProcess), chromium: await inChromium() }));

/** Starts and reads in turns, then threads; `fresh(what)` does one of them in a place of its own. */
async function all(fresh) {
  const starts = [];
  for (let i = 0; i < STARTS; i++) starts.push({ ...(await fresh("read")), ...(await fresh("start")) });
  return { starts, threads: await fresh("threads") };
}

async function here(name) {
  const weights = join(root, folder, "weights.bin");
  const buffers = await Promise.all(inputs.map(async ({ file }) => new Uint8Array(await readFile(join(root, file))).buffer));
  const feeds = Object.fromEntries(typed(inputs, buffers).map(({ name: port, data, dims }) => [port, { data, dims }]));
  const module = () => import(pathToFileURL(join(root, folder, "index.js")));
  if (name === "start") return await start(module, join(root, folder), feeds);
  if (name === "threads") return await onThreads(module, join(root, folder), feeds);
  const begin = performance.now();
  await readFile(weights);
  return { readMs: performance.now() - begin };
}

async function inProcess(name) {
  await promisify(execFile)(process.execPath, [script, jobFile, resultFile, name]);
  return JSON.parse(await readFile(resultFile, "utf8"));
}

async function inChromium() {
  await writeFile(join(root, "index.html"), '<!doctype html><link rel="icon" href="data:,"><title>start</title>');
  for (const file of ["race.js", "start.js"]) await cp(join(dirname(fileURLToPath(import.meta.url)), file), join(root, file));
  const server = await serve(root);
  let found;
  await withBrowser(async (context) => {
    const { page } = await open(context, server.url); // the visit before
    await page.evaluate(inPage, { name: "start", folder, inputs });
    await page.waitForFunction(async () => (await (await caches.open("sparsecc")).keys()).length > 0);
    await page.close();
    found = await all(async (name) => {
      const { page: fresh } = await open(context, server.url);
      const result = await fresh.evaluate(inPage, { name, folder, inputs });
      await fresh.close();
      return result;
    });
  });
  server.close();
  return found;
}

async function inPage({ name, folder, inputs }) {
  const [race, timed] = await Promise.all([import("/race.js"), import("/start.js")]);
  const buffers = await Promise.all(inputs.map(async ({ file }) => (await fetch(`/${file}`)).arrayBuffer()));
  const feeds = Object.fromEntries(race.typed(inputs, buffers).map(({ name: port, data, dims }) => [port, { data, dims }]));
  const module = () => import(`/${folder}/index.js`);
  if (name === "start") return await timed.start(module, `/${folder}/`, feeds);
  if (name === "threads") return await timed.onThreads(module, `/${folder}/`, feeds);
  const begin = performance.now();
  const cache = await caches.open("sparsecc");
  const [key] = await cache.keys();
  await (await cache.match(key)).arrayBuffer();
  return { readMs: performance.now() - begin };
}
