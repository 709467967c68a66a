"""What must hold of every committed notebook, and what nbval alone would let pass.

Each rule is a function from a notebook to the list of its breaches, and each is seen here to find one.
"""

from __future__ import annotations

import ast
import base64
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import books
import nbcompare
import numpy as np
import pytest
from books import claimed, draws, recorded, records, shown
from matplotlib.image import imsave
from nbcompare import blank, near, pictures
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mamlkit.ledger import CLAIM
from mamlkit.study import notebooks
from mamlkit.study.notebooks import RefusedError
from mamlkit.study.regenerate import LIMIT, canonical

ROOT = Path(__file__).parents[1]
WALKTHROUGH = sorted((ROOT / "notebooks").glob(notebooks.WALKTHROUGH))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
ASSIGNMENT = sorted((ROOT / "notebooks" / "assignment").glob("*.ipynb"))
LINES = 20
# A path from the root of a file system, but not a web address, a closing tag, a fraction or a link's tail.
ABSOLUTE = re.compile(r"(?<![\w.:/<)\]}$\\])/[A-Za-z][\w.-]*/[\w.-]|\b[A-Z]:\\|file://")

Rule = Callable[[NotebookNode], list[str]]


def every_cell_was_executed_in_order(notebook: NotebookNode) -> list[str]:
    """Execution counts are 1..n, so none is stripped and none was run out of turn."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        f"code cell {number} has execution count {cell.execution_count}"
        for number, cell in enumerate(cells, 1)
        if cell.execution_count != number
    ]


def every_shown_figure_is_stored(notebook: NotebookNode) -> list[str]:
    """A cell that calls show() holds a picture that is not blank, and the alt sentence that is its text too."""
    found = []
    for cell in notebooks.code_cells(notebook):
        calls = [node for node in _run_at_once(cell.source) if isinstance(node, ast.Call) and _called(node) == "show"]
        stored = pictures(cell.outputs)
        if calls and not stored:
            found.append(f"{cell.id} calls show() and holds no picture")
        if any(map(blank, stored)):
            found.append(f"{cell.id} holds a blank picture")
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                if not alt.strip() or output.data.get("text/plain") != alt:
                    found.append(f"{cell.id} holds a picture without alt text; draw it with mk.show(figure, alt)")
    return found


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _run_at_once(source: str) -> Iterator[ast.AST]:
    """The nodes of a cell that run when it does: not those inside the functions that it defines."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def every_claim_holds(notebook: NotebookNode) -> list[str]:
    """No claim is stored as false, and no cell holds an error."""
    false = [value["claim"] for _, value in notebooks.displayed(notebook, CLAIM) if value["holds"] is not True]
    errors = [
        f"{cell.id} holds an error: {output.ename}"
        for cell in notebooks.code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "error"
    ]
    return [f"stored as false: {claim}" for claim in false] + errors


def parameters_are_literals_with_a_comment(notebook: NotebookNode) -> list[str]:
    """Exactly one cell is tagged `parameters`: annotated literals, each with a comment that says what it is."""
    if not any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
        return ["no cell is tagged 'parameters'"]
    try:
        declared = notebooks.parameters(notebook)
    except RefusedError as error:
        return [str(error)]
    return [f"{found.name} has no comment" for found in declared.values() if not found.help]


def cells_are_short(notebook: NotebookNode) -> list[str]:
    """No code cell has more than 20 lines."""
    long = [(cell.id, len(cell.source.splitlines())) for cell in notebooks.code_cells(notebook)]
    return [f"{name} has {lines} lines; the limit is {LINES}" for name, lines in long if lines > LINES]


