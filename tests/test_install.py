"""The wheel: what it holds, and what works where the core's needs alone are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
NEEDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network from a copy, so that the clone stays as it is. About 3 s."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("mamlkit", "data"):
        shutil.copytree(ROOT / name, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(build, cwd=folder / "tree", check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def closure(needs: list[str]) -> set[str]:
    """The distributions that requirements bring, with what those require in turn."""
    found: set[str] = set()
    waiting = list(map(Requirement, needs))
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name not in found and (need.marker is None or need.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += map(Requirement, distribution(name).requires or [])
    return found


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a fresh virtual environment with the wheel and the core's needs, linked from here, alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in closure(NEEDS):
        here = distribution(name)
        for top in {file.parts[0] for file in here.files or []} - {"..", "__pycache__"}:
            place = site / top
            if not place.exists():
                place.symlink_to(Path(str(here.locate_file(top))))
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    install += ["install", "-q", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "bin"


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command away from the clone, in an environment without variables."""
    arguments = list(map(str, command))
    return subprocess.run(arguments, cwd=folder, env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def test_a_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "mamlkit"
    held = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert held <= names, "a package, a stub, a style sheet or a template is missing"
    assert {"mamlkit/data/glyphs.npz", "mamlkit/data/OFL.txt", "mamlkit/data/README.md"} <= names
    assert {"mamlkit/data/golden.json", "mamlkit/data/golden.py"} <= names


def test_an_installed_wheel_loads_its_data(core: Path, tmp_path: Path) -> None:
    code = "import mamlkit.images as i; print(i.__file__, i.Glyphs().batch(0, 2).support.x.sum().item())"
    done = run(core / "python", "-c", code, folder=tmp_path)
    assert done.stdout.startswith(str(core.parent)), done.stderr


def test_the_sinusoid_is_trained_with_the_core_alone(core: Path, tmp_path: Path) -> None:
    code = """
import importlib.util, mamlkit as mk, torch
assert not [name for name in ("matplotlib", "scipy", "IPython", "pandas", "PIL") if importlib.util.find_spec(name)]
tasks = mk.Sinusoids(shots=10, queries=10, seed=0)
objective = mk.Objective(mk.models.mlp(1, 1, hidden=(40, 40), seed=0), torch.nn.functional.mse_loss)
exam = dict(alpha=0.01, steps=1, size=100, split="validation")
before = mk.evaluate(objective, objective.theta(), tasks, **exam)
records = list(mk.train(objective, tasks, alpha=0.01, beta=1e-3, iterations=200, progress=False))
after = mk.evaluate(objective, objective.theta(), tasks, **exam)
assert len(records) == 200 and after.mean()[-1] < 0.9 * before.mean()[-1], (before.mean(), after.mean())
print(after.half_width()[-1].item())
"""
    done = run(core / "python", "-W", "error", "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


@pytest.mark.parametrize(
    ("code", "brings"),
    [
        ("mk.claim", "ledger"),
        ("mk.show", "ledger"),
        ("mk.figures", "figures"),
        ("mk.Omniglot()", "images"),
        ("mk.t_interval([1.0, 2.0])", "statistics"),
        ("import mamlkit.study.notebooks", "study"),
        ("import mamlkit.sweeps.results", "sweeps"),
    ],
)
def test_a_wing_without_its_extra_says_what_to_install(core: Path, tmp_path: Path, code: str, brings: str) -> None:
    done = run(core / "python", "-c", f"import mamlkit as mk; {code}", folder=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: ")
    assert last.endswith(f'run: pip install "mamlkit[{brings}]"')


@pytest.mark.parametrize(
    ("command", "brings"),
    [
        ("run 00", "study"),
        ("regenerate 00", "study"),
        ("assignment out", "study"),
        ("grade x.ipynb", "study"),
        ("rerun x.yml", "sweeps"),
        ("report x", "sweeps"),
        ("train x.yml", "sweeps"),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(
    core: Path, tmp_path: Path, command: str, brings: str
) -> None:
    done = run(core / "mamlkit", *command.split(), folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(f'run: pip install "mamlkit[{brings}]"')
    assert done.stderr.count("\n") == 1, "one line, no traceback"


def test_the_commands_are_listed_with_the_core_alone(core: Path, tmp_path: Path) -> None:
    for command in ([core / "mamlkit"], [core / "python", "-m", "mamlkit"]):
        done = run(*command, "--help", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert {"run", "rerun", "report", "regenerate", "data"} <= set(done.stdout.split())
