"""What is done to the attentions of a model: found in it, written down, and carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import onnx_ir as ir

from sparsecc import ops
from sparsecc.cost.model import WORTH_CHANGING
from sparsecc.errors import PlanError
from sparsecc.ops.attention_parts import LEAST_OPSET
from sparsecc.passes.attention.blocks import SelfAttention, as_op, keep, self_attentions
from sparsecc.passes.attention.estimate import head_ms, why_not
from sparsecc.passes.attention.fuse_heads import fuse_heads
from sparsecc.passes.attention.modes import AUTO, Grid, Pattern, grid_of
from sparsecc.passes.attention.offers import FULL, Offer
from sparsecc.passes.attention.online import found_blocks, heads_of, search_online
from sparsecc.passes.attention.rules import BLOCK
from sparsecc.passes.attention.search import Keeping, Price, Weighed, always
from sparsecc.passes.attention.skipped import delete_heads
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.search.attentions import PlanAttention, PlanHead
from sparsecc.targets import Target

PASS_NAME = "attention-search"


def asked_for(model: ir.Model, spec: str, ctx: Context) -> tuple[list[SelfAttention], Grid]:
    """The attentions over the tokens of a grid, and the grid.

    Args:
        model: In canonical form.
        spec: A grid as :meth:`Grid.parse` reads it, or :data:`AUTO`.
        ctx: Told of attentions that are left alone.

    Raises:
        PlanError: There is none, or the grid does not fit.
    """
    ours, others = self_attentions(model)
    for each in list(ours):
        if why := why_not(each.parts[0].dims[3], ctx.target):
            others[each.name] = why
            ours.remove(each)
    if model.opset_imports.get("", 0) < LEAST_OPSET:
        raise PlanError(
            f"attention over blocks needs opset {LEAST_OPSET}, the model has "
            f"{model.opset_imports.get('', 0)}",
            fix="export it with a newer opset",
        )
    if not ours:
        said = "; ".join(f"{name!r}: {why}" for name, why in others.items())
        raise PlanError(
            f"no attention whose blocks could be searched{': ' * bool(said)}{said}",
            fix="leave out the request for attention, or export the model without masks and with "
            "its sizes fixed",
        )
    most = max(ours, key=lambda each: each.tokens)
    grid = grid_of(most.tokens) if spec == AUTO else Grid.parse(spec)
    fitting = [each for each in ours if each.tokens == grid.tokens]
    if not fitting:
        grid.check(most.tokens, most.name)
    names = {str(node.name): node for node in model.graph}
    for each in ours:
        if each not in fitting:
            others[each.name] = f"{each.tokens} tokens, the grid of {grid} has {grid.tokens}"
    for name, why in others.items():
        ctx.refuse(PASS_NAME, names.get(name), why)
    return fitting, grid


def as_ops(model: ir.Model, attentions: Sequence[SelfAttention]) -> list[ir.Node]:
    """Make each attention one op that leaves nothing out."""
    made = [as_op(each) for each in attentions]
    _tidied(model)
    return made


def _tidied(model: ir.Model) -> None:
    ops.attach_functions(model)
    run([ShapeInference(), DeadCode()], model, Context())


def planned(
    name: str, grid: Grid, heads: Sequence[Weighed], price: Price, reason: str
) -> PlanAttention:
    """What a plan says of an attention.

    Args:
        name: Of the attention.
        grid: Of its tokens.
        heads: What was tried.
        price: By which it is chosen.
        reason: Why heads are full where they are.
    """
    chosen = [each.chosen(price) for each in heads]
    taken = [
        each.full_ms if at is None else each.ms[at] for each, at in zip(heads, chosen, strict=True)
    ]
    dense_ms = sum(each.full_ms for each in heads)
    if any(at is not None for at in chosen) and sum(taken) > WORTH_CHANGING * dense_ms:
        saved = max(0.0, 1 - sum(taken) / dense_ms)
        reason = f"its blocks would save {saved:.1%} by the estimate, less than that is good for"
        chosen, taken = [None] * len(heads), [dense_ms]
    full = all(at is None for at in chosen)
    letters = zip(
        *([offer.mode[0] for offer in each.preferred(price)] for each in heads), strict=True
    )
    return PlanAttention(
        name=name,
        grid=grid.spec,
        block=BLOCK,
        heads=tuple(_head(each, at, price) for each, at in zip(heads, chosen, strict=True)),
        time_weight=price.time,
        most_loss=price.most,
        predicted_ms=float(sum(taken)),
        dense_ms=dense_ms,
        samples=tuple("".join(each) for each in letters),
        reason=reason if full else "",
    )


def unsearched(node: ir.Node, grid: Grid, target: Target) -> PlanAttention:
    """An op that keeps every block, as a plan says it where there are no data to search on."""
    heads, dim = heads_of(node)
    ms = heads * head_ms(FULL.pattern(grid, BLOCK), grid.tokens, dim, target)
    return PlanAttention(
        name=str(node.name),
        grid=grid.spec,
        block=BLOCK,
        heads=(PlanHead(mode=FULL.mode, density=1.0),) * heads,
        time_weight=0.0,
        most_loss=0.0,
        predicted_ms=ms,
        dense_ms=ms,
    )


def _head(weighed: Weighed, at: int | None, price: Price) -> PlanHead:
    offer = FULL if at is None else weighed.offers[at]
    return PlanHead(
        mode=offer.mode,
        setting=offer.setting,
        keys=offer.keys,
        density=1.0 if at is None else float(weighed.densities[at]),
        loss=None if at is None else float(weighed.losses(price)[at]),
    )


def carry_out(model: ir.Model, entries: Sequence[PlanAttention], ctx: Context) -> None:
    """Let attentions keep the blocks that a plan says; those whose heads are all full stay.

    Heads that are skipped are deleted, where that is possible, from the weights too, and those
    that want their tokens in another order come behind the others.

    Args:
        model: In canonical form; changed in place.
        entries: What the plan says.
        ctx: Told of heads that give zeros and have to stay, and of those that cannot move.

    Raises:
        PlanError: The model has no such attention, or it is another.
    """
    sparse = [entry for entry in entries if not entry.is_dense]
    if not sparse:
        return
    ours, others = self_attentions(model)
    here = {each.name: each for each in ours}
    for entry in sparse:
        _check(entry, here, others)
    static = [entry for entry in sparse if entry.online is None]
    patterns = {entry.name: patterns_of(entry) for entry in static}
    gone = delete_heads(model, {entry.name: _skipped(entry) for entry in static}, ctx)
    if gone:
        here = {each.name: each for each in self_attentions(model)[0]}
    left = {
        name: [each for at, each in enumerate(kept) if at not in gone.get(name, ())]
        for name, kept in patterns.items()
    }
    moved = {name: [each.order is not None for each in kept] for name, kept in left.items()}
    heads = fuse_heads(model, moved, ctx)
    nodes = as_ops(model, [here[entry.name] for entry in sparse])
    for node, entry in zip(nodes, sparse, strict=True):
        if entry.online is not None:
            search_online(node, Grid.parse(entry.grid), entry.online)
        else:
            keep(node, [left[entry.name][head] for head in heads[entry.name]])
    _tidied(model)


def _skipped(entry: PlanAttention) -> list[int]:
    return [at for at, head in enumerate(entry.heads) if head.mode == "skip"]


def keeping(entry: PlanAttention) -> Keeping:
    """What an attention keeps, as a plan says it; online, what is found for the tokens at hand.

    Raises:
        PlanError: A pattern is none.
    """
    if entry.online is None:
        return always(patterns_of(entry))
    return partial(found_blocks, grid=Grid.parse(entry.grid), sparsity=entry.online.sparsity)


def patterns_of(entry: PlanAttention) -> list[Pattern]:
    """What the heads keep where nothing is searched online.

    Raises:
        PlanError: One is no pattern of this grid.
    """
    grid = Grid.parse(entry.grid)
    try:
        offers = [Offer(head.mode, head.setting, head.keys) for head in entry.heads]
        return [each.pattern(grid, entry.block) for each in offers]
    except PlanError as error:
        raise PlanError(error.message, node=entry.name, fix=error.fix) from error


def _check(
    entry: PlanAttention, here: Mapping[str, SelfAttention], others: Mapping[str, str]
) -> None:
    fix = "apply the plan to the model it was made for, or another checkpoint of it"
    found = here.get(entry.name)
    if found is None:
        why = others.get(entry.name, "the model has none")
        raise PlanError(f"the plan has an attention {entry.name!r}: {why}", fix=fix)
    Grid.parse(entry.grid).check(found.tokens, entry.name)
    if entry.block != BLOCK:
        raise PlanError(
            f"the plan has blocks of {entry.block} tokens, kernels have {BLOCK}",
            node=entry.name,
            fix="make the plan again with this version of sparsecc",
        )
    if len(entry.heads) != found.heads:
        raise PlanError(
            f"the plan has {len(entry.heads)} heads, the model {found.heads}",
            node=entry.name,
            fix=fix,
        )