def headings_are_in_order(notebook: NotebookNode) -> list[str]:
    """One heading of level 1, first; none skips a level on the way down."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", text, re.MULTILINE)]
    found = [] if levels[:1] == [1] and levels.count(1) == 1 else ["there is not one title, first, of level 1"]
    skips = [(one, next_) for one, next_ in pairwise(levels) if next_ > one + 1]
    return found + [f"a heading of level {next_} follows one of level {one}" for one, next_ in skips]


def no_path_is_absolute(notebook: NotebookNode) -> list[str]:
    """No text, source or output names a place on the machine that made it."""
    texts = [(cell.id, cell.source) for cell in notebook.cells]
    for cell in notebooks.code_cells(notebook):
        for output in cell.outputs:
            texts += [
                (cell.id, value) for value in (output.get("text"), output.get("data", {}).get("text/plain")) if value
            ]
    return [f"{name} names a path: {found[0]!r}" for name, text in texts if (found := ABSOLUTE.search(text))]


EVERYWHERE: list[Rule] = [
    every_cell_was_executed_in_order,
    every_shown_figure_is_stored,
    every_claim_holds,
    cells_are_short,
    headings_are_in_order,
    no_path_is_absolute,
]


def file_is_canonical(path: Path) -> list[str]:
    """The file is as `regenerate` writes it: ids, metadata, no stderr; and not too large for the code host to show."""
    text = path.read_text(encoding="utf-8")
    found = [] if len(text.encode()) <= LIMIT else [f"{len(text.encode()):,} bytes; the limit is {LIMIT:,}"]
    if text != notebooks.dumps(canonical(notebooks.load(path))):
        found.append(f"not in canonical form; run `python -m mamlkit regenerate {path.stem}`")
    return found


def ruff_is_content(path: Path) -> list[str]:
    """The code has no lint and is formatted."""
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", str(path)]
    commands = (["check", "--quiet"], ["format", "--check", "--quiet"])
    done = [
        subprocess.run([sys.executable, "-m", "ruff", *command, *settings], capture_output=True, text=True)
        for command in commands
    ]
    return [run.stdout + run.stderr or "not formatted" for run in done if run.returncode]


def _name(value: Any) -> str:
    return f"{value.parent.name}/{value.stem}" if isinstance(value, Path) else str(value.__name__)


@pytest.mark.parametrize("rule", EVERYWHERE, ids=_name)
@pytest.mark.parametrize("path", WALKTHROUGH + SOLUTIONS + ASSIGNMENT, ids=_name)
def test_every_notebook_keeps_the_rule(path: Path, rule: Rule) -> None:
    assert rule(notebooks.load(path)) == []


@pytest.mark.parametrize("path", WALKTHROUGH + ASSIGNMENT, ids=_name)
def test_every_walkthrough_notebook_declares_its_parameters(path: Path) -> None:
    assert parameters_are_literals_with_a_comment(notebooks.load(path)) == []


@pytest.mark.parametrize("rule", [file_is_canonical, ruff_is_content], ids=_name)
@pytest.mark.parametrize("path", WALKTHROUGH + SOLUTIONS + ASSIGNMENT, ids=_name)
def test_every_file_keeps_the_rule(path: Path, rule: Callable[[Path], list[str]]) -> None:
    assert rule(path) == []


# What follows breaks a good notebook in one way at a time.


def png(*, empty: bool = False) -> str:
    """A small picture as PNG in base64: a diagonal line on white, or white alone."""
    pixels = np.ones((24, 60, 3)) if empty else np.ones((24, 60, 3)) * (1 - np.eye(24, 60))[..., None]
    file = io.BytesIO()
    imsave(file, pixels, format="png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def good() -> NotebookNode:
    """A notebook that keeps every rule."""
    return canonical(
        new_notebook(
            cells=[
                new_markdown_cell("# A title\n\nSee https://example.org/a/b and 1/2 and/or `a/b/c`."),
                new_code_cell("alpha: float = 0.1  # step size", metadata={"tags": ["parameters"]}, execution_count=1),
                new_markdown_cell("## A section\n\n### Below it\n\n## Another"),
                new_code_cell('mk.show(figure, alt="A line falls.")', execution_count=2, outputs=[shown(png())]),
                new_code_cell('mk.claim("it falls", True)', execution_count=3, outputs=[claimed()]),
            ]
        )
    )


def test_a_good_notebook_keeps_every_rule(good: NotebookNode, tmp_path: Path) -> None:
    for rule in [*EVERYWHERE, parameters_are_literals_with_a_comment]:
        assert rule(good) == []
    path = tmp_path / "00_good.ipynb"
    path.write_text(notebooks.dumps(good), encoding="utf-8")
    assert file_is_canonical(path) == []


def strip(notebook: NotebookNode) -> None:
    for cell in notebooks.code_cells(notebook):
        cell.execution_count, cell.outputs = None, []


def change(number: int, **values: Any) -> Callable[[NotebookNode], None]:
    """A breaker that sets fields of one cell."""
    return lambda notebook: notebook.cells[number].update(values)


def untitled(picture: NotebookNode) -> NotebookNode:
    picture.metadata = {}
    return picture


BREACHES: list[tuple[Rule, str, Callable[[NotebookNode], None]]] = [
    (every_cell_was_executed_in_order, "stripped", strip),
    (every_cell_was_executed_in_order, "run out of turn", change(3, execution_count=7)),
    (every_cell_was_executed_in_order, "empty cell", lambda n: n.cells.append(new_code_cell(""))),
    (every_shown_figure_is_stored, "missing figure", change(3, outputs=[])),
    (every_shown_figure_is_stored, "blank figure", change(3, outputs=[shown(png(empty=True))])),
    (every_shown_figure_is_stored, "no alt", change(3, outputs=[untitled(shown(png()))])),
    (every_shown_figure_is_stored, "figure of another kind", change(4, outputs=[untitled(shown(png()))])),
    (every_claim_holds, "false claim", change(4, outputs=[claimed(holds=False)])),
    (every_claim_holds, "error", change(4, outputs=[books.output("error", ename="E", evalue="", traceback=[])])),
    (parameters_are_literals_with_a_comment, "derived", change(1, source="alpha: float = 0.1 * 2  # step size")),
    (parameters_are_literals_with_a_comment, "no type", change(1, source="alpha = 0.1  # step size")),
    (parameters_are_literals_with_a_comment, "wrong type", change(1, source='alpha: float = "0.1"  # step size')),
    (parameters_are_literals_with_a_comment, "no comment", change(1, source="alpha: float = 0.1")),
    (parameters_are_literals_with_a_comment, "an import", change(1, source="import os")),
    (parameters_are_literals_with_a_comment, "untagged", change(1, metadata={})),
    (parameters_are_literals_with_a_comment, "two", change(3, metadata={"tags": ["parameters"]})),
    (cells_are_short, "long", change(3, source="x = 1\n" * 21)),
    (headings_are_in_order, "skipped level", change(2, source="### Below")),
    (headings_are_in_order, "two titles", change(2, source="# Again")),
    (headings_are_in_order, "no title", change(0, source="Text")),
    (no_path_is_absolute, "source", change(3, source='open("/home/me/x.csv")')),
    (no_path_is_absolute, "output", change(3, outputs=[books.output("stream", text="saved in /root/runs/a")])),
    (no_path_is_absolute, "Windows", change(0, source=r"see C:\me")),
]


@pytest.mark.parametrize(("rule", "name", "breach"), BREACHES, ids=[f"{r.__name__}-{n}" for r, n, _ in BREACHES])
def test_a_rule_finds_its_breach(
    good: NotebookNode, rule: Rule, name: str, breach: Callable[[NotebookNode], None]
) -> None:
    breach(good)
    assert rule(good) != []


def test_a_file_of_another_form_is_found(good: NotebookNode, tmp_path: Path) -> None:
    path = tmp_path / "00_good.ipynb"
    good.cells[0].id = "abc"
    path.write_text(notebooks.dumps(good), encoding="utf-8")
    assert "canonical" in file_is_canonical(path)[0]
    good.cells[0].id = "cell-00"
    good.cells[0].source += "x" * LIMIT
    path.write_text(notebooks.dumps(good), encoding="utf-8")
    assert "the limit is" in file_is_canonical(path)[0]


def test_lint_and_formatting_of_a_notebook_are_found(good: NotebookNode, tmp_path: Path) -> None:
    path = tmp_path / "00_good.ipynb"
    good.cells[3].source = "import os\n\nx = ( 1 )"
    path.write_text(notebooks.dumps(good), encoding="utf-8")
    assert len(ruff_is_content(path)) == 2


def printed(text: str, name: str = "stdout") -> NotebookNode:
    return books.output("stream", name=name, text=text)


WIDE = {"nbval_tolerance": {"rtol": 1e-3}}
# (name, same?, code, stored outputs, cell metadata)
COMPARISONS: list[tuple[str, bool, str, list[NotebookNode], dict[str, Any]]] = [
    ("float within the tolerance", True, "print('a', 0.50001)", [printed("a 0.5\n")], WIDE),
    ("float outside the tolerance", False, "print('a', 0.51)", [printed("a 0.5\n")], WIDE),
    (
        "float within an absolute tolerance",
        True,
        "print(1e-9)",
        [printed("0.0\n")],
        {"nbval_tolerance": {"atol": 1e-6}},
    ),
    ("integer beside a tolerance", False, "print('a', 50001)", [printed("a 50000\n")], WIDE),
    ("text beside a tolerance", False, "print('b', 0.5)", [printed("a 0.5\n")], WIDE),
    ("float without a tolerance", False, "print('a', 0.50001)", [printed("a 0.5\n")], {}),
    ("progress on stderr", True, "import sys; sys.stderr.write('9 it/s') and None", [printed("8 it/s", "stderr")], {}),
    ("record within its digits", True, records("0.123456"), [recorded(0.1235001)], {}),
    ("record outside its digits", False, records("0.13"), [recorded(0.123)], {}),
    ("picture drawn again", True, draws(png()), [books.output("display_data", data={"image/png": png()})], {}),
    ("picture no longer drawn", False, "pass", [books.output("display_data", data={"image/png": png()})], {}),
    ("picture now blank", False, draws(png(empty=True)), [books.output("display_data", data={"image/png": png()})], {}),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Whether nbval, with our comparison, passes each of the cells of COMPARISONS."""
    folder = tmp_path_factory.mktemp("nbval")
    cells = [
        new_code_cell(code, outputs=stored, metadata=metadata, execution_count=number)
        for number, (_, _, code, stored, metadata) in enumerate(COMPARISONS, 1)
    ]
    (folder / "cells.ipynb").write_text(notebooks.dumps(canonical_but_stderr(cells)), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", str(folder / "out.xml")]
    subprocess.run(
        [*command, "tests/conftest.py", str(folder / "cells.ipynb")], cwd=ROOT, capture_output=True, check=False
    )
    cases = ElementTree.parse(folder / "out.xml").iter("testcase")
    passed = [case.find("failure") is None and case.find("error") is None for case in cases]
    assert len(passed) == len(COMPARISONS)
    return {name: ok for (name, *_), ok in zip(COMPARISONS, passed, strict=True)}


def canonical_but_stderr(cells: list[NotebookNode]) -> NotebookNode:
    notebook = canonical(new_notebook(cells=cells))
    for cell, given in zip(notebook.cells, cells, strict=True):
        cell.outputs = given.outputs
    return notebook


@pytest.mark.parametrize(("name", "same"), [(name, same) for name, same, *_ in COMPARISONS])
def test_nbval_compares_as_it_should(outcomes: dict[str, bool], name: str, same: bool) -> None:
    assert outcomes[name] is same


def test_numbers_are_told_from_versions_and_names() -> None:
    wide = {"rtol": 0.5}
    assert near("loss 1.0e-3, then 2.", wide) == "loss 1.1e-3, then 2.1"
    assert near("nan and -inf", wide) == "nan and -inf"
    assert near("nan", wide) != "1.0"
    assert near("torch 2.13.0", wide) != "torch 2.14.0"
    assert near("layer1.weight", wide) != "layer2.weight"
    assert near("1.0 2.0", wide) != "1.0"
    assert nbcompare.Near("1.0") != "1.01", "no tolerance unless asked for"
