"""The key of a run: it changes when, and only when, something changes that the run's numbers depend on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from books import write

import mamlkit
from mamlkit import files
from mamlkit.study import notebooks
from mamlkit.sweeps import key
from mamlkit.sweeps.job import UnequalError, jobs, perform
from mamlkit.sweeps.spec import Run

ROOT = Path(__file__).parents[1]
STEMS = {"06": "06_the_meta_update", "13": "13_across_seeds"}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kit and of notebooks 06 and 13, whose files a test may edit."""
    home = tmp_path / "clone"
    shutil.copytree(ROOT / "mamlkit", home / "mamlkit", ignore=shutil.ignore_patterns("__pycache__"))
    for stem in STEMS.values():
        (home / "notebooks").mkdir(exist_ok=True)
        shutil.copy(ROOT / "notebooks" / f"{stem}.ipynb", home / "notebooks")
    shutil.copytree(ROOT / "notebooks" / "sweeps", home / "notebooks" / "sweeps")
    monkeypatch.setattr("mamlkit.__file__", str(home / "mamlkit" / "__init__.py"))
    return home


def keys(home: Path, **given: Any) -> dict[str, str]:
    """The key of each notebook of a clone, 13 with these parameters."""
    paths = {name: home / "notebooks" / f"{stem}.ipynb" for name, stem in STEMS.items()}
    return {name: jobs((Run(path, given if name == "13" else {}),), "", 60, 1)[0].key for name, path in paths.items()}


def edit(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("mamlkit/figures/theme.py", ""),
        ("mamlkit/study/templates/pages.css", ""),
        ("mamlkit/study/templates/index.html", ""),
        ("mamlkit/study/pages.py", ""),
        ("mamlkit/study/regenerate.py", ""),
        ("mamlkit/sweeps/driver.py", ""),
        ("mamlkit/__main__.py", ""),
        ("mamlkit/experiment.py", ""),
        ("mamlkit/assignment/grade.py", ""),
        ("mamlkit/sweeps/results.py", "13"),
        ("mamlkit/sweeps/sidecar.py", "13"),
        ("notebooks/sweeps/claims.yml", ""),
        ("mamlkit/inner.py", "06 13"),
        ("mamlkit/images/episodes.py", "06 13"),
        ("mamlkit/ledger.py", "06 13"),
        ("mamlkit/study/execute.py", "06 13"),
    ],
)
def test_an_edited_file_changes_the_keys_of_those_whose_numbers_depend_on_it(
    clone: Path, edited: str, changed: str
) -> None:
    before = keys(clone)
    edit(clone / edited)
    after = keys(clone)
    assert [name for name in before if before[name] != after[name]] == changed.split()


def test_what_lies_in_a_folder_that_a_parameter_names_is_part_of_the_key(clone: Path) -> None:
    results = clone / "notebooks" / "sweeps" / "claims"
    before = keys(clone)
    (results / ".lock").touch()
    assert keys(clone) == before, "what is hidden is no result"
    changed = next(results.glob("*.json"))
    changed.write_text(changed.read_text().replace('"seconds": ', '"seconds": 1'))
    after = keys(clone)
    assert after["06"] == before["06"]
    assert after["13"] != before["13"]
    own = clone / "runs" / "own"  # as its comment says, a folder of one's own beside notebooks/
    shutil.copytree(results, own)
    first = keys(clone, results="runs/own")
    next(own.glob("*.json")).unlink()
    assert keys(clone, results="runs/own")["13"] != first["13"]


def test_a_folder_that_changes_while_the_sweep_runs_stops_it(clone: Path) -> None:
    (found,) = jobs((Run(clone / "notebooks" / "13_across_seeds.ipynb", {}),), str(clone), 60, 1)
    next((clone / "notebooks" / "sweeps" / "claims").glob("*.json")).unlink()
    with pytest.raises(UnequalError, match="what its parameters name is not what the plan was made with"):
        perform(found)


def test_a_file_that_a_run_writes_is_no_input_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, "logs", ('log: str = ""', "1"))
    run = Run(path, {"log": str(tmp_path / "log")})
    (before,) = jobs((run,), "", 60, 1)
    (tmp_path / "log").write_text("a line")
    assert jobs((run,), "", 60, 1) == [before]


