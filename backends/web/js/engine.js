// A model in the thread that loads it: module and weights in, typed arrays through, all of it in one WebAssembly memory.
import { fail, fetchCode, inNode, nodeModule, Weights } from "./files.js";
import { Partner } from "./messages.js";
import { checkFeeds, ModelError, TYPES } from "./ports.js";

// A function that returns i8x16.relaxed_swizzle of two vectors: valid where relaxed SIMD is.
const RELAXED = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128,
  2, 11,
];
const PAGE = 65536;
const INITIAL_PAGES = 64;
const STACK = 1 << 20; // of a worker; the kernels tell threads apart by stacks that lie apart
const MESSAGE = 1024;
const MOST_THREADS = 64;
// A tensor of the C API: data, eight 64-bit dims, rank, number of the type.
const TENSOR = 80;
const DIMS = 8;
const RANK = 72;
const TYPE = 76;
const WRONG = 4; // SC_WRONG in sc.h: of what it was given, not of memory

/**
 * Loads a model into this thread.
 * @param about What index.js knows of the model: ports, bytes and hash of the weights, URLs of the files.
 * @param options As `load` in index.d.ts has them.
 */
export async function open(about, { onProgress, signal, threads } = {}) {
  const wanted = threadsOf(threads, about);
  const relaxed = "model.relaxed.wasm" in about.files && WebAssembly.validate(new Uint8Array(RELAXED));
  const name = `model${relaxed ? ".relaxed" : ""}${wanted > 1 ? ".threads" : ""}.wasm`;
  const weights = new Weights(about.files["weights.bin"], about.weights, signal); // on their way while the code compiles
  let model;
  try {
    const module = await compile(about.files[name], name, signal);
    const memory = wanted > 1 ? sharedMemory() : undefined;
    const { exports } = await instantiate(module, memory);
    model = new Model(about, exports, memory ?? exports.memory);
    model.simd = relaxed ? "relaxed" : "simd128";
    const { status, why } = model.create(await model.fill(weights, onProgress));
    if (status === WRONG && (await weights.forget())) return await open(about, { onProgress, signal, threads });
    if (status) throw new ModelError(why);
    await weights.keep();
    if (memory) await model.hire(module, wanted - 1);
    return model;
  } catch (error) {
    await weights.cancel();
    model?.dispose();
    throw error;
  }
}

function threadsOf(threads, about) {
  if (!("model.threads.wasm" in about.files)) return 1;
  if (threads === undefined) {
    return globalThis.crossOriginIsolated ? Math.min(4, Math.max(1, globalThis.navigator?.hardwareConcurrency ?? 1)) : 1;
  }
  if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS) {
    throw new ModelError(`threads is ${threads}; give a whole number from 1 to ${MOST_THREADS}`);
  }
  // A page that is not cross-origin isolated has no shared memory: one thread then.
  return typeof SharedArrayBuffer === "undefined" || globalThis.crossOriginIsolated === false ? 1 : threads;
}

function sharedMemory() {
  for (let maximum = PAGE; maximum >= 4096; maximum /= 2) {
    try {
      return new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum, shared: true });
    } catch {
      // Address space is short: less may still be enough.
    }
  }
  throw new ModelError("there is no room for shared memory; close other pages, or load with threads: 1");
}

/** Compiled while it comes in, where the server says what it is. */
async function compile(url, name, signal) {
  const code = await fetchCode(url, signal);
  try {
    return await (code instanceof Response ? WebAssembly.compileStreaming(code) : WebAssembly.compile(code));
  } catch (error) {
    if (!(error instanceof WebAssembly.CompileError)) fail(url, error, signal);
    throw new ModelError(
      `${name} does not compile here (${error.message}): publish the whole folder again, or run it where there is WebAssembly SIMD: ` +
        "Chrome 91, Firefox 89, Safari 16.4, Node 20",
      { cause: error },
    );
  }
}

async function instantiate(module, memory) {
  try {
    return await WebAssembly.instantiate(module, memory ? { env: { memory } } : {});
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new ModelError("there is no room for another model's memory: dispose of those that are not needed, or close other pages", {
      cause: error,
    });
  }
}

class Model {
  #about;
  #code;
  #memory;
  #model = 0;
  #places = [];
  #workers = [];
  #gone = "";

  constructor(about, code, memory) {
    this.#about = about;
    this.#code = code;
    this.#memory = memory;
    this.inputs = about.inputs;
    this.outputs = about.outputs;
    this.threads = 1;
  }

