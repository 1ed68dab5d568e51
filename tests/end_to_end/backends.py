"""Targets and backends that every op of the domain is tried in, as ``compile`` takes them."""

from __future__ import annotations

BACKENDS = {
    "onnxruntime": {"target": "native"},
    "bundle": {"target": "native", "backend": "bundle"},
    "tvm": {"target": "native", "backend": "tvm"},
    "wasm": {"target": "wasm"},
    "arm64": {"target": "arm64-linux", "backend": "bundle"},
}
