"""Notebooks of a few lines, and what the ledger displays in them, for tests of what runs and reads notebooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mamlkit.ledger import CLAIM, RECORD


def write(folder: Path, name: str, cells: tuple[str, ...], text: str = "") -> Path:
    """A notebook of these code cells, after a cell of text; the first is tagged `parameters` if it declares any."""
    code = [new_code_cell(source) for source in cells]
    if re.match(r"\w+: \w", cells[0]):
        code[0].metadata["tags"] = ["parameters"]
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(text or f"# {name}"), *code]), path)
    return path


def output(kind: str, **fields: Any) -> NotebookNode:
    """An output of a cell."""
    made: NotebookNode = new_output(kind, **fields)
    return made


def claimed(text: str = "it falls", *, holds: bool = True) -> NotebookNode:
    """The output of mk.claim."""
    data = {"text/plain": f"{'✓' if holds else '✗'} {text}", CLAIM: {"claim": text, "holds": holds}}
    return output("display_data", data=data)


def recorded(value: Any, name: str = "x") -> NotebookNode:
    """The output of mk.record."""
    text = f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
    return output("display_data", data={"text/plain": text, RECORD: {"name": name, "value": value}})


def shown(picture: str, alt: str = "A line falls.") -> NotebookNode:
    """The output of mk.show; the picture is a PNG in base64."""
    data = {"image/png": picture, "text/plain": alt}
    return output("display_data", data=data, metadata={"image/png": {"alt": alt}})


def claims(text: str = "it falls", holds: str = "True") -> str:
    """Code that displays what mk.claim does, without the kit, which takes seconds to load; `holds` is an expression."""
    sign = f"('✓ ' if (holds := {holds}) else '✗ ')"
    return _displays(f"{{'text/plain': {sign} + {text!r}, {CLAIM!r}: {{'claim': {text!r}, 'holds': holds}}}}")


def records(value: str, name: str = "x") -> str:
    """Code that displays what mk.record does; `value` is an expression."""
    text = f"f'{name} = {{value:.4g}}' if isinstance(value := {value}, float) else f'{name} = {{value}}'"
    return _displays(f"{{'text/plain': {text}, {RECORD!r}: {{'name': {name!r}, 'value': value}}}}")


def draws(picture: str) -> str:
    """Code that displays a picture, a PNG in base64, without alt text."""
    return _displays(f"{{'image/png': {picture!r}}}")


def _displays(data: str) -> str:
    return f"from IPython.display import display\ndisplay({data}, raw=True)"
