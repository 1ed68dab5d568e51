from __future__ import annotations

import pickle

import pytest

from sparsecc import errors
from sparsecc.errors import SparseccError

KINDS = [getattr(errors, name) for name in errors.__all__ if name != "SparseccError"]


def test_an_error_reads_as_a_sentence_with_its_place_and_the_way_out() -> None:
    full = SparseccError("it is wet", node="fc1", fix="dry it")
    assert str(full) == "it is wet (at node 'fc1')\n  fix: dry it"
    assert str(SparseccError("it is wet")) == "it is wet"
    assert (full.message, full.node, full.fix) == ("it is wet", "fc1", "dry it")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_error_of_ours(kind: type[SparseccError]) -> None:
    assert issubclass(kind, SparseccError)
    assert kind.__doc__


def test_exit_codes_tell_the_kinds_apart() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert not set(codes) & {0, 1, 2}


def test_an_error_survives_another_process() -> None:
    copy = pickle.loads(pickle.dumps(errors.PlanError("no", node="n", fix="yes")))
    assert (type(copy), str(copy)) == (errors.PlanError, "no (at node 'n')\n  fix: yes")
