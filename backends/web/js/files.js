// Where files come from: the network, the browser's cache, or the disk of Node.
import { ModelError } from "./ports.js";

const CACHE = "sparsecc";
const PIECE = 8 << 20; // bytes that Node reads at a time

export const inNode = typeof process !== "undefined" && process.versions?.node !== undefined && process.type !== "renderer";

/** A module of Node, out of sight of bundlers. */
export function nodeModule(name) {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ `node:${name}`);
}

/** URL of a folder: relative ones count from the page, or from where Node was started. */
export async function folderUrl(folder) {
  let text = String(folder);
  if (inNode && (/^[a-z]:[\\/]/i.test(text) || !/^[a-z][a-z0-9+.-]*:/i.test(text))) {
    const { pathToFileURL } = await nodeModule("url");
    text = pathToFileURL(text).href;
  }
  const url = new URL(text, globalThis.document?.baseURI ?? globalThis.location?.href);
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}

/** A module of WebAssembly: an answer that says it is one, to compile as it comes in, or else its bytes. */
export async function fetchCode(url, signal) {
  if (isOnDisk(url)) {
    const { readFile } = await nodeModule("fs/promises");
    return await readFile(new URL(url), { signal }).catch((error) => fail(url, error, signal));
  }
  const answer = await fetched(url, signal);
  if (typeOf(answer) === "application/wasm") return answer;
  return await answer.arrayBuffer().catch((error) => fail(url, error, signal));
}

/** The weights on their way: from the cache where they are in it, else into it too. */
export class Weights {
  #url;
  #about;
  #signal;
  #source;
  #kept;
  #view;

  /** @param about Their bytes and hash, the name they have in the cache. */
  constructor(url, about, signal) {
    this.#url = url;
    this.#about = about;
    this.#signal = signal;
    this.#source = isOnDisk(url) ? openFile(url, signal) : this.#stream();
    this.#source.catch(() => {}); // whoever reads hears of it
  }

