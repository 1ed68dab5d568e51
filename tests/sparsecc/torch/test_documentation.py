from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "training.md"


def test_the_snippets_of_the_page_on_training_run() -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) >= 5
    exec(compile("\n".join(snippets), str(PAGE), "exec"), {"__name__": "snippets"})
