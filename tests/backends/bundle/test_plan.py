"""The generated plan: names of any kind, and what a bundle cannot hold."""

from __future__ import annotations

import dataclasses

import pytest

from sparsecc.backends.bundle.plan import header, plan_source
from sparsecc.backends.bundle.weights import Weights
from sparsecc.backends.bundle.whole import Port, Whole
from sparsecc.errors import BackendError
from tests.backends.bundle import wholes

NO_WEIGHTS = Weights((), 0, 0)


def test_the_header_has_the_name() -> None:
    assert "int A_9_create(" in header("A_9")
    assert "NAME" not in header("A_9")


def test_texts_become_c_strings_byte_by_byte() -> None:
    odd = 'quote " back \\ line\n zero\0 trigraph ??/ naïve'
    whole = dataclasses.replace(
        wholes.two_inputs(), inputs=(Port(odd, "bool", (1, "n\n")), Port("b", "int64", ()))
    )
    text = plan_source(whole, NO_WEIGHTS, "m")
    assert "quote \\042 back \\134 line\\012 zero trigraph \\077\\077/ na\\303\\257ve" in text
    assert '{1LL, -1LL}, {0, "n\\012"}' in text


BAD = {
    "0 inputs": {"inputs": ()},
    "7 dimensions": {"inputs": (Port("a", "float32", (1,) * 7), Port("b", "float32", ()))},
    "'a' is float16": {"inputs": (Port("a", "float16", (1,)), Port("b", "float32", ()))},
    "1 outputs": {"outputs": (Port("s", "float32", ()),)},
}


@pytest.mark.parametrize("message", BAD)
def test_what_a_bundle_cannot_hold(message: str) -> None:
    whole: Whole = dataclasses.replace(wholes.two_inputs(), **BAD[message])
    with pytest.raises(BackendError, match=message):
        plan_source(whole, NO_WEIGHTS, "m")


def test_outputs_that_are_one_value() -> None:
    whole = wholes.two_inputs()
    program = dataclasses.replace(whole.program, outputs=("t", "t"))
    with pytest.raises(BackendError, match="one value"):
        plan_source(dataclasses.replace(whole, program=program), NO_WEIGHTS, "m")
