from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.torch.straight_through import weaken

shares = st.floats(0, 1, width=32)


@given(st.integers(0, 1000), shares, shares)
def test_values_and_gradients_are_those_derived_by_hand(
    seed: int, beta: float, decay: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 8, generator=random, dtype=torch.float64).requires_grad_()
    mask = torch.rand(6, 8, generator=random) < 0.5
    x = torch.randn(3, 8, generator=random, dtype=torch.float64)
    m = mask.double()
    used = weaken(weight, mask, beta, decay)
    torch.testing.assert_close(used, weight * (m + (1 - m) * beta))
    # L = ½ |x W̃ᵀ|², so ∂L/∂W̃ = (x W̃ᵀ)ᵀ x; straight through, it is the gradient of W as well.
    ((x @ used.T) ** 2).sum().div(2).backward()
    by_hand = (x @ used.detach().T).T @ x + decay * (1 - m) * weight.detach()
    torch.testing.assert_close(weight.grad, by_hand)
