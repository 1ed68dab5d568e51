"""Weights for the forms of the GPU, and what packing may change of them."""

import numpy as np
import torch


def rounded(weight, held, dtype):
    """Whether the form holds the weight itself, in its element type."""
    return np.array_equal(held, torch.from_numpy(weight).to(getattr(torch, dtype)).float().numpy())


HOLDS = {"columns": rounded, "bitmap": rounded}
"""Form → whether what is held is the weight that was packed."""


def weight_of(form, rows, columns, density, seed):
    """Random numbers with zeros that suit a form."""
    draws = np.random.default_rng(seed)
    weight = draws.standard_normal((rows, columns))
    height = draws.choice([1, 4, 16, 64]) if form == "columns" else 1
    kept = draws.random((-(-rows // height), columns)) < density
    return weight * kept.repeat(height, 0)[:rows]
