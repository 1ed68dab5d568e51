"""What a plan does to a model before its weights are looked at, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsecc.search.plan import Plan


def before_weights(plan: Plan) -> str:
    """All of it, such as ``4 attentions over 31% of their blocks``, or ""."""
    parts = (_removed(plan), _fewer_experts(plan), _attention(plan), _experts(plan))
    return ", ".join(filter(None, parts))


def _removed(plan: Plan) -> str:
    sets = plan.removed
    return f"{_counted(sets, 'set')} of {sets[0].kind} made smaller" if sets else ""


def _fewer_experts(plan: Plan) -> str:
    fewer = [each for each in plan.mixtures if not each.is_whole]
    if not fewer:
        return ""
    kept, count = sum(each.kept for each in fewer), sum(len(each.places) for each in fewer)
    return f"{_counted(fewer, 'mixture')} with {kept} of {count} experts"


def _attention(plan: Plan) -> str:
    sparse = [each for each in plan.attention if not each.is_dense]
    fixed = [each for each in sparse if each.online is None]
    parts = []
    if fixed:
        densities = [head.density for each in fixed for head in each.heads]
        mean = sum(densities) / len(densities)
        parts.append(f"{_counted(fixed, 'attention')} over {mean:.0%} of {_whose(fixed)} blocks")
    for said in dict.fromkeys(str(each.online) for each in sparse if each.online):
        alike = [each for each in sparse if str(each.online) == said]
        parts.append(f"{_counted(alike, 'attention')} whose blocks are {said}")
    return ", ".join(parts)


def _experts(plan: Plan) -> str:
    split = [each for each in plan.experts if not each.is_dense]
    if not split:
        return ""
    share = sum(each.chosen / each.experts for each in split) / len(split)
    return f"{_counted(split, 'network')} through {share:.0%} of {_whose(split)} neurons"


def _counted(found: Sequence[object], what: str) -> str:
    return f"{len(found)} {what}{'s' * (len(found) != 1)}"


def _whose(found: Sequence[object]) -> str:
    return "their" if len(found) > 1 else "its"


__all__ = ["before_weights"]
