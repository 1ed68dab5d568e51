// The demo page of a published model, with the dense twin and without: SPARSECC_WEB is the folder of models.py.
import assert from "node:assert/strict";
import { cp, mkdir, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { test } from "node:test";

import { serve } from "../../../backends/web/demo/serve.mjs";
import { open, withBrowser } from "../../../benchmarks/web/chromium.mjs";

const demo = join(process.env.SPARSECC_WEB, "pictures", "demo");
const measured = () => document.querySelector("#again:enabled") && document.querySelector("#table td") !== null;
const fact = (page, name) => page.locator(`[data-fact=${name}]`).innerText();

/** Puts onnxruntime-web where `npm install` would. */
async function withTwin(folder) {
  const runtime = join(folder, "node_modules", "onnxruntime-web", "dist");
  const dist = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
  await mkdir(runtime, { recursive: true });
  for (const name of ["ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.mjs", "ort.wasm.min.mjs"]) {
    await cp(join(dist, name), join(runtime, name));
  }
}

test("the model and its dense twin run on the sample and on a picture of the visitor's", async () => {
  await withTwin(demo);
  const server = await serve(join(demo, ".."));
  try {
    await withBrowser(async (context) => {
      const { page, wrong } = await open(context, `${server.url}demo/`);
      await page.waitForFunction(measured);
      assert.equal(await page.locator("h1").innerText(), "pictures");
      assert.match(await fact(page, "ratio"), /^\d+\.\d\d×$/);
      assert.match(await fact(page, "time"), /^[\d.]+ ms$/);
      assert.match(await fact(page, "code"), /^\d+ KB$/);
      assert.match(await fact(page, "weights"), /^[\d.]+ MB$/);
      assert.equal(await page.locator("#table tbody tr").count(), 2);
      const answer = () => page.locator("#output").innerText();
      assert.match(await answer(), /class \d+.*Largest difference to the dense twin: [\d.e-]+ %/s);
      const [, share] = /twin: ([\d.e-]+) %/.exec(await answer());
      assert.ok(Number(share) < 0.01);

      const before = await answer();
      const picture = await page.evaluate(() => {
        const canvas = document.createElement("canvas");
        canvas.width = 300;
        canvas.height = 80;
        const context = canvas.getContext("2d");
        context.fillStyle = "tomato";
        context.fillRect(30, 0, 140, 80);
        return canvas.toDataURL("image/png").split(",")[1];
      });
      const file = { name: "mine.png", mimeType: "image/png", buffer: Buffer.from(picture, "base64") };
      await page.setInputFiles("input[type=file]", file);
      await page.waitForFunction((text) => document.querySelector("#output").innerText !== text, before);
      await page.setInputFiles("input[type=file]", { ...file, name: "mine.txt", buffer: Buffer.from("no picture") });
      await page.getByText("mine.txt is not a picture").waitFor();

      await page.click("#again");
      await page.waitForFunction(measured);
      await page.setViewportSize({ width: 380, height: 800 });
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 380);
      assert.deepEqual(wrong, []);
    });
  } finally {
    server.close();
    await rm(join(demo, "node_modules"), { recursive: true });
  }
});

test("without onnxruntime-web the page says how to get it, and shows the model alone", async () => {
  const server = await serve(join(demo, ".."), { isolated: false });
  await withBrowser(async (context) => {
    const { page, wrong } = await open(context, `${server.url}demo/`, { expected: /404/ });
    await page.waitForFunction(measured);
    assert.match(await page.locator("#note").innerText(), /npm install/);
    assert.equal(await page.locator("#table tbody tr").count(), 1);
    assert.equal(await fact(page, "ratio"), "–");
    assert.deepEqual(wrong, []);
  });
  server.close();
});

test("a sampling carries what attention keeps from step to step, and begins again behind the last", async () => {
  const folder = join(process.env.SPARSECC_WEB, "sampling", "demo");
  await withTwin(folder);
  const server = await serve(join(folder, ".."));
  try {
    await withBrowser(async (context) => {
      const { page, wrong } = await open(context, `${server.url}demo/`);
      await page.waitForFunction(measured);
      const said = () => page.locator("#input p").innerText();
      const answer = () => page.locator("#output").innerText();
      const seen = [];
      for (const step of [1, 2, 3, 4, 5, 1]) {
        assert.match(await said(), new RegExp(`Step ${step} of 5`));
        const [, share] = /twin: ([\d.e-]+) %/.exec(await answer());
        assert.ok(Number(share) < 0.01, `step ${step} is ${share} % away from the twin`);
        seen.push(await page.locator("#output .numbers").innerText());
        await page.getByRole("button", { name: "Next step" }).click();
        await page.waitForFunction((text) => !document.querySelector("#input p").innerText.includes(text), `Step ${step} `);
        await page.waitForTimeout(300);
      }
      assert.equal(seen[0], seen[5]); // a new sampling on the same numbers
      assert.notEqual(seen[0], seen[1]); // the search leaves blocks out
      await page.getByRole("button", { name: "other numbers" }).click();
      await page.waitForFunction((text) => document.querySelector("#output .numbers").innerText !== text, seen[0]);
      assert.match(await said(), /Step 1 of 5/);
      assert.match(await page.locator("#how").innerText(), /mean of all 5/);
      if (process.env.SHOT) await page.screenshot({ path: process.env.SHOT, fullPage: true });
      assert.deepEqual(wrong, []);
    });
  } finally {
    server.close();
  }
});
