// The peak of multiply-adds in this engine, GFLOP/s: node peak.mjs FILE
import { readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";

for (const flag of ["--experimental-wasm-relaxed-simd", "--no-liftoff"]) setFlagsFromString(flag);
const { instance } = await WebAssembly.instantiate(readFileSync(process.argv[2]));
const { sc_peak, sc_peak_flops } = instance.exports;
const rounds = 200000, turns = 100;
let least = Infinity;
for (let i = 0; i < turns; i++) {
  const start = performance.now();
  sc_peak(BigInt(rounds), 0.5, 1);
  least = Math.min(least, performance.now() - start);
}
console.log((sc_peak_flops() * rounds) / least / 1e6);
