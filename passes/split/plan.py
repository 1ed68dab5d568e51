"""What is done to the feed-forward networks of a model: written down, and carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from sparsecc import ops
from sparsecc.cost.model import WORTH_CHANGING
from sparsecc.errors import PlanError
from sparsecc.ops.moe import LEAST_OPSET
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.split.estimate import experts_ms, whole_ms
from sparsecc.passes.split.find import FeedForward, feed_forwards
from sparsecc.passes.split.weigh import NEURONS, Split, Weighed
from sparsecc.passes.split.write import write
from sparsecc.search.mixtures import PlanExperts, PlanOfExperts
from sparsecc.targets import Target

PASS_NAME = "split-into-experts"


def asked_for(model: ir.Model) -> list[FeedForward]:
    """The feed-forward networks of a model.

    Raises:
        PlanError: There is none, or the model's opset is too old for experts.
    """
    opset = model.opset_imports.get("", 0)
    if opset < LEAST_OPSET:
        raise PlanError(
            f"experts need opset {LEAST_OPSET}, the model has {opset}",
            fix="export it with a newer opset",
        )
    found = feed_forwards(model)
    if not found:
        raise PlanError(
            "no feed-forward network that could become experts: two linear layers, of one number "
            "of features before and behind, with an activation between that nothing else reads",
            fix="leave out the request for experts",
        )
    return found


def planned(weighed: Weighed, target: Target, price: float) -> PlanExperts:
    """What a plan says of a network.

    Args:
        weighed: The network with what was tried.
        target: Where it runs.
        price: The error that all of its time is worth: the least of error and time is chosen,
            all neurons among them.
    """
    found, dense_ms = weighed.found, whole_ms(weighed.found, target)
    options = tuple(
        PlanOfExperts(
            chosen=count,
            loss=loss,
            predicted_ms=experts_ms(found, weighed.shares[count], count, target),
        )
        for count, loss in weighed.losses.items()
    )
    experts, reason = max(1, found.neurons // NEURONS), weighed.reason
    if weighed.split is None:
        experts = 1
    paying = [each for each in options if each.predicted_ms <= WORTH_CHANGING * dense_ms]
    if options and not paying:
        best = min(each.predicted_ms for each in options)
        reason = (
            f"experts would take {best:.3g} ms by the estimate with their router, all neurons "
            f"{dense_ms:.3g}"
        )
    costs = {each.loss + price * each.predicted_ms / dense_ms: each for each in reversed(paying)}
    least = min(costs, default=price)
    if least >= price and not reason:
        reason = "experts lose more than their time is worth"
    chosen = None if reason else costs[least]
    return PlanExperts(
        name=found.name,
        neurons=found.neurons,
        experts=experts,
        chosen=experts if chosen is None else chosen.chosen,
        grouping=weighed.grouping,
        density=weighed.density,
        loss=0.0 if chosen is None else chosen.loss,
        predicted_ms=dense_ms if chosen is None else chosen.predicted_ms,
        dense_ms=dense_ms,
        options=options,
        reason=reason,
    )


def carry_out(model: ir.Model, entries: Sequence[PlanExperts], splits: Mapping[str, Split]) -> None:
    """Put experts in the place of networks, as a plan says; those that stay dense stay.

    Args:
        model: In canonical form; changed in place.
        entries: What the plan says.
        splits: Name of a network → its experts.

    Raises:
        PlanError: The model has no such network, or it is another.
    """
    here = {each.name: each for each in feed_forwards(model)}
    for entry in entries:
        if not entry.is_dense:
            write(checked(entry, here), splits[entry.name], entry.chosen)
    ops.attach_functions(model)
    run([ShapeInference(), DeadCode()], model, Context())


def checked(entry: PlanExperts, here: Mapping[str, FeedForward]) -> FeedForward:
    """The network that a plan names.

    Raises:
        PlanError: The model has none of that name and size.
    """
    found = here.get(entry.name)
    if found is None or found.neurons != entry.neurons:
        has = "none" if found is None else f"one of {found.neurons}"
        raise PlanError(
            f"the plan has a feed-forward network {entry.name!r} of {entry.neurons} neurons, the "
            f"model has {has}",
            fix="apply the plan to the model it was made for, or another checkpoint of it",
        )
    return found
