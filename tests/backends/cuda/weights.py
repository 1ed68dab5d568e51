"""Weights for the forms of the GPU, and what packing may change of them."""

import numpy as np
import torch


def rounded(weight, held, dtype):
    """Whether the form holds the weight itself, in its element type."""
    return np.array_equal(held, torch.from_numpy(weight).to(getattr(torch, dtype)).float().numpy())


def coded(weight, held, _):
    """Whether numbers are within half a step of 16 for each 128 inputs, and zeros are zeros."""
    values = np.pad(weight, ((0, 0), (0, -weight.shape[1] % 128))).reshape(len(weight), -1, 128)
    step = (values.max(2).clip(0) - values.min(2).clip(None, 0)) / 15
    lost = np.abs(weight - held) - 0.52 * step.repeat(128, 1)[:, : weight.shape[1]]
    return (lost <= 0).all() and not held[weight == 0].any()


HOLDS = {
    **dict.fromkeys(("columns", "bitmap", "2:4", "dense"), rounded),
    **dict.fromkeys(("groups", "codes4"), coded),
}
"""Form → whether what is held is the weight that was packed."""
WIDTHS = {"groups": 16, "codes4": 32, "dense": 16}
"""Form → what columns are a multiple of, where they are not any number."""


def weight_of(form, rows, columns, density, seed):
    """Random numbers with zeros that suit a form; at least so many columns."""
    draws = np.random.default_rng(seed)
    columns += -columns % WIDTHS.get(form, 1)
    weight = draws.standard_normal((rows, columns))
    if form == "2:4":
        fours = draws.random((rows, -(-columns // 4), 4)).argsort(-1) < 2
        weight *= fours.reshape(rows, -1)[:, :columns]
    height = draws.choice([1, 4, 16, 64]) if form == "columns" else 1
    width = draws.choice([16, 32]) if form == "groups" else 1
    kept = draws.random((-(-rows // height), -(-columns // width))) < density
    return weight * kept.repeat(height, 0)[:rows].repeat(width, 1)[:, :columns]
