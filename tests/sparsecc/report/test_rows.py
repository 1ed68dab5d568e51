"""A row and its JSON."""

import json

import pytest

from sparsecc.errors import ArtifactError
from sparsecc.report import LayerRow


@pytest.mark.parametrize("shape", [(64, 128), None])
def test_json_round_trip(row, shape):
    before = row("conv1", shape=shape)
    data = json.loads(json.dumps(before.to_json()))
    assert LayerRow.from_json(data) == before
    assert data.keys() >= {
        "name",
        "op",
        "macs",
        "density",
        "pattern",
        "eligible",
        "why",
        "kernel",
        "est_ms",
    }


def test_sparse_is_what_another_kernel_runs(row, sparse_row):
    assert sparse_row("a").is_sparse
    assert not row("a").is_sparse


@pytest.mark.parametrize(
    "wrong",
    [
        {"est_ms": "soon"},
        {"est_ms": float("nan")},
        {"dense_ms": -1.0},
        {"density": 1.5},
        {"shape": [1, 2, 3]},
        {"macs": -1},
        {"surprise": 1},
    ],
)
def test_a_malformed_row_is_one_clear_error(row, wrong):
    with pytest.raises(ArtifactError, match=next(iter(wrong))):
        LayerRow.from_json(row("a").to_json() | wrong)
    assert LayerRow.from_json(row("a").to_json()) == row("a")
