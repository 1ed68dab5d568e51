"""Which blocks each head of a video transformer keeps, found on sample inputs, head by head.

Every mode is tried on the same queries, keys and values, and weighed by

    loss = ‖Oᵢ − O₀‖² / ‖O₀‖² + λ · tᵢ / t₀

where ‖O₀‖² is that of an average head of its layer: a head that says little may then be left out,
whatever the scale of its layer. Layers behind see what was chosen before them.

Source: Chen et al., Sparse-vDiT (arXiv 2506.03065), section 3.3, with a relative error in the place
of the mean squared one, and predicted time in that of the share of blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.executor import in_threads
from sparsecc.passes.attention.estimate import head_ms
from sparsecc.passes.attention.losses import Losses, attend_kept, losses
from sparsecc.passes.attention.modes import Grid, Pattern
from sparsecc.passes.attention.offers import FULL, Offer, bands, offers
from sparsecc.passes.attention.rules import BLOCK
from sparsecc.progress import Counted
from sparsecc.quality.calibration import Feed
from sparsecc.quality.relay import Relay
from sparsecc.targets import Target

Floats = NDArray[np.float64]
Whole = NDArray[np.float32]
"""Outputs of a batch [batch, heads, tokens, features]."""
Tokens = Sequence[NDArray[np.float32]]
"""Queries, keys and values of a batch, each [batch, heads, tokens, features]."""
Keeping = Callable[[Tokens, float], Sequence[Pattern]]
"""What the heads of an attention keep of the tokens of a batch, with what scores are scaled by."""
Watch = Callable[[str, Tokens, float, Sequence[Pattern]], None]
"""Told the name of an attention, what is given to a :data:`Keeping`, and what it says."""


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
            tokens = [relay.operands(at) for at in batches]
            table[name], whole = _weighed(tokens, scale, grid, target)
            patterns = [each.offer(price).pattern(grid, BLOCK) for each in table[name]]
            for at in batches:
                relay.put(at, attend(tokens[at], scale, patterns, whole[at]))
    return table


def _weighed(
    batches: Sequence[Tokens], scale: float, grid: Grid, target: Target
) -> tuple[list[Weighed], list[Whole]]:
    """What was tried for each head, and what heads make of each batch over all keys."""
    samples = [[part[at] for part in batch] for batch in batches for at in range(len(batch[0]))]
    heads, dim = len(samples[0][0]), samples[0][0].shape[-1]
    moved = bands(grid, BLOCK, "multi-diagonal")
    first = _losses(samples, scale, grid, [moved] * heads)
    mass = [np.sum([sample[head].mass for sample in first], axis=0) for head in range(heads)]
    tried = [offers(grid, BLOCK, each) for each in mass]
    staying = [[offer for offer in each if offer not in moved] for each in tried]
    second = _losses(samples, scale, grid, staying)
    whole = np.array([[head.whole for head in sample] for sample in second])
    energy = np.square(whole, dtype=np.float64).sum(axis=(2, 3)).mean(axis=1, keepdims=True)
    found = []
    for head in range(heads):
        places = [tried[head].index(offer) for offer in (*moved, *staying[head])]
        both = zip(first, second, strict=True)
        errors = np.empty((len(samples), len(places)))
        errors[:, places] = [[*one[head].errors, *other[head].errors] for one, other in both]
        found.append(_of_head(tried[head], _relative(errors, energy), grid, dim, target))
    return found, np.split(whole, np.cumsum([len(batch[0]) for batch in batches])[:-1])


def _losses(
    samples: Sequence[Tokens], scale: float, grid: Grid, tried: Sequence[Sequence[Offer]]
) -> list[list[Losses]]:
    """Of every head of every sample [samples][heads], with what is tried for each head."""
    patterns = [[offer.pattern(grid, BLOCK) for offer in of_head] for of_head in tried]

    def of(place: tuple[int, int]) -> Losses:
        sample, head = place
        return _in_order([part[head] for part in samples[sample]], scale, patterns[head])

    heads = len(tried)
    found = in_threads(of, itertools.product(range(len(samples)), range(heads)))
    return [found[at : at + heads] for at in range(0, len(found), heads)]


def _in_order(tokens: Tokens, scale: float, patterns: Sequence[Pattern]) -> Losses:
    """Losses of a head by patterns that are all of one order of its tokens."""
    blocks = -(-len(tokens[0]) // BLOCK)
    kept = np.array([each.kept for each in patterns], bool).reshape(-1, blocks, blocks)
    order = patterns[0].order if patterns else None
    q, k, v = tokens if order is None else (part[order] for part in tokens)
    found = losses(q, k, v, scale, kept, BLOCK)
    if order is None:
        return found
    back = np.argsort(order)
    return Losses(found.errors, found.whole[back], found.mass[back])


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


def attend(
    tokens: Tokens, scale: float, patterns: Sequence[Pattern], whole: Whole | None = None
) -> Whole:
    """The outputs of all heads of a batch.

    Args:
        tokens: Queries, keys and values.
        scale: On the scores.
        patterns: Of each head.
        whole: What heads make over all keys, if that is known.
    """
    made = np.zeros_like(tokens[0])

    def put(place: tuple[int, int]) -> None:
        sample, head = place
        pattern = patterns[head]
        if whole is not None and pattern.mode == "full":
            made[place] = whole[place]
            return
        order = slice(None) if pattern.order is None else pattern.order
        q, k, v = (part[place][order] for part in tokens)
        made[sample, head, order] = attend_kept(q, k, v, scale, pattern.kept, pattern.block)

    in_threads(put, np.ndindex(made.shape[:2]))
    return made


def always(patterns: Sequence[Pattern]) -> Keeping:
    """What does not depend on the tokens."""
    return lambda tokens, scale: patterns


def outputs(
    model: ir.Model,
    keeping: Mapping[str, Keeping],
    feeds: Sequence[Feed],
    watch: Watch = lambda *_: None,
) -> list[list[NDArray[np.generic]]]:
    """What a model makes of each feed where its attentions keep some of their blocks.

    Args:
        model: In it, an op without blocks for each attention.
        keeping: Name of such an op → what its heads keep; others keep all.
        feeds: What the model is given.
        watch: Told what is kept of each.

    Raises:
        CalibrationError: The model does not run on a feed.
    """
    stops = [node for node in model.graph if node.name in keeping]
    with Relay(model, stops, feeds) as relay:
        for node in relay:
            name, scale = str(node.name), node.attributes["scale"].as_float()
            for at in range(len(feeds)):
                tokens = relay.operands(at)
                patterns = keeping[name](tokens, scale)
                watch(name, tokens, scale, patterns)
                relay.put(at, attend(tokens, scale, patterns))
        return [relay.outputs(at) for at in range(len(feeds))]
