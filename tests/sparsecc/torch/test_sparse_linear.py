import numpy as np
import pytest
import torch
from torch import nn

from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.interpret import interpret
from sparsecc.errors import BackendError
from sparsecc.torch import SparseLinear
from sparsecc.torch import sparse_linear as module
from sparsecc.torch.sparse_linear import sparse_linear
from tests.backends.cuda.weights import weight_of


def layer_of(form, dtype, bias=True):
    torch.manual_seed(0)
    layer = nn.Linear(96, 80, bias=bias)
    layer.weight.data = torch.from_numpy(weight_of(form, 80, 96, 0.3, 0)).float()
    return layer.to(dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_the_layer(form, dtype):
    layer = layer_of(form, dtype)
    sparse = SparseLinear.of(layer, form)
    x = torch.randn(2, 5, 96).to(dtype)
    packed = FORMS[form].pack(layer.weight.detach().double().numpy(), sparse.dtype)
    held = torch.from_numpy(FORMS[form].unpack(packed).astype(np.float64))
    wanted = x.double() @ held.T + layer.bias.double()
    assert torch.allclose(sparse(x).double(), wanted, rtol=2e-2, atol=2e-2)
    assert sparse(x[:0]).shape == (0, 5, 80)


@pytest.mark.parametrize("form", FORMS)
def test_the_operator_is_well_formed(form):
    sparse = SparseLinear.of(layer_of(form, torch.bfloat16), form)
    arrays = [getattr(sparse, name.lower()) for name in FORMS[form].arrays]
    x = torch.randn(4, 96, dtype=torch.bfloat16)
    torch.library.opcheck(sparse_linear, (x, arrays, form, sparse.shape, sparse.numbers))


def test_compiles_whole_and_travels_with_the_module():
    sparse = SparseLinear.of(layer_of("columns", torch.float16, bias=False), "columns")
    x = torch.randn(3, 96).half()
    assert torch.equal(torch.compile(sparse, fullgraph=True)(x), sparse(x))
    other = SparseLinear.of(layer_of("columns", torch.float16, bias=False), "columns")
    for tensor in other.buffers():
        tensor.zero_()
    other.load_state_dict(sparse.state_dict())
    assert torch.equal(other(x), sparse(x))
    assert "96, 80, form=columns, float16" in repr(sparse)


def test_what_does_not_fit():
    layer = layer_of("columns", torch.float16)
    with pytest.raises(BackendError, match="no form 'rows' of weights"):
        SparseLinear.of(layer, "rows")
    with pytest.raises(BackendError, match="no kernels for float32"):
        SparseLinear.of(layer.float(), "columns")
    with pytest.raises(BackendError, match=r"a weight of \[3\]"):
        SparseLinear(torch.ones(3).half(), form="columns")
    with pytest.raises(BackendError, match=r"a weight of \[0, 8\]"):
        SparseLinear(torch.ones(0, 8).half(), form="columns")
    sparse = SparseLinear.of(layer.half(), "columns")
    for x in (torch.ones(2, 95).half(), torch.ones(2, 96)):
        with pytest.raises(BackendError):
            sparse(x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 20])
def test_what_runs_on_a_gpu_through_the_interpreter(form, tokens, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(module, "arch_of", lambda _: "sm_90")
    monkeypatch.setattr(module, "launch", lambda *how: interpret(how[0], "sm_90", *how[1:]))
    sparse = SparseLinear.of(layer_of(form, torch.float16, bias=False), form)
    arrays = [getattr(sparse, name.lower()) for name in FORMS[form].arrays]
    x = torch.randn(96, tokens).half().T  # not contiguous
    made = module._cuda(x, arrays, form, sparse.shape, sparse.numbers)
    assert torch.allclose(made.float(), sparse(x).float(), rtol=2e-3, atol=1e-2)
