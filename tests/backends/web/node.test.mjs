// A published model in Node: SPARSECC_WEB is the folder of models.py.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { CHECKS, refused, same, typed } from "./behaviour.js";

const root = process.env.SPARSECC_WEB;
const cases = JSON.parse(await readFile(join(root, "cases.json"), "utf8"));
const modules = {};
const load = async (name, options) => {
  const folder = join(root, name === "nowhere" ? "numbers" : name);
  const module = (modules[folder] ??= await import(pathToFileURL(join(folder, "index.js"))));
  return await module.load(join(root, name), options);
};

for (const options of [{}, { worker: true }, { threads: 2 }, { worker: true, threads: 3 }]) {
  for (const [name, check] of Object.entries(CHECKS)) {
    test(`${name} ${JSON.stringify(options)}`, () => check({ load, cases, options }));
  }
}

test("it runs on as many threads as asked for, and on one otherwise", async () => {
  for (const [options, threads] of [[{}, 1], [{ threads: 3 }, 3]]) {
    const model = await load("pictures", options);
    assert.equal(model.threads, threads);
    model.dispose();
  }
});

test("a folder is a path, a URL, or the module's own", async () => {
  const { load: bare } = await import(pathToFileURL(join(root, "numbers", "index.js")));
  for (const folder of [undefined, join(root, "numbers"), pathToFileURL(join(root, "numbers")), `${pathToFileURL(join(root, "numbers"))}/`]) {
    const model = await bare(folder);
    same(await model.run(typed(cases.numbers[0].feeds)), cases.numbers[0].answers, model.outputs);
    model.dispose();
  }
});

test("a model that is not disposed of lets Node end", async () => {
  const script = `
    import { load } from ${JSON.stringify(String(pathToFileURL(join(root, "numbers", "index.js"))))};
    await load(undefined, { threads: 2 });
    await load(undefined, { worker: true });
    console.log("loaded");`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], { timeout: 20_000 });
  assert.equal(stdout, "loaded\n");
});

test("weights from the network are kept in a file, and dropped when they are wrong", async () => {
  const home = await mkdtemp(join(tmpdir(), "sparsecc-web-"));
  process.env.XDG_CACHE_HOME = home;
  const asked = [];
  const server = createServer(async (request, response) => {
    asked.push(request.url);
    const [, lost, path] = /^(\/lost)?(.*)/.exec(request.url);
    const file = await readFile(join(root, path)).catch(() => undefined);
    if (request.url.startsWith("/page")) response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end("<!doctype html>");
    else if (lost) response.writeHead(200, { "Content-Length": file.length }).write(file.subarray(0, 64), () => response.destroy());
    else if (file) response.end(file);
    else response.writeHead(404).end();
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  const weights = () => asked.filter((each) => each.endsWith("weights.bin")).length;
  try {
    const { load: bare } = await import(pathToFileURL(join(root, "numbers", "index.js")));
    for (const round of [0, 1]) {
      const model = await bare(`${url}/numbers`);
      same(await model.run(typed(cases.numbers[round].feeds)), cases.numbers[round].answers, model.outputs);
      model.dispose();
      assert.equal(weights(), 1);
    }
    const kept = join(home, "sparsecc", "web");
    const [file] = await readdir(kept);
    const whole = await readFile(join(kept, file));
    for (const damaged of [whole.subarray(1), Buffer.from(whole).fill(1, 64)]) {
      await writeFile(join(kept, file), damaged);
      const before = weights();
      const model = await bare(`${url}/numbers`);
      same(await model.run(typed(cases.numbers[0].feeds)), cases.numbers[0].answers, model.outputs);
      model.dispose();
      assert.equal(weights(), before + 1);
      assert.deepEqual(await readFile(join(kept, file)), whole);
    }
    await rm(join(home, "sparsecc"), { recursive: true });
    await refused(bare(`${url}/flipped`), /damaged/);
    await assert.rejects(readdir(kept));
    await refused(bare(`${url}/missing`), /missing\/weights.bin is not there \(HTTP 404\)/);
    await refused(bare(`${url}/page/numbers`), /page\/numbers\/.* is not there \(a page of HTML came instead\): publish the whole folder/);
    await refused(bare(`${url}/lost/numbers`), /lost\/numbers\/.* cannot be read.*check the address and the connection/);
    await refused(bare("http://127.0.0.1:9/none"), /cannot be read/);
  } finally {
    server.close();
    delete process.env.XDG_CACHE_HOME;
    await rm(home, { recursive: true });
  }
});
