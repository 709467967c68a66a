"""A copy of the kit to change, and what the tests say of it: each file of them runs in a fork, with PyTorch loaded."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import IPython.display  # noqa: F401  # what takes long to load is loaded once, for all forks
import jupyter_client  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pandas  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch._dynamo  # noqa: F401

ROOT = Path(__file__).parents[1]
AWAY = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
# The plugins that conftest.py needs, and no other: each is loaded again in every fork.
PYTEST = ["-x", "-q", "-p", "nbval", "-p", "xdist", "-p", "no:cacheprovider", "-n", "0"]


def copied(scratch: Path) -> Path:
    """A copy of the project, which from here on is what this process and those that it starts import."""
    copy = Path(shutil.copytree(ROOT, scratch / "copy", ignore=AWAY))
    # No bytecode: a change may keep a file's size and second, by which Python tells that old bytecode is old.
    sys.dont_write_bytecode = True
    sys.path[:1] = [str(copy), str(copy / "tests")]
    os.environ |= {
        "PYTHONPATH": f"{copy}:{copy / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TMPDIR": str(scratch),
    }
    return copy


def outcome(copy: Path, test: str, limit: float) -> str:
    """What a file of tests says of the copy as it stands: killed, survived or timeout."""
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(copy)
        for stream in (1, 2):
            os.dup2(os.open(copy / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os._exit(pytest.main([*PYTEST, test]))
    end, done, status = time.monotonic() + limit, 0, 0
    while not done and time.monotonic() < end:
        time.sleep(0.02)
        done, status = os.waitpid(child, os.WNOHANG)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # with the kernels and servers that the tests have left behind
    if not done:
        os.waitpid(child, 0)
        return "timeout"
    return "killed" if status else "survived"
