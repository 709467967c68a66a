"""Sweeps of small notebooks, and the command that does them, for tests of `mamlkit rerun`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from books import write

from mamlkit.ledger import CLAIM, RECORD
from mamlkit.study import notebooks
from mamlkit.sweeps.job import Job, jobs
from mamlkit.sweeps.spec import load

DISPLAY = "from IPython.display import display\n"
GOOD = (
    'seed: int = 0\nalpha: float = 0.1\nname: str = "θ"\nphase: tuple[float, float] = (0.0, 1.0)',
    f'{DISPLAY}display({{"text/plain": "x", "{RECORD}": {{"name": "x", "value": [alpha + seed, 1 / 3]}}}}, raw=True)',
    f'display({{"text/plain": "✓", "{CLAIM}": {{"claim": "α < 1", "holds": alpha < 1}}}}, raw=True)',
)
# Notes each of its executions in a file, so that a test can count them.
COUNTED = (
    'seed: int = 0\nlog: str = ""\npause: float = 0.0',
    "import time\nwith open(log, 'a') as file:\n    file.write(f'{seed}\\n')",
    "time.sleep(pause)",
    f'{DISPLAY}display({{"text/plain": "x", "{RECORD}": {{"name": "x", "value": seed * 2}}}}, raw=True)',
)


def plan(folder: Path, text: str) -> Path:
    """A sweep's file, beside a notebook `good` that ends well."""
    write(folder, "good", GOOD)
    path = folder / "sweep.yml"
    path.write_text(text, encoding="utf-8")
    return path


def planned(folder: Path, text: str, where: str = "") -> list[Job]:
    """The jobs of a sweep."""
    return jobs(load(plan(folder, text)).runs, where or str(folder), 60, 1)


def command(*arguments: object) -> list[str]:
    """The command line of a sweep."""
    return [sys.executable, "-m", "mamlkit", "rerun", *map(str, arguments)]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240, check=False)


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command, in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Until something is there."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited two minutes for {what}"
        time.sleep(0.1)


def sidecars(folder: Path) -> list[dict[str, Any]]:
    """What the runs of a folder left."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*-*.json"))]


def counts(log: Path) -> Counter[str]:
    """How often each seed was executed."""
    return Counter(log.read_text().split()) if log.exists() else Counter()


def listeners(driver: int) -> set[str]:
    """The addresses at which a driver, its workers and their kernels listen."""
    process = psutil.Process(driver)
    family = [process, *process.children(recursive=True)]
    sockets = [found for member in family for found in member.net_connections("inet")]
    return {found.laddr.ip for found in sockets if found.status == psutil.CONN_LISTEN}


def whole(folder: Path) -> bool:
    """Every file is complete, and nothing of a write that was cut off is there."""
    for path in folder.glob("*.json"):
        json.loads(path.read_text("utf-8"))
    for path in folder.glob("*.ipynb"):
        notebooks.load(path)
    return not [path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]
