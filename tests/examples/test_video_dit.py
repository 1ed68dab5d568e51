from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("PIL")

import typer  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from examples.video_dit import compare, engines, flow, limits, sample, scenes, train  # noqa: E402
from examples.video_dit.model import (  # noqa: E402
    HEAD,
    WORDS,
    VideoDiT,
    to_patches,
    to_video,
    turned,
    turns,
)

SIZE = 3, 8, 12
"""Frames, height and width of small videos."""


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(seed: int = 0) -> VideoDiT:
    """A network whose gates and last layer are not zero, as training leaves none."""
    torch.manual_seed(seed)
    model = VideoDiT().eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def drawn(**changes: torch.Tensor) -> scenes.Scenes:
    still = {
        "prompt": torch.tensor([[0, 0, 1]]),
        "radius": torch.tensor([0.4]),
        "middle": torch.zeros(1, 2),
        "way": torch.zeros(1, 2),
        "background": torch.full((1, 2, 3), -1.0),
    }
    return scenes.Scenes(**(still | changes))


def cover(videos: torch.Tensor, colour: str = "red") -> torch.Tensor:
    """How much of each pixel of a black scene has the colour [B, frames, height, width]."""
    bright = max(range(3), key=lambda at: scenes.COLOURS[colour][at])
    return (videos[:, bright] + 1) / (scenes.COLOURS[colour][bright] + 1)


@pytest.mark.parametrize(
    ("shape", "area"), [("circle", math.pi), ("square", 4 * 0.85**2), ("triangle", 1.66)]
)
def test_shapes_have_their_area(shape: str, area: float) -> None:
    prompt = torch.tensor([[scenes.SHAPES.index(shape), 0, 0]])
    seen = cover(scenes.render(drawn(prompt=prompt), 1, 128, 128))
    assert float(seen.mean()) * 4 == pytest.approx(area * 0.4**2, rel=0.05)


@pytest.mark.parametrize("direction", scenes.DIRECTIONS)
def test_shapes_move_as_the_prompt_says(direction: str) -> None:
    steps = torch.tensor([scenes.DIRECTIONS[direction]], dtype=torch.float32)
    seen = cover(scenes.render(drawn(way=0.8 * steps), 2, 64, 64))[0]
    places = (torch.arange(64) * 2 + 1) / 64 - 1
    for axis in (0, 1):
        across = seen.sum(2 - axis)
        first, last = (across * places).sum(-1) / across.sum(-1)
        # half of the first frame and of the last are outside
        assert float(last - first) == pytest.approx(0.4 * float(steps[0, axis]), abs=0.01)


def test_no_shape_leaves_the_picture() -> None:
    chosen = scenes.draw(500, dice())
    reach = chosen.radius[:, None] + chosen.middle.abs() + chosen.way.abs() / 2
    assert float(reach.max()) <= 1 + 1e-6
    for at, words in enumerate(scenes.VOCABULARY):
        assert set(chosen.prompt[:, at].tolist()) == set(range(len(words)))


def test_a_size_shows_the_same_scene_as_another() -> None:
    chosen = scenes.draw(4, dice())
    large, small = (scenes.render(chosen, 3, side, side) for side in (64, 16))
    shrunk = torch.nn.functional.avg_pool3d(large, (1, 4, 4))
    assert float((shrunk - small).abs().mean()) < 0.02


def test_patches_and_back() -> None:
    video = torch.randn(2, 3, *SIZE)
    patches = to_patches(video, (3, 4, 6))
    assert torch.equal(to_video(patches, (3, 4, 6)), video)
    assert torch.equal(patches[1, 25].view(3, 2, 2), video[1, :, 1, 0:2, 2:4])


def test_turns_keep_lengths_and_leave_words() -> None:
    cos, sin = turns((3, 4, 6))
    x = torch.randn(2, WORDS + 72, HEAD)
    y = turned(x, cos, sin)
    assert torch.equal(y[:, :WORDS], x[:, :WORDS])
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))


