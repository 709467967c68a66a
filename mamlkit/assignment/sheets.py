"""Sheets: solved notebooks, from which the students' copies are made and by which the grader judges."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

from mamlkit import files
from mamlkit.assignment.points import Check
from mamlkit.museum import CATALOGUE
from mamlkit.study import RefusedError, notebooks
from mamlkit.study.regenerate import METADATA

HIDDEN = ("solution", "check")  # tags of cells that no student gets
BEGIN, END = re.compile(r"( *)# --- solution *"), re.compile(r" *# --- end *")
VALUE = re.compile(r"( *[^=#]+? = ).*  # solution")
PLANTED = re.compile(r"(.*)  # planted: (.+)")
DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Sheet:
    """What the grader knows of a sheet.

    checks  in the order in which they stand
    closed  modules of the kit that a student writes anew, and so may not call
    """

    name: str
    title: str
    checks: tuple[Check, ...]
    closed: tuple[str, ...]

    @property
    def points(self) -> int:
        """What the sheet is worth."""
        return sum(check.points for check in self.checks)


def sources(home: Path | None = None) -> dict[str, Path]:
    """The solved sheets, by name. Raises RefusedError where there are none."""
    folder = home or notebooks.folder() / "assignment"
    found = {path.stem: path for path in sorted(folder.glob(notebooks.WALKTHROUGH))}
    if not found:
        raise RefusedError(f"there are no sheets (01_….ipynb) in {folder}; change into a clone of the repository")
    return found


def load(path: Path) -> Sheet:
    """A sheet with its checks: imports, functions and literals of its source are executed, its experiments are not."""
    notebook, namespace = notebooks.load(path), {"__name__": path.stem}
    for number, cell in enumerate(notebooks.code_cells(notebook), 1):
        tree = ast.parse(cell.source)
        tree.body = [node for node in tree.body if isinstance(node, DEFINES) or _is_literal(node)]
        exec(compile(tree, f"<{path.stem}, cell {number}>", "exec", dont_inherit=True), namespace)
    checks = tuple(value for value in namespace.values() if isinstance(value, Check))
    return Sheet(path.stem, notebooks.title(notebook, path.stem), checks, tuple(namespace.get("CLOSED", ())))


def _is_literal(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return True


def copy(notebook: NotebookNode, name: str, *, solve: bool = False) -> NotebookNode:
    """A student's copy of a solved sheet; with `solve`, the copy of one who has answered all as the source does.

    Cells tagged `solution` or `check` are left out, and all outputs. Lines between `# --- solution` and `# --- end`
    become one that raises, a value with `# solution` behind it an ellipsis, a line with `# planted: NAME` the wrong
    line of that exhibit of the museum. Raises ValueError for marks that do not pair.
    """
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        if any(notebooks.tagged(cell, tag) for tag in HIDDEN):
            continue
        kept = NotebookNode(id=f"cell-{len(cells):02d}", cell_type=cell.cell_type, metadata=NotebookNode())
        kept.source = stub(cell.source, solve=solve) if cell.cell_type == "code" else cell.source
        if notebooks.tagged(cell, notebooks.DECLARES):
            kept.metadata.tags = [notebooks.DECLARES]
        cells.append(NotebookNode(kept, outputs=[], execution_count=None) if cell.cell_type == "code" else kept)
    metadata = NotebookNode(METADATA, mamlkit=NotebookNode(sheet=name))
    return NotebookNode(cells=cells, metadata=metadata, nbformat=4, nbformat_minor=5)


def stub(source: str, *, solve: bool = False) -> str:
    """The code of a cell as `copy` gives it to a student."""
    kept, within = [], False
    for line in source.splitlines():
        if begins := BEGIN.fullmatch(line):
            if within:
                raise ValueError(f"a solution begins within a solution: {line!r}")
            within = True
            kept += [] if solve else [f"{begins[1]}raise NotImplementedError  # your code"]
        elif END.fullmatch(line):
            if not within:
                raise ValueError(f"a solution ends that did not begin: {line!r}")
            within = False
        elif planted := PLANTED.fullmatch(line):
            kept.append(planted[1] if solve else _bugged(*planted.groups()))
        elif value := VALUE.fullmatch(line):
            kept.append(line.removesuffix("  # solution") if solve else f"{value[1]}...  # your answer")
        elif solve or not within:
            kept.append(line)
    if within:
        raise ValueError("a solution does not end")
    return "\n".join(kept)


def _bugged(line: str, name: str) -> str:
    exhibit = CATALOGUE[name]
    if line.count(exhibit.right) != 1:
        raise ValueError(f"{exhibit.right!r}, the right line of {name!r}, does not stand in {line!r}")
    return line.replace(exhibit.right, exhibit.wrong)


def write(out: Path, names: Sequence[str] = (), home: Path | None = None) -> list[Path]:
    """Write students' copies into a folder; returns their paths. A copy that is there untouched is left as it is.

    Raises RefusedError, before anything is written, for an unknown sheet, and where a file would be overwritten that
    is not such a copy.
    """
    found = sources(home)
    chosen = [named(name, found) for name in names] or list(found)
    texts = {out / f"{name}.ipynb": notebooks.dumps(copy(notebooks.load(found[name]), name)) for name in chosen}
    worked = [path.name for path, text in texts.items() if path.exists() and not _holds(path, text)]
    if worked:
        raise RefusedError(
            f"{out} already has {', '.join(worked)}, and somebody may have worked on it; choose another folder, or "
            "move it away"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            files.write(path, text)
    except OSError as error:
        raise RefusedError(f"{out} cannot be written: {error}; choose another folder") from error
    return list(texts)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def named(name: str, found: dict[str, Path]) -> str:
    """The sheet that is called by its name, its number or its file. Raises RefusedError, naming those there are."""
    number = name.zfill(2) if name.isdecimal() else None
    for sheet in found:
        if sheet in (name, Path(name).stem) or sheet[:2] == number:
            return sheet
    raise RefusedError(f"there is no sheet {name!r}; there are {', '.join(found)}; give a number or a name")
