"""Mixtures of experts become one op, in whatever form they were written. Exact.

Around every choice of experts (TopK, ArgMax) a part of the model is looked for that multiplies
tokens with weights of several experts (`block.py`, `products.py`); what it computes is then found
out, and proved, by running it (`hypotheses.py`, `proof.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.errors import BackendError, ModelError
from sparsecc.ops.moe import LEAST_OPSET
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import is_op
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.moe import REWRITTEN, contrib, proof
from sparsecc.passes.moe.block import (
    Block,
    Expert,
    above,
    block,
    experts_above,
    joins,
    sources,
)
from sparsecc.passes.moe.choice import Choice, choice_of
from sparsecc.passes.moe.dequantize import as_constants
from sparsecc.passes.moe.hypotheses import hypotheses
from sparsecc.passes.moe.proof import Array, Probe, Runner, Sizes
from sparsecc.passes.moe.write import Experts, Found, rewrite

_MOST_JOINS = 24
"""Values after a choice that are looked at: exporters write the last sum within a dozen."""
_MOST_ROWS = 256
"""Tokens of a probe whose results are compared."""
_UNSIZED = "tokens whose sizes are not known"
_UNPROVED = "what is between the products of its experts is no known activation"


class Mixtures(Pass):
    """Every mixture of experts becomes the op; routing stays in front of it."""

    name: ClassVar[str] = "mixtures"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Rewrite each mixture of the main graph, the last one first."""
        rewritten = model.metadata_props.pop(REWRITTEN, None)
        if rewritten:
            ctx.refuse(self.name, None, f"exported with every expert on every token: {rewritten}")
        if model.opset_imports.get("", 0) < LEAST_OPSET:
            return False
        modified = False
        for node in list(model.graph):
            if contrib.is_contrib(node):
                reason = contrib.lower(node)
                modified |= reason is None
                if reason:
                    ctx.refuse(self.name, node, reason)
        with as_constants(model):
            modified |= self._rewrite(model, ctx)
        if modified:
            model.opset_imports[ops.DOMAIN] = ops.VERSION
            ops.attach_functions(model)  # so that it runs wherever it is measured
        return modified

    def _rewrite(self, model: ir.Model, ctx: Context) -> bool:
        """Mixtures in standard ops."""
        modified, reader = False, _Reader(model)
        for node in reversed(list(model.graph)):
            choice = choice_of(node)
            found = reader.found(choice) if choice is not None else None
            if isinstance(found, str):
                ctx.refuse(self.name, node, found)
            elif found is not None:
                rewrite(found)
                modified = True
        return modified


