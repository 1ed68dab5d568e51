"""The passes that fold, inline and remove."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsecc import ops
from sparsecc.capture import capture
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.common_subexpressions import CommonSubexpressions
from sparsecc.passes.canonicalize.constant_folding import ConstantFolding
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.gemm import GemmNormalization
from sparsecc.passes.canonicalize.identity_elimination import IdentityElimination
from sparsecc.passes.canonicalize.inline_functions import InlineFunctions
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.edit import constant

RNG = np.random.default_rng(0)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


def test_weight_arithmetic_is_folded_and_becomes_an_initializer(build, check):
    text = (
        HEAD
        + """g (float[N, 300] x) => (float[N, 50] y) {
      t = Transpose<perm = [1, 0]>(w)
      two = Constant<value_float = 2.0>()
      s = Mul(t, two)
      y = MatMul(x, s)
    }"""
    )
    proto, x = build(text, {"w": normal(50, 300)}), {"x": normal(3, 300)}
    result = check([ConstantFolding(), DeadCode()], proto, x, rtol=1e-5)
    assert result.ops == ["MatMul"]
    assert len(result.model.graph.initializers) == 1


def test_quantised_weights_stay_quantised(build, check):
    text = (
        HEAD.replace("17", "19")
        + """g (float[N, 4] x) => (float[N, 3] y) {
      w = DequantizeLinear(q, s, z)
      y = MatMul(x, w)
    }"""
    )
    weights = {
        "q": RNG.integers(-9, 9, (4, 3)).astype("i1"),
        "s": np.array(0.1, "f4"),
        "z": np.array(1, "i1"),
    }
    # ONNX Runtime computes the product in integers, hence the wide tolerance.
    x = {"x": normal(2, 4)}
    result = check([ConstantFolding()], build(text, weights), x, rtol=1e-2)
    assert result.ops == ["DequantizeLinear", "MatMul"]


def test_shape_arithmetic_of_a_static_model_is_folded(build, check):
    text = (
        HEAD
        + """g (float[2, 3, 4] x) => (float[2, 12] y) {
      s = Shape(x)
      b = Gather(s, zero)
      n = Concat<axis = 0>(b, rest)
      y = Reshape(x, n)
    }"""
    )
    weights = {"zero": np.array([0]), "rest": np.array([-1])}
    passes = [ShapeInference(), ConstantFolding(), DeadCode()]
    assert check(passes, build(text, weights), {"x": normal(2, 3, 4)}).ops == ["Reshape"]


def test_identity_and_dropout_go(build, check):
    text = (
        HEAD
        + """g (float[N, 3] x) => (float[] y, float[] z) {
      i = Identity(x)
      d, mask = Dropout(i, ratio, training)
      r = Relu(d)
      y = Identity(r)
      z = Identity(x)
    }"""
    )
    weights = {"ratio": np.array(0.5, "f4"), "training": np.array(False)}
    result = check([IdentityElimination()], build(text, weights), {"x": normal(2, 3)})
    assert result.ops == ["Relu", "Identity"]  # an input as output needs its Identity


@pytest.mark.parametrize("outputs", ["d, mask", "d"])
def test_training_dropout_and_a_read_mask_stay(build, outputs):
    used = "y = Cast<to = 1>(mask)" if "mask" in outputs else "y = Relu(d)"
    training = "false" if "mask" in outputs else "true"
    text = (
        HEAD
        + f"""g (float[N, 3] x) => (float[] y) {{ {outputs} = Dropout(x, r, {training}) {used} }}"""
    )
    weights = {"r": np.array(0.5, "f4"), "false": np.array(False), "true": np.array(True)}
    model = capture(build(text, weights))
    assert not run([IdentityElimination()], model, Context(verify=True))


def test_dead_code_keeps_inputs_and_outputs(build, check):
    text = (
        HEAD
        + """g (float[N, 3] x, float[N, 3] unused) => (float[] y) {
      lost = Add(x, w)
      y = Relu(x)
    }"""
    )
    feeds = {"x": normal(2, 3), "unused": normal(2, 3)}
    result = check([DeadCode()], build(text, {"w": normal(3)}), feeds)
    assert result.ops == ["Relu"]
    assert not result.model.graph.initializers
    assert [value.name for value in result.model.graph.inputs] == ["x", "unused"]


FUNCTIONS = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[N, 3] x) => (float[] y) {
  a = own.twice(x)
  y = own.twice(a)
}
<domain: "own", opset_import: ["" : 17]>
twice (x) => (y) { b = Add(x, x) y = Relu(b) }
"""


def test_functions_are_inlined(build, check):
    result = check([InlineFunctions()], build(FUNCTIONS, {}), {"x": normal(2, 3)})
    assert result.ops == ["Add", "Relu", "Add", "Relu"]
    assert not result.model.functions