def test_a_module_beside_the_notebook_that_it_imports_is_part_of_the_key(tmp_path: Path) -> None:
    path = write(tmp_path, "imports", ("%matplotlib inline\nimport helper", "def broken(:"))
    (tmp_path / "helper.py").write_text("from other import x")
    (tmp_path / "other.py").write_text("x = 1")
    (tmp_path / "stranger.py").write_text("x = 1")
    before = key.kit_digest(path)
    edit(tmp_path / "stranger.py")
    assert key.kit_digest(path) == before
    edit(tmp_path / "other.py")
    assert key.kit_digest(path) != before


SEEN: list[tuple[str, Callable[[Any], None], bool]] = [
    ("outputs", lambda cell: cell.outputs.append(nbformat.v4.new_output("stream", text="x")), False),
    ("an execution count", lambda cell: cell.update(execution_count=7), False),
    ("an id", lambda cell: cell.update(id="another"), False),
    ("other metadata", lambda cell: cell.metadata.update(collapsed=True), False),
    ("a tag", lambda cell: cell.metadata.update(tags=["raises-exception"]), True),
    ("its source", lambda cell: cell.update(source="2"), True),
]


@pytest.mark.parametrize(("_", "change", "changes"), SEEN, ids=[name for name, *_ in SEEN])
def test_of_a_notebook_only_what_a_kernel_sees_is_in_the_key(
    tmp_path: Path, _: str, change: Callable[[Any], None], changes: bool
) -> None:
    path = write(tmp_path, "seen", ("alpha: float = 0.1", "1"))
    (before,) = jobs((Run(path, {}),), "", 60, 1)
    notebook = notebooks.load(path)
    change(notebook.cells[-1])
    files.write(path, notebooks.dumps(notebook))
    assert (jobs((Run(path, {}),), "", 60, 1)[0].key != before.key) is changes


def test_the_text_between_the_cells_is_not_in_the_key(tmp_path: Path) -> None:
    path = write(tmp_path, "told", ("alpha: float = 0.1", "1"), text="# One way to say it")
    before = jobs((Run(path, {}),), "", 60, 1)[0].key
    write(tmp_path, "told", ("alpha: float = 0.1", "1"), text="# Another way to say it")
    assert jobs((Run(path, {}),), "", 60, 1)[0].key == before


@pytest.mark.filterwarnings("ignore::nbformat.warnings.MissingIDFieldWarning")
def test_a_notebook_whose_cells_have_no_ids_keeps_its_key(tmp_path: Path) -> None:
    path = tmp_path / "bare.ipynb"
    cell = '{"cell_type": "code", "source": "1", "metadata": {}, "outputs": [], "execution_count": null}'
    path.write_text(f'{{"cells": [{cell}], "metadata": {{}}, "nbformat": 4, "nbformat_minor": 5}}')
    assert jobs((Run(path, {}),), "", 60, 1) == jobs((Run(path, {}),), "", 60, 1)


def test_parameters_and_data_are_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "given", ("alpha: float = 0.1", "1"))

    def one(**given: Any) -> str:
        return jobs((Run(path, given),), "", 60, 1)[0].key

    before = one(alpha=0.1)
    assert one() == before, "a default that is given is the default"
    assert one(alpha=0.2) != before
    other = tmp_path / "glyphs.npz"
    other.write_bytes(b"another set")
    monkeypatch.setattr(key, "glyphs_file", lambda: other)
    key.data_digest.cache_clear()
    try:
        assert one() != before
    finally:
        key.data_digest.cache_clear()


def test_the_core_is_always_in_the_key(clone: Path) -> None:
    """Every module at the top of the package but what starts commands: a new one is found by itself."""
    path = clone / "notebooks" / f"{STEMS['06']}.ipynb"
    for module in sorted((clone / "mamlkit").glob("*.py")):
        before = key.kit_digest(path)
        edit(module)
        assert (key.kit_digest(path) != before) is (module.name not in ("__main__.py", "experiment.py")), module.name
    assert mamlkit.__file__.startswith(str(clone))
