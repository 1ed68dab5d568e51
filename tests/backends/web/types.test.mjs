// The declarations of published models, by TypeScript: SPARSECC_WEB is the folder of models.py.
import assert from "node:assert/strict";
import { copyFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import ts from "typescript";

const here = dirname(fileURLToPath(import.meta.url));
const root = process.env.SPARSECC_WEB;

test("uses that are right compile, and wrong ones do not", async () => {
  const file = join(root, "usage.ts");
  await copyFile(join(here, "usage.ts"), file);
  const program = ts.createProgram([file], {
    strict: true,
    noEmit: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: false,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    lib: ["lib.es2022.d.ts", "lib.dom.d.ts"],
  });
  const wrong = ts.getPreEmitDiagnostics(program);
  const text = ts.formatDiagnostics(wrong, { getCurrentDirectory: () => root, getCanonicalFileName: (name) => name, getNewLine: () => "\n" });
  assert.equal(text, "");
});
