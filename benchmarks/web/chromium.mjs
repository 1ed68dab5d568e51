// Headless Chromium with a profile of its own, over a server of published files.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

const FLAGS = [
  ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
  ...["--disable-component-update", "--disable-sync"],
];

/** Calls `use(context)` with a browser that is closed afterwards. */
export async function withBrowser(use, options = {}) {
  const profile = await mkdtemp(join(tmpdir(), "sparsecc-chromium-"));
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const context = await chromium.launchPersistentContext(profile, { executablePath, args: FLAGS, ...options });
  try {
    await use(context);
  } finally {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  }
}

/** A page at `url`, and what goes wrong in it; `expected` errors are those that are provoked. */
export async function open(context, url, { expected = /\bnever\b/ } = {}) {
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !expected.test(message.text())) wrong.push(message.text());
  });
  await page.goto(url);
  return { page, wrong };
}
