"""A small model and clusters to spread it over."""

from __future__ import annotations

from typing import Any

from sparsecc.simulate.cluster import Cluster
from sparsecc.simulate.model import Model

MODEL: dict[str, Any] = {
    "name": "small",
    "layers": 8,
    "dense_layers": 1,
    "d": 256,
    "attention": {"heads": 8, "key_dim": 32, "value_dim": 32},
    "dense_width": 1024,
    "expert_width": 512,
    "experts": 16,
    "top_k": 2,
    "shared": 1,
    "vocabulary": 1000,
    "sequence": 128,
    "batch": 64,
}
LINK: dict[str, Any] = {"bandwidth": 1e9, "latency": 1e-5}
CLUSTER: dict[str, Any] = {
    "name": "two nodes",
    "nodes": 2,
    "devices_per_node": 4,
    "device": {"peak": {"bfloat16": 1e12, "float32": 5e11}, "memory": 1e9, "bandwidth": 1e11},
    "inside": LINK | {"bandwidth": 1e10},
    "between": LINK,
}


def model(**fields: Any) -> Model:
    """The small model with other fields."""
    return Model.model_validate(MODEL | fields, strict=False)


def cluster(**fields: Any) -> Cluster:
    """The small cluster with other fields."""
    return Cluster.model_validate(CLUSTER | fields, strict=False)
