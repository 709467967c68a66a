"""Notebooks of a few lines, for tests of what runs them."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def write(folder: Path, name: str, cells: tuple[str, ...], text: str = "") -> Path:
    """A notebook of these code cells, after a cell of text; the first is tagged `parameters` if it declares any."""
    code = [new_code_cell(source) for source in cells]
    if re.match(r"\w+: \w", cells[0]):
        code[0].metadata["tags"] = ["parameters"]
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(text or f"# {name}"), *code]), path)
    return path
