// A sampling as docs/attention.md has it: node online_loop.mjs FOLDER, with x.bin in it, all steps of x; writes y.bin.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
const { load } = await import(pathToFileURL(join(folder, "index.js")));
const model = await load(folder);
const sizes = Object.fromEntries(model.inputs.map(({ name, dims }) => [name, dims.reduce((a, b) => a * b, 1)]));
const xs = new Float32Array((await readFile(join(folder, "x.bin"))).buffer);
const ys = new Float32Array(xs.length);
let blocks = new Int32Array(sizes["blocks.0"]).fill(-1);
for (let step = 0; step * sizes.x < xs.length; step++) {
  const x = xs.slice(step * sizes.x, (step + 1) * sizes.x);
  const outputs = await model.run({ x, step: BigInt64Array.of(BigInt(step)), "blocks.0": blocks });
  blocks = outputs["blocks.0.next"];
  ys.set(outputs[model.outputs[0].name], step * sizes.x);
}
await writeFile(join(folder, "y.bin"), ys);
model.dispose();
