"""README.md: its first figure is what its command draws, and what it names is there."""

from __future__ import annotations

import csv
import io
import re
import shlex
import subprocess
import sys
import tomllib
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


def test_the_code_of_the_page_runs_as_it_is_printed() -> None:
    """One block after the other, as a reader pastes them. About 10 s."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    code = "\n".join([*blocks, "print(sorted(next(records).validation))"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tensor([")
    assert done.stdout.endswith("\n['query', 'support']\n")


def test_the_table_of_notebooks_has_each_by_its_title() -> None:
    rows = re.findall(r"^\| (\d\d) (.*?) \| ", PAGE, re.MULTILINE)
    titles = [notebooks.load(path).cells[0].source.partition("\n")[0] for path in notebooks.select([])]
    assert [f"# {number} · {name}" for number, name in rows] == titles


def test_the_table_of_modules_has_each_once_and_no_other() -> None:
    section = PAGE.split("\n| module | holds |\n")[1].split("\n\n")[0]
    named = [
        name for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(.*?)`", cell)
    ]
    package = ROOT / "mamlkit"
    there = [path.name for path in package.glob("*.py") if not path.name.startswith("__")]
    there += [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    assert sorted(named) == sorted(there)


def test_the_extras_of_the_page_are_those_of_the_package() -> None:
    sentence = PAGE.split("Each wing has an extra:")[1].split("is all of them")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"].keys() - {"test", "mutants", "data"}  # of those who change the kit
    assert set(re.findall(r"`(\w+)`", sentence)) == known


def test_each_file_and_target_that_a_command_of_the_page_names_is_there() -> None:
    targets = re.findall(r"(?:^    |`)make (\w+)", PAGE, re.MULTILINE)
    known = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"study", "test", "lab", "bench", "pretend"} <= set(targets) <= set(known)
    files = set(re.findall(r"(?<![\w/.*=])(?:[a-z_]+/)+\w+\.(?:py|yml|ipynb|json|png)\b", PAGE))
    assert len(files) > 8
    assert [name for name in files if not (name.startswith("runs/") or (ROOT / name).exists())] == []


def test_what_one_step_removes_is_that_of_the_shipped_sweep() -> None:
    with (ROOT / "notebooks" / "sweeps" / "claims" / "tables" / "records.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["notebook"] == "06_the_meta_update"]
    shares = [float(row["value"]) for row in rows if row["name"] == "share of the error that one step removes"]
    curve = {
        row["index"]: float(row["value"])
        for row in rows
        if row["seed"] == "0" and row["name"] == "test mse, MAML start, after k steps"
    }
    before, after = curve["0.0"], curve["1.0"]
    assert len(shares) == 10
    page = " ".join(PAGE.split())
    assert f"from {before:.2f} to {after:.2f} at seed 0" in page
    assert f"removes {100 * min(shares):.0f} to {100 * max(shares):.0f}% of it over the ten seeds" in page
