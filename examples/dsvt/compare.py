"""Compiles a DSVT encoder; compares it with ONNX Runtime, and with dense attention under a mask."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

import sparsecc
from examples.dsvt.dense import dense
from examples.dsvt.model import WIDTH, Encoder
from sparsecc.bench import compare

SIDE, BLOCKS, VOXELS = 240, 4, 4000
SECONDS = 10.0


def cloud(voxels: int, side: int = SIDE, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features and places of voxels that are denser in the middle, as around a car."""
    rng = np.random.default_rng(seed)
    cells = np.empty((0, 2), np.int64)
    while len(cells) < voxels:
        drawn = np.rint(side / 2 + rng.laplace(scale=side / 8, size=(8 * voxels, 2)))
        inside = drawn[((drawn >= 0) & (drawn < side)).all(1)].astype(np.int64)
        cells = np.unique(np.concatenate([cells, inside]), axis=0)
    places = torch.from_numpy(rng.permutation(cells)[:voxels])
    x = rng.standard_normal((voxels, WIDTH)).astype(np.float32)
    return torch.from_numpy(x), places


def export(encoder: nn.Module, path: Path) -> None:
    """An ONNX file with an open number of voxels."""
    voxels = torch.export.Dim("voxels", min=2, max=1 << 20)
    with torch.no_grad():
        torch.onnx.export(
            encoder,
            cloud(100),
            path,
            dynamo=True,
            opset_version=20,
            input_names=["x", "places"],
            dynamic_shapes=({0: voxels}, {0: voxels}),
            external_data=False,
            verbose=False,
        )


def main() -> None:
    """Prints how far it is from torch, and the gains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=VOXELS)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.manual_seed(0)
    encoder = Encoder(SIDE, BLOCKS).eval()
    x, places = cloud(asked.voxels)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export(encoder, folder / "sets.onnx")
        export(dense(encoder), folder / "dense.onnx")
        np.savez(folder / "inputs.npz", x=x.numpy(), places=places.numpy())
        compiled = sparsecc.compile(folder / "sets.onnx")
        compiled.save(folder / "out")
        with torch.no_grad():
            want = encoder(x, places).numpy()
        got = compiled.run({"x": x.numpy(), "places": places.numpy()})
        print(f"largest difference from torch: {np.abs(next(iter(got.values())) - want).max():.1e}")
        for name in ("sets", "dense"):
            result = compare(
                folder / "out",
                folder / f"{name}.onnx",
                inputs=folder / "inputs.npz",
                threads=asked.threads,
                seconds=SECONDS,
            )
            print(
                f"{asked.voxels} voxels: {result.ours_ms:.1f} ms, ONNX Runtime, {name}, "
                f"{result.baseline_ms:.1f} ms, {result.ratio:.2f} times as fast (quartiles "
                f"{result.ratio_low:.2f}-{result.ratio_high:.2f}), {result.peak_rss_mb:.0f} MB "
                f"against {result.baseline_peak_rss_mb:.0f} MB"
            )


if __name__ == "__main__":
    main()
