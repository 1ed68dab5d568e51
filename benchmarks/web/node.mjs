// Runs a race in Node: `node node.mjs JOB.json RESULT.json`.
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

import { onnxruntime, race, sparsecc, tensorflow, typed } from "./race.js";

const [, , jobFile, resultFile] = process.argv;
const job = JSON.parse(await readFile(jobFile, "utf8"));
const read = async (name) => {
  const { buffer, byteOffset, length } = await readFile(join(dirname(jobFile), name));
  return buffer.slice(byteOffset, byteOffset + length);
};
job.inputs = typed(job.inputs, await Promise.all(job.inputs.map(({ file }) => read(file))));
job.expected = new Float32Array(await read(job.expectedFile));
for (const engine of job.engines) {
  for (const key of ["model", "folder"]) if (engine[key]) engine[key] = join(dirname(jobFile), engine[key]);
}
const openers = { sparsecc: sparsecc((folder) => import(pathToFileURL(join(folder, "index.js")))) };
for (const engine of job.engines) {
  if (engine.kind === "onnxruntime" && !openers.onnxruntime) {
    const ort = await import("onnxruntime-web");
    openers.onnxruntime = (each, inputs) => onnxruntime(ort.default ?? ort)(each, inputs);
  }
  if (engine.kind === "tensorflow") {
    const tf = await import("@tensorflow/tfjs-core");
    const wasm = await import("@tensorflow/tfjs-backend-wasm");
    wasm.setWasmPaths(join(dirname(createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm")), "/"));
    wasm.setThreadsCount(engine.threads);
    engine.weights = new Float32Array(await read(engine.weightsFile));
    openers.tensorflow = tensorflow(tf);
  }
}
await writeFile(resultFile, JSON.stringify(await race(job, openers, (what) => console.error(what))));
process.exit(0); // engines keep threads
