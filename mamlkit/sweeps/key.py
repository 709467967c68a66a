"""What the numbers of a run depend on, as digests: the key of a run changes when one of them does, and only then.

They are the code of the notebook, the parameters and what lies in the folders that they name, the data, and
of the kit the core, the images, the ledger, what executes a notebook, and the modules that the notebook imports,
with all that these import in turn. Figures draw numbers and make none.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

import mamlkit
from mamlkit.images.glyphs import glyphs_file
from mamlkit.study import notebooks

ALWAYS = ("*.py", "images/*.py", "study/execute.py")  # of the kit's folder: the core and the ledger are at its top
NEVER = ("figures", "experiment.py", "__main__.py")


def key(path: Path, parameters: Mapping[str, Any], identity: Mapping[str, str]) -> str:
    """The name of a run among all runs: a digest of its notebook's name, all its parameters and its identity."""
    whole = json.dumps([path.stem, dict(identity), dict(parameters)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def identity(path: Path, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The digests of what a run depends on besides its parameters.

    notebook, kit, data  see the module
    inputs               of what lies in the files and folders that parameters name; only where there are any

    A parameter names an input if its default, as the notebook declares it, is a path that is there.
    """
    found = {"notebook": notebook_digest(path), "kit": kit_digest(path), "data": data_digest()}
    inputs = {
        name: _content(place)
        for name, declared in notebooks.declared(path).items()
        if _place(path.parent, declared.default) and (place := _place(path.parent, parameters[name]))
    }
    return found | ({"inputs": _digest(inputs)} if inputs else {})


def notebook_digest(path: Path) -> str:
    """Of a notebook's code cells and their tags: neither text and outputs nor counts and ids reach a run."""
    cells = notebooks.code_cells(notebooks.source(path))
    return _digest([(cell.source, cell.metadata.get("tags", [])) for cell in cells])


def kit_digest(path: Path) -> str:
    """The kit's version and a digest of those of its modules, and of those beside the notebook, that reach its run."""
    package = Path(mamlkit.__file__).parent
    waiting = [file for pattern in ALWAYS for file in package.glob(pattern)]
    for cell in notebooks.code_cells(notebooks.source(path)):
        waiting += _imported(TransformerManager().transform_cell(cell.source), path.parent)
    found: dict[str, bytes] = {}
    while waiting:
        file = waiting.pop()
        inside = file.is_relative_to(package)
        name = file.relative_to(package if inside else path.parent)
        if str(name) in found or (inside and name.parts[0] in NEVER):
            continue
        found[str(name)] = file.read_bytes()
        waiting += _imported(found[str(name)].decode(), path.parent)
    return f"{version('mamlkit')}+{_digest({name: _sha(content) for name, content in found.items()})[:16]}"


@cache
def _imported(source: str, folder: Path) -> list[Path]:
    """The files of the kit, and of a notebook's folder, that a source imports wherever in it."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []  # a cell that does not run
    found: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            home = Path(mamlkit.__file__).parents[1] if parts[0] == "mamlkit" else folder
            for count in range(1, len(parts) + 1):  # importing a.b.c imports a and a.b as well
                place = home.joinpath(*parts[:count])
                found += filter(Path.is_file, (place.with_suffix(".py"), place / "__init__.py"))
    return found


@cache
def data_digest() -> str:
    """Of the embedded image set. Omniglot's files are pinned by checksums in the kit's code."""
    return _sha(glyphs_file().read_bytes())


def _place(folder: Path, value: Any) -> Path | None:
    """The file or folder that a text names, seen from the notebook's folder or from the one that holds it."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        return next(filter(Path.exists, (folder / value, folder.parent / value)), None)
    except (OSError, ValueError):
        return None  # no text of a path


def _content(place: Path) -> dict[str, str]:
    """The digest of each file in a folder, by its path within; what is hidden is left out."""
    if place.is_file():
        return {place.name: _sha(place.read_bytes())}
    files = {file.relative_to(place): file for file in place.rglob("*") if file.is_file()}
    hidden = {name for name in files if any(part.startswith(".") for part in name.parts)}
    return {name.as_posix(): _sha(file.read_bytes()) for name, file in files.items() if name not in hidden}


def _digest(content: Any) -> str:
    return _sha(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
