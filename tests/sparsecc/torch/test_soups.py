from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sparsecc.errors import ModelError
from sparsecc.torch import Gradual, Sparsifier, apply_masks, greedy_soup, masks, remove_masks, soup
from tests.small_torch import accuracy, adam, cnn, compile_and_check, fit


@pytest.fixture(scope="module")
def fine_tuned() -> list[nn.Module]:
    """Three networks fine-tuned from one that was trained sparse, on other batches each."""
    model = cnn()
    optimizer = adam(model)
    sparsifier = Sparsifier(model, "4x1:0.75", Gradual(end=50, every=5), optimizer=optimizer)
    fit(model, optimizer, range(60), sparsifier.step)
    kept = sparsifier.finish()
    made = []
    for start in (100, 200, 300):
        each = copy.deepcopy(model)
        apply_masks(each, kept)
        fit(each, torch.optim.SGD(each.parameters(), 0.02), range(start, start + 30))
        remove_masks(each)
        made.append(each)
    return made


def test_a_soup_is_the_mean_and_as_sparse_and_compiles(fine_tuned: list[nn.Module]) -> None:
    mixed = soup(fine_tuned)
    states = [model.state_dict() for model in fine_tuned]
    for key, value in mixed.state_dict().items():
        expected = np.mean([state[key].numpy().astype(np.float64) for state in states], axis=0)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-8)
    found = masks(compile_and_check(mixed))
    assert set(found) == {"3", "7", "12"}
    for name, mask in found.items():
        assert torch.equal(mask, fine_tuned[0].get_submodule(name).weight != 0)
    assert accuracy(mixed) > min(accuracy(model) for model in fine_tuned) - 0.05


def test_a_soup_of_one_is_that_one_and_leaves_it_alone(fine_tuned: list[nn.Module]) -> None:
    mixed = soup(fine_tuned[:1])
    assert mixed is not fine_tuned[0]
    state = fine_tuned[0].state_dict()
    assert all(torch.equal(value, state[key]) for key, value in mixed.state_dict().items())


def test_a_greedy_soup_is_no_worse_than_the_best_and_leaves_out_what_spoils_it() -> None:
    # Quality is how near weights are to 1: .8 is best; its mean with 1.3 is better, 9 spoils it.
    models = []
    for value in (9.0, 1.3, 0.8):
        model = nn.Sequential(nn.Linear(2, 2, bias=False))
        nn.init.constant_(model[0].weight, value)
        models.append(model)

    def score(model: nn.Module) -> float:
        return -float((model[0].weight.detach() - 1).abs().max())

    mixed = greedy_soup(models, score)
    torch.testing.assert_close(mixed[0].weight, torch.full((2, 2), 1.05))
    assert score(mixed) >= max(map(score, models))


def test_other_zeros_or_shapes_are_refused_by_the_name_of_the_layer(
    fine_tuned: list[nn.Module],
) -> None:
    other = copy.deepcopy(fine_tuned[1])
    position = tuple(torch.nonzero(other[7].weight)[0].tolist())
    other[7].weight.data[position] = 0
    with pytest.raises(ModelError, match=r"'7' has 1 zeros in other places .* number 2"):
        soup([fine_tuned[0], other])
    other[12] = nn.Linear(48, 63)
    with pytest.raises(ModelError, match=r"'12.bias' is \[64\] in the first model and \[63\]"):
        soup([fine_tuned[0], other])
    with pytest.raises(ModelError, match="no models"):
        soup([])
    with pytest.raises(ModelError, match="no models"):
        greedy_soup([], accuracy)
