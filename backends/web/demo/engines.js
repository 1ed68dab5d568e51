// The two sides of the demo: this model, and its dense twin in onnxruntime-web where `npm install` has put it.
import { ABOUT } from "../about.js";
import { load } from "../index.js";

const ORT = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url);
const DENSE = new URL("./dense.onnx", import.meta.url);

/** @returns {name, run: feeds → outputs, instructions, threads, codeBytes, weightBytes, loadMs} */
export async function ours(onProgress) {
  const start = performance.now();
  const model = await load(undefined, { onProgress });
  const loadMs = performance.now() - start;
  const file = `model${model.simd === "relaxed" ? ".relaxed" : ""}${model.threads > 1 ? ".threads" : ""}.wasm`;
  const run = async (feeds) => {
    const found = await model.run(feeds);
    return Object.fromEntries(
      model.outputs.map(({ name, dims }) => [name, found[name].data ? found[name] : { data: found[name], dims }]),
    );
  };
  return {
    name: "sparsecc",
    ours: true,
    run,
    instructions: model.simd === "relaxed" ? "relaxed SIMD" : "SIMD",
    threads: model.threads,
    codeBytes: await size(ABOUT.files[file]),
    weightBytes: ABOUT.weights.bytes,
    loadMs,
  };
}

/** The same of the dense twin. Rejects with what to do where it is not there. */
export async function dense(threads) {
  const there = await fetch(new URL("ort.wasm.min.mjs", ORT), { method: "HEAD" });
  if (!there.ok) throw new Error("onnxruntime-web is not beside this page: run `npm install` in the folder demo");
  const start = performance.now();
  const ort = await import(new URL("ort.wasm.min.mjs", ORT));
  ort.env.wasm.wasmPaths = ORT.href;
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(DENSE.href, { executionProviders: ["wasm"] });
  const loadMs = performance.now() - start;
  const types = Object.fromEntries(ABOUT.inputs.map(({ name, type }) => [name, type]));
  const run = async (feeds) => {
    const tensors = Object.entries(feeds).map(([name, { data, dims }]) => [name, new ort.Tensor(types[name], data, dims)]);
    const found = await session.run(Object.fromEntries(tensors));
    return Object.fromEntries(session.outputNames.map((name) => [name, { data: found[name].data, dims: found[name].dims }]));
  };
  return {
    name: "onnxruntime-web, dense",
    ours: false,
    run,
    instructions: "SIMD",
    threads,
    codeBytes: (await size(new URL("ort-wasm-simd-threaded.wasm", ORT))) + (await size(new URL("ort.wasm.min.mjs", ORT))),
    weightBytes: await size(DENSE),
    loadMs,
  };
}

async function size(url) {
  return Number((await fetch(url, { method: "HEAD" })).headers.get("Content-Length") ?? 0);
}
