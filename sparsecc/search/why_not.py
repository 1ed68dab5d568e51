"""Why the other options of a layer were not taken."""

from __future__ import annotations

from collections.abc import Sequence

from sparsecc.search.plan import PlanOption

RUNNER_UP = "runner-up: "


def explain(options: Sequence[PlanOption], chosen: PlanOption) -> tuple[PlanOption, ...]:
    """The options of a layer, fastest first, each but the chosen one with why it was not taken.

    Args:
        options: All of them, with losses.
        chosen: One of them.
    """
    second = _runner_up(options, chosen)
    ranked = sorted(options, key=lambda each: (each.predicted_ms, _loss(each)))
    return tuple(
        each.model_copy(
            update={"why_not": (RUNNER_UP if each is second else "") + _why_not(each, chosen)}
        )
        if each is not chosen
        else each
        for each in ranked
    )


def _loss(option: PlanOption) -> float:
    return option.loss or 0.0


def _runner_up(options: Sequence[PlanOption], chosen: PlanOption) -> PlanOption | None:
    """The one nearest to the choice, in shares of the longest time and of the largest loss."""
    longest = max(each.predicted_ms for each in options) or 1.0
    largest = max(map(_loss, options)) or 1.0

    def apart(each: PlanOption) -> float:
        slower = abs(each.predicted_ms - chosen.predicted_ms) / longest
        return slower + abs(_loss(each) - _loss(chosen)) / largest

    return min((each for each in options if each is not chosen), key=apart, default=None)


def _why_not(each: PlanOption, chosen: PlanOption) -> str:
    times = chosen.predicted_ms / each.predicted_ms if each.predicted_ms else 1.0
    if times <= 1 and _loss(each) >= _loss(chosen):
        return "neither faster nor closer to the dense layer"
    error = f"is off by {_loss(each):.2%} of the layer's output, not {_loss(chosen):.2%}"
    return (
        f"{times:.2f}x as fast, but {error}" if times > 1 else f"{error}, but {times:.2f}x as fast"
    )


__all__ = ["RUNNER_UP", "explain"]
