from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparsecc.errors import PlanError, TargetError
from sparsecc.formats.patterns import SparsitySpec
from sparsecc.request import read_request, request_of
from sparsecc.search.plan import Plan

KNOWN = {
    "target": "x86-64",
    "sparsity": "4x1:0.8",
    "overrides": None,
    "score": "wanda",
    "refit": True,
    "allocation": "erk",
}


def test_a_request_is_read() -> None:
    request = read_request(**KNOWN | {"overrides": {"a*": "2:4", "b": "0.5"}})
    assert request.target.name == "x86-64"
    assert str(request.spec) == "4x1:0.8"
    assert {name: str(spec) for name, spec in request.overrides.items()} == {
        "a*": "2:4",
        "b": "unstructured:0.5",
    }
    assert (request.score, request.refit, request.allocation) == ("wanda", True, "erk")


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("target", "z80", TargetError),
        ("target", "", TargetError),
        ("target", "X86-64", TargetError),
        ("target", None, TargetError),
        ("sparsity", "many", PlanError),
        ("sparsity", None, PlanError),
        ("sparsity", 1.0, PlanError),
        ("sparsity", -0.1, PlanError),
        ("sparsity", float("nan"), PlanError),
        ("sparsity", 80, PlanError),
        ("overrides", {"a": "4x1:1"}, PlanError),
        ("overrides", {"a": ""}, PlanError),
        ("score", "luck", PlanError),
        ("score", "", PlanError),
        ("allocation", "fair", PlanError),
        ("backend", "java", TargetError),
        ("backend", "", TargetError),
    ],
)
def test_what_cannot_be_read_is_told_with_the_way_out(field, value, error) -> None:
    with pytest.raises(error) as caught:
        read_request(**KNOWN | {field: value})
    assert caught.value.fix


@pytest.mark.parametrize(
    ("target", "asked", "made"),
    [
        ("x86-64", None, "onnxruntime"),
        ("x86-64", "bundle", "bundle"),
        ("arm64-a76", "tvm", "tvm"),
        ("arm64-a76", "onnxruntime", "onnxruntime"),
    ],
)
def test_the_backend_is_the_targets_unless_another_is_asked_for(target, asked, made) -> None:
    request = read_request(**KNOWN | {"target": target, "backend": asked})
    assert request.target.backend == made
    assert request.target.stands_alone == (made != "onnxruntime")


def test_the_name_of_a_library() -> None:
    assert read_request(**KNOWN).name == "model"
    for good in ("Digits_2", "a" * 32, "sparsecc", "object", "sc"):
        assert read_request(**KNOWN, name=good).name == good
    for bad in ("", "2nd", "a-b", "a b", "größe", "a" * 33, "../x", "a.b", "_x", "sc_x", "a;b"):
        with pytest.raises(PlanError, match="name of a library: functions") as caught:
            read_request(**KNOWN, name=bad)
        assert caught.value.fix


@pytest.mark.parametrize(
    ("target", "word", "other"),
    [("arm64-android", "object", "Tensor"), ("arm64-ios", "Tensor", "object")],
)
def test_a_word_of_the_apps_language_is_no_name(target: str, word: str, other: str) -> None:
    asked = KNOWN | {"target": target}
    assert read_request(**asked, name=other).name == other
    with pytest.raises(PlanError, match=f"{word}.*{target}.*word of the language"):
        read_request(**asked, name=word)


def test_a_plan_keeps_its_backend_but_for_another_target() -> None:
    plan = Plan(
        sparsecc="0", model_hash="0", target="x86-64", backend="bundle", spec="4x1:0.5", layers=()
    )
    assert request_of(plan).target.backend == "bundle"
    assert request_of(plan, "arm64-linux").target.backend == "onnxruntime"
    assert request_of(plan, backend="tvm").target.backend == "tvm"
    assert request_of(plan.model_copy(update={"backend": ""})).target.backend == "onnxruntime"


LOOKS_LIKE_ONE = st.from_regex(r"[0-9xX×:.%a-z ]{0,12}", fullmatch=True)


@given(st.text(max_size=30) | LOOKS_LIKE_ONE | st.floats().map(str) | st.integers().map(str))
@example("4x1:0.8\n")
@example("٤x١:0.8")
@example("²x1:0.8")
@example("4x1:" + "9" * 5000)
@example("9" * 5000 + "x1:0.5")
@example("9" * 5000 + ":4")
@example("4x1:1e-400")
@example("4x1:0x1p-1")
@example("nan")
@example("existing:0.5")
@example("dense:0.5")
@example("0:4")
@example("4:4")
@example("1x1:0.5")
@example("2:4:0.5")
@example(":0.5")
@example("4x1:")
@example("4x2:0.5")
@example("4x1:100%")
def test_any_text_is_a_request_or_a_plan_error(text: str) -> None:
    try:
        spec = read_request(**KNOWN | {"sparsity": text}).spec
    except PlanError as error:
        refused = error
    else:
        assert 0 <= spec.sparsity < 1
        assert SparsitySpec.parse(str(spec)).pattern == spec.pattern
        return
    assert refused.fix
