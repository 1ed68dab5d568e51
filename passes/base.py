"""What a pass is, what it may see and say, and how a list of passes is run.

A pass changes a model in place. It is `exact` (the function the model computes is kept, up to
float rounding) or `approximate` (only ever run because a plan says so). Where it declines a
node it records a :class:`Refusal`, so that the user's report can say why.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import onnx_ir as ir

from sparsecc.errors import SparseccError, first_line
from sparsecc.passes.names import name_nodes
from sparsecc.passes.verifier import fingerprint, verify_model

if TYPE_CHECKING:
    from sparsecc.targets import Target

Kind = Literal["exact", "approximate"]


@dataclasses.dataclass(frozen=True)
class Refusal:
    """One "why not": a pass that left a node alone although it looked like its business.

    Attributes:
        pass_name: Name of the pass that declined.
        node: Name of the node, or "" when the refusal concerns the whole model.
        reason: One clause a user understands.
    """

    pass_name: str
    node: str
    reason: str


@dataclasses.dataclass
class Context:
    """What every pass of one compilation shares.

    Attributes:
        target: The hardware compiled for; an exact pass reads it only to ask what is faster.
        verify: Check the model after every pass, and that "not modified" is the truth.
        on_progress: Called as (pass name, passes done, passes in all) before each pass.
        refusals: Filled by the passes, in order, without repeats.
        largest: Largest magnitudes over calibration data, by the name of a value or of the node
            that writes it; empty where nothing was observed.
    """

    target: Target | None = None
    verify: bool = False
    on_progress: Callable[[str, int, int], None] | None = None
    refusals: list[Refusal] = dataclasses.field(default_factory=list)
    largest: dict[str, float] = dataclasses.field(default_factory=dict)

    def refuse(self, pass_name: str, node: ir.Node | None, reason: str) -> None:
        """Record that `pass_name` left `node` (None: the whole model) alone, and why."""
        refusal = Refusal(pass_name, (node.name or "") if node is not None else "", reason)
        if refusal not in self.refusals:
            self.refusals.append(refusal)


class Pass(abc.ABC):
    """One rewrite of a model: requires → call → ensures.

    `requires` and `ensures` raise :class:`onnx_ir.passes.PreconditionError` or
    :class:`onnx_ir.passes.PostconditionError`; both mean a bug of sparsecc, not a mistake of
    its user.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind] = "exact"

    def requires(self, model: ir.Model, ctx: Context) -> None:  # noqa: B027 - optional hook
        """Check what must hold before `call`."""

    @abc.abstractmethod
    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Rewrite `model` in place; return whether anything changed."""

    def ensures(self, model: ir.Model, ctx: Context) -> None:  # noqa: B027 - optional hook
        """Check what must hold after `call`."""


def run(passes: Sequence[Pass], model: ir.Model, ctx: Context) -> bool:
    """Run `passes` over `model` in order.

    Args:
        passes: What to run.
        model: Changed in place.
        ctx: Shared state; `ctx.refusals` grows.

    Returns:
        Whether any pass changed the model.

    Raises:
        onnx_ir.passes.PassError: A pass failed; names the pass, with the cause attached.
        sparsecc.passes.verifier.VerificationError: With `ctx.verify`, a pass broke the model.
        SparseccError: A pass found a mistake of the user.
    """
    modified = False
    for done, each in enumerate(passes):
        if ctx.on_progress is not None:
            ctx.on_progress(each.name, done, len(passes))
        modified |= _run_one(each, model, ctx)
    return modified


def _run_one(each: Pass, model: ir.Model, ctx: Context) -> bool:
    before = fingerprint(model) if ctx.verify else None
    try:
        each.requires(model, ctx)
        modified = each.call(model, ctx)
        each.ensures(model, ctx)
    except (SparseccError, ir.passes.InvariantError):
        raise
    except Exception as error:
        raise ir.passes.PassError(f"pass {each.name!r} failed: {error}") from error
    if ctx.verify:
        verify_model(model, after=each.name)
        if not modified and fingerprint(model) != before:
            raise ir.passes.PassError(f"pass {each.name!r} changed the model but said it did not")
    return modified


def apply(
    foreign: Callable[[ir.Model], object], pass_name: str, model: ir.Model, ctx: Context
) -> bool:
    """Run an in-place pass of onnx_ir or onnxscript on behalf of the pass `pass_name`.

    Their own `modified` flags miss small edits, so whether the model changed is found by
    comparing it; nodes they made get names of their own. Their rewrites are node by node: after
    a failure the model is still sound, and the failure is recorded as a refusal.

    Returns:
        Whether the model changed.
    """
    before = fingerprint(model)
    try:
        foreign(model)
    except Exception as error:
        ctx.refuse(pass_name, None, _cause(error))
    changed = fingerprint(model) != before
    if changed:
        name_nodes(model)
    return changed


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
