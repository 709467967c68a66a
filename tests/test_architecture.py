"""One way through the package: a module imports only from those to its left, and the core is small."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mamlkit"
# Left to right. The core's modules, then the wings; `__main__` looks in from outside, and nothing imports it.
CORE = [
    "device",
    "files",
    "tasks",
    "models",
    "pure",
    "watch",
    "objective",
    "checks",
    "statistics",
    "inner",
    "curves",
    "dependence",
    "graphs",
    "meta",
]
CORE += ["cost", "checkpoint", "train", "evaluate"]
ROOMS = ["extras", *CORE, "check", "museum", "images", "ledger", "figures", "study", "assignment", "sweeps"]
ROOMS += ["experiment"]
# A tag's beginning; a comparison such as "a <b" is none.
HTML = re.compile(r"<!|</|<(a|b|br|code|div|h\d|i|img|li|link|meta|ol|p|pre|script|span|style|t[dhr]|table|ul)[\s/>]")


def files(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def imports(source: str) -> set[str]:
    """The modules of mamlkit that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mamlkit":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add("." * node.level)
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.partition(".")[2].partition(".")[0]
                for alias in node.names
                if alias.name.split(".")[0] == "mamlkit"
            }
    return found


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """The strings of a source that stand alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def lines_of_code(source: str) -> int:
    """Lines with something on them that is neither a comment nor a docstring."""
    lines = source.splitlines()
    blank = {n for n, line in enumerate(lines, 1) if not line.strip() or line.strip()[0] == "#"}
    for node in docstrings(ast.parse(source)):
        blank |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines) - len(blank)


def html(source: str) -> list[str]:
    """The strings of a source, docstrings apart, that hold a piece of HTML."""
    tree = ast.parse(source)
    apart = set(map(id, docstrings(tree)))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in apart]
    return [text for text in texts if isinstance(text, str) and HTML.search(text)]


def replacements(source: str) -> int:
    """How often a source calls os.replace or os.rename."""
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return sum(ast.unparse(function) in ("os.replace", "os.rename") for function in called)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_its_left(room: str) -> None:
    left = set(ROOMS[: ROOMS.index(room) + 1])
    if room not in CORE:
        left.add("")  # `import mamlkit` alone, for the public names
    for path in files(room):
        found = imports(path.read_text())
        assert found <= left, f"{path.name} imports {found - left}"


def test_every_module_has_its_place() -> None:
    found = {
        path.stem if path.is_file() else path.name
        for path in PACKAGE.iterdir()
        if path.suffix in ("", ".py") and path.name != "__pycache__"
    }
    assert found - {"__init__", "__main__"} == set(ROOMS)


def test_the_core_stays_thin() -> None:
    """All its modules counted, and what loads them; the bound is that of CONTRIBUTING.md."""
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (bound,) = re.findall(r"the core stays under ([\d,]+)\s+lines of code", page)
    code = sum(lines_of_code(path.read_text()) for room in ["__init__", "extras", *CORE] for path in files(room))
    assert code < int(bound.replace(",", "")), f"{code} lines of code"


def test_no_html_is_written_in_python() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if html(path.read_text())}
    assert not found, "pages are templates, or made by nbconvert"


def test_files_are_replaced_in_one_place() -> None:
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    found = {path.name: replacements(source) for path, source in sources.items()}
    assert {name: count for name, count in found.items() if count} == {"files.py": 1}


def test_the_rules_find_what_breaks_them() -> None:
    source = '''
"""A docstring with <p>."""
# a comment
import os, mamlkit.study.run
from mamlkit import figures
from mamlkit.sweeps.spec import load
from . import tasks
def page(a, b):
    """<table>"""
    os.replace(a, b)
    return f"<p class='x'>{a}</p>" if a < b else "a < b"
'''
    assert imports(source) == {"study", "figures", "sweeps", "."}
    assert lines_of_code(source) == 7
    assert html(source) == ["<p class='x'>", "</p>"]
    assert replacements(source) == 1
