// Runs an executable of WebAssembly, by the compiler that hot code ends up with: node wasi.mjs FILE
import { readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { WASI } from "node:wasi";

// Node 20 has relaxed SIMD behind the first flag; newer ones do not know it.
for (const flag of ["--experimental-wasm-relaxed-simd", "--no-liftoff", "--wasm-lazy-compilation"]) setFlagsFromString(flag);
const wasi = new WASI({ version: "preview1" });
const { instance } = await WebAssembly.instantiate(readFileSync(process.argv[2]), wasi.getImportObject());
process.exitCode = wasi.start(instance);
