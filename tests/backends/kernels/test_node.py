"""A part of the kernels' tests in Node, whose compiler is that of most browsers."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.kernels.execute import node_command
from sparsecc.backends.kernels.harness import build_harness
from sparsecc.backends.kernels.step_harness import (
    build_image_steps,
    build_steps,
    build_token_steps,
)
from sparsecc.ops import ACTIVATIONS
from tests.backends.kernels import (
    int8_cases,
    test_chain,
    test_kernels,
    test_t64,
    test_transformer_steps,
)
from tests.backends.kernels.chain_cases import Chain
from tests.backends.kernels.chain_cases import check as check_chain

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
EXAMPLES = 12
few = settings(max_examples=EXAMPLES, deadline=None)
ISAS = pytest.mark.parametrize("isa", ["wasm-simd128", "wasm-relaxed"])


@ISAS
def test_layers(isa: str) -> None:
    command = node_command(build_harness(isa))
    block = st.tuples(st.integers(1, 9), st.integers(1, 3))
    layers = [
        test_kernels.convs(block),
        test_kernels.matmuls(block, (1, 70)),
        test_kernels.depthwise(),
    ]

    @few
    @given(st.tuples(*layers))
    def holds(drawn: tuple[test_kernels.Drawn, ...]) -> None:
        for each in drawn:
            test_kernels.check(each, command)

    holds()


@ISAS
def test_chains(isa: str) -> None:
    command = node_command(build_image_steps(isa))

    @few
    @given(test_chain.chains())
    def holds(chain: Chain) -> None:
        check_chain(chain, command)

    holds()


@ISAS
def test_tokens(isa: str) -> None:
    command = node_command(build_token_steps(isa))

    @few
    @given(test_t64.matmuls(), test_t64.attentions())
    def holds(matmul: test_t64.Matmul, attention: test_t64.Attention) -> None:
        test_t64.check_matmul(command, matmul)
        test_t64.check_attention(command, attention)

    holds()


@ISAS
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_what_is_no_number_stays_none(isa: str, activation: int) -> None:
    command = node_command(build_token_steps(isa))
    test_transformer_steps.test_activation_of_what_is_no_number_is_none(command, activation)


@ISAS
def test_bytes(isa: str) -> None:
    machine = int8_cases.Machine(node_command(build_steps(isa, dot=False)), 0)

    @few
    @given(int8_cases.convs(), int8_cases.depthwise(), int8_cases.pools())
    def holds(conv: int8_cases.Conv, window: int8_cases.Conv, pool: int8_cases.Pool) -> None:
        int8_cases.check_conv(conv, machine)
        int8_cases.check_depthwise(window, machine)
        int8_cases.check_pool(pool, machine)

    holds()