class _Reader:
    """Reads the mixtures of one model."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._shapes = Shapes(model)

    def found(self, choice: Choice) -> Found | str | None:
        """The mixture behind a choice; why it is none; None where nothing looks like one."""
        made: set[ir.Node] = set()
        reason = None
        for result in islice(joins(choice.chosen, made), _MOST_JOINS):
            if not result.shape or len(result.shape) < 2 or result.dtype == ir.DataType.INT64:
                continue
            experts = experts_above(result)
            if experts is None:
                continue
            outcome: Found | str
            if isinstance(experts, str):
                outcome = experts
            else:
                outcome = self._proved(choice, result, experts, made)
            if isinstance(outcome, Found):
                return outcome
            reason = outcome if reason in (None, _UNPROVED) else reason
        return reason

    def _proved(
        self, choice: Choice, result: ir.Value, experts: list[Expert], made: set[ir.Node]
    ) -> Found | str:
        count = experts[0].down.weight.shape[0] if experts[0].down.is_stacked else len(experts)
        wrong = _misfit(choice, result, count)
        if wrong:
            return wrong
        sizes, reason = Sizes(self._shapes), _UNPROVED
        tokens = sizes.of(result)
        width = experts[0].ups[0].size[1]
        if tokens is None or tokens[-1] != width:
            return _UNSIZED
        total = math.prod(tokens)
        for x in sources(experts, made):
            dims = sizes.of(x)
            if dims is None or dims[-1] != width or math.prod(dims) != total:
                continue
            trial = _Trial(self._model, sizes, choice, result, x, experts, made)
            outcome = trial.outcome()
            if not isinstance(outcome, str):
                gates, by_expert, place, proved = outcome
                shape = self._shape(result, x, choice.chosen)
                if shape is None:
                    return _UNSIZED
                return Found(
                    result, x, choice.chosen, gates, by_expert, proved, choice.k, place, shape
                )
            reason = outcome if reason == _UNPROVED else reason
        return reason

    def _shape(
        self, result: ir.Value, x: ir.Value, chosen: ir.Value
    ) -> ir.Value | list[int] | None:
        """What says the dimensions of the result: those of a value, or numbers."""
        terms = self._shapes.terms(result) or ()
        if sum(not isinstance(term, int) for term in terms) <= 1:
            return [term if isinstance(term, int) else -1 for term in terms]
        if self._shapes.terms(x) == terms:
            return x
        routed = self._shapes.terms(chosen)
        alike = routed is not None and len(routed) == len(terms) and routed[:-1] == terms[:-1]
        return chosen if alike else None


def _misfit(choice: Choice, result: ir.Value, count: int) -> str | None:
    assert choice.scores.shape is not None
    offered = choice.scores.shape[-1]
    if isinstance(offered, int) and choice.k > offered:
        raise ModelError(
            f"{choice.k} experts are chosen of {offered}",
            node=choice.node.name,
            fix="choose at most as many experts as the router has outputs",
        )
    if offered != count:
        return f"{count} experts, and a router with {offered} outputs"
    if result.dtype != ir.DataType.FLOAT:
        return "a mixture of experts in another type than float32"
    return None


class _Trial:
    """Tries whether a part of a model is a mixture of experts of these tokens."""

    def __init__(
        self,
        model: ir.Model,
        sizes: Sizes,
        choice: Choice,
        result: ir.Value,
        x: ir.Value,
        experts: list[Expert],
        made: set[ir.Node],
    ) -> None:
        self._opsets, self._sizes = model.opset_imports, sizes
        self._choice, self._result, self._x, self._experts = choice, result, x, experts
        self._count = next(hypotheses(experts)).count
        self._rng = np.random.default_rng(0)
        width = experts[0].ups[0].size[1]
        self._tokens = math.prod(sizes.of(x) or ()) // width
        products = {product.node for e in experts for product in (*e.ups, e.down)}

        def ends(node: ir.Node) -> bool:
            return node is x.producer() or is_op(node, "Shape", "TopK")

        ways = set(above([expert.down.node.outputs[0] for expert in experts], ends))
        self._behind = set(products)
        inside = set(made) | ways
        upward = set(above([result], ends))
        for node in model.graph:
            if node in upward:
                makers = {value.producer() for value in node.inputs if value is not None}
                if makers & self._behind:
                    self._behind.add(node)
                if makers & (self._behind | made):
                    inside.add(node)
        self._inside = inside - {choice.node}

    def outcome(self) -> tuple[ir.Value, bool, str, Experts] | str:
        """Gates, whether of all experts, where they multiply, and what experts are; or why not."""
        whole = block(self._result, [self._x, self._choice.chosen], self._inside)
        reason = _UNPROVED
        attempts: list[tuple[Callable[[ir.Value], _Outcome], int]] = [
            (self._by_slot, self._choice.k),
            (self._by_expert, self._count),
        ]
        for attempt, width in attempts:
            for gates in self._gates(whole, width):
                outcome = attempt(gates)
                if isinstance(outcome, tuple):
                    place, experts = outcome
                    return gates, attempt == self._by_expert, place, experts
                reason = outcome or reason
        return reason

    def _gates(self, whole: Block, width: int) -> Iterator[ir.Value]:
        """Values with a number for every token and choice: given ones, then the nearest ones."""
        made = [value for node in reversed(whole.nodes) for value in node.outputs]
        for value in (*whole.given, *made):
            dims = self._sizes.of(value)
            plain = value.producer() not in self._behind and value is not self._x
            if plain and value.dtype == ir.DataType.FLOAT and dims is not None:
                last = [dim for dim in dims if dim != 1][-1:]
                if math.prod(dims) == self._tokens * width and last in (
                    [width],
                    [],
                    list(dims[:1]),
                ):
                    yield value

    def _by_slot(self, gates: ir.Value) -> _Outcome:
        """Whether gates ``[T, k]`` and the choice say all."""
        cut = block(self._result, [self._x, self._choice.chosen, gates], self._inside)
        if set(cut.given) != {self._x, self._choice.chosen, gates}:
            return None
        reason = proof.suspect(cut, self._tokens)
        if reason:
            return reason
        k = self._choice.k
        *all_of_them, same = proof.choices(self._tokens, self._count, k, self._rng)
        probes = [self._probe(proof.NEAR, chosen, k) for chosen in (*all_of_them, same)]
        probes += [self._probe(proof.FAR, chosen, k) for chosen in all_of_them]
        return self._fitting(cut, gates, probes)

    def _by_expert(self, gates: ir.Value) -> _Outcome:
        """Whether gates ``[T, E]`` say all, and are zero where an expert was not chosen."""
        dims = self._sizes.of(gates)
        cut = block(self._result, [self._x, gates], self._inside)
        if dims is None or dims[-1] != self._count or set(cut.given) != {self._x, gates}:
            return None
        reason = proof.suspect(cut, self._tokens)
        if reason or not self._is_zero_elsewhere(gates):
            return reason
        everyone = np.tile(np.arange(self._count), (self._tokens, 1))
        probes = [self._probe(spread, everyone, self._count) for spread in (proof.NEAR, proof.FAR)]
        found = self._fitting(cut, gates, probes)
        return found if not isinstance(found, tuple) or self._gives_nothing(*found) else None

    def _gives_nothing(self, place: str, experts: Experts) -> bool:
        """Whether an expert that gets zeros of a token, as one that was not chosen, gives zeros."""
        if place == "result":
            return True
        x = np.zeros((1, experts.features), np.float32)
        everyone = np.arange(experts.count)[None]
        zeros = ops.mixture(
            experts.activation, x, everyone, np.ones(everyone.shape, np.float32), experts.weights
        )
        return not zeros.any()

    def _is_zero_elsewhere(self, gates: ir.Value) -> bool:
        cut = block(gates, [self._choice.chosen], self._inside)
        if self._choice.chosen not in cut.given or any(map(proof.compares_floats, cut.nodes)):
            return False
        run = self._runner(cut, gates)
        for chosen in proof.choices(self._tokens, self._count, self._choice.k, self._rng):
            given = proof.feeds(cut, self._sizes, {self._choice.chosen: chosen}, self._rng)
            made = run(given) if run is not None and given is not None else None
            if made is None or made.size != self._tokens * self._count:
                return False
            rest = made.reshape(self._tokens, self._count).copy()
            np.put_along_axis(rest, chosen, 0, axis=1)
            if rest.any():
                return False
        return True

    def _probe(self, spread: float, chosen: np.ndarray, width: int) -> Probe:
        first = self._experts[0].ups[0].weight.numpy()
        first = first[0] if first.ndim == 3 else first
        x = proof.tokens_for(first, self._tokens, spread, self._rng)
        gates = self._rng.uniform(0.1, 1, (self._tokens, width)).astype(np.float32)
        return Probe(x, chosen, gates)

    def _runner(self, cut: Block, result: ir.Value) -> Callable[..., np.ndarray | None] | None:
        try:
            run = Runner(cut, result, self._opsets)
        except BackendError:
            return None

        def attempt(given: dict[ir.Value, np.ndarray]) -> np.ndarray | None:
            try:
                return run(given)
            except BackendError:
                return None

        return attempt

    def _fitting(self, cut: Block, gates: ir.Value, probes: Sequence[Probe]) -> _Outcome:
        """The experts that agree with a block on every probe."""
        run, made = self._runner(cut, self._result), list[Array]()
        rows = self._rng.permutation(self._tokens)[:_MOST_ROWS]
        for probe in probes:
            named: dict[ir.Value, Array] = {self._x: probe.x, gates: probe.gates}
            named[self._choice.chosen] = probe.chosen
            given = proof.feeds(cut, self._sizes, named, self._rng)
            if run is None or given is None:
                return None
            result = run(given)
            if result is None:
                return "what may be its experts does not run for every choice of them"
            if result.size != probe.x.size:
                return None
            made.append(result.reshape(self._tokens, -1)[rows])
        for experts in hypotheses(self._experts):
            for place in ("result", "tokens"):
                if all(
                    proof.agrees(
                        result, proof.meaning(experts, probe, rows, on_tokens=place == "tokens")
                    )
                    for probe, result in zip(probes, made, strict=True)
                ):
                    return place, experts
        return None


_Outcome = tuple[str, Experts] | str | None
"""Where gates multiply and what experts are; why there is no mixture; None: another is tried."""

__all__ = ["Mixtures"]
