"""Blocks that are searched while a model runs, where they move with what it is given (AdaSpa).

Until the model is written down, such an attention searches at every call: a constant step at which
it does, and a constant index of no blocks. So pruning, exams and recoveries see blocks found for
the sample at hand, and need no state. :func:`expose` then makes both inputs of the model.

Source: Xia et al., Training-free and Adaptive Sparse Attention for Efficient Long Video Generation
(arXiv 2502.21079), with the log-sum-exp of a search made by the same pass that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.cost.model import WORTH_CHANGING
from sparsecc.executor import in_threads
from sparsecc.ops.attention_search import blocks_of_words, choose_blocks, kept_counts
from sparsecc.passes import edit
from sparsecc.passes.attention.blocks import attend
from sparsecc.passes.attention.losses import block_mass
from sparsecc.passes.attention.modes import Grid, Pattern
from sparsecc.passes.attention.rules import BLOCK, grid_of
from sparsecc.passes.attention.search import Floats, Tokens, always, outputs
from sparsecc.passes.tape import Tape
from sparsecc.quality.calibration import Feed
from sparsecc.search.attentions import PlanAttention, PlanHead, PlanOnline

MOST_FALL = 0.1
"""How much less of its softmax a head's blocks may hold on held-out samples, until they are said to
move with the input."""
SEARCH = 0.58
"""Time of a search, as a share of that of all scores: they are made, and no values are read.
Measured with AVX-512 (``benchmarks/attention_search.py``)."""
STEP, BLOCKS = "step", "blocks."
"""The input of a model that counts calls, and how those with kept blocks begin."""
INDEX, STEP_AT = 2, 3
"""Where the op has its index and its step."""
NO_BLOCKS = -1
"""Every element of an index that keeps none."""


@dataclass(frozen=True)
class State:
    """An input that a model gives back for the next call.

    Attributes:
        name: Of the input.
        next: The output with what the next call is given; "" for the step, which callers count.
        attention: Whose blocks these are; "" for the step.
        dtype: Element type.
        dims: Shape.
        begin: What every element is at the first call.
    """

    name: str
    next: str
    attention: str
    dtype: str
    dims: tuple[int, ...]
    begin: int


def recalls(
    model: ir.Model, patterns: Mapping[str, Sequence[Pattern]], feeds: Sequence[Feed]
) -> dict[str, Floats]:
    """Share of each head's softmax that its blocks hold, the mean over samples [heads].

    Args:
        model: In it, an op without blocks for each attention.
        patterns: Name of such an op → what its heads keep. Layers behind see that.
        feeds: The samples.

    Raises:
        CalibrationError: The model does not run on a sample.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in patterns}

    def watch(name: str, tokens: Tokens, scale: float, kept: Sequence[Pattern]) -> None:
        q, k, _ = tokens
        samples, heads = q.shape[:2]

        def of(place: tuple[int, ...]) -> float:
            return recall(q[place], k[place], scale, kept[place[1]])

        found[name] += np.reshape(in_threads(of, np.ndindex(samples, heads)), (-1, heads)).tolist()

    outputs(model, {name: always(each) for name, each in patterns.items()}, feeds, watch)
    return {name: np.mean(rows, axis=0) for name, rows in found.items()}


def recall(q: NDArray[np.float32], k: NDArray[np.float32], scale: float, pattern: Pattern) -> float:
    """Share of the softmax of one head [tokens, features] that a pattern keeps."""
    if pattern.kept.all() or not pattern.kept.any():
        return float(pattern.kept.all())
    order = slice(None) if pattern.order is None else pattern.order
    mass = block_mass(q[order], k[order], scale, pattern.block)
    return min(1.0, float(mass[pattern.kept].sum() / mass.sum()))


def moves(entry: PlanAttention) -> bool:
    """Whether a static choice does not hold for inputs that it was not made on."""
    return entry.heads[entry.worst].fall > MOST_FALL


def with_recalls(entry: PlanAttention, recall: Floats, held_out: Floats) -> PlanAttention:
    """An attention with what :func:`recalls` found for its heads."""
    heads = tuple(
        head.model_copy(update={"recall": float(ours), "held_out_recall": float(theirs)})
        for head, ours, theirs in zip(entry.heads, recall, held_out, strict=True)
    )
    return entry.model_copy(update={"heads": heads})


def as_online(entry: PlanAttention, online: PlanOnline) -> PlanAttention:
    """An attention that searches while the model runs, or stays dense where that saves little."""
    share = time_share(online, Grid.parse(entry.grid))
    if share > WORTH_CHANGING:
        saved = max(0.0, 1 - share)
        return as_full(
            entry,
            f"a search online would save {saved:.1%} by the estimate, less than that is good for",
        )
    update = {"online": online, "predicted_ms": share * entry.dense_ms, "reason": ""}
    return entry.model_copy(update=update)


