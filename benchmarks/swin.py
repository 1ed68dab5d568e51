"""Measures torchvision's Swin-T: `python -m benchmarks.swin --help`. Needs torchvision.

Random weights, dense or with whole 4x1 blocks of zeros in every linear layer, against ONNX Runtime
on the same file, in turns.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from torch import nn

import sparsecc
from sparsecc.bench import compare

SIDE, ROWS = 224, 4


def swin() -> nn.Module:
    """Swin-T with random weights.

    Raises:
        typer.BadParameter: torchvision, which has it, is not installed.
    """
    try:
        from torchvision.models import swin_t
    except ImportError as error:
        raise typer.BadParameter(
            "Swin-T is torchvision's, which is not installed: pip install torchvision "
            "--index-url https://download.pytorch.org/whl/cpu"
        ) from error
    model: nn.Module = swin_t()
    return model.eval()


def pruned(model: nn.Module, share: float) -> nn.Module:
    """Zeros in the blocks of four outputs that are smallest, of each linear layer inside."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight.data
            sizes = weight.unflatten(0, (-1, ROWS)).abs().sum(1)
            least = sizes.flatten().kthvalue(max(1, int(share * sizes.numel()))).values
            weight *= (sizes > least).repeat_interleave(ROWS, 0)
    return model


def main(
    zeros: Annotated[float, typer.Option(min=0, max=0.99)] = 0.0,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seconds: Annotated[float, typer.Option()] = 10.0,
) -> None:
    """Prints what attention became, and the ratio."""
    torch.manual_seed(0)
    model = swin()
    if zeros:
        pruned(model.features, zeros)
    with TemporaryDirectory() as scratch:
        path, example = Path(scratch) / "model.onnx", (torch.randn(1, 3, SIDE, SIDE),)
        torch.onnx.export(model, example, path, dynamo=True, opset_version=20, verbose=False)
        compiled = sparsecc.compile(path)
        ours = sum(row.kernel == "attention" for row in compiled.report.rows)
        result = compare(
            compiled.save(Path(scratch) / "out"), path, threads=threads, seconds=seconds
        )
    print(
        f"{zeros:.0%} zeros: {ours} attentions are one step each; {result.ours_ms:.1f} ms, "
        f"ONNX Runtime {result.baseline_ms:.1f} ms, {result.ratio:.2f} times as fast (quartiles "
        f"{result.ratio_low:.2f}-{result.ratio_high:.2f}), difference {result.max_rel_difference}"
    )


if __name__ == "__main__":
    typer.run(main)
