from __future__ import annotations

import sys

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from sparsecc.capture import capture
from sparsecc.errors import ModelError
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.verifier import verify_model

torch = pytest.importorskip("torch", reason="torch is not installed")
nn, functional, Dim = torch.nn, torch.nn.functional, torch.export.Dim


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("query", "key", "value", "dense"):
            setattr(self, name, nn.Linear(16, 16))

    def forward(self, x, mask):
        batch, length, width = x.shape
        q, k, v = (
            layer(x).view(batch, length, 4, width // 4).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return x + self.dense(mixed.transpose(1, 2).reshape(batch, length, width))


class Encoder(nn.Module):
    """Embedding → two attention layers of one shared norm → mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.layer = nn.ModuleList([Attention(), Attention()])
        self.norm = nn.LayerNorm(16)

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        for layer in self.layer:
            x = self.norm(layer(x, attention_mask))
        return x.mean(1)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 36, 5),
    )


def tokens(batch: int, length: int) -> tuple:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (batch, length), generator=generator)
    return ids, torch.ones(batch, 1, 1, length, dtype=torch.bool)


def shapes(model: ir.Model) -> dict[str, str]:
    return {value.name: str(value.shape) for value in model.graph.inputs}


def assert_same(model: ir.Model, module, *args) -> None:
    """The captured model must compute what the module computes in evaluation mode."""
    feeds = {v.name: a.numpy() for v, a in zip(model.graph.inputs, args, strict=True)}
    run(pipeline.EXACT_BEFORE, model, Context(verify=True))
    content = ir.to_proto(model).SerializeToString()
    (got,) = onnxruntime.InferenceSession(content).run(None, feeds)
    was = module.training
    with torch.no_grad():
        wanted = module.eval()(*args).numpy()
    module.train(was)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * max(1, np.abs(wanted).max()))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder()


@pytest.fixture(scope="module")
def captured(encoder) -> ir.Model:
    sequence = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return capture(encoder, tokens(2, 7), dynamic_shapes=sequence)


def test_layers_have_the_names_of_the_modules(captured):
    verify_model(captured)
    names = {node.name for node in captured.graph if node.op_type == "MatMul"}
    layers = ("query", "key", "value", "dense")
    assert names == {f"layer.{number}.{name}" for number in (0, 1) for name in layers}
    assert captured.graph.node("embedding").op_type == "Gather"
    assert not any(node.metadata_props for node in captured.graph)


def test_dynamic_batch_and_sequence(captured, encoder):
    assert list(shapes(captured)) == ["input_ids", "attention_mask"]
    for batch, length in ((1, 4), (3, 11)):
        assert_same(captured.clone(), encoder, *tokens(batch, length))


def test_batch_is_dynamic_by_default_even_from_one_example():
    module = cnn()
    model = capture(module, torch.zeros(1, 3, 6, 6))
    assert shapes(model) == {"input": "[batch,3,6,6]"}
    assert_same(model, module, torch.randn(3, 3, 6, 6))


def test_a_convolution_keeps_its_name_although_the_norm_is_folded_into_it():
    names = [node.name for node in capture(cnn(), torch.zeros(1, 3, 6, 6)).graph]
    assert names[0] == "0"
    assert names[-1] == "5"


def test_the_module_of_the_user_is_left_alone():
    module = cnn().train()
    module[1].eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    capture(module, (torch.randn(4, 3, 6, 6),))
    assert [each.training for each in module[:3]] == [True, False, True]
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_model_that_fixes_its_batch_is_captured_static(size):
    class Fixed(nn.Module):
        def forward(self, x):
            return x * 3 if x.shape[0] == size else x * 2

    module, x = Fixed(), torch.ones(size, 3, 4)
    model = capture(module, x)
    assert shapes(model) == {"x": f"[{size},3,4]"}
    assert_same(model, module, x)


def test_inputs_by_name_and_from_numpy(encoder):
    ids, mask = tokens(2, 5)
    model = capture(encoder, {"attention_mask": mask.numpy(), "input_ids": ids.numpy()})
    assert shapes(model)["input_ids"] == "[batch,5]"


def test_exported_programs(encoder):
    program = torch.export.export(encoder.eval(), tokens(2, 5))
    model = capture(program)
    assert shapes(model) == {"input_ids": "[2,5]", "attention_mask": "[2,1,1,5]"}
    assert_same(model, encoder, *tokens(2, 5))


@pytest.mark.parametrize("how", ["export", "trace"])
def test_graph_modules(how):
    linear = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    x = torch.randn(2, 4)
    exported = torch.export.export(linear, (x,)).module if how == "export" else None
    module = exported() if exported else torch.fx.symbolic_trace(linear)
    model = capture(module, (x,))
    assert next(iter(model.graph)).name == "0"
    content = ir.to_proto(model).SerializeToString()
    (got,) = onnxruntime.InferenceSession(content).run(
        None, {model.graph.inputs[0].name: x.numpy()}
    )
    np.testing.assert_allclose(got, linear(x).detach().numpy(), atol=1e-6)


def test_two_captures_are_equal():
    module = cnn()
    contents = {
        ir.to_proto(capture(module, torch.zeros(1, 3, 6, 6))).SerializeToString() for _ in range(2)
    }
    assert len(contents) == 1


def test_nothing_is_printed(capfd, caplog):
    capture(nn.Linear(4, 3), torch.zeros(1, 4))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


def test_missing_example_inputs():
    with pytest.raises(ModelError, match="needs example inputs") as caught:
        capture(nn.Linear(4, 3))
    assert "example_inputs=" in str(caught.value)


def test_a_model_that_cannot_be_exported(capfd):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match="cannot export Branching: ") as caught:
        capture(Branching(), torch.zeros(2, 3))
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_not_finite():
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight[1, 2] = torch.nan
    with pytest.raises(ModelError, match="1 NaN"):
        capture(linear, torch.zeros(1, 4))


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="needs torch") as caught:
        capture(nn.Linear(4, 3), ())
    assert "pip install" in str(caught.value)


def test_capture_does_not_import_torch():
    import subprocess

    code = (
        "import sys, sparsecc.capture, sparsecc.passes.pipeline; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
