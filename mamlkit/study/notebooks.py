"""Notebooks as files: finding them, reading them and their parameters."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mamlkit.extras import extra
from mamlkit.study import RefusedError as RefusedError

with extra("study"):
    import nbformat
    from nbformat import NotebookNode

WALKTHROUGH = "[0-9][0-9]_*.ipynb"
DECLARES, INJECTED = "parameters", "injected-parameters"  # papermill's tags: of the cell that declares, and that sets
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SCALARS = {"int": int, "float": float, "bool": bool, "str": str}


class Parameter(NamedTuple):
    """One line of a parameters cell: `alpha: float = 0.01  # inner step size`."""

    name: str
    type: str
    default: Any
    help: str

    def __str__(self) -> str:
        return f"{self.name}: {self.type} = {self.default!r}" + (f"  # {self.help}" if self.help else "")


def folder() -> Path:
    """The folder of the walkthrough: beside the package, or in the current folder. Raises RefusedError if neither."""
    places = [Path(__file__).parents[2] / "notebooks", Path.cwd() / "notebooks"]
    for place in places:
        if any(place.glob(WALKTHROUGH)):
            return place
    raise RefusedError(
        "there are no notebooks/ with a walkthrough (00_….ipynb, 01_….ipynb) beside the package or in the current "
        "folder; change into a clone of the repository, or give the path of a notebook"
    )


def select(names: Sequence[str], home: Path | None = None) -> list[Path]:
    """The notebooks called by number ("06"), stem ("06_meta_update") or path; the whole walkthrough for no names.

    Raises RefusedError for an unknown name, naming those there are, and for two notebooks of one name, because their
    results would overwrite each other.
    """
    walkthrough = [] if names and all(map(is_path, names)) else sorted((home or folder()).glob(WALKTHROUGH))
    chosen = [_find(name, walkthrough) for name in names] or walkthrough
    for path in chosen:
        if sum(path.stem == other.stem for other in chosen) > 1:
            raise RefusedError(f"{path.stem} was asked for twice; run the two one after the other, each with its --out")
    return chosen


def is_path(name: str) -> bool:
    """Whether a notebook is called by the path of its file."""
    return name.endswith(".ipynb") and Path(name).is_file()


def _find(name: str, walkthrough: list[Path]) -> Path:
    if is_path(name):
        return Path(name)
    number = name.zfill(2) if name.isdecimal() else None
    for path in walkthrough:
        if path.stem == name.removesuffix(".ipynb") or path.stem[:2] == number:
            return path
    known = ", ".join(path.stem for path in walkthrough) or "none"
    raise RefusedError(f"there is no notebook {name!r}; there are {known}; give a number, a name or a path")


def load(path: Path) -> NotebookNode:
    """Read a notebook, of whichever format. Raises RefusedError for a file that is not one.

    Its cells have ids, the same at each reading: their own, or numbers where they have none or two have the same.
    """
    try:
        read = nbformat.reader.reads(path.read_text(encoding="utf-8"))
        json.dumps(read, ensure_ascii=False).encode()  # JSON may hold halves of characters, which no file can
        ids = [cell.get("id") for cell in read.get("cells", [])]
        notebook: NotebookNode = nbformat.v4.upgrade(nbformat.convert(read, 4))
        sound = {name for name in ids if isinstance(name, str) and ID.fullmatch(name)}
        if len(sound) < len(notebook.cells):
            ids = [f"cell-{number:02d}" for number in range(len(notebook.cells))]
        for cell, name in zip(notebook.cells, ids, strict=True):
            cell.id = name
        nbformat.validate(notebook, relax_add_props=True)
    except Exception as error:  # which ones, for a file that is no notebook, nbformat does not say
        raise RefusedError(f"{path} is not a notebook that can be read: {str(error).partition(chr(10))[0]}") from error
    return notebook


def source(path: Path) -> NotebookNode:
    """A notebook as it was written: `load` without the cells in which earlier runs set parameters."""
    notebook = load(path)
    notebook.cells = [cell for cell in notebook.cells if not tagged(cell, INJECTED) or tagged(cell, DECLARES)]
    return notebook


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Whether a cell has a tag."""
    return tag in cell.metadata.get("tags", [])