def test_scores_depend_on_where_patches_are_to_each_other() -> None:
    cos, sin = turns((4, 4, 4))
    query, key = torch.randn(2, 1, HEAD, dtype=torch.float64)
    queries, keys = (turned(x.expand(WORDS + 64, -1), cos, sin) for x in (query, key))
    scores = (queries @ keys.T)[WORDS:, WORDS:].view(4, 4, 4, 4, 4, 4)
    one, other = scores[0, 1, 2, 2, 3, 1], scores[1, 0, 2, 3, 2, 1]
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert float((one - scores[0, 1, 2, 2, 2, 1]).abs()) > 1e-3


def test_every_word_changes_the_video() -> None:
    model = awake()
    video, time = torch.randn(1, 3, *SIZE), torch.tensor([0.5])
    with torch.no_grad():
        plain = model(video, time, torch.tensor([[0, 0, 0]]))
        for at in range(WORDS):
            prompt = torch.zeros(1, WORDS, dtype=torch.long)
            prompt[0, at] = 1
            assert float((model(video, time, prompt) - plain).abs().max()) > 1e-3


def test_noise_comes_later_the_larger_the_video() -> None:
    fractions = torch.linspace(0, 1, 11)
    for numbers in (100, flow.UNSHIFTED, 9216 * 12):
        noise = flow.noise_at(fractions, numbers)
        assert float(noise[0]) == 0
        assert float(noise[-1]) == pytest.approx(1)
        assert bool((noise.diff() > 0).all())
    torch.testing.assert_close(flow.noise_at(fractions, flow.UNSHIFTED), fractions)
    assert float(flow.noise_at(fractions, 9216 * 12)[5]) == pytest.approx(6 / 7)