  /** Reads them to where `view(from, size)` is; `onProgress({loaded, total})` is told of every piece. */
  async read(view, onProgress) {
    const total = this.#about.bytes;
    const source = await this.#source;
    this.#view = view;
    let loaded = 0;
    const progress = (size) => {
      this.#signal?.throwIfAborted();
      loaded += size;
      onProgress?.({ loaded, total });
    };
    const got = source.handle
      ? await readHandle(source.handle, total, view, progress)
      : await readBody(source.body, total, view, progress).catch((error) => fail(this.#url, error, this.#signal));
    if (got !== total && !source.isKept) {
      throw new ModelError(`${this.#url} has ${got} bytes, the model's weights ${total}: publish the whole folder again`);
    }
    this.#signal?.throwIfAborted();
  }

  /** They are right: for the next time. */
  async keep() {
    const { isNew } = await this.#source;
    if (isNew) await this.#kept?.keep(() => this.#view(0, this.#about.bytes));
  }

  /** Nobody needs them any more. */
  async cancel() {
    const source = await this.#source.catch(() => undefined);
    await source?.handle?.close().catch(() => {});
    await source?.body?.cancel().catch(() => {}); // which fails where it is being read: then its reader cancels
  }

  /** They are not what they should be. Whether they were kept ones, which are gone now: then they can be fetched again. */
  async forget() {
    const { isKept } = await this.#source;
    return isKept && (await this.#kept.forget());
  }

  async #stream() {
    this.#kept = await cacheOf(this.#url, this.#about.hash);
    const hit = await this.#kept?.find();
    if (hit) return { ...hit, isKept: true };
    return { body: (await fetched(this.#url, this.#signal)).body, isNew: true };
  }
}

function isOnDisk(url) {
  return inNode && url.startsWith("file:");
}

async function openFile(url, signal) {
  const { open } = await nodeModule("fs/promises");
  return { handle: await open(new URL(url)).catch((error) => fail(url, error, signal)) };
}

/** Reads a file right to its place; how many bytes it has. */
async function readHandle(handle, total, view, progress) {
  try {
    const { size } = await handle.stat();
    for (let from = 0; size === total && from < total; ) {
      const { bytesRead } = await handle.read(view(from, Math.min(PIECE, total - from)));
      if (!bytesRead) return from;
      from += bytesRead;
      progress(bytesRead);
    }
    return size;
  } finally {
    await handle.close();
  }
}

/** Copies a stream to its place; how many bytes it has, or had when they were too many. */
async function readBody(body, total, view, progress) {
  const reader = body.getReader();
  let from = 0;
  try {
    for (let next; from <= total && !(next = await reader.read()).done; from += next.value.length) {
      if (from + next.value.length > total) continue;
      view(from, next.value.length).set(next.value);
      progress(next.value.length);
    }
    return from;
  } finally {
    await reader.cancel().catch(() => {});
  }
}

async function fetched(url, signal) {
  const response = await fetch(url, { signal }).catch((error) => fail(url, error, signal));
  const isPage = typeOf(response) === "text/html"; // which many servers answer where there is nothing
  if (response.ok && !isPage) return response;
  await response.body?.cancel();
  const what = response.ok ? "a page of HTML came instead" : `HTTP ${response.status}`;
  throw new ModelError(`${url} is not there (${what}): publish the whole folder, and load it by its own address`);
}

function typeOf(response) {
  return response.headers.get("Content-Type")?.split(";")[0].trim().toLowerCase();
}

/** What an error of reading means to whoever published the file. */
export function fail(url, error, signal) {
  if (signal?.aborted) throw signal.reason;
  if (error instanceof ModelError) throw error;
  const missing = error.code === "ENOENT" || error.code === "ENOTDIR";
  const why = missing ? "is not there" : `cannot be read (${error.message})`;
  const way = missing ? "copy the whole folder, and load it by its own address" : "check the address and the connection";
  throw new ModelError(`${url} ${why}: ${way}`, { cause: error });
}

/** Where weights from the network are kept, or undefined. */
async function cacheOf(url, hash) {
  if (!/^https?:/.test(url)) return undefined;
  if (inNode) return new FileCache(hash);
  try {
    return new BrowserCache(await caches.open(CACHE), url, hash);
  } catch {
    return undefined; // a page without a secure context, or storage that is full or forbidden
  }
}

class BrowserCache {
  #cache;
  #url;
  #key;

  constructor(cache, url, hash) {
    this.#cache = cache;
    this.#url = url;
    const key = new URL(url);
    key.searchParams.set("sparsecc", hash);
    this.#key = key.href;
  }

  async find() {
    const hit = await this.#cache.match(this.#key).catch(() => undefined);
    return hit && { body: hit.body };
  }

  /**
   * Whoever loads does not wait for it, and a first run that follows at once goes before. A stream in place of the bytes fails in
   * Chromium where they are many.
   */
  keep(view) {
    const put = async () => {
      await new Promise((resolve) => setTimeout(resolve));
      const copy = new Blob([view().slice()]); // the browser takes no shared memory
      await this.#cache.delete(this.#url, { ignoreSearch: true }); // what was published here before
      await this.#cache.put(this.#key, new Response(copy));
    };
    put().catch(() => {}); // no room is no reason to fail, nor is a model that was disposed of
  }

  async forget() {
    return await this.#cache.delete(this.#key).catch(() => false);
  }
}

class FileCache {
  #hash;

  constructor(hash) {
    this.#hash = hash;
  }

  async find() {
    const { open } = await nodeModule("fs/promises");
    const handle = await open(await this.#path()).catch(() => undefined);
    return handle && { handle };
  }

  async keep(view) {
    await this.#write(view()).catch(() => {}); // no room is no reason to fail
  }

  async forget() {
    const { rm } = await nodeModule("fs/promises");
    return await rm(await this.#path()).then(() => true, () => false);
  }

  async #write(bytes) {
    const { mkdir, rename, rm, writeFile } = await nodeModule("fs/promises");
    const { dirname } = await nodeModule("path");
    const path = await this.#path();
    const aside = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
    await mkdir(dirname(path), { recursive: true });
    try {
      await writeFile(aside, bytes, { flag: "wx" });
      await rename(aside, path);
    } finally {
      await rm(aside, { force: true });
    }
  }

  async #path() {
    const { join } = await nodeModule("path");
    const { homedir } = await nodeModule("os");
    return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "sparsecc", "web", `${this.#hash}.bin`);
  }
}
