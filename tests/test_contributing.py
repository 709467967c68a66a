"""CONTRIBUTING.md, CITATION.cff and the order of the test suite name only what is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import conftest
import pytest
import yaml

import mamlkit as mk
from mamlkit.__main__ import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMANDS = [command for line in re.findall(r"^    (\S.*)$", PAGE, re.MULTILINE) for command in line.split(" && ")]
COMMANDS = [command for command in COMMANDS if re.match(r"(OMP_NUM_THREADS=\d )?(python|make) ", command)]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


CHECKLISTS = ["distribution", "model", "variant", "notebook", "sheet of the assignment", "bug for the museum", "claim"]


@pytest.mark.parametrize("thing", CHECKLISTS)
def test_each_thing_has_a_checklist_and_commands_that_prove_it(thing: str) -> None:
    section = PAGE.split(f"\n## A {thing}\n")[1].split("\n## ")[0]
    assert section.count("- [ ] ") >= 3
    assert re.search(r"Proof.*:\n\n    \S", section)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_can_be_given(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in shlex.split(command, comments=True) if "=" not in word]
    paths = [word for word in words if re.search(r"\.(py|ipynb|yml)$", word)]
    assert all((ROOT / path).exists() for path in paths)
    if words[:3] == ["python", "-m", "mamlkit"]:
        with pytest.raises(SystemExit, match="0"):
            main([*words[3:], "--help"])
        options = {word for word in words if word.startswith("-") and word != "-m"}
        assert options <= set(re.findall(r"--?[a-z][a-z-]*", capsys.readouterr().out))
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None


def test_every_file_and_name_of_the_page_exists() -> None:
    named = re.findall(r"`([^`\n]+)`", PAGE)
    files = {name for name in named if re.fullmatch(r"[\w./]+(/|\.(py|pyi|toml|yml|txt))", name)}
    assert len(files) > 8
    assert [name for name in files if not (ROOT / name).exists()] == []
    public = {name for text in named for name in re.findall(r"\bmk\.(\w+)", text)}
    assert public <= set(mk.__all__)
    constants = {name for name in named if re.fullmatch(r"[A-Z]{3,}", name)}
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))
    assert [name for name in constants if not re.search(rf"^{name}\b", tests, re.MULTILINE)] == []
    assert "\nWORKERS ?= 2\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_suites_order_names_files_that_exist() -> None:
    names = [path.name for folder in ("tests", "notebooks") for path in (ROOT / folder).iterdir()]
    for start in conftest.BUSY + conftest.LONG:
        assert any(name.startswith(start) for name in names), f"{start} of tests/conftest.py names no file"


def test_the_citation_has_what_its_format_requires() -> None:
    """https://github.com/citation-file-format/citation-file-format/blob/1.2.0/schema-guide.md"""
    known = {"abstract", "authors", "cff-version", "keywords", "license", "message", "references", "title", "type"}
    assert set(CITATION) == known | {"version"}
    assert (CITATION["cff-version"], CITATION["type"]) == ("1.2.0", "software")
    assert all(isinstance(CITATION[name], str) and CITATION[name] for name in ("message", "title", "abstract"))
    for cited in [CITATION, *CITATION["references"]]:
        assert cited["title"]
        assert all(set(one) in ({"name"}, {"family-names", "given-names"}) for one in cited["authors"])


def test_the_citation_is_that_of_this_version_and_of_the_paper() -> None:
    assert CITATION["title"] == PROJECT["name"]
    assert CITATION["version"] == PROJECT["version"]
    assert CITATION["abstract"] == PROJECT["description"]
    assert CITATION["license"] in PROJECT["license"].split(" AND ")
    assert CITATION["authors"] == [{"name": "The mamlkit authors"}]
    (paper,) = CITATION["references"]
    assert (paper["type"], paper["year"]) == ("conference-paper", 2017)
    assert [author["family-names"] for author in paper["authors"]] == ["Finn", "Abbeel", "Levine"]
