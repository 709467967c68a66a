"""`mamlkit regenerate`: the same results are the same bytes, and a notebook that fails keeps the ones it had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mamlkit.__main__ import main
from mamlkit.study import RefusedError, notebooks
from mamlkit.study import regenerate as module
from mamlkit.study.regenerate import canonical, regenerate

DRAW = """import io
from IPython.display import display
from matplotlib.figure import Figure

figure, picture = Figure(figsize=(2, 1)), io.BytesIO()
figure.subplots().plot([0, 1], [1, 0])
figure.savefig(picture, format="png")
display({"image/png": picture.getvalue()}, metadata={"image/png": {"alt": "A line falls."}}, raw=True)"""
NOISY = "import sys\nprint('one')\nprint('bar', file=sys.stderr, flush=True)\nprint({3, 1, 2}, 0.1 + 0.2)"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A walkthrough of one notebook, with its solution, neither of them executed."""
    folder = tmp_path_factory.mktemp("kit") / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    tagged = new_code_cell("alpha: float = 0.1  # step", metadata={"tags": ["parameters"], "collapsed": True})
    close = new_code_cell("0.1 * 3", metadata={"nbval_tolerance": {"rtol": 1e-6}})
    cells = [new_markdown_cell("# Title"), tagged, new_code_cell(DRAW), new_code_cell(NOISY), close]
    nbformat.write(new_notebook(cells=cells), folder / "00_map.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")]), folder / "solutions" / "00_map.ipynb")
    return folder


@pytest.fixture(scope="module")
def regenerated(home: Path) -> tuple[Path, list[bytes]]:
    """The notebook after regeneration, and its bytes after each of two."""
    path, found = home / "00_map.ipynb", []
    for _ in range(2):
        assert regenerate([str(path)]) == []
        found.append(path.read_bytes())
        path.write_bytes(path.read_bytes().replace(b"one", b"two", 1))
    path.write_bytes(found[-1])
    return path, found


def test_two_regenerations_are_identical(regenerated: tuple[Path, list[bytes]]) -> None:
    first, second = regenerated[1]
    assert first == second


def test_the_canonical_form_keeps_what_matters_and_nothing_else(regenerated: tuple[Path, list[bytes]]) -> None:
    notebook = notebooks.load(regenerated[0])
    assert notebook.metadata == module.METADATA
    assert [cell.id for cell in notebook.cells] == [f"cell-0{number}" for number in range(5)]
    code = notebooks.code_cells(notebook)
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert [cell.metadata for cell in code] == [{"tags": ["parameters"]}, {}, {}, {"nbval_tolerance": {"rtol": 1e-6}}]
    assert code[1].outputs[0].metadata == {"image/png": {"alt": "A line falls."}}
    assert code[2].outputs == [
        {"name": "stdout", "output_type": "stream", "text": "one\n{1, 2, 3} 0.30000000000000004\n"}
    ], "stderr is dropped, and the two pieces around it are one"


def test_check_passes_on_what_was_regenerated_and_names_the_cell_that_differs(
    regenerated: tuple[Path, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, (_, text) = regenerated
    assert main(["regenerate", str(path), "--check"]) == 0
    path.write_bytes(text.replace(b"one\\n", b"two\\n", 1))
    changed = path.read_bytes()
    assert main(["regenerate", str(path), "--check"]) == 1
    assert "notebooks/00_map.ipynb: cell 3 (cell-03) differs from its file in its outputs" in capsys.readouterr().err
    assert path.read_bytes() == changed, "--check writes nothing"
    path.write_bytes(text)


@pytest.mark.parametrize(
    ("source", "limit", "problem"),
    [
        ("1\n1 / 0", module.LIMIT, "code cell 2 raised ZeroDivisionError: division by zero"),
        ("import warnings\nwarnings.warn('old', DeprecationWarning)", module.LIMIT, "code cell 2 warns: "),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", module.LIMIT, "its kernel died"),
        ("print('x' * 3000)", 3000, "the limit is 3,000"),
    ],
)
def test_a_notebook_with_a_problem_is_named_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, limit: int, problem: str
) -> None:
    monkeypatch.setattr(module, "LIMIT", limit)
    path = tmp_path / "bad.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("0"), new_code_cell(source)]), path)
    before = path.read_bytes()
    (found,) = regenerate([str(path)])
    assert problem in found
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_means_the_notebook_and_its_solution(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "folder", lambda: home)
    done: list[Path] = []

    def execute(path: Path, *arguments: Any, **settings: Any) -> NoReturn:
        done.append(path)
        raise RefusedError("not now")

    monkeypatch.setattr(module, "execute", execute)
    assert len(regenerate(["00"], check=True)) == 2
    assert done == [home / "00_map.ipynb", home / "solutions" / "00_map.ipynb"]
    done.clear()
    monkeypatch.setattr(notebooks, "folder", lambda: tmp_path)
    for name in ("01_first", "02_second"):
        nbformat.write(new_notebook(), tmp_path / f"{name}.ipynb")
    regenerate(["01", str(home / "00_map.ipynb")])
    assert done == [home / "00_map.ipynb", tmp_path / "01_first.ipynb"], "a path alone means its file alone"


def test_canonicalising_twice_changes_nothing() -> None:
    stream = [new_output("stream", name=name, text=name) for name in ("stdout", "stderr", "stdout")]
    notebook = canonical(new_notebook(cells=[new_code_cell("x", outputs=stream, execution_count=1)]))
    assert notebook.cells[0].outputs[0].text == "stdoutstdout"
    shown = new_output("display_data", data={"text/plain": "x"})
    apart = canonical(new_notebook(cells=[new_code_cell("x", outputs=[stream[0], stream[1], shown, stream[2]])]))
    assert apart.cells[0].outputs == [stream[0], shown, stream[2]], "what is shown stays between what was printed"
    assert notebooks.dumps(canonical(notebook)) == notebooks.dumps(notebook)


CHANGES: dict[str, Callable[[Any], None]] = {
    "cell 0 (cell-00) differs from its file in its execution count": lambda book: book.cells[0].update(
        execution_count=7
    ),
    "cell 1 (cell-01) differs from its file in its execution count": lambda book: book.cells[1].update(
        execution_count=None
    ),
    "cell 1 (cell-01) differs from its file in its outputs": lambda book: book.cells[1].outputs.clear(),
    "cell 0 (cell-00) differs from its file in its metadata": lambda book: book.cells[0].metadata.update(
        collapsed=True
    ),
    "cell 1 (cell-01) differs from its file in its id": lambda book: book.cells[1].update(id="mine"),
    "it differs from its file outside the cells": lambda book: book.metadata.pop("kernelspec"),
}


@pytest.mark.parametrize("said", CHANGES)
def test_check_sees_what_changed_in_a_file_and_says_where(tmp_path: Path, said: str) -> None:
    path = tmp_path / "changed.ipynb"
    cells = [new_code_cell("1 + 1", execution_count=1), new_code_cell("2", execution_count=2)]
    for cell, text in zip(cells, ("2", "2"), strict=True):
        data = {"text/plain": text}
        cell.outputs = [new_output("execute_result", data=data, execution_count=cell.execution_count)]
    notebook = canonical(new_notebook(cells=cells))
    CHANGES[said](notebook)
    path.write_text(notebooks.dumps(notebook))
    (found,) = regenerate([str(path)], check=True)
    assert f"changed.ipynb: {said}; run" in found


def test_a_cell_that_takes_too_long_is_named(tmp_path: Path) -> None:
    path = tmp_path / "slow.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("import time; time.sleep(60)")]), path)
    assert main(["regenerate", str(path), "--timeout", "1"]) == 1
