"""Heads of one order of tokens come together, and the model computes what it did."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.run import open_session, session_of_model
from sparsecc.passes.attention.fuse_heads import PASS_NAME
from sparsecc.passes.attention.plan import as_ops, asked_for, carry_out, keeping
from sparsecc.passes.attention.search import outputs
from sparsecc.passes.base import Context, run
from sparsecc.passes.edit import constant
from sparsecc.passes.regions.form import FormRegions
from sparsecc.search.attentions import PlanAttention, PlanHead
from tests.passes.attention.headed import GRID, STYLES, WIDTH, Headed, Style
from tests.passes.permute.graphs import canonical

HEADS = {
    "diagonal": PlanHead(mode="diagonal", setting=1, density=0.5),
    "multi-diagonal": PlanHead(mode="multi-diagonal", setting=1, density=0.5),
    "vertical": PlanHead(mode="vertical", setting=1, keys=(1,), density=0.5),
    "full": PlanHead(mode="full", density=1.0),
    "skip": PlanHead(mode="skip", density=0.0),
}
MODES = st.sampled_from(sorted(HEADS))
MOVED = ("diagonal", "multi-diagonal") * 3


def entry(name: str, modes: Sequence[str]) -> PlanAttention:
    return PlanAttention(
        name=name,
        grid=GRID.spec,
        block=64,
        heads=tuple(HEADS[mode] for mode in modes),
        time_weight=0.5,
        most_loss=1.0,
        predicted_ms=1.0,
        dense_ms=2.0,
    )


def carried_out(
    net: Callable[[], ir.Model], modes: Sequence[Sequence[str]]
) -> tuple[ir.Model, Context]:
    """The model over blocks, which computes what its heads do where they were."""
    model, dense, ctx = net(), net(), Context()
    found, _ = asked_for(dense, GRID.spec, Context())
    entries = [entry(each.name, said) for each, said in zip(found, modes, strict=True)]
    as_ops(dense, found)
    kept = {each.name: keeping(each) for each in entries}
    x = np.random.default_rng(0).standard_normal((1, GRID.tokens, WIDTH)).astype(np.float32)
    wanted = outputs(dense, kept, [{"x": x}])[0][0]
    carry_out(model, entries, ctx)
    got = session_of_model(model, threads=1).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max())
    return model, ctx


def gathered_heads(model: ir.Model) -> int:
    """How many nodes choose heads of values that were computed."""
    return sum(
        node.op_type == "Gather" and node.name is not None and "heads" in str(node.inputs[1].name)
        for node in model.graph
    )


def kinds(modes: Sequence[str]) -> list[bool]:
    return [mode == "multi-diagonal" for mode in modes]


@settings(max_examples=25)
@given(styles=st.lists(STYLES, min_size=1, max_size=3), data=st.data(), seed=st.integers(0, 99))
def test_fused_is_unfused(styles: list[Style], data: st.DataObject, seed: int) -> None:
    """Several layers of different heads and modes."""
    modes = [
        data.draw(st.lists(MODES, min_size=style.heads, max_size=style.heads)) for style in styles
    ]
    model, ctx = carried_out(lambda: canonical(Headed(seed).model(*styles)), modes)
    said = [refusal for refusal in ctx.refusals if refusal.pass_name == PASS_NAME]
    groups_apart = [
        sum(
            len({*kinds(heads[at : at + style.share])}) > 1
            for at in range(0, len(heads), style.share)
        )
        > 1
        for heads, style in zip(modes, styles, strict=True)
    ]
    if not any(groups_apart):
        assert not said
        assert not gathered_heads(model)
    assert bool(gathered_heads(model)) == bool(said)


@pytest.mark.parametrize(
    ("style", "modes"),
    [
        (Style(groups=6, fused=True, norm="each", turns=True), MOVED),
        (Style(groups=3, share=2), ("full", "full", *["multi-diagonal"] * 3, "full")),
        (Style(groups=1, share=6, norm="every"), MOVED),
    ],
)
def test_heads_of_the_other_order_come_last(style: Style, modes: Sequence[str]) -> None:
    """One cut gives them, where they had to be gathered."""
    before = canonical(Headed().model(style))
    model, _ = carried_out(lambda: before.clone(), [modes])
    assert not gathered_heads(model)
    assert sum(ops.is_attention(node) for node in model.graph) == 2


def test_groups_of_both_kinds_stay() -> None:
    """Each has a head of either: however they lie, some of a kind are apart."""
    style = Style(groups=3, share=2)
    model, ctx = carried_out(lambda: canonical(Headed().model(style)), [MOVED])
    (said,) = (each for each in ctx.refusals if each.pass_name == PASS_NAME)
    assert "several groups" in said.reason
    assert gathered_heads(model)


def test_heads_whose_order_is_seen_stay() -> None:
    net = lambda: canonical(Headed().model(Style(), seen=True))  # noqa: E731
    model, ctx = carried_out(net, [MOVED[:4]])
    (said,) = (each for each in ctx.refusals if each.pass_name == PASS_NAME)
    assert "CumSum: its channels are not followed" in said.reason
    assert gathered_heads(model)


def test_heads_that_lie_together_do_not_move() -> None:
    before = canonical(Headed().model(Style(groups=3)))
    weights = {name: constant(each) for name, each in before.graph.initializers.items()}
    modes = ("multi-diagonal", "diagonal", "full")
    model, ctx = carried_out(lambda: before.clone(), [modes])
    assert not ctx.refusals
    assert not gathered_heads(model)
    for name, each in model.graph.initializers.items():
        if name in weights:
            np.testing.assert_array_equal(constant(each), weights[name])


@pytest.mark.parametrize("style", [Style(groups=6, norm="every", turns=True), Style(groups=6)])
def test_the_step_reads_its_heads_where_they_lie(style: Style) -> None:
    """Cuts, orders of tokens and turns are absorbed: between products there is one Concat."""
    model, _ = carried_out(lambda: canonical(Headed().model(style)), [MOVED])
    x = np.random.default_rng(1).standard_normal((1, GRID.tokens, WIDTH)).astype(np.float32)
    wanted = session_of_model(model, threads=1).run(None, {"x": x})[0]
    run([FormRegions(targets.get("native"))], model, Context())
    left = [node.op_type for node in model.graph if node.domain == ""]
    assert "Gather" not in left
    assert "Slice" not in left
    assert left.count("Concat") == 1 + 2 * style.turns
    proto = ir.to_proto(model).SerializeToString()
    session = open_session(proto, library=build_library(targets.get("native")), threads=1)
    got = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max())
