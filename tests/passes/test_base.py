from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from sparsecc.errors import PlanError
from sparsecc.passes.base import Context, Pass, Refusal, apply, run
from sparsecc.passes.verifier import VerificationError

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 3] y) { a = Relu(x) y = Exp(a) }"""


def model() -> ir.Model:
    loaded = ir.from_onnx_text(TEXT)
    for node, name in zip(loaded.graph, ("first", "second"), strict=True):
        node.name = name
    return loaded


class Edit(Pass):
    """Does what it is told, and says what it is told."""

    name = "edit"

    def __init__(self, action, says: bool = True) -> None:
        self.action, self.says = action, says

    def call(self, model, ctx) -> bool:
        self.action(model, ctx)
        return self.says


def nothing(model, ctx) -> None:
    pass


def rename(model, ctx) -> None:
    model.graph.node(0).name = "other"


def break_order(model, ctx) -> None:
    first = model.graph.node(0)
    model.graph.remove(first)
    model.graph.append(first)


def test_modified_is_passed_on():
    assert run([Edit(nothing, False), Edit(rename)], model(), Context(verify=True))
    assert not run([Edit(nothing, False)], model(), Context(verify=True))


def test_a_dishonest_flag_is_found():
    with pytest.raises(ir.passes.PassError, match="'edit' changed the model but said"):
        run([Edit(rename, False)], model(), Context(verify=True))


def test_a_broken_model_is_found_only_when_asked():
    with pytest.raises(VerificationError, match="after 'edit': 'second'"):
        run([Edit(break_order)], model(), Context(verify=True))
    run([Edit(break_order)], model(), Context())


def test_progress():
    seen = []
    ctx = Context(on_progress=lambda *report: seen.append(report))
    run([Edit(nothing), Edit(nothing)], model(), ctx)
    assert seen == [("edit", 0, 2), ("edit", 1, 2)]


def test_requires_and_ensures_surround_the_call():
    order = []

    class Ordered(Edit):
        def requires(self, model, ctx):
            order.append("requires")

        def ensures(self, model, ctx):
            order.append("ensures")

    run([Ordered(lambda *_: order.append("call"))], model(), Context())
    assert order == ["requires", "call", "ensures"]


def test_failures_name_the_pass_and_user_errors_pass_through():
    def fail(model, ctx):
        raise KeyError("lost")

    def complain(model, ctx):
        raise PlanError("no such layer")

    with pytest.raises(ir.passes.PassError, match="'edit' failed"):
        run([Edit(fail)], model(), Context())
    with pytest.raises(PlanError):
        run([Edit(complain)], model(), Context())


def test_refusals_are_kept_once_and_in_order():
    ctx, loaded = Context(), model()
    for _ in range(2):
        ctx.refuse("a", loaded.graph.node(0), "too small")
        ctx.refuse("b", None, "no weights")
    assert ctx.refusals == [Refusal("a", "first", "too small"), Refusal("b", "", "no weights")]


def test_apply_reports_change_and_failure_of_foreign_passes():
    ctx, loaded = Context(), model()

    def explode(model):
        try:
            raise ValueError("deep reason\nand more")
        except ValueError as error:
            raise RuntimeError("shallow") from error

    assert not apply(explode, "mine", loaded, ctx)
    assert ctx.refusals == [Refusal("mine", "", "deep reason")]
    assert apply(lambda model: rename(model, ctx), "mine", loaded, ctx)
    assert onnx.checker.check_model(ir.to_proto(loaded)) is None