def dumps(notebook: NotebookNode) -> str:
    """The notebook as the text of its file."""
    text: str = nbformat.writes(notebook, version=4)
    return text + "\n"


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that a kernel executes, in order; the n-th has execution count n. An empty one is passed over."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def title(notebook: NotebookNode, otherwise: str) -> str:
    """The text of the first heading of level 1."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^# +(.+?)\s*$", cell.source, re.MULTILINE)):
            return found[1]
    return otherwise


def displayed(notebook: NotebookNode, mime: str) -> Iterator[tuple[NotebookNode, Any]]:
    """Every displayed value of a MIME type, with its cell."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if mime in output.get("data", {}):
                yield cell, output.data[mime]


def declared(path: Path) -> dict[str, Parameter]:
    """`parameters` of a file. Raises RefusedError, naming it, where it has none that can be read."""
    try:
        return parameters(load(path))
    except RefusedError as error:
        raise RefusedError(f"{path.stem}: {error}") from error


def parameters(notebook: NotebookNode) -> dict[str, Parameter]:
    """The declared parameters: those of the cell tagged `parameters`, by name; none where no cell is tagged.

    Raises RefusedError unless every line of the cell is `name: type = literal`, the literal of that type.
    """
    cells = [cell for cell in notebook.cells if tagged(cell, DECLARES)]
    if not cells:
        return {}
    if len(cells) > 1:
        raise RefusedError(f"{len(cells)} cells are tagged 'parameters'; tag one")
    try:
        lines = ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise RefusedError(f"the parameters cell is not Python: {error}") from error
    comments = _comments(cells[0].source)
    return {found.name: found for found in (_declared(line, comments) for line in lines)}


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def _declared(line: ast.stmt, comments: dict[int, str]) -> Parameter:
    text = ast.unparse(line)
    if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
        raise RefusedError(f"the parameters cell holds {text!r}; each line must be `name: type = literal`")
    try:
        default = ast.literal_eval(line.value)
    except (ValueError, TypeError) as error:
        raise RefusedError(
            f"the parameter {line.target.id} is computed ({text!r}), so it would not follow the ones it is computed "
            "from; give it a literal, or compute it in the next cell"
        ) from error
    kind = ast.unparse(line.annotation)
    try:
        default = coerce(default, kind)
    except TypeError as error:
        raise RefusedError(f"the parameters cell holds {text!r}, and {error}") from error
    return Parameter(line.target.id, kind, default, comments.get(line.end_lineno or 0, ""))


def parse(text: str, parameter: Parameter) -> Any:
    """The value that `text` stands for, of the parameter's type. It is read as a literal and never evaluated.

    Raises RefusedError for a text that is no literal of that type. For a `str` parameter any text is the value itself.
    """
    if parameter.type == "str":
        return text
    try:
        return coerce(ast.literal_eval(text.strip()), parameter.type)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        shown = text if len(text) <= 60 else text[:60] + "…"
        raise RefusedError(
            f"parameter {parameter.name} is {shown!r}; the notebook declares {parameter}, "
            f"so give {parameter.type}, written like {parameter.default!r}"
        ) from error


def coerce(value: Any, kind: str) -> Any:
    """`value` as the type called `kind`: int, float, bool, str, or a tuple[…] or list[…] of those; an int is a float.

    Raises TypeError for a value of another type, an infinite float, and a `kind` that parameters cannot have.
    """
    container, _, items = kind.removesuffix("]").partition("[")
    if container in ("tuple", "list") and items:
        if not isinstance(value, tuple | list):
            raise TypeError(f"{value!r} is not {kind}")
        kinds = [item.strip() for item in items.split(",")]
        if container == "list" or kinds[-1] == "...":
            kinds = [kinds[0]] * len(value)
        if len(kinds) != len(value):
            raise TypeError(f"{value!r} has {len(value)} items, not {len(kinds)}")
        cast = tuple if container == "tuple" else list
        return cast(coerce(item, of) for item, of in zip(value, kinds, strict=True))
    if kind not in SCALARS:
        raise TypeError(f"{kind!r} is not a type for a parameter; use {', '.join(SCALARS)}, or a tuple or list of them")
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value) is not SCALARS[kind] or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(f"{value!r} is not {kind}")
    return value
