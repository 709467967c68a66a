"""Rewrites the notebooks' outputs in one canonical form, so that the same results are the same bytes.

The promise: bit for bit on the same CPU, PyTorch build and thread count; elsewhere within each cell's tolerance,
which is what the tests compare with.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nbformat import NotebookNode

from mamlkit import files
from mamlkit.study import RefusedError, notebooks
from mamlkit.study.execute import execute

LIMIT = 400_000  # bytes: larger, and the code host no longer shows the notebook
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = ("tags", "nbval_tolerance", "box", "numbers")
WARNING = re.compile(r"^.*\b[A-Z]\w*Warning: .*$", re.MULTILINE)


def regenerate(names: Sequence[str] = (), *, check: bool = False, timeout: float = 3600) -> list[str]:
    """Execute notebooks and write each back with its new outputs; with `check`, write nothing and compare.

    names    as for `mamlkit run`; a number or a name means the walkthrough's notebook and its solution; default all,
             the assignment's sheets too

    Returns one sentence for each notebook that failed, warned, is too large, or (with `check`) differs from its file.
    Such a notebook is left as it was.
    """
    problems = []
    paths = _paths(names)
    for number, path in enumerate(paths, 1):
        name = f"{path.resolve().parent.name}/{path.name}"
        print(f"[{number}/{len(paths)}] {name}", end=" ", file=sys.stderr, flush=True)
        problem = _one(path, check=check, timeout=timeout)
        print("failed" if problem else "same" if check else "written", file=sys.stderr, flush=True)
        problems += [f"{name}: {problem}"] if problem else []
    return problems


def _paths(names: Sequence[str]) -> list[Path]:
    others = [name for name in names if not notebooks.is_path(name)]
    walkthrough = notebooks.select(others) if others or not names else []
    solutions = [path.parent / "solutions" / path.name for path in walkthrough]
    sheets = [] if names else sorted((walkthrough[0].parent / "assignment").glob(notebooks.WALKTHROUGH))
    return [*map(Path, filter(notebooks.is_path, names)), *walkthrough, *filter(Path.is_file, solutions), *sheets]


def _one(path: Path, *, check: bool, timeout: float) -> str | None:
    try:
        result, executed = execute(path, {}, timeout=timeout)
    except RefusedError as error:
        return str(error)
    if result.status != "ok":
        place = f"code cell {result.cell} " if result.cell else ""
        return f"{place}{'raised' if result.status == 'failed' else 'ended it:'} {result.error}"
    for number, cell in enumerate(notebooks.code_cells(executed), 1):
        for output in cell.outputs:
            if output.get("name") == "stderr" and (found := WARNING.search(output.text)):
                return f"code cell {number} warns: {found[0].strip()}"
    new = canonical(executed)
    text = notebooks.dumps(new)
    if len(text.encode()) > LIMIT:
        return f"{len(text.encode()):,} bytes; the limit is {LIMIT:,}: draw fewer or smaller figures"
    if text == path.read_text(encoding="utf-8"):
        return None
    if check:
        return f"{difference(notebooks.load(path), new)}; run `python -m mamlkit regenerate {path.stem}` and commit it"
    files.write(path, text)
    return None


def canonical(notebook: NotebookNode) -> NotebookNode:
    """A notebook in the one form that is committed: text, tags, tolerances, what boxes and numbers rest on, outputs."""
    cells = []
    for number, cell in enumerate(notebook.cells):
        kept = {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
        outputs = {"outputs": _without_stderr(cell.outputs)} if cell.cell_type == "code" else {}
        cells.append(NotebookNode({**cell, "id": f"cell-{number:02d}", "metadata": kept, **outputs}))
    return NotebookNode(cells=cells, metadata=NotebookNode(METADATA), nbformat=4, nbformat_minor=5)


def _without_stderr(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """The outputs but for stderr, where progress bars go; what it stood between is one stream again."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stdout" and kept and kept[-1].get("name") == "stdout":
            kept[-1] = NotebookNode(kept[-1], text=kept[-1].text + output.text)
        elif output.get("name") != "stderr":
            kept.append(output)
    return kept


def difference(old: NotebookNode, new: NotebookNode) -> str:
    """Where two notebooks first differ, in words."""
    for number, (before, after) in enumerate(zip(old.cells, new.cells, strict=False)):
        for part in ("source", "outputs", "execution_count", "metadata", "id"):
            if before.get(part) != after.get(part):
                return f"cell {number} (cell-{number:02d}) differs from its file in its {part.replace('_', ' ')}"
    return "it differs from its file outside the cells"