def as_full(entry: PlanAttention, reason: str) -> PlanAttention:
    """An attention that stays as it is."""
    heads = (PlanHead(mode="full", density=1.0),) * len(entry.heads)
    update = {"heads": heads, "predicted_ms": entry.dense_ms, "reason": reason}
    return entry.model_copy(update=update)


def time_share(online: PlanOnline, grid: Grid) -> float:
    """Predicted time of a mean step of a sampling, as a share of that of all scores."""
    full = online.full
    searches = sum(step >= full for step in online.searches)
    kept = (online.steps - full) * density(online.sparsity, grid.tokens, words_of(grid))
    return (full + searches * SEARCH + kept) / online.steps


def density(sparsity: float, tokens: int, words: tuple[int, int]) -> float:
    """Share of blocks that a step keeps, the mean over heads, those of words among them."""
    of_words = blocks_of_words(tokens, BLOCK, words)
    free, count = int(np.count_nonzero(~of_words)), len(of_words)
    _, most, _ = kept_counts(sparsity, free)
    in_row = count - free + min(free, most)
    return ((count - free) * count + free * in_row) / count**2


def words_of(grid: Grid) -> tuple[int, int]:
    """Tokens that stand for words, before the video and behind it."""
    return (grid.text, 0) if grid.text_first else (0, grid.text)


def found_blocks(tokens: Tokens, scale: float, grid: Grid, sparsity: float) -> list[Pattern]:
    """What heads keep where blocks are searched on these tokens, by the meaning of the op."""
    q, k, _ = tokens
    places = np.ndindex(q.shape[:2])
    found = in_threads(lambda place: block_mass(q[place], k[place], scale, BLOCK), places)
    masses = np.reshape(found, (*q.shape[:2], *found[0].shape)).sum(axis=0)
    count = masses.shape[1]
    sizes = (len(q) * grid.tokens, grid.tokens, grid.tokens)
    of_blocks = (q.shape[1], count, count, BLOCK, BLOCK)
    kept = choose_blocks(masses, sizes, of_blocks, sparsity, words_of(grid))
    return [Pattern("vertical", BLOCK, each) for each in kept]


def heads_of(op: ir.Node) -> tuple[int, int]:
    """How many heads the queries of an attention have, and how many features a head."""
    q = op.inputs[0]
    assert q is not None
    assert q.shape is not None
    _, heads, _, dim = q.shape
    assert isinstance(heads, int)
    assert isinstance(dim, int)
    return heads, dim


def search_online(op: ir.Node, grid: Grid, online: PlanOnline) -> None:
    """Let an attention that leaves nothing out search for blocks, for now at every call."""
    q, k, v = op.inputs
    count = -(-grid.tokens // BLOCK)
    every, of_blocks = grid_of(np.ones((heads_of(op)[0], count, count), np.bool_))
    tape, scale = Tape(op), op.attributes["scale"].as_float()
    blocks = tape.weight("grid", of_blocks)
    index = tape.op(
        ops.SEARCH,
        *(q, k),
        tape.weight("blocks", np.full_like(every, NO_BLOCKS)),
        tape.weight(STEP, np.array(online.searches[:1], np.int64)),
        blocks,
        scale=scale,
        full=online.full,
        searches=online.searches,
        sparsity=online.sparsity,
        words=words_of(grid),
    )
    attend(tape, [q, k, v, index, blocks], scale)
    tape.finish()


def expose(model: ir.Model) -> tuple[State, ...]:
    """Make the step and the blocks of attentions inputs of a model, and the next ones outputs.

    A search whose index comes from elsewhere than a constant is the user's own, as it is.

    Returns:
        What the caller is to carry, in the order of the inputs; nothing where nothing is searched.
    """
    graph = model.graph
    searching = [
        node
        for node in graph
        if ops.is_search(node) and edit.constant(node.inputs[INDEX]) is not None
    ]
    if not searching:
        return ()
    step = _input(graph, STEP, searching[0].inputs[STEP_AT])
    states = [State(str(step.name), "", "", "int64", (1,), 0)]
    for at, node in enumerate(searching):
        blocks = _input(graph, f"{BLOCKS}{at}", node.inputs[INDEX])
        out = node.outputs[0]
        out.name = edit.fresh_name(graph, f"{blocks.name}.next")
        out.type, out.shape = blocks.type, blocks.shape
        graph.outputs.append(out)
        reader = str(out.consumers()[0].name)
        dims = tuple(dim for dim in blocks.shape or () if isinstance(dim, int))
        states.append(State(str(blocks.name), out.name, reader, "int32", dims, NO_BLOCKS))
        for place, value in ((INDEX, blocks), (STEP_AT, step)):
            constant = node.inputs[place]
            node.replace_input_with(place, value)
            if constant is not None and not constant.uses():
                graph.initializers.pop(str(constant.name), None)
    return tuple(states)


def _input(graph: ir.Graph, name: str, constant: ir.Value | None) -> ir.Value:
    """A new input like a constant."""
    assert constant is not None
    value = ir.Value(name=edit.fresh_name(graph, name), type=constant.type, shape=constant.shape)
    graph.inputs.append(value)
    return value
