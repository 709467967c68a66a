"""One way through the package: a module imports only from those to its left, and the science stays small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mamlkit"
# Left to right. What stands at the end (commands) looks in from outside; nothing imports it.
ROOMS = ["device", "tasks", "images", "models", "pure", "inner", "meta", "files", "statistics", "checkpoint"]
ROOMS += ["train", "evaluate", "ledger", "figures"]
OUTSIDE = ["study", "sweeps", "__main__"]


def imports(path: Path) -> set[str]:
    """The modules of mamlkit that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mamlkit":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mamlkit.")}
    return found


def files(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.glob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_its_left(room: str) -> None:
    left = set(ROOMS[: ROOMS.index(room) + 1])
    for path in files(room):
        assert imports(path) <= left, f"{path.name} imports {imports(path) - left}"


def test_every_module_has_its_place() -> None:
    found = {
        path.stem if path.is_file() else path.name
        for path in PACKAGE.iterdir()
        if path.suffix in ("", ".py") and path.name != "__pycache__"
    }
    assert found - {"__init__"} <= set(ROOMS) | set(OUTSIDE)


def test_the_science_stays_thin() -> None:
    science = ["tasks", "models", "inner", "meta", "train", "evaluate"]
    code = 0
    for path in (path for room in science for path in files(room)):
        tree = ast.parse(path.read_text())
        blank = {
            n for n, line in enumerate(path.read_text().splitlines(), 1) if not line.strip() or line.strip()[0] == "#"
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                blank |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        code += len(path.read_text().splitlines()) - len(blank)
    assert code <= 600, f"{code} lines of code"
