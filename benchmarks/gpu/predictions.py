"""What the cost model expects of GPUs, as tables for docs/gpu.md: nothing here was measured.

`python -m benchmarks.gpu.predictions` prints them; once a GPU was calibrated on this machine, its
own figures stand behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.gpu.attention import FEATURES, HEADS, KEPT, TOKENS
from sparsecc.backends.cuda.experts import Mixture
from sparsecc.cost.gpu import mixtures
from sparsecc.cost.gpu.layers import TILES, Scores, attention
from sparsecc.cost.gpu.weights import PRICED, ROUNDED, WHOLE, Priced, task_before
from sparsecc.cost.model import CostModel, cost_model
from sparsecc.cost.moe import Routing, every_expert
from sparsecc.cost.roofline import Work
from sparsecc.targets import TARGETS
from sparsecc.targets.cuda import arch_of_target

SHAPES = ((4096, 4096), (11008, 4096), (20480, 5120))
"""Outputs and inputs."""
COUNTS = (1, 8, 32, 512)
"""Of tokens."""
ZEROS = 0.8
STEPS = np.arange(0.05, 1.0, 0.05)
"""Shares of zeros that are tried for the least one that pays."""
CHOSEN = tuple(each for each in PRICED if not each.halved)
"""Forms that any share of zeros may be."""
MIXTURES = ((8, 2, 4096, 14336), (64, 4, 4096, 14336))
"""Experts, experts of a token, features, hidden features; gated."""
Row = tuple[str, ...]


def name_of(priced: Priced) -> str:
    """A form with its blocks, as columns of tables are called."""
    rows, columns = priced.block
    return (
        priced.form
        if priced.form in ("bitmap", "2:4", "codes4")
        else f"{priced.form} {rows}×{columns}"
    )


def linear(rows: int, columns: int, tokens: int) -> Work:
    """A linear layer."""
    return Work(rows, columns, tokens, 1, columns * tokens, is_conv=False)


def stored(work: Work, priced: Priced, zeros: float) -> int:
    """Blocks that such a share of zeros leaves."""
    rows, columns = priced.block
    return max(1, round(work.rows / rows * work.cols / columns * (1 - zeros)))


def ms(costs: CostModel, work: Work, priced: Priced, zeros: float) -> float:
    """Of a layer with a share of zeros in a form, ms."""
    arch = arch_of_target(costs.target)
    return costs.task(task_before(priced, work, stored(work, priced, zeros), arch)).ms


def forms(costs: CostModel) -> Iterator[Row]:
    """Times over dense of every form at :data:`ZEROS`, and of codes where half is kept."""
    for rows, columns in SHAPES:
        for tokens in COUNTS:
            work = linear(rows, columns, tokens)
            dense = costs.library(work).ms
            ours = costs.task(task_before(WHOLE, work, 0, arch_of_target(costs.target))).ms
            ratios = [f"{dense / ours:.2f}"]
            ratios += [f"{dense / ms(costs, work, each, ZEROS):.2f}" for each in PRICED]
            ratios += [f"{dense / ms(costs, work, each, 0.5):.2f}" for each in ROUNDED]
            yield f"{rows} × {columns}", str(tokens), f"{1e3 * dense:.1f}", *ratios


def least(costs: CostModel) -> Iterator[Row]:
    """The least share of zeros with which a form is as quick as dense."""
    for rows, columns in SHAPES:
        for tokens in COUNTS:
            work = linear(rows, columns, tokens)
            dense = costs.library(work).ms
            found = []
            for each in CHOSEN:
                paying = [share for share in STEPS if ms(costs, work, each, share) <= dense]
                found.append(f"{min(paying):.0%}" if paying else "never")
            yield f"{rows} × {columns}", str(tokens), *found


def attentions(costs: CostModel) -> Iterator[Row]:
    """Attention over shares of its tiles, beside a library's over all."""
    arch = arch_of_target(costs.target)
    every = float(TOKENS**2)
    whole = Scores(HEADS, TOKENS, TOKENS, FEATURES, every)
    dense = costs.task(attention(whole, arch, tall=128, dense=True)).ms
    for share in KEPT:
        some = Scores(HEADS, TOKENS, TOKENS, FEATURES, share * every)
        ours = costs.task(*(attention(some, arch, tall=tall) for tall in TILES)).ms
        name = f"{HEADS} heads × {FEATURES}, {TOKENS:,} tokens"
        yield name, f"{share:.0%}", f"{dense:.2f}", f"{ours:.2f}", f"{dense / ours:.2f}"


def experts(costs: CostModel) -> Iterator[Row]:
    """Mixtures, beside all experts on all tokens."""
    arch = arch_of_target(costs.target)
    for count, slots, features, inner in MIXTURES:
        for tokens in (16, 512, 4096):
            what = Mixture(
                *(tokens, slots, count, features, inner, "silu", True, False, "float16", arch)
            )
            routing = Routing(tokens, slots, count)
            ours = costs.task(mixtures.mixture(what, routing.loads)).ms
            shapes = [(inner, features)] * 2 + [(features, inner)]
            theirs = sum(costs.library(each).ms for each in every_expert(routing, shapes))
            name = f"{slots} of {count}, {features} → {inner}, gated"
            yield name, str(tokens), f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.2f}"


def table(heads: Row, rows: Iterator[Row]) -> str:
    """As Markdown."""
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES: dict[str, tuple[Row, Callable[[CostModel], Iterator[Row]]]] = {
    f"Linear layers in float16, how many times as quick as a library: {ZEROS:.0%} of zeros, "
    "half where a form is 2:4 or of groups": (
        ("layer", "tokens", "library µs", "dense", *map(name_of, (*PRICED, *ROUNDED))),
        forms,
    ),
    "Zeros from which a form is as quick as a library's dense kernel": (
        ("layer", "tokens", *map(name_of, CHOSEN)),
        least,
    ),
    "Attention": (("attention", "kept", "library ms", "ours ms", "ratio"), attentions),
    "Mixtures of experts": (("experts", "tokens", "all ms", "ours ms", "ratio"), experts),
}


def main() -> None:
    """Print every table for every GPU."""
    for target in TARGETS.values():
        if target.family != "cuda":
            continue
        costs = cost_model(target)
        assert costs.table is not None
        print(
            f"### {target.name}, PREDICTED{'' if costs.table.derived else ' after calibration'}\n"
        )
        for title, (heads, rows) in TABLES.items():
            print(f"{title}:\n\n{table(heads, rows(costs))}\n")


if __name__ == "__main__":
    main()
