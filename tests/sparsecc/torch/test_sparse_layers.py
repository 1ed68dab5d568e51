import copy

import numpy as np
import pytest
import torch
from torch import nn

from sparsecc.errors import BackendError, TargetError
from sparsecc.torch import SparseLinear, sparse_layers

WIDE = 4096


def pruned(zeros, height, dtype=torch.float16):
    """Two layers, one inside of another module, with such zeros by blocks of rows."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(WIDE, WIDE), nn.Sequential(nn.ReLU(), nn.Linear(WIDE, 64)))
    draws = np.random.default_rng(0)
    for layer in (module[0], module[1][1]):
        rows = layer.out_features
        kept = (draws.random((rows // height, WIDE)) >= zeros).repeat(height, 0)
        layer.weight.data *= torch.from_numpy(kept)
    return module.to(dtype)


def test_layers_whose_zeros_pay_are_replaced_and_compute_the_same():
    module = pruned(0.9, 64)
    dense = copy.deepcopy(module)
    choices = sparse_layers(module, 16, arch="sm_80")
    assert [each.name for each in choices] == ["0", "1.1"]
    assert choices[0].form == "columns"
    assert isinstance(module[0], SparseLinear)
    assert choices[0].ms < 0.9 * choices[0].dense_ms
    assert abs(choices[0].zeros - 0.9) < 0.01
    assert "90% zeros, columns, " in str(choices[0])
    x = torch.randn(16, WIDE).half()
    assert torch.allclose(module(x).float(), dense(x).float(), atol=2e-3)


@pytest.mark.parametrize(
    ("zeros", "dtype", "tokens", "why"),
    [
        (0.1, torch.float16, 16, "too few zeros"),
        (0.9, torch.float32, 16, "weights are float32"),
        (0.4, torch.float16, 8192, "of the dense time"),
    ],
)
def test_what_does_not_pay_stays_dense_and_says_why(zeros, dtype, tokens, why):
    module = pruned(zeros, 16, dtype)
    for choice in sparse_layers(module, tokens, arch="sm_90", forms=["columns"]):
        assert not choice.form
        assert why in choice.why
        assert f"dense: {choice.why}" in str(choice)
    assert isinstance(module[0], nn.Linear)


def test_what_cannot_be_chosen():
    with pytest.raises(BackendError, match="no form 'rows'"):
        sparse_layers(pruned(0.9, 16), 1, arch="sm_90", forms=["rows"])
    with pytest.raises(TargetError, match="cuda-sm_75"):
        sparse_layers(pruned(0.9, 16), 1, arch="sm_75")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_architecture_is_asked_for():
    with pytest.raises(TargetError, match="no GPU here") as caught:
        sparse_layers(pruned(0.9, 16), 1)
    assert 'arch="sm_90"' in str(caught.value)
