"""What experts lose of each feed-forward network of a model, on calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.ops.activations import BY_NAME
from sparsecc.passes.split.find import FeedForward, Linear
from sparsecc.passes.split.group import Groups, group
from sparsecc.passes.split.router import Router, best, brought, train
from sparsecc.passes.weights.layers import matrix
from sparsecc.progress import Counted
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.relay import Relay
from sparsecc.search.mixtures import Grouping

Array = NDArray[np.float32]
NEURONS = 32
"""Of an expert."""
FEWEST = 4
"""Experts that there must be for a choice of them to be worth anything."""
MOST_DENSITY = 0.3
"""Of hidden features that are not zero; with more, too many experts are needed for every token."""
SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Of the experts, that a token may go through."""
GROUPINGS: tuple[Grouping, ...] = ("weights", "activations")
_TRAINED_ON, _JUDGED_ON = 32_768, 2048
"""Tokens at most."""


@dataclass(frozen=True)
class Sample:
    """Tokens of a network with what its activation makes of them.

    Attributes:
        x: ``[tokens, features]``.
        active: What is activated, behind the activation ``[tokens, neurons]``.
        hidden: The same times the gate, if there is one.
    """

    x: Array
    active: Array
    hidden: Array

    @property
    def density(self) -> float:
        """Share of hidden features that are not zero."""
        return float(np.count_nonzero(self.hidden) / max(1, self.hidden.size))


@dataclass(frozen=True)
class Split:
    """Neurons as experts, with a router.

    Attributes:
        groups: Neurons of each expert.
        router: Chooses among them.
    """

    groups: Groups
    router: Router


@dataclass(frozen=True)
class Weighed:
    """A network with what was tried for it.

    Attributes:
        found: The network.
        density: Of its hidden features.
        grouping: The better of the two.
        split: By that; None where it was not tried.
        losses: Experts of a token → relative error of the output on held-out tokens, or on those
            trained on where nothing is held out.
        shares: Experts of a token → of the chosen slots, how many each expert gets.
        reason: Why nothing was tried, or "".
    """

    found: FeedForward
    density: float
    grouping: Grouping
    split: Split | None
    losses: dict[int, float]
    shares: dict[int, list[float]]
    reason: str = ""


def counts(experts: int, share: float | None = None) -> list[int]:
    """How many experts of a token are tried, fewest first; those of one share where it is given."""
    wanted = SHARES if share is None else (share,)
    return sorted({min(experts, max(1, round(experts * each))) for each in wanted})


def weigh(
    model: ir.Model,
    networks: Sequence[FeedForward],
    data: Calibration,
    *,
    share: float | None,
    seed: int,
    told: Counted,
) -> Iterator[Weighed]:
    """Try experts for networks, one after the other; each sees the dense model before it.

    Args:
        model: It is not changed.
        networks: Of the model.
        data: What they are tried on.
        share: Of the neurons, that a token goes through; None tries :data:`SHARES`.
        seed: Of tokens, clusters and routers.
        told: Called as (what, steps done, steps in all).
    """
    for at, (found, here, judged) in enumerate(samples(model, networks, data, seed, told)):
        yield tried(found, here, judged, share, (seed, at))


def samples(
    model: ir.Model, networks: Sequence[FeedForward], data: Calibration, seed: int, told: Counted
) -> Iterator[tuple[FeedForward, Sample, Sample]]:
    """Each network with tokens to train on and tokens to judge by, those again if there are none.

    Args:
        model: It is not changed.
        networks: Of the model, in its order.
        data: Where tokens are from.
        seed: Of the choice of tokens.
        told: Called as (what, steps done, steps in all).
    """
    by_node = {each.up.layer.node: each for each in networks}
    batches, train_on = data.batches, len(data.train)
    with Relay(model, list(by_node), batches) as relay:
        for done, node in enumerate(relay):
            found, rng = by_node[node], np.random.default_rng([seed, done])
            told(f"experts of {found.name}", done, len(networks))
            seen = [relay.operands(batch)[0] for batch in range(len(batches))]
            weight, bias = matrix(found.up.layer).T, _own_bias(found.up)
            for batch, x in enumerate(seen):
                relay.put(batch, x @ weight + bias)
            here = sample(found, seen[:train_on], _TRAINED_ON, rng)
            judged = sample(found, seen[train_on:], _JUDGED_ON, rng) if data.held_out else here
            yield found, here, judged