def test_a_sample_of_the_exact_velocity_is_the_video() -> None:
    video = torch.rand(1, 3, *SIZE)

    def velocity(noisy: torch.Tensor, time: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        return (noisy - video) / time[:, None, None, None, None]

    prompt, done = torch.zeros(1, 3, dtype=torch.long), []
    drawn_video = flow.sample(velocity, prompt, SIZE, 7, dice(), done.append)
    torch.testing.assert_close(drawn_video, video)
    assert done == list(range(1, 8))
    exact = flow.loss(velocity, video, prompt, dice())
    assert float(exact) < 1e-8


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of a few steps on small videos."""
    stages = (train.Stage(10, 120, (2, 3), (3, 5)), train.Stage(2, 60, (3, 3), (4, 4)))
    monkeypatch.setattr(train, "STAGES", stages)
    monkeypatch.setattr(train, "STEPS", 12)
    monkeypatch.setattr(train, "WARM", 2)
    monkeypatch.setattr(train, "KEPT_EVERY", 5)


@pytest.mark.usefixtures("few_steps")
def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch) -> None:
    whole, parted = tmp_path / "whole.safetensors", tmp_path / "parted.safetensors"
    train.train(whole)
    step_of = train.train_step

    def stopped(model, optimisers, step: int) -> float:
        if step == 7:
            raise KeyboardInterrupt
        return step_of(model, optimisers, step)

    monkeypatch.setattr(train, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train.train(parted)
    assert not parted.exists()
    monkeypatch.setattr(train, "train_step", step_of)
    train.train(parted)
    assert parted.read_bytes() == whole.read_bytes()
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".checkpoint"] == []

    learnt, prompt = train.trained(whole), torch.zeros(1, 3, dtype=torch.long)
    video = scenes.render(drawn(), *SIZE)
    fresh = VideoDiT()
    losses = [
        np.mean([float(flow.loss(each, video, prompt, dice(seed)).detach()) for seed in range(8)])
        for each in (fresh, learnt)
    ]
    assert losses[1] < 0.5 * losses[0]


def test_prompts() -> None:
    assert engines.prompt_of(["left", "circle", "green"]).tolist() == [[0, 1, 0]]
    for words, says in (
        (["circle", "green"], "left, right, up, down"),
        (["circle", "square", "green", "left"], "circle, square, triangle"),
        (["circle", "green", "left", "slowly"], "slowly"),
    ):
        with pytest.raises(ValueError, match=says):
            engines.prompt_of(words)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Path:
    """Weights of a network, and a folder for what is compiled of it."""
    weights = tmp_path_factory.mktemp("video") / "weights.safetensors"
    save_file({name: each.half() for name, each in awake().state_dict().items()}, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "COMPILED", weights.with_name("compiled"))
        yield weights


SMALL = ("--frames", "5", "--side", "8", "--steps", "4")
LOOSE = ("--max-drop", "0.5")


def told(app: typer.Typer, *options: object) -> str:
    done = CliRunner(env={"COLUMNS": "120"}).invoke(app, [*map(str, options)])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_line_without_weights_says_how_they_are_made(tmp_path) -> None:
    options = ["circle", "green", "left", "--weights", str(tmp_path / "weights.safetensors")]
    absent = CliRunner().invoke(sample.app, options)
    assert absent.exit_code == 2
    assert "examples.video_dit.train" in " ".join(absent.output.split())


def test_a_sample_is_a_strip_and_a_film(learnt, tmp_path) -> None:
    output = tmp_path / "new" / "sample"
    options = ("--weights", learnt, "-o", output, *SMALL, *LOOSE, "--attention", "static")
    assert "Sparse-vDiT: 4 steps" in told(sample.app, "circle", "green", "left", *options)
    with (
        Image.open(output.with_suffix(".png")) as strip,
        Image.open(output.with_suffix(".gif")) as film,
    ):
        assert strip.size == (5 * 16 * sample.ZOOM, 16 * sample.ZOOM)
        assert film.size == (16 * sample.ZOOM, 16 * sample.ZOOM)


def test_ways_are_compared(learnt, tmp_path) -> None:
    options = ("--weights", learnt, "-o", tmp_path, *SMALL, *LOOSE)
    shown = told(compare.app, "red square up", *options)
    found = json.loads((tmp_path / "compare.json").read_text())["red-square-up-0"]
    assert [each["name"] for each in found] == [*engines.TITLES.values()]
    torch_way, dense, static, online = found
    assert dense["psnr_db"] is None
    assert torch_way["psnr_db"] is None or torch_way["psnr_db"] > 60
    assert dense["attention_kept"] == 1
    assert static["attention_kept"] < 1
    assert static["psnr_db"] is not None
    assert 10 < static["psnr_db"] < 90
    assert online["attention_kept"] <= 1
    assert f"{static['psnr_db']:.1f}" in shown
    with Image.open(tmp_path / "red-square-up-0.png") as picture:
        assert picture.size == (compare.NAME + 5 * 16 * compare.ZOOM, 4 * 16 * compare.ZOOM)


def test_limits_have_a_row_each(learnt) -> None:
    options = ("--weights", learnt, *SMALL, *LOOSE, "--max-drop", "1e-9")
    shown = told(limits.app, "red square up", *options)
    loose, tight = (
        next(line.split("│") for line in shown.splitlines() if f"│ {limit} " in line)
        for limit in ("0.5", "1e-09")
    )
    kept = [float(row[3].strip("% ")) for row in (loose, tight)]
    assert kept[0] < kept[1] <= 100


def test_a_compiled_network_is_kept_and_found_again(learnt, monkeypatch) -> None:
    setup = engines.Setup(2, 2, 2, learnt)
    made = engines.compiled(setup, engines.Attention.DENSE)
    monkeypatch.setattr(engines.sparsecc, "compile", None)
    again = engines.compiled(setup, engines.Attention.DENSE)
    assert again.manifest == made.manifest


def test_calls_to_search_on_are_those_of_one_sampling(learnt) -> None:
    setup = engines.Setup(2, 2, 8, learnt)
    found = engines.calibration(engines.compiled(setup, engines.Attention.DENSE), setup)
    assert found["video"].shape == (4, 3, *setup.size)
    wanted = flow.noise_at(torch.linspace(1, 0, 9), 3 * math.prod(setup.size))[[1, 3, 5, 7]]
    np.testing.assert_allclose(found["time"], wanted)
    assert (found["prompt"] == engines.prompt_of(engines.CALIBRATION.split()).numpy()).all()