  /** Copies the weights to where they stay, and hashes each piece while the next one is on its way. */
  async fill(weights, onProgress) {
    const at = this.#alloc(this.#about.weights.bytes, "its weights");
    let hash = 0n;
    let hashed = 0;
    const came = (progress) => {
      const whole = progress.loaded - (progress.loaded % 8);
      hash += this.#code.sc_web_hash(at, BigInt(hashed), BigInt(whole));
      hashed = whole;
      onProgress?.(progress);
    };
    await weights.read((from, size) => new Uint8Array(this.#memory.buffer, at + from, size), came);
    return { at, hash };
  }

  /** Starts workers that share the memory, each on a stack of its own. */
  async hire(module, count) {
    const starting = Array.from({ length: count }, async () => {
      const top = this.#alloc(STACK, "the stacks of its threads") + STACK;
      const worker = await startThread();
      this.#workers.push(worker);
      await worker.ask({ module, memory: this.#memory, top });
    });
    await Promise.all(starting);
    this.threads = count + 1;
  }

  /** Makes the model of weights in memory: a status of the C API, and why it could not. */
  create({ at, hash }) {
    const room = this.#alloc(MESSAGE + 8, "a message");
    const status = this.#code.sc_web_create(at, BigInt(this.#about.weights.bytes), hash, room, room + 8, BigInt(MESSAGE));
    if (status) return { status, why: this.#text(room + 8) };
    this.#model = new DataView(this.#memory.buffer).getUint32(room, true);
    this.#code.sc_web_free(room);
    const ports = this.inputs.length + this.outputs.length;
    this.#places = Array.from({ length: ports }, () => ({ at: 0, room: 0 }));
    this.#places.structs = this.#alloc(ports * TENSOR, "descriptions");
    return { status };
  }

  /** Outputs by name for inputs by name: see index.d.ts. */
  async run(feeds) {
    if (this.#gone) throw new ModelError(this.#gone);
    const tensors = checkFeeds(this.inputs, feeds);
    try {
      return this.#run(tensors);
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) {
        this.#gone = `the model stopped for good (${error.message}); load it again`;
        throw new ModelError(this.#gone, { cause: error });
      }
      throw error;
    }
  }

  dispose() {
    this.#gone = "the model was disposed of; load it again";
    for (const worker of this.#workers.splice(0)) worker.end();
    this.#code = this.#memory = undefined; // the memory goes with them
  }

  #run(tensors) {
    const ins = this.#places.structs;
    const outs = ins + this.inputs.length * TENSOR;
    tensors.forEach(({ data, dims }, i) => {
      const at = this.#place(i, data.byteLength);
      new Uint8Array(this.#memory.buffer, at, data.byteLength).set(bytes(data));
      this.#describe(ins + i * TENSOR, at, dims, this.inputs[i]);
    });
    this.#check(this.#code.model_plan(this.#model, ins, outs));
    const shapes = this.outputs.map((port, i) => this.#dims(outs + i * TENSOR));
    const places = this.outputs.map((port, i) => {
      const at = this.#place(this.inputs.length + i, count(shapes[i]) * TYPES[port.type].BYTES_PER_ELEMENT);
      this.#describe(outs + i * TENSOR, at, shapes[i], port);
      return at;
    });
    this.#check(this.#code.model_run(this.#model, ins, outs));
    const found = this.outputs.map((port, i) => {
      const data = new TYPES[port.type](count(shapes[i])); // the caller's own, not shared and not overwritten by the next run
      bytes(data).set(new Uint8Array(this.#memory.buffer, places[i], data.byteLength));
      const open = port.dims.some((dim) => typeof dim === "string");
      return [port.name, open ? { data, dims: shapes[i] } : data];
    });
    return Object.fromEntries(found);
  }

  #check(failed) {
    if (failed) throw new ModelError(this.#text(this.#code.model_error(this.#model)));
  }

  #alloc(size, what) {
    const at = this.#code.sc_web_alloc(BigInt(size)) >>> 0;
    if (at) return at;
    const need = Math.ceil((size + this.#memory.buffer.byteLength) / (1 << 20));
    throw new ModelError(`not enough memory for ${what}: the model needs over ${need} MB; close other pages or take smaller inputs`);
  }

  /** Where port `i` has its data: kept between runs. */
  #place(i, size) {
    const place = this.#places[i];
    if (place.room < size || !place.at) {
      this.#code.sc_web_free(place.at);
      place.at = place.room = 0;
      place.at = this.#alloc(size, "inputs and outputs");
      place.room = size;
    }
    return place.at;
  }

  #describe(at, data, dims, port) {
    const view = new DataView(this.#memory.buffer, at, TENSOR);
    view.setUint32(0, data, true);
    dims.forEach((dim, i) => view.setBigInt64(DIMS + 8 * i, BigInt(dim), true));
    view.setInt32(RANK, dims.length, true);
    view.setInt32(TYPE, Object.keys(TYPES).indexOf(port.type), true);
  }

  #dims(at) {
    const view = new DataView(this.#memory.buffer, at, TENSOR);
    return Array.from({ length: view.getInt32(RANK, true) }, (_, i) => Number(view.getBigInt64(DIMS + 8 * i, true)));
  }

  #text(at) {
    const all = new Uint8Array(this.#memory.buffer);
    return new TextDecoder().decode(all.slice(at, all.indexOf(0, at))); // a copy: decoders refuse shared memory
  }
}

/** A worker that shares the memory. The URL is spelt out where bundlers look for it. */
async function startThread() {
  if (!inNode) return new Partner(new Worker(new URL("./thread.js", import.meta.url), { type: "module" }));
  const node = await nodeModule("worker_threads");
  return new Partner(new node.Worker(new URL("./thread.js", import.meta.url), { execArgv: [] }));
}

function bytes(data) {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function count(dims) {
  return dims.reduce((product, dim) => product * dim, 1);
}
