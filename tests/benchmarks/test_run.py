from __future__ import annotations

import pytest
import typer

from benchmarks import quantize, run
from sparsecc.formats.patterns import SparsitySpec


def test_peers_are_chosen_by_name():
    assert [peer.name for peer in run.chosen_peers("mnn,deepsparse")] == ["mnn", "deepsparse"]
    assert run.chosen_peers("none") == []


@pytest.mark.parametrize("names", ["all", run.PEERS])
def test_optional_peers_are_never_chosen_for_you(names):
    chosen = run.chosen_peers(names)
    assert {"mnn", "openvino", "litert"} <= {peer.name for peer in chosen}
    assert not any(peer.optional for peer in chosen)


def test_an_unknown_peer_lists_the_known_ones():
    with pytest.raises(typer.BadParameter, match="no peer tvm; one of mnn"):
        run.chosen_peers("mnn,tvm")


def test_the_grid_holds_patterns_that_exist():
    assert {"dense", "4x1:0.3", "16x1:0.95", "unstructured:0.7"} < set(run.GRID)
    for pattern in (*run.GRID, *run.PATTERNS.split(",")):
        zeros = quantize.float_pattern(pattern)
        assert str(SparsitySpec.parse(zeros)) == zeros
