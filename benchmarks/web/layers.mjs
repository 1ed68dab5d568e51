// Times single layers in onnxruntime-web, one thread: `node layers.mjs JOB.json`; says least times in ms as JSON.
import { readFile } from "node:fs/promises";

import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;
const { models, dims, seconds } = JSON.parse(await readFile(process.argv[2], "utf8"));
const sessions = await Promise.all(models.map((file) => ort.InferenceSession.create(file, { executionProviders: ["wasm"] })));
const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i));
const least = models.map(() => Infinity);
const end = performance.now() + 1000 * seconds;
while (performance.now() < end || least.includes(Infinity)) {
  for (const [i, session] of sessions.entries()) {
    const start = performance.now();
    await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", data, dims) });
    least[i] = Math.min(least[i], performance.now() - start);
  }
}
console.log(JSON.stringify(least));
