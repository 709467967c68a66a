"""nbval runs every cell of the committed notebooks as a test; what counts as the same output is said in nbcompare.

`make test` deals the files out to workers (pytest-xdist): a file stays on one worker, as the cells of a notebook must,
and those that take longest start first, so that the workers finish together.
"""

import os
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from nbcompare import compare
from nbval.plugin import IPyNbCell, IPyNbFile
from xdist.scheduler import LoadScopeScheduling

IPyNbCell.compare_outputs = compare

# A shell makes what it starts in the background deaf to Ctrl-C, and the commands that tests interrupt would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What each kernel of the notebook tests runs first: a figure whose text is hard to read is then refused.
STARTUP = (
    f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import contrast; contrast.watch(); del sys, contrast"
)
_start = IPyNbFile.setup


def _start_measuring(file: IPyNbFile) -> None:
    """Start a notebook's kernel with a profile of its own, the one file of which is STARTUP."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch, ExitStack() as handles:
        startup = Path(home, "profile_default", "startup", "00-contrast.py")
        startup.parent.mkdir(parents=True)
        startup.write_text(STARTUP)
        patch.setenv("IPYTHONDIR", home)
        # nbval opens the null device for the kernel, and does not close it.
        patch.setattr("nbval.kernel.open", lambda *of: handles.enter_context(open(*of)), raising=False)
        try:
            _start(file)
        except RuntimeError:  # no answer: another process may have taken a port that was picked for it
            _start(file)


IPyNbFile.setup = _start_measuring

# Files that start clusters, servers or browsers, several processes each: all on one worker, one after another.
BUSY = ("test_browser", "test_rerun", "test_report", "test_sweep")
# The other files that take longest, in this order: notebooks, and their solutions with them.
LONG: tuple[str, ...] = (
    "test_pretend",
    "10_",
    "11_",
    "08_",
    "09_",
    "test_odd",
    "test_run",
    "test_assignment",
    "04_",
    "07_",
    "06_",
    "12_",
)
LONG += ("test_check",)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Deals out whole files, and the busy ones together."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return "busy" if path.rsplit("/", 1)[-1].startswith(BUSY) else path


def pytest_configure(config: pytest.Config) -> None:
    """Workers share the cores, so each computes with one thread, its kernels too. PyTorch reads this when it loads."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """The scheduler of `pytest -n`; it keeps to the order of the items."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a worker, the files that take longest come first; the tests of a file stay in order."""
    first = BUSY + LONG

    def place(item: pytest.Item) -> int:
        return next((i for i, start in enumerate(first) if item.path.name.startswith(start)), len(first))

    if hasattr(config, "workerinput"):
        items.sort(key=place)
