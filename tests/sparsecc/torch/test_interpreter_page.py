from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("torch")

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_lists_every_op() -> None:
    made = runpy.run_path(str(DOCS / "interpreter.py"))
    assert made["page"]() == (DOCS / "interpreter.md").read_text(encoding="utf-8"), "`make docs`"
