"""Networks with squeeze-and-excite as torch exports them: one region in every batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import sparsecc

torch = pytest.importorskip("torch", reason="torch is not installed")

TOLERANCE = 1e-4


def gated(activation: str, gate: str, pool: str) -> torch.nn.Module:
    """A stem, two inverted residuals with squeeze-and-excite, and a classifier, in torch."""
    nn = torch.nn

    class Squeeze(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.down, self.up = nn.Conv2d(channels, 12, 1), nn.Conv2d(12, channels, 1)
            self.act, self.gate = getattr(nn, activation)(), getattr(nn, gate)()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = self.pool(x) if pool == "pool" else x.mean((2, 3), keepdim=True)
            return x * self.gate(self.up(self.act(self.down(mean))))

    def layer(inputs: int, outputs: int, side: int, stride: int = 1, group: int = 1) -> list:
        window = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=group, bias=False)
        return [window, nn.BatchNorm2d(outputs)]

    def act() -> nn.Module:
        return getattr(nn, activation)(inplace=True)

    class Block(nn.Module):
        def __init__(self, stride: int) -> None:
            super().__init__()
            wide = [*layer(32, 96, 1), act(), *layer(96, 96, 5, stride, 96), act()]
            self.body = nn.Sequential(*wide, Squeeze(96), *layer(96, 32, 1))
            self.adds = stride == 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x) if self.adds else self.body(x)

    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 48), act(), nn.Linear(48, 10)]
    blocks = [Block(1), Block(2), Block(1)]
    return nn.Sequential(*layer(3, 32, 3, 2), act(), *blocks, *ends).eval()


@pytest.mark.parametrize("pool", ["pool", "mean"])
@pytest.mark.parametrize(
    ("activation", "gate"), [("Hardswish", "Hardsigmoid"), ("SiLU", "Sigmoid"), ("ReLU", "Sigmoid")]
)
def test_gated_blocks_from_torch_are_one_region(
    activation: str, gate: str, pool: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    compiled = sparsecc.compile(
        gated(activation, gate, pool),
        target="native",
        sparsity="4x1:0.7",
        example_inputs=(torch.randn(2, 3, 56, 56),),
        dynamic_shapes=({0: torch.export.Dim("n")},),
    )
    artifact = compiled.save(tmp_path / "artifact")
    graph = onnx.load(artifact / "model.onnx").graph
    assert [node.op_type for node in graph.node] == ["Region0"]
    body = ort.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 2, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 56, 56)).astype(np.float32)
        feeds = {body.get_inputs()[0].name: x}
        (wanted,), (found,) = body.run(None, feeds), compiled.run(feeds).values()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())
