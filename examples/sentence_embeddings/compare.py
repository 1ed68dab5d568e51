"""Prunes the trained sentence encoder and compares its embeddings with the dense model's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch.export import Dim

import sparsecc
from examples._text import sentences
from examples.sentence_embeddings.encoder import tokenize, trained

CALIBRATION_SENTENCES, CALIBRATION_WORDS, CALIBRATION_TOKENS = 768, 12, 24
TEST_SENTENCES, TEST_TOKENS = 400, 40

AXES = {0: Dim("batch"), 1: Dim("tokens", max=512)}
DYNAMIC = {"input_ids": AXES, "attention_mask": AXES}

Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """A pruning method; magnitude is what the compiler falls back to without calibration data."""

    title: str
    calibrated: bool
    refit: bool


METHODS = (
    Setting("magnitude", calibrated=False, refit=False),
    Setting("ALPS mask only", calibrated=True, refit=False),
    Setting("ALPS mask, refit", calibrated=True, refit=True),
)
SPARSITIES = ("4x1:0.3", "4x1:0.5", "unstructured:0.5")


def agreement(ours: Embeddings, dense: Embeddings) -> tuple[float, float]:
    """Mean cosine to the dense embeddings; Spearman correlation of all pairs' similarities."""
    cosine = float((ours * dense).sum(1).mean())
    upper = np.triu_indices(len(dense), 1)
    rank = spearmanr((ours @ ours.T)[upper], (dense @ dense.T)[upper]).statistic
    return cosine, float(rank)


def main() -> None:
    """Prints mean cosine and rank agreement for each method and sparsity."""
    encoder = trained()
    long_ones = sentences("calibration", shortest=CALIBRATION_WORDS)[:CALIBRATION_SENTENCES]
    calibration = tokenize(long_ones, CALIBRATION_TOKENS)
    held_out = tokenize(sentences("test")[:TEST_SENTENCES], TEST_TOKENS)
    tensors = {name: torch.from_numpy(value) for name, value in held_out.items()}
    with torch.no_grad():
        dense = encoder(**tensors).numpy()
    table = Table(title=f"all-MiniLM-L6-v2, {TEST_SENTENCES} held-out sentences, all 36 linears")
    for column in ("zeros", "method", "mean cosine", "rank agreement"):
        table.add_column(column)
    for sparsity in SPARSITIES:
        for method in METHODS:
            compiled = sparsecc.compile(
                encoder,
                sparsity=sparsity,
                overrides={"encoder*": sparsity},  # the first and last linears too
                example_inputs=tensors,
                dynamic_shapes=DYNAMIC,
                calibration=calibration if method.calibrated else None,
                refit=method.refit,
            )
            ours = next(iter(compiled.run(held_out).values()))
            cosine, rank = agreement(ours, dense)
            table.add_row(sparsity, method.title, f"{cosine:.3f}", f"{rank:.3f}")
            print(sparsity, method.title, f"{cosine:.3f} {rank:.3f}", flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()
