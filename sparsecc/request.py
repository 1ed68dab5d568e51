"""What the user asked for, read and checked before the model is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sparsecc import targets
from sparsecc.errors import PlanError, TargetError
from sparsecc.executor import WHERES, Where
from sparsecc.formats.patterns import DENSE, SparsitySpec
from sparsecc.naming import NAME, check_name
from sparsecc.passes.attention.modes import AUTO, Grid
from sparsecc.quality.effort import Effort
from sparsecc.quality.exam import Quality
from sparsecc.search.allocation import ALLOCATIONS, Allocation
from sparsecc.search.attentions import PlanOnline
from sparsecc.search.fields import AUTO as SEARCHED
from sparsecc.search.fields import read_share
from sparsecc.search.plan import Method, Plan
from sparsecc.search.search import MODES, Kind, Mode
from sparsecc.targets import Target

SCORES: tuple[Method, ...] = ("magnitude", "wanda", "sparsegpt", "alps")

INT8 = "int8"
EXPERT_BITS = {"experts-int8": 8, "experts-int4": 4}
"""Quantizations of the weights of experts alone."""
QUANTIZATIONS = (INT8, *EXPERT_BITS)

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Budget:
    """What a searched plan may cost: a drop of quality, milliseconds or bytes."""

    kind: Kind
    limit: float


@dataclass(frozen=True)
class Request:
    """A request for one compilation; see :func:`sparsecc.compile` for what the fields mean."""

    target: Target
    spec: SparsitySpec
    overrides: Mapping[str, SparsitySpec]
    score: Method
    refit: bool
    allocation: Allocation
    quantize: str | None = None
    budget: Budget | None = None
    mode: Mode = "fast"
    seed: int = 0
    quality: str | Quality | None = None
    executor: Where = "processes"
    recover: Effort | None = None
    recover_loss: Any = None
    checkpoint: Path | None = None
    permute: bool = False
    attention: str | None = None
    online: PlanOnline | None = None
    experts: str | None = None
    keep_experts: str | None = None
    name: str = NAME
    tune: Effort | Path | None = None

    @property
    def searches_weights(self) -> bool:
        """Whether the budget is for weights; where these stay dense it is for attention alone."""
        return self.budget is not None and self.spec.pattern != DENSE

    @property
    def each_drop(self) -> float | None:
        """The drop of quality that each search but that of weights may make, if it is limited.

        Attention, experts and weights share it; what the others leave, weights may use.
        """
        if self.budget is None:
            return None
        searches = (
            self.attention is not None,
            SEARCHED in (self.experts, self.keep_experts),
            self.searches_weights,
        )
        return self.budget.limit / max(1, sum(searches))


def read_budget(
    *, max_drop: float | None, max_ms: float | None, max_bytes: float | None, needed: bool = False
) -> Budget | None:
    """The one budget that was given, if any.

    Raises:
        PlanError: There are several, or none though one is needed, or it is out of range.
    """
    kinds: tuple[tuple[Kind, float | None], ...] = (
        ("drop", max_drop),
        ("ms", max_ms),
        ("bytes", max_bytes),
    )
    given = [Budget(kind, float(limit)) for kind, limit in kinds if limit is not None]
    if len(given) > 1 or (needed and not given):
        raise PlanError(
            f"a search needs one budget, and there are {len(given)}",
            fix="give one of max_drop, max_ms and max_bytes",
        )
    for budget in given:
        most = 1.0 if budget.kind == "drop" else math.inf
        if not 0 < budget.limit <= most or math.isinf(budget.limit):
            raise PlanError(
                f"max_{budget.kind} is {budget.limit:g}",
                fix="max_drop is a share such as 0.01 for one per cent"
                if budget.kind == "drop"
                else "give a positive number",
            )
    return given[0] if given else None


def request_of(
    plan: Plan,
    target: str | None = None,
    executor: str = "processes",
    *,
    backend: str | None = None,
    name: str = NAME,
    tune: str | None = None,
) -> Request:
    """The request that carrying out a plan makes.

    Args:
        plan: The plan.
        target: Another target than the plan's; then the plan's backend counts no more.
        executor: Where layers are worked on.
        backend: Another backend.
        name: Of the library.
        tune: How long to tune generated code, or the file of a database.

    Raises:
        TargetError: The target is unknown, or this machine cannot tune for it.
        PlanError: What the plan does does not go together.
    """
    _check_teacher(bool(plan.removed), bool(plan.permuted), plan.recovery is not None)
    asked = plan.budget
    budget = None if asked is None else Budget(asked.kind, asked.limit)
    again = None if plan.recovery is None else str(Effort(steps=plan.recovery.steps))
    return read_request(
        target or plan.target,
        score=SCORES[-1],
        budget=budget,
        seed=plan.seed,
        executor=executor,
        recover=again,
        backend=backend or (None if target else plan.backend or None),
        name=name,
        tune=tune,
    )


def read_request(
    target: str,
    sparsity: str = "existing",
    overrides: Mapping[str, str] | None = None,
    *,
    score: str,
    refit: bool = True,
    allocation: str = ALLOCATIONS[0],
    quantize: str | None = None,
    budget: Budget | None = None,
    mode: str = MODES[0],
    seed: int = 0,
    quality: str | Quality | None = None,
    executor: str = "processes",
    recover: str | None = None,
    recover_loss: Any = None,
    checkpoint: str | Path | None = None,
    permute: bool = False,
    attention: str | None = None,
    online: str | None = None,
    experts: str | None = None,
    keep_experts: str | None = None,
    backend: str | None = None,
    name: str = NAME,
    tune: str | None = None,
) -> Request:
    """Read a request from what the user wrote.

    Raises:
        TargetError: The target is unknown or cannot be built for, not with this backend, this
            machine has no kernels, or cannot tune for it.
        PlanError: A sparsity, the score, the allocation, the quantization or the effort of a
            recovery cannot be read, or does not go with a budget; an online search has no
            attention, too few steps or another sparsity than there is; or the name is none.
    """
    if recover is None and (recover_loss is not None or checkpoint is not None):
        raise PlanError(
            "a loss or a checkpoint is given for a recovery that nobody asked for",
            fix="say how long it may take, such as recover='10min'",
        )
    _check_attention(attention, online, budget)
    _check_experts(experts, budget, recover)
    _check_kept(keep_experts, budget, attention or experts)
    others_searched = any((attention, experts, keep_experts))
    left = {"existing", "dense"} if others_searched else {"existing"}
    if budget is not None and (sparsity not in left or overrides or quantize):
        raise PlanError(
            "a budget is for a search, which decides on every layer by itself",
            fix="leave out sparsity, overrides and quantize, or the budget",
        )
    spec, others = _spec(sparsity), {name: _spec(text) for name, text in (overrides or {}).items()}
    if removing := next((name for name, each in others.items() if each.removes), None):
        raise PlanError(
            f"{others[removing]} is asked for at {removing!r} alone",
            fix="ask for it as the sparsity of the model; layers that are dense by name stay whole",
        )
    _check_teacher(bool(spec.removes), permute, recover is not None)
    hardware = targets.with_backend(targets.buildable(targets.read(target)), backend)
    if quantize == INT8 and hardware.family == "cuda":
        raise TargetError(
            f"there are no eight-bit kernels for {hardware.name}",
            fix="leave out quantize: kernels for GPUs compute in float16",
        )
    return Request(
        target=hardware,
        spec=spec,
        overrides=others,
        score=_one_of(SCORES, score, "score"),
        refit=refit,
        allocation=_one_of(ALLOCATIONS, allocation, "allocation"),
        quantize=None if quantize is None else _one_of(QUANTIZATIONS, quantize, "quantization"),
        budget=budget,
        mode=_one_of(MODES, mode, "mode"),
        seed=seed,
        quality=quality,
        executor=_one_of(WHERES, executor, "executor"),
        recover=None if recover is None else Effort.parse(recover),
        recover_loss=recover_loss,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        permute=permute,
        attention=attention,
        online=None if online is None else PlanOnline.parse(online),
        experts=experts,
        keep_experts=keep_experts,
        name=check_name(name, hardware),
        tune=None if tune is None else _read_tune(tune, hardware),
    )


def _read_tune(text: str, target: Target) -> Effort | Path:
    """How long to tune, or the database that schedules are taken from."""
    if target.backend == "onnxruntime":
        raise TargetError(
            "tune is for code that TVM generates, and with ONNX Runtime there is none",
            fix="use the backend bundle or tvm, or leave out tune",
        )
    if target.family != "x86-64" or not targets.runs_here(target):
        raise TargetError(
            f"code for {target.name} cannot be timed on this machine, so it cannot be tuned here",
            fix="leave out tune, or compile on such a machine (x86-64 Linux)",
        )
    return Path(text) if text.endswith(".json") else Effort.parse(text)


def _check_attention(attention: str | None, online: str | None, budget: Budget | None) -> None:
    if attention is None:
        if online is not None:
            raise PlanError(
                "an online search is for attention over blocks, and nothing says which",
                fix="give attention, the grid of its tokens, such as 8+16x24x24 or auto",
            )
        return
    if attention != AUTO:
        Grid.parse(attention)
    if budget is not None and budget.kind != "drop":
        raise PlanError(
            f"blocks of attention are searched within a drop of quality, not max_{budget.kind}",
            fix="give max_drop, or no budget",
        )


def _check_experts(experts: str | None, budget: Budget | None, recover: str | None) -> None:
    if experts is None:
        return
    share = read_share(experts, "neurons")
    if share is None and (budget is None or budget.kind != "drop"):
        raise PlanError(
            "experts are searched within a drop of quality, and none is given",
            fix="give max_drop, or the share of neurons that a token goes through, such as 0.25",
        )
    if budget is not None and budget.kind != "drop":
        raise PlanError(
            f"experts are made within a drop of quality, not max_{budget.kind}",
            fix="give max_drop, or no budget",
        )
    if recover is not None:
        raise PlanError(
            "recovery does not train experts",
            fix="leave out experts or recover; or recover first, and make experts of the result",
        )


def _check_kept(kept: str | None, budget: Budget | None, other: str | None) -> None:
    if kept is None or read_share(kept, "experts") is not None:
        return
    if budget is None or budget.kind != "drop":
        raise PlanError(
            "how many experts stay is searched within a drop of quality, and none is given",
            fix="give max_drop, or the share of experts that every mixture keeps, such as 0.75",
        )
    if other is not None:
        raise PlanError(
            f"one search does not decide on the experts that stay and on {other!r} as well",
            fix="give keep_experts as a share, or search for one of them at a time",
        )


def _check_teacher(removes: bool, permutes: bool, recovers: bool) -> None:
    """That the values inside of the dense model mean something to the model it is to teach."""
    if removes and permutes and recovers:
        raise PlanError(
            "a smaller model with channels in another order cannot learn from the dense model",
            fix="leave out one of three: the removal of channels or heads, permute, or recover",
        )


def _spec(text: object) -> SparsitySpec:
    return SparsitySpec.parse(str(text))  # the number 0.8 says as much as "0.8"


def _one_of(names: Sequence[Name], wanted: str, what: str) -> Name:
    for name in names:
        if name == wanted:
            return name
    raise PlanError(f"unknown {what} {wanted!r}", fix=f"use one of {', '.join(names)}")
