"""Which blocks each head of a video transformer keeps, found on sample inputs, head by head.

Every mode is tried on the same queries, keys and values, and weighed by

    loss = ‖Oᵢ − O₀‖² / ‖O₀‖² + λ · tᵢ / t₀

where ‖O₀‖² is that of an average head of its layer: a head that says little may then be left out,
whatever the scale of its layer. Layers behind see what was chosen before them.

Source: Chen et al., Sparse-vDiT (arXiv 2506.03065), section 3.3, with a relative error in the place
of the mean squared one, and predicted time in that of the share of blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.attention.estimate import head_ms
from sparsecc.passes.attention.losses import attend_kept, column_mass, squared_errors
from sparsecc.passes.attention.modes import Grid, Pattern
from sparsecc.passes.attention.offers import FULL, Offer, offers
from sparsecc.passes.attention.rules import BLOCK
from sparsecc.progress import Counted
from sparsecc.quality.calibration import Feed
from sparsecc.quality.relay import Relay
from sparsecc.targets import Target

Floats = NDArray[np.float64]
Tokens = Sequence[NDArray[np.float32]]
"""Queries, keys and values of a batch, each [batch, heads, tokens, features]."""


@dataclass(frozen=True)
class Price:
    """What decides between an error and a time.

    Attributes:
        time: λ, the error that all of a head's time is worth.
        most: ε, the loss up to which a head does not stay full.
    """

    time: float
    most: float

    @classmethod
    def of(cls, time: float) -> Price:
        """The price under which a full head, of no error and all of its time, is an offer too."""
        return cls(time, time)


PAPER = Price(0.5, 1.0)
"""Of Sparse-vDiT."""


@dataclass(frozen=True)
class Weighed:
    """What was tried for a head.

    Attributes:
        offers: What it may keep, :data:`FULL` not among it.
        errors: Of each for each sample [samples, offers].
        densities: Share of blocks of each.
        ms: Predicted time of each.
        full_ms: Predicted time of all blocks.
    """

    offers: tuple[Offer, ...]
    errors: Floats
    densities: Floats
    ms: Floats
    full_ms: float

    def losses(self, price: Price) -> Floats:
        """Of each, the mean over samples [offers]."""
        mean: Floats = self._by_sample(price).mean(axis=0)
        return mean

    def chosen(self, price: Price) -> int | None:
        """The offer that is taken; None for all blocks."""
        return _least(self.losses(price), price)

    def offer(self, price: Price) -> Offer:
        """What is kept."""
        return self._named(self.chosen(price))

    def preferred(self, price: Price) -> list[Offer]:
        """What each sample alone would have chosen."""
        return [self._named(_least(losses, price)) for losses in self._by_sample(price)]

    def _by_sample(self, price: Price) -> Floats:
        found: Floats = self.errors + price.time * self.ms / self.full_ms
        return found

    def _named(self, at: int | None) -> Offer:
        return FULL if at is None else self.offers[at]


def _least(losses: Floats, price: Price) -> int | None:
    best = int(losses.argmin())
    return best if losses[best] <= price.most else None


Table = dict[str, list[Weighed]]
"""Name of an attention → what was tried for each of its heads."""


def weigh(
    model: ir.Model,
    grids: Mapping[str, Grid],
    feeds: Sequence[Feed],
    target: Target,
    *,
    price: Price,
    told: Counted,
) -> Table:
    """Try every offer for every head.

    Args:
        model: In it, an op without blocks for each attention.
        grids: Name of such an op → the grid of its tokens.
        feeds: Sample inputs.
        target: What times are predicted for.
        price: By which is chosen what layers behind see.
        told: Of progress.

    Raises:
        CalibrationError: The model does not run on a sample.
    """
    table: Table = {}
    stops = [node for node in model.graph if node.name in grids]
    with Relay(model, stops, feeds) as relay:
        for node in relay:
            name, scale = str(node.name), node.attributes["scale"].as_float()
            grid, batches = grids[name], range(len(feeds))
            told(f"blocks of {name}", len(table), len(stops))
            table[name] = _weighed([relay.operands(at) for at in batches], scale, grid, target)
            patterns = [each.offer(price).pattern(grid, BLOCK) for each in table[name]]
            for at in batches:
                relay.put(at, attend(relay.operands(at), scale, patterns))
    return table


def _weighed(batches: Sequence[Tokens], scale: float, grid: Grid, target: Target) -> list[Weighed]:
    samples = [[part[at] for part in batch] for batch in batches for at in range(len(batch[0]))]
    heads = samples[0][0].shape[0]
    tried = [_offers(samples, head, scale, grid) for head in range(heads)]
    errors, energy = zip(
        *(
            _errors(samples, head, scale, [each.pattern(grid, BLOCK) for each in tried[head]])
            for head in range(heads)
        ),
        strict=True,
    )
    mean_head = np.mean(energy, axis=0)[:, None]
    dim = samples[0][0].shape[-1]
    return [
        _of_head(tried[head], _relative(errors[head], mean_head), grid, dim, target)
        for head in range(heads)
    ]


def _offers(samples: Sequence[Tokens], head: int, scale: float, grid: Grid) -> list[Offer]:
    mass = sum(column_mass(q[head], k[head], scale, BLOCK) for q, k, _ in samples)
    return offers(grid, BLOCK, np.asarray(mass))


def _errors(
    samples: Sequence[Tokens], head: int, scale: float, patterns: Sequence[Pattern]
) -> tuple[Floats, Floats]:
    """Σ‖Oᵢ − O₀‖² of a head [samples, patterns], and Σ‖O₀‖² [samples]."""
    errors, energy = np.zeros((len(samples), len(patterns))), np.zeros(len(samples))
    for in_order in (False, True):
        these = [at for at, each in enumerate(patterns) if (each.order is not None) == in_order]
        if not these:
            continue
        order = patterns[these[0]].order
        kept = np.stack([patterns[at].kept for at in these])
        for at, sample in enumerate(samples):
            q, k, v = (part[head] if order is None else part[head][order] for part in sample)
            errors[at, these], energy[at] = squared_errors(q, k, v, scale, kept, BLOCK)
    return errors, energy


def _relative(errors: Floats, energy: Floats) -> Floats:
    """Errors over energies; a layer that says nothing loses nothing."""
    found: Floats = errors / np.where(energy > 0, energy, 1)
    return found


def _of_head(
    tried: Sequence[Offer], errors: Floats, grid: Grid, dim: int, target: Target
) -> Weighed:
    patterns = [each.pattern(grid, BLOCK) for each in tried]
    ms = np.array([head_ms(each, grid.tokens, dim, target) for each in patterns])
    full_ms = head_ms(FULL.pattern(grid, BLOCK), grid.tokens, dim, target)
    densities = np.array([each.density for each in patterns])
    return Weighed(tuple(tried), errors, densities, ms, full_ms)


def attend(tokens: Tokens, scale: float, patterns: Sequence[Pattern]) -> NDArray[np.float32]:
    """The outputs of all heads of a batch, one pattern for each head."""
    made = np.zeros_like(tokens[0])
    for sample in range(len(made)):
        for head, pattern in enumerate(patterns):
            order = slice(None) if pattern.order is None else pattern.order
            q, k, v = (part[sample, head][order] for part in tokens)
            made[sample, head, order] = attend_kept(q, k, v, scale, pattern.kept, pattern.block)
    return made


def outputs(
    model: ir.Model, patterns: Mapping[str, Sequence[Pattern]], feeds: Sequence[Feed]
) -> list[list[NDArray[np.generic]]]:
    """What a model with ops without blocks makes of each feed where these keep those blocks."""
    stops = [node for node in model.graph if node.name in patterns]
    with Relay(model, stops, feeds) as relay:
        for node in relay:
            scale = node.attributes["scale"].as_float()
            for at in range(len(feeds)):
                relay.put(at, attend(relay.operands(at), scale, patterns[str(node.name)]))
        return [relay.outputs(at) for at in range(len(feeds))]