def test_a_function_of_another_opset_stays_and_says_so(build):
    text = FUNCTIONS.replace('opset_import: ["" : 17]>\ntwice', 'opset_import: ["" : 16]>\ntwice')
    model, ctx = capture(build(text, {})), Context(verify=True)
    run([InlineFunctions()], model, ctx)
    assert "Opset mismatch" in ctx.refusals[0].reason
    assert [node.op_type for node in model.graph] == ["twice", "twice"]


@pytest.mark.parametrize(
    ("c", "folded"),
    [
        (np.array(0.5, "f4"), True),
        (normal(1, 4), True),
        (normal(4), True),
        (normal(2, 4), False),
    ],
)
def test_gemm(build, check, c, folded):
    text = (
        HEAD
        + """g (float[2, 6] x) => (float[] y) {
      y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, c)
    }"""
    )
    passes = [GemmNormalization(), DeadCode()]
    result = check(passes, build(text, {"w": normal(4, 6), "c": c}), {"x": normal(2, 6)})
    node = result.model.graph.node(0)
    assert node.attributes.get_float("alpha") == 1.0
    assert node.attributes.get_float("beta") == (1.0 if folded else 2.0)
    bias = constant(node.inputs[2])
    assert bias.shape == ((4,) if folded else c.shape)
    assert not run(passes, result.model, Context(verify=True))


def test_equal_nodes_are_merged(build, check):
    text = (
        HEAD.replace("17", "19")
        + "g (float[N, 3] x) => (float[] y) { a = Exp(x) b = Exp(x) y = Add(a, b) }"
    )
    result = check([CommonSubexpressions()], build(text, {}), {"x": normal(2, 3)})
    assert result.ops == ["Exp", "Add"]


class TestShapeInference:
    TEXT = HEAD + "g (float[N, 6] x) => (float[] y) { h = MatMul(x, w) y = Relu(h) }"

    def test_shapes_and_types(self, build):
        model = capture(build(self.TEXT, {"w": normal(6, 400)}))
        assert run([ShapeInference()], model, Context(verify=True))
        hidden = model.graph.node(0).outputs[0]
        assert str(hidden.shape) == "[N,400]"
        assert hidden.dtype == ir.DataType.FLOAT
        assert not run([ShapeInference()], model, Context(verify=True))

    def test_weights_above_two_gigabytes_do_not_matter(self, build):
        model = capture(build(self.TEXT, {"w": normal(6, 400)}))
        shape = ir.Shape([6, 10**9])
        huge = ir.LazyTensor(lambda: pytest.fail("read"), ir.DataType.FLOAT, shape, name="w")
        value = model.graph.initializers["w"]
        value.const_value, value.shape = huge, shape
        run([ShapeInference()], model, Context())
        assert str(model.graph.outputs[0].shape) == "[N,1000000000]"

    def test_what_is_declared_wins(self, build):
        text = self.TEXT.replace("(float[] y)", "(float[N, 7] y)")
        model, ctx = capture(build(text, {"w": normal(6, 400)})), Context(verify=True)
        run([ShapeInference()], model, ctx)
        assert str(model.graph.outputs[0].shape) == "[N,7]"

    def test_sparse_ops(self, build):
        model = capture(build(self.TEXT, {"w": normal(6, 4)}))
        arrays = {
            "values": normal(1, 1),
            "index": np.zeros(1, "i4"),
            "grid": np.array([9, 6, 1, 1]),
        }
        arrays |= {"shape": np.array([9, 6]), "bias": normal(9)}
        values = [ops.initializer(name, array) for name, array in arrays.items()]
        for value in values:
            model.graph.register_initializer(value)
        old = model.graph.node(0)
        sparse = ir.Node(ops.DOMAIN, "SparseMatMul", [old.inputs[0], *values], name="fc")
        sparse.outputs[0].name = "h2"
        old.outputs[0].replace_all_uses_with(sparse.outputs[0])
        model.graph.insert_after(old, sparse)
        model.opset_imports[ops.DOMAIN] = ops.VERSION
        assert run([ShapeInference()], model, Context(verify=True))
        assert str(model.graph.outputs[0].shape) == "[N,9]"


def test_subgraphs_survive_every_pass(build, check):
    from sparsecc.passes.pipeline import EXACT_BEFORE

    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 3] x, bool c, int64 n) => (float[] y, float[] z) {
      y = If (c) <
        then_branch = a () => (float[2, 4] t) { t0 = MatMul(x, w) t = Identity(t0) },
        else_branch = b () => (float[2, 4] e) {
          k = Constant<value_float = 2.0>() e0 = MatMul(x, w) e = Mul(e0, k)
        }
      >
      z = Loop (n, c, x) <
        body = l (int64 i, bool p, float[2, 3] s) => (bool q, float[2, 3] u) {
          q = Identity(p) d = Identity(s) u = Add(d, s)
        }
      >
    }"""
    feeds = {"x": normal(2, 3), "c": np.array(True), "n": np.array(3)}
    proto = build(text, {"w": normal(3, 4)})
    result = check(EXACT_BEFORE, proto, feeds)
    assert result.ops == ["If", "Loop"]
