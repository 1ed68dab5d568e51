"""How far from the dense model a plan may be to lose just as much quality as it may.

Drops of some hundred samples are noisy, and plans that were picked because they measured well are
the lucky ones. Distances are not: so plans are made for a distance, and what was measured of others
says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparsecc.search.scored import Scored

MOST_STEP = 3.0
"""How much further than the furthest plan that is known to be good, at most."""
LEAST_NEARER, MOST_NEARER = 1.3, 30.0
"""How much nearer than a plan that lost too much, at least and at most."""
_INSIDE = 0.1
"""Share of the way between a good and a bad plan that is kept from either."""


def allowance(plans: Sequence[Scored], limit: float) -> float:
    """The distance that a drop of ``limit`` is to be expected at.

    The drop is taken to rise with the distance, evenly between two plans (after the least squares
    correction of those that say otherwise), and in proportion beyond the last of them.

    Args:
        plans: What was measured.
        limit: The drop that is allowed.

    Returns:
        ``limit`` itself where nothing was measured.
    """
    from scipy.optimize import isotonic_regression  # long to import, and only a search needs it

    changed = sorted(
        (plan for plan in plans if plan.distance > 0 and math.isfinite(plan.drop)),
        key=lambda plan: (plan.distance, plan.drop),
    )
    if not changed:
        return limit
    far = [plan.distance for plan in changed]
    drops = isotonic_regression([plan.drop for plan in changed]).x
    bad = int(np.searchsorted(drops, limit, side="right"))  # number of the first of them
    if bad == 0:
        return far[0] * float(np.clip(limit / drops[0], 1 / MOST_NEARER, 1 / LEAST_NEARER))
    if bad == len(far):
        reach = limit / drops[-1] if drops[-1] > 0 else MOST_STEP
        return far[-1] * float(np.clip(reach, 1.0, MOST_STEP))
    share = (limit - drops[bad - 1]) / (drops[bad] - drops[bad - 1])
    return far[bad - 1] + float(np.clip(share, _INSIDE, 1 - _INSIDE)) * (far[bad] - far[bad - 1])


__all__ = ["LEAST_NEARER", "MOST_NEARER", "MOST_STEP", "allowance"]
