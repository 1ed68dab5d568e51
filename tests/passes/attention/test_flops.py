"""FLOP of published models against the figures that Sparse-vDiT (arXiv 2506.03065) prints."""

import pytest

from sparsecc.passes.attention.flops import Denoiser
from sparsecc.passes.attention.modes import Grid

# Layers, features and patches as the models' public configurations give them: 1360 × 768 pixels and
# 81 frames, 1280 × 720 and 129, 1280 × 720 and 81; 50 steps, two passes each but for HunyuanVideo,
# whose guidance is distilled.
COGVIDEO = Denoiser(42, 48 * 64, Grid(11, 48, 85, text=226).tokens, mlp=4 * 3072, runs=100)
HUNYUAN = Denoiser(60, 24 * 128, Grid(33, 45, 80, text=256).tokens, mlp=4 * 3072, runs=50)
WAN = Denoiser(40, 40 * 128, Grid(21, 45, 80).tokens, mlp=13824, runs=100, context=512)
PETA = 1e15


@pytest.mark.parametrize(
    ("model", "dense", "sparse", "ratio", "close"),
    [
        (COGVIDEO, 147.87, 70.69, 2.09, 0.0005),
        (HUNYUAN, 612.37, 257.09, 2.38, 0.025),
        (WAN, 660.49, 397.39, 1.67, 0.013),
    ],
)
def test_published_accounting(model, dense, sparse, ratio, close):
    assert model.flops() / PETA == pytest.approx(dense, rel=close)
    kept = 1 - (dense - sparse) * PETA / model.attention
    assert 0.2 < kept < 0.5
    assert model.flops() / model.flops(kept) == pytest.approx(ratio, rel=max(close, 0.005))


def test_density_is_the_inverse_of_flops():
    assert WAN.density(WAN.flops(0.3)) == pytest.approx(0.3)
    assert WAN.flops(0) == WAN.rest


def test_cross_attention_is_counted():
    tiny = Denoiser(layers=1, width=2, tokens=3, mlp=5, runs=1, context=7)
    own = 4 * 3 * 2 * 2 + 2 * 3 * 2 * 5
    query_and_output, key_and_value, products = 2 * 3 * 2 * 2, 2 * 7 * 2 * 2, 2 * 3 * 7 * 2
    assert tiny.attention == 2 * 2 * 3 * 3 * 2
    assert tiny.rest == 2 * (own + query_and_output + key_and_value + products)
