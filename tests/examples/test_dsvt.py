"""DSVT's sets against a loop over windows; its encoder against torch, at any number of voxels."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

import sparsecc  # noqa: E402
from examples.dsvt.compare import cloud, export  # noqa: E402
from examples.dsvt.dense import dense  # noqa: E402
from examples.dsvt.model import HEADS, WIDTH, Encoder  # noqa: E402
from examples.dsvt.sets import SET, Windows, sets_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, to whoever exports
SIDE = 60


def by_loops(places: Tensor, windows: Windows, by_rows: bool) -> list[list[int]]:
    """The formula of the paper, set by set and slot by slot."""
    members = defaultdict(list)
    for voxel, place in enumerate(places.tolist()):
        row, column = (at + windows.shift for at in place)
        inside = (row % windows.size, column % windows.size)
        window = (row // windows.size, column // windows.size)
        members[window].append((inside if by_rows else inside[::-1], voxel))
    found = []
    for window in sorted(members):
        ordered = [voxel for _, voxel in sorted(members[window])]
        sets = -(-len(ordered) // SET)
        for at in range(sets):
            slots = (at * SET + slot for slot in range(SET))
            found.append([ordered[slot * len(ordered) // (sets * SET)] for slot in slots])
    return found


@st.composite
def grids(draw: st.DrawFn) -> tuple[Tensor, Windows]:
    side = draw(st.integers(1, 30))
    size = draw(st.sampled_from([1, 5, 12, 24]))
    count = draw(st.integers(1, side * side))
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(side * side)[:count]
    places = torch.from_numpy(np.stack(np.divmod(order, side), axis=1))
    return places, Windows(side, size, draw(st.integers(0, size - 1)))


@settings(max_examples=60, deadline=None)
@given(grids(), st.booleans())
def test_sets_are_those_of_the_formula(grid: tuple[Tensor, Windows], by_rows: bool) -> None:
    places, windows = grid
    found = sets_of(places, windows, by_rows=by_rows)
    assert found.voxels.tolist() == by_loops(places, windows, by_rows)
    assert found.voxels.flatten()[found.slots].tolist() == list(range(len(places)))
    before = torch.nn.functional.pad(found.voxels[:, :-1], (1, 0), value=-1)
    assert torch.equal(found.repeated, found.voxels == before)


def test_every_voxel_of_a_window_is_in_one_set() -> None:
    """So that what is scattered back does not depend on the order: windows of 1 to 576 voxels."""
    cells = torch.from_numpy(np.stack(np.divmod(np.arange(576), 24), axis=1))
    for count in range(1, 577):
        found = sets_of(cells[:count], Windows(24, 24), by_rows=True)
        assert len(found.voxels) == -(-count // SET)
        owners = [set(row) for row in found.voxels.tolist()]
        assert sum(map(len, owners)) == len(set().union(*owners)) == count


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(SIDE, 2).eval()


@torch.no_grad()
def test_sets_give_what_dense_attention_under_their_mask_gives(encoder: Encoder) -> None:
    x, places = cloud(500, SIDE)
    torch.testing.assert_close(encoder(x, places), dense(encoder)(x, places), atol=1e-5, rtol=0)


@torch.no_grad()
def test_compiled_with_an_open_number_of_voxels(encoder: Encoder, tmp_path: Path) -> None:
    export(encoder, tmp_path / "model.onnx")
    compiled = sparsecc.compile(tmp_path / "model.onnx")
    rows = [row for row in compiled.report.rows if row.kernel == "attention"]
    assert [row.shape for row in rows] == [(SET, SET)] * 4
    called = onnx.load(compiled.path / "model.onnx", load_external_data=False).graph.node
    assert sum(node.op_type.startswith("Region") for node in called) == 4
    for voxels in (1, 2, 37, 700, 2500):
        x, places = cloud(voxels, SIDE)
        got = compiled(x, places)
        torch.testing.assert_close(got, encoder(x, places), atol=1e-5, rtol=0)


class Written(nn.Module):
    """As DSVT's own code has it: torch's attention over gathered voxels, scattered back."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        sets = sets_of(places, Windows(SIDE, 12), by_rows=True)
        inside = x[sets.voxels]
        y, _ = self.attention(
            inside, inside, inside, key_padding_mask=sets.repeated, need_weights=False
        )
        spread = torch.zeros_like(x).index_put((sets.voxels.flatten(),), y.flatten(0, 1))
        out: Tensor = self.norm(x + spread)
        return out


@torch.no_grad()
def test_attention_of_torch_that_is_scattered_back_is_captured(tmp_path: Path) -> None:
    layer = Written().eval()
    export(layer, tmp_path / "model.onnx")
    compiled = sparsecc.compile(tmp_path / "model.onnx")
    (row,) = (row for row in compiled.report.rows if row.kernel == "attention")
    assert row.shape == (SET, SET)
    for voxels in (2, 50, 1500):
        x, places = cloud(voxels, SIDE)
        torch.testing.assert_close(compiled(x, places), layer(x, places), atol=1e-5, rtol=0)
