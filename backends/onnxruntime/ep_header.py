"""What the execution provider is built with: the version, and the cost model's figures in C."""

from __future__ import annotations

from sparsecc import __version__
from sparsecc.cost import roofline
from sparsecc.targets.base import Target

HEADER = "sc_ep.h"
ROW_BLOCKS = tuple(1 << i for i in range(5))
"""Rows of the r×1 blocks that the execution provider looks for."""


def ep_header(target: Target) -> str:
    """``sc_ep.h``: with it the provider chooses layers as the compiler does for this target."""
    efficiencies = [roofline.sparse_efficiency((rows, 1)) for rows in ROW_BLOCKS]
    figures = {
        "SC_PEAK_GFLOPS": target.peak_gflops,
        "SC_CACHE_BYTES": float(target.llc_bytes),
        "SC_DRAM_GBS": target.dram_gbs,
        "SC_CACHED": target.bandwidths[-2] / target.dram_gbs,
        "SC_FEW_BLOCK": roofline.FEW_POINTS_BLOCK,
        "SC_FEW_WEIGHT": roofline.FEW_POINTS_WEIGHT,
        "SC_NODE_MS": roofline.NODE_MS,
        "SC_LAYOUT_GBS": roofline.LAYOUT_GBS,
        "SC_DENSE_ETA": roofline.DENSE.eta,
        "SC_DENSE_HALF": roofline.DENSE.half_depth,
        "SC_WORTHWHILE": roofline.WORTHWHILE,
    }
    counts = {
        "SC_LANES": target.lanes,
        "SC_FEW_POINTS": roofline.FEW_POINTS,
        "SC_UNKNOWN_BATCH": roofline.UNKNOWN_BATCH,
        "SC_UNKNOWN_TOKENS": roofline.UNKNOWN_TOKENS,
        "SC_UNKNOWN_SIDE": roofline.UNKNOWN_SIDE,
        "SC_ROW_BLOCKS": len(ROW_BLOCKS),
    }
    lines = [
        f"/* Generated from sparsecc/cost/roofline.py for {target.name}. */",
        "#ifndef SC_EP_H",
        "#define SC_EP_H",
        f'#define SC_VERSION "{__version__}"',
        *(f"#define {name} {float(value)!r}" for name, value in figures.items()),
        f"enum {{ {', '.join(f'{name} = {value}' for name, value in counts.items())} }};",
        "/* eta and half depth of blocks of 1, 2, 4, ... rows. */",
        "static const double sc_sparse_eta[][2] = {"
        + ", ".join(f"{{{each.eta!r}, {each.half_depth!r}}}" for each in efficiencies)
        + "};",
        "#endif",
    ]
    return "\n".join(lines) + "\n"
