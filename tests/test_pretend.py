"""The kit and its notebooks on a pretend accelerator: what would fail on a GPU alone fails here, where there is none.

PyTorch cannot be rid of a device again, so it gets this one in processes of their own: `on_pretend.py` is a suite that
one pytest runs, and each notebook has its kernel. `make test` runs the notebooks that take seconds; `make pretend` runs
the others too, and holds what every notebook records against the same run on the CPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell
from torch.utils import backend_registration

from mamlkit.study import notebooks
from mamlkit.study.execute import execute
from mamlkit.study.result import Result

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this version of PyTorch has no devices written in Python",
)

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}

# What makes each notebook that has a device short. Nothing that it computes is left out.
SHORT: dict[str, dict[str, Any]] = {
    "00": {"iterations": 5},
    "02": {"n": 200, "fit_steps": 20},
    "03": {},
    "04": {"iterations": 20, "validation_size": 20, "test_size": 20},
    "05": {},
    "06": {"iterations": 20, "test_size": 20},
    "07": {"iterations": 20},
    "08": {"iterations": 100, "test_size": 20},
    "09": {"iterations": 10, "test_size": 100},
    "10": {"iterations": 2, "test_size": 10},
}
LONG = ("07", "09")  # half a minute and more
SOLUTIONS: dict[str, dict[str, Any]] = {
    "solutions/00": {},
    "solutions/02": {"n": 200},
    "solutions/03": {},
    "solutions/05": {},
    "solutions/06": {"iterations": 20},
    "solutions/07": {"iterations": 20},
    "solutions/10": {"iterations": 2},
}
# What the pretence itself cannot do, by notebook and cell, and why. Every other cell must run.
BEYOND: dict[str, dict[str, str]] = {}

# A claim of a short run need not hold, but it must be possible to ask, and the rest of its cell has to run.
START = """
import pretend
from mamlkit import ledger

strict = ledger.claim
def claim(text, ok):
    try:
        strict(text, ok)
    except ledger.ClaimError:
        pass
ledger.claim = claim
"""


def test_the_kit_computes_there_what_it_computes_on_the_cpu() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/on_pretend.py"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed in ", done.stdout, re.MULTILINE), done.stdout


def test_every_notebook_with_a_device_is_here() -> None:
    for known, folder, place in ((SHORT, "notebooks", ""), (SOLUTIONS, "notebooks/solutions", "solutions/")):
        paths = sorted((ROOT / folder).glob(notebooks.WALKTHROUGH))
        found = [path for path in paths if "device" in notebooks.parameters(notebooks.load(path))]
        assert [place + path.name[:2] for path in found] == list(known)


@cache
def ran(number: str, device: str, folder: Path) -> tuple[Result, dict[str, str]]:
    """A short run of a notebook on a device: its result, and the error of each cell that raised one."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    notebook = notebooks.load(path)
    notebook.cells.insert(0, new_code_cell(START, id="start"))
    for cell in notebooks.code_cells(notebook):
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), "raises-exception"]  # so that the next one runs too
    copy = folder / f"{path.parent.name} {path.name}"
    copy.write_text(notebooks.dumps(notebook), encoding="utf-8")
    given = {"device": device, **(SHORT | SOLUTIONS)[number]}
    result, done = execute(copy, given, timeout=300, environment=ENVIRONMENT)
    assert all(cell.execution_count for cell in notebooks.code_cells(done)), (result.status, result.error)
    errors = {
        cell.id: f"{output.ename}: {output.evalue}"
        for cell in notebooks.code_cells(done)
        for output in cell.outputs
        if output.output_type == "error"
    }
    return result, errors


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretend")


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=[pytest.mark.pretend] * (n in (*LONG, *SOLUTIONS))) for n in (*SHORT, *SOLUTIONS)],
)
def test_a_notebook_runs_there(number: str, folder: Path) -> None:
    _, errors = ran(number, "pretend", folder)
    assert errors.keys() == BEYOND.get(number, {}).keys(), errors


@pytest.mark.pretend
@pytest.mark.parametrize("number", SHORT)
def test_a_notebook_records_there_what_it_records_on_the_cpu(number: str, folder: Path) -> None:
    there, here = (ran(number, device, folder)[0] for device in ("pretend", "cpu"))
    assert there.records
    assert there.records == here.records
    assert there.claims == here.claims
