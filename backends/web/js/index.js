// A model compiled by sparsecc: index.d.ts says how to use it.
import { ABOUT } from "./about.js";
import { open } from "./engine.js";
import { folderUrl, inNode, nodeModule } from "./files.js";
import { Partner } from "./messages.js";
import { checkFeeds, ModelError } from "./ports.js";

export { ModelError };
export const { inputs, outputs } = ABOUT;

/** Loads the model from a folder, which is this one unless another is given. */
export async function load(folder, { worker = false, ...options } = {}) {
  options.signal?.throwIfAborted();
  const about = { ...ABOUT, files: await filesOf(folder) };
  return worker ? await inWorker(about, options) : await open(about, options);
}

async function filesOf(folder) {
  const names = Object.keys(ABOUT.files);
  const base = folder === undefined ? undefined : await folderUrl(folder);
  return Object.fromEntries(names.map((name) => [name, base ? new URL(name, base).href : ABOUT.files[name].href]));
}

async function inWorker(about, { onProgress, signal, ...options }) {
  const partner = await startWorker();
  const stop = () => partner.end(signal.reason);
  signal?.addEventListener("abort", stop);
  try {
    const wantsProgress = onProgress !== undefined;
    const { simd, threads } = await partner.ask({ do: "load", about, options, wantsProgress }, onProgress);
    return new Remote(partner, simd, threads);
  } catch (error) {
    partner.end();
    throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** The URL is spelt out where bundlers look for it. */
async function startWorker() {
  if (!inNode) return new Partner(new Worker(new URL("./worker.js", import.meta.url), { type: "module" }));
  const node = await nodeModule("worker_threads");
  return new Partner(new node.Worker(new URL("./worker.js", import.meta.url), { execArgv: [] }));
}

/** A model in a worker: the same face. */
class Remote {
  #partner;
  inputs = ABOUT.inputs;
  outputs = ABOUT.outputs;

  constructor(partner, simd, threads) {
    this.#partner = partner;
    this.simd = simd;
    this.threads = threads;
  }

  async run(feeds) {
    checkFeeds(this.inputs, feeds); // here, where what cannot be sent is refused by its name
    return await this.#partner.ask({ do: "run", feeds });
  }

  dispose() {
    this.#partner.end();
  }
}
