"""Writes the table of ops in docs/interpreter.md: `make docs`."""

from __future__ import annotations

from pathlib import Path

from sparsecc.torch import ops

PAGE = Path(__file__).parent / "interpreter.md"
BEGIN, END = "<!-- ops: made by docs/interpreter.py -->\n", "<!-- end of ops -->"


def table() -> str:
    """One row for each file of ops."""
    rows = ["| file | ops |", "|---|---|"]
    for name in sorted(path.stem for path in Path(ops.__path__[0]).glob("*.py")):
        family = getattr(getattr(ops, name, None), "OPS", None)
        if family is not None:
            rows.append(f"| `ops/{name}.py` | {', '.join(sorted(family))} |")
    return "\n".join(rows)


def page() -> str:
    """The page, with the table as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + "\n" + table() + "\n\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
