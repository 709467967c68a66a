"""README.md: its first figure is what its command draws, and what it names is there."""

from __future__ import annotations

import io
import re
import shlex
from itertools import pairwise, takewhile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mamlkit.__main__ import main
from mamlkit.study import notebooks
from mamlkit.study.pages import front

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?:^    |`)(python -m mamlkit [^#`\n]*)", PAGE, re.MULTILINE)
HERO = ROOT / "docs" / "three_starts.png"


def pixels(picture: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The lightness of each pixel, from 0 to 1: [height, width]."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"), dtype=np.float64) / 255


def test_the_first_figure_is_that_of_the_first_notebook_and_reads_on_a_dark_page() -> None:
    shown = front(notebooks.load(notebooks.select(["00"])[0]))
    assert shown
    there, drawn = pixels(HERO.read_bytes()), pixels(shown.png)
    assert there.shape == drawn.shape
    assert np.abs(there - drawn).mean() < 0.005, "draw it again, by the command beside it"
    assert np.abs(there - drawn[:, ::-1]).mean() > 0.05, "a bound that another picture would not meet"
    assert np.median(there) == 1, "its ground is white"
    assert HERO.stat().st_size < 100_000
    with Image.open(HERO) as picture:
        assert "transparency" not in picture.info


def test_every_picture_has_a_text_and_every_link_of_the_page_leads_somewhere() -> None:
    pictures = re.findall(r"!\[([^]]*)\]\(([^)]*)\)", PAGE)
    assert [file for _, file in pictures] == ["docs/three_starts.png"]
    assert all(len(text.split()) > 5 for text, _ in pictures)
    links = re.findall(r"\]\(([^):]+)\)", PAGE)
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_names_options_notebooks_and_parameters_that_are_there(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)[3:]
    with pytest.raises(SystemExit, match="0"):
        main([*words[:1], "--help"])
    known = re.findall(r"--?[a-z][a-z-]*", capsys.readouterr().out)
    assert {word for word in words if word.startswith("-")} <= set(known)
    if words[0] == "run":
        names = list(takewhile(lambda word: not word.startswith("-"), words[1:]))
        declared = {name for path in notebooks.select(names) for name in notebooks.declared(path)}
        assert set(given(words)) <= declared


def given(words: list[str]) -> list[str]:
    """The names of the parameters that a command sets."""
    return [name for word, name in pairwise(words) if word == "-p"]


def test_each_row_of_the_paper_and_ours_has_its_command_and_no_number_that_was_not_run() -> None:
    section = PAGE.split("\n## The paper and ours\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w.*?) \| (.*?) \| (.*?) \| (.*?) \|$", section, re.MULTILINE)
    assert len(rows) == 6
    for name, _, ours, command in rows:
        assert ours == "not run" or "±" in ours, name
        assert re.match(r"[SO]( |$)", command), name
        assert f"    # {command[0]}" in section, name
        assert set(given(re.findall(r"[-\w.]+", command))) <= set(notebooks.declared(notebooks.select(["10"])[0]))
    assert [row[0] for row in rows if row[2] != "not run"] == ["sinusoid, 5 points", "sinusoid, 10 points"]
