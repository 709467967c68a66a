"""What loads when: names when they are touched, wings never with the core, and no function hidden by its module.

How long it takes is measured by tests/benchmarks/start_up.py.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mamlkit as mk
from mamlkit.extras import extra

ROOT = Path(__file__).parent.parent
CORE = sorted(set(mk.__all__) - {"ClaimError", "Glyphs", "Omniglot", "claim", "figures", "record", "show"})
WINGS = ("matplotlib", "seaborn", "IPython", "scipy.stats", "pandas", "nbformat", "distributed", "PIL", "pooch")


def loaded(code: str) -> set[str]:
    """The modules that a fresh process has loaded after running some code."""
    code += "\nimport sys; print(); print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n"))


def test_importing_the_package_loads_no_torch_and_no_wing() -> None:
    assert loaded("import mamlkit").isdisjoint({"torch", "numpy", *WINGS})


def test_the_whole_core_loads_no_wing() -> None:
    found = loaded(f"import mamlkit\nfor name in {CORE}: getattr(mamlkit, name)")
    assert {"torch", "mamlkit.train", "mamlkit.evaluate"} <= found
    assert found.isdisjoint({*WINGS, "mamlkit.ledger", "mamlkit.figures", "mamlkit.images"})


@pytest.mark.parametrize(
    "command", [[], ["data"], ["run"], ["rerun"], ["report"], ["regenerate"], ["assignment"], ["grade"]], ids=" ".join
)
def test_help_loads_neither_torch_nor_what_the_wings_need(command: list[str]) -> None:
    code = f"from mamlkit.__main__ import main\ntry: main({[*command, '--help']})\nexcept SystemExit: pass"
    assert loaded(code).isdisjoint({"torch", "numpy", *WINGS})


def test_train_evaluate_device_and_cost_are_functions_whatever_was_imported_first() -> None:
    """They bear the names of their modules, and an import of a module makes it an attribute of its package."""
    code = """
import importlib, itertools, sys
firsts = ["import mamlkit", "import mamlkit.train", "from mamlkit.train import Iteration", "import mamlkit.device",
          "from mamlkit.evaluate import Curve", "from mamlkit.cost import Cost", "from mamlkit import Iteration, Curve",
          "import mamlkit.images.episodes", "from mamlkit import evaluate", "from mamlkit import *",
          "import mamlkit.evaluate as module", "import importlib; importlib.import_module('mamlkit.train')"]
for first in firsts:
    for order in itertools.permutations(["train", "evaluate", "device", "cost"]):
        for name in [name for name in sys.modules if name.split(".")[0] == "mamlkit"]:
            del sys.modules[name]
        exec(first, {})
        import mamlkit as mk
        for name in order:
            assert callable(getattr(mk, name)), (first, name, getattr(mk, name))
        for name in order:
            module = importlib.import_module(f"mamlkit.{name}")
            assert getattr(mk, name) is getattr(module, name), (first, name)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_public_name_is_listed_and_found() -> None:
    for stub in (ROOT / "mamlkit" / "__init__.pyi", ROOT / "mamlkit" / "images" / "__init__.pyi"):
        tree = ast.parse(stub.read_text())
        named = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        (listed,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
        assert sorted(named) == sorted(listed)
    for name in mk.__all__:
        assert getattr(mk, name) is not None
    assert dir(mk) == sorted(mk.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        mk.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_a_missing_module_is_said_with_the_extra_that_brings_it() -> None:
    with (
        pytest.raises(
            ModuleNotFoundError, match=r'not_there is not installed .*pip install "mamlkit\[figures\]"'
        ) as caught,
        extra("figures"),
    ):
        import not_there.at_all  # type: ignore[import-not-found]  # noqa: F401
    assert caught.value.name == "not_there"


def test_a_missing_module_of_the_kit_itself_is_left_as_it_is() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'mamlkit\.not_there'"), extra("figures"):
        import mamlkit.not_there  # type: ignore[import-not-found]  # noqa: F401
