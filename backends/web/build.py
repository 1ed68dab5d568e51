"""The folder that is published: module, weights, types and demo page beside the WebAssembly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import onnx_ir as ir

from sparsecc.backends.bundle.weights import NAME as WEIGHTS_NAME
from sparsecc.backends.bundle.whole import Port
from sparsecc.manifest import DEMO, file_entry

HERE = Path(__file__).parent
SCRIPTS = ("index.js", "engine.js", "files.js", "messages.js", "ports.js", "thread.js", "worker.js")
TWINS = (
    *("model.wasm", "model.relaxed.wasm"),
    *("model.threads.wasm", "model.relaxed.threads.wasm"),
)
"""The module as plain SIMD, with relaxed SIMD, and both for several threads."""

ARRAYS = {
    "float32": "Float32Array",
    "int32": "Int32Array",
    "int64": "BigInt64Array",
    "uint8": "Uint8Array",
    "int8": "Int8Array",
    "bool": "Uint8Array",
}
"""What JavaScript has for each type of a port."""


SETTINGS: dict[str, Any] = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "labels": None,
    "vocabulary": "vocab.txt",
    "lowercase": True,
    "samples": [
        "A cat sleeps on the warm windowsill.",
        "The kitten is napping in the sun by the window.",
    ],
}
"""What the owner of a demo may change in its ``settings.json``: what pixels, from 0 to 1, are less
and divided by; a file of class names; a vocabulary of BERT's kind, and sentences."""


def write_module(folder: Path, name: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Write the ES module of a model beside its weights and its WebAssembly.

    Args:
        folder: Has ``weights.bin`` and some of :data:`TWINS`, of which the first must be there.
        name: Name of the model; the package is called so.
        inputs: In the order of the model's inputs.
        outputs: In the order of the model's outputs.
    """
    weights = file_entry(folder / WEIGHTS_NAME)
    about = {
        "name": name,
        "files": [WEIGHTS_NAME, *(twin for twin in TWINS if (folder / twin).exists())],
        "weights": {"bytes": weights.bytes, "hash": weights.sha256},
    }
    ports = {
        "inputs": [_port(port) for port in inputs],
        "outputs": [_port(port) for port in outputs],
    }
    types = {side: [_typed(port) for port in found] for side, found in ports.items()}
    (folder / "about.js").write_text(_filled("about.js.jinja", about | ports), encoding="utf-8")
    (folder / "index.d.ts").write_text(_filled("index.d.ts.jinja", types), encoding="utf-8")
    (folder / "package.json").write_bytes(f"{json.dumps(_package(name), indent=2)}\n".encode())
    for script in SCRIPTS:
        shutil.copyfile(HERE / "js" / script, folder / script)


def write_demo(folder: Path, name: str, inputs: Sequence[Port], twin: ir.Model) -> None:
    """Write the demo page of a published model into its folder ``demo``.

    Args:
        folder: Where :func:`write_module` wrote.
        name: What the page is called.
        inputs: In the order of the model's inputs.
        twin: The model in standard ops with the same weights, which onnxruntime-web runs beside.
    """
    demo = folder / DEMO
    demo.mkdir()
    for file in sorted((HERE / "demo").iterdir()):
        shutil.copyfile(file, demo / file.name)
    settings = {"title": name, "kind": _kind(inputs), **SETTINGS}
    (demo / "settings.json").write_bytes(f"{json.dumps(settings, indent=2)}\n".encode())
    ir.save(twin, demo / "dense.onnx")


def _kind(inputs: Sequence[Port]) -> str:
    """What a visitor can give the model: see ``demo/kinds.js``."""
    first = inputs[0]
    if len(inputs) == 1 and len(first.dims) == 4 and first.dims[1] in (1, 3):
        return "picture" if first.dtype == "float32" else "numbers"
    tokens = all(port.dtype in ("int32", "int64") and len(port.dims) <= 2 for port in inputs)
    return "text" if tokens else "numbers"


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "type": port.dtype, "dims": list(port.dims)}


def _typed(port: dict[str, Any]) -> dict[str, Any]:
    """A port with what its declaration needs."""
    is_open = any(isinstance(dim, str) for dim in port["dims"])
    shape = ", ".join(str(dim) for dim in port["dims"]).replace("*/", "* /")
    return port | {"open": is_open, "array": ARRAYS[port["type"]], "shape": shape}


def _package(name: str) -> dict[str, Any]:
    return {
        "name": name.lower().strip("_") or "model",
        "version": "1.0.0",
        "description": "A model compiled by sparsecc",
        "type": "module",
        "exports": {".": {"types": "./index.d.ts", "default": "./index.js"}, "./*": "./*"},
        "types": "./index.d.ts",
        "sideEffects": False,
    }


def _filled(template: str, values: dict[str, Any]) -> str:
    """A template, filled; ``tojson`` makes JavaScript of a value."""
    loader = jinja2.FileSystemLoader(HERE / "js")
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False}
    return environment.get_template(template).render(values)