def _own_bias(linear: Linear) -> Array:
    """What the node of a layer itself adds."""
    return linear.bias if linear.end is linear.layer.node else np.zeros_like(linear.bias)


def sample(
    found: FeedForward, seen: Sequence[Array], most: int, rng: np.random.Generator
) -> Sample:
    """Some tokens of batches, drawn from all alike where there are more than `most`."""
    rows = np.concatenate([each.reshape(-1, found.features) for each in seen])
    if len(rows) > most:
        rows = rows[np.sort(rng.choice(len(rows), most, replace=False))]
    weights = found.weights()
    active = BY_NAME[found.activation].meaning(rows @ weights["up"].T + weights["up_bias"])
    hidden = active
    if found.gate is not None:
        hidden = active * (rows @ weights["gate"].T + weights["gate_bias"])
    return Sample(rows, active, hidden)


def tried(
    found: FeedForward,
    here: Sample,
    judged: Sample,
    share: float | None,
    seed: tuple[int, int],
) -> Weighed:
    """Both ways to group the neurons of a network, and what experts lose."""
    density = here.density
    if reason := _why_not(found, density):
        return Weighed(found, density, GROUPINGS[0], None, {}, {}, reason)
    experts = found.neurons // NEURONS
    options = counts(experts, share)
    splits = {kind: split(found, kind, experts, here, seed) for kind in GROUPINGS}
    losses = {kind: losses_of(found, each, judged, options) for kind, each in splits.items()}
    kind = min(GROUPINGS, key=lambda each: sum(losses[each].values()))
    order = best(splits[kind].router.scores(here.x), experts)
    shares = {
        count: (
            np.bincount(order[:, :count].reshape(-1), minlength=experts) / (len(order) * count)
        ).tolist()
        for count in options
    }
    return Weighed(found, density, kind, splits[kind], losses[kind], shares)


def _why_not(found: FeedForward, density: float) -> str:
    if found.neurons % NEURONS or found.neurons < FEWEST * NEURONS:
        return f"{found.neurons} hidden features are not {FEWEST} or more experts of {NEURONS} each"
    if density > MOST_DENSITY:
        tuned = "" if found.activation == "relu" else ": tune the model to ReLU first"
        return (
            f"{density:.0%} of its hidden features are not zero behind {found.activation}, at most "
            f"{MOST_DENSITY:.0%} may be{tuned}"
        )
    return ""


def split(
    found: FeedForward, kind: Grouping, experts: int, here: Sample, seed: tuple[int, int]
) -> Split:
    """Group the neurons of a network, and train a router.

    Args:
        found: The network.
        kind: How neurons are grouped.
        experts: Into how many parts.
        here: What to train on.
        seed: The same gives the same.
    """
    rng = np.random.default_rng([*seed, GROUPINGS.index(kind)])
    weights = found.weights()
    groups = group(kind, experts, weights["up"], here.active > 0, rng)
    wanted = brought(here.hidden, groups, weights["down"])
    return Split(groups, train(here.x, wanted, weights["up"], groups, rng))


def losses_of(
    found: FeedForward, made: Split, judged: Sample, options: Sequence[int]
) -> dict[int, float]:
    """Experts of a token → relative error of the output."""
    down, order = found.weights()["down"], best(made.router.scores(judged.x), len(made.groups))
    hidden = judged.hidden[:, made.groups.reshape(-1)].reshape(
        len(judged.hidden), *made.groups.shape
    )
    columns = down[:, made.groups.reshape(-1)].T
    whole = np.square(hidden.reshape(len(hidden), -1) @ columns).sum(dtype=np.float64)
    rank = np.argsort(order, axis=1)
    found_losses = {}
    for count in options:
        left_out = np.where((rank >= count)[:, :, None], hidden, np.float32(0))
        lost = np.square(left_out.reshape(len(hidden), -1) @ columns).sum(dtype=np.float64)
        found_losses[count] = float(lost / max(whole, np.finfo(np.float64).tiny))
    return found_losses
