"""Progress of parts, and the bar."""

import subprocess
import sys

from rich.console import Console

from sparsecc.progress import bar, part, silent


def test_parts_of_parts_add_up():
    seen = []
    whole = part(lambda step, done: seen.append((step, done)), 0.0, 1.0)
    inner = part(part(whole, 0.5, 1.0, "pruning"), 0.5, 1.0, "conv1")
    inner("scoring", 0.0)
    inner("done", 1.0)
    assert seen == [("pruning · conv1 · scoring", 0.75), ("pruning · conv1 · done", 1.0)]


def test_silence():
    silent("anything", 0.5)


def test_a_bar_shows_the_step_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(Console, "is_terminal", property(lambda console: True))
    with bar("compiling") as progress:
        progress("pruning conv1", 0.25)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "compiling" in captured.err
    assert "pruning conv1" in captured.err
    assert "25%" in captured.err


def test_no_terminal_no_bar(capsys):
    with bar("compiling") as progress:
        progress("pruning", 0.5)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_importing_it_does_not_import_rich():
    code = "import sys, sparsecc.progress; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
