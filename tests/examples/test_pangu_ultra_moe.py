"""docs/simulate.md says what the files of the example come to."""

import re
from pathlib import Path

import pytest

from sparsecc.simulate import Choice, read_cluster, read_model, simulate

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "pangu_ultra_moe"


@pytest.mark.parametrize(
    ("cluster", "exchange"), [("before_4k.json", "flat"), ("after_6k.json", "hierarchical")]
)
def test_the_published_configuration(cluster, exchange):
    choice = Choice(
        tensor=8,
        pipeline=16,
        virtual=2,
        expert=4,
        micro_batch=2,
        recompute="full",
        exchange=exchange,
    )
    outcome = simulate(read_model(FOLDER / "model.json"), read_cluster(FOLDER / cluster), choice)
    assert outcome.fits
    text = (ROOT / "docs" / "simulate.md").read_text()
    row = re.search(rf"^\| [^|]*`{cluster}`.*$", text, re.M)[0]
    assert f"{outcome.mfu:.1%}".replace("%", " %") in row
    assert f"{outcome.tokens_per_s / 1e6:.2f} M" in row
