// What the declarations of two models allow, and what they do not: checked by tsc, never run.
import { load as loadNumbers, inputs } from "./numbers/index.js";
import { load as loadPictures, ModelError, type Outputs } from "./pictures/index.js";

export async function use(): Promise<Float32Array> {
  const pictures = await loadPictures("/pictures/", {
    onProgress: ({ loaded, total }) => console.log(loaded / total),
    signal: AbortSignal.timeout(1000),
    threads: 2,
    worker: true,
  });
  const image = new Float32Array(3 * 64 * 64);
  const out: Outputs = await pictures.run({ image });
  await pictures.run({ image: { data: image, dims: [1, 3, 64, 64] } });
  const side: 64 = pictures.inputs[0].dims[3];
  const name: "output" = pictures.outputs[0].name;

  const numbers = await loadNumbers();
  const { y, twice } = await numbers.run({ x: { data: new Float32Array(2), dims: [2, 1] }, k: BigInt64Array.of(1n) });
  const open: "n" = inputs[0].dims[1];
  const doubled: bigint = twice[0]!;
  const rows: readonly number[] = y.dims;

  // @ts-expect-error An input is missing.
  await numbers.run({ k: BigInt64Array.of(1n) });
  // @ts-expect-error An open input has dims.
  await numbers.run({ x: new Float32Array(2), k: BigInt64Array.of(1n) });
  // @ts-expect-error 64-bit integers are a BigInt64Array.
  await numbers.run({ x: { data: new Float32Array(2), dims: [2, 1] }, k: Int32Array.of(1) });
  // @ts-expect-error There is no such input.
  await pictures.run({ image, other: image });
  // @ts-expect-error There is no such option.
  await loadPictures("/pictures/", { cores: 2 });
  // @ts-expect-error A fixed output is a typed array.
  out.output.dims;

  pictures.dispose();
  console.log(side, name, open, doubled, rows, new ModelError("it is an error").message);
  return out.output;
}
