"""Executes one notebook in a kernel of its own, and judges what came of it."""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

from mamlkit.ledger import CLAIM, RECORD
from mamlkit.study import notebooks
from mamlkit.study.notebooks import DECLARES, INJECTED
from mamlkit.study.result import Result, Status

WEEK = 7 * 24 * 3600  # seconds; a socket counts milliseconds up to about three of them
SOCKET_PATH = 90  # characters; a Unix socket's path may have about 100, and the kernel adds a number to ours
LOG = logging.getLogger(__name__)  # nbclient's: what a cell says, its outputs hold
LOG.addHandler(logging.NullHandler())
LOG.propagate = False


def execute(
    path: Path,
    parameters: Mapping[str, Any],
    *,
    timeout: float,
    limit: float | None = None,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[int, int], None] = lambda cell, total: None,
) -> tuple[Result, NotebookNode]:
    """Run one notebook in its folder with parameters of the right types: what it showed, and the executed copy.

    timeout      seconds that a cell may take
    limit        seconds that the whole notebook may take, its kernel's start included; None for no limit
    environment  variables of its kernel, besides those of this process
    watch        called with (number, total) as each code cell starts

    Never raises for what a cell does: the result says it.
    """
    notebook = notebooks.source(path)
    declared = {name: found.default for name, found in notebooks.parameters(notebook).items()}
    set_parameters(notebook, parameters)
    cells = notebooks.code_cells(notebook)
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    begin, number, peak = time.monotonic(), 0, None
    stopped: tuple[Status, str] | None = None
    end = math.inf if limit is None else begin + limit

    def left(_: NotebookNode) -> float | None:
        """Seconds that a cell may take; None for more than can be waited for. nbclient takes 0 for no limit."""
        seconds = min(timeout, max(end - time.monotonic(), 0.001))
        return seconds if seconds < WEEK else None

    try:
        with _kernel(notebook, path.parent, {**os.environ, **(environment or {})}, left) as client:
            for number, cell in enumerate(cells, 1):
                watch(number, len(cells))
                try:
                    client.execute_cell(cell, notebook.cells.index(cell))
                finally:
                    peak = _peak_memory(client.km) or peak
    except CellExecutionError as error:
        if all(output.output_type != "error" for output in cell.outputs):  # one that could not be sent or shown
            cell.outputs.append(new_output("error", ename=error.ename, evalue=error.evalue, traceback=[]))
    except CellTimeoutError:
        late = f"the run took longer than {limit:g} s; raise its limit" if time.monotonic() >= end else None
        stopped = "timeout", f"{late or f'this cell ran longer than {timeout:g} s; raise --timeout'} or ask less of it"
    except RuntimeError:
        stopped = "dead", "its kernel died; is there enough memory?"
    status, ended, why = (stopped[0], number or None, stopped[1]) if stopped else judge(cells)
    return Result(
        notebook=path.stem,
        title=notebooks.title(notebook, path.stem),
        status=status,
        seconds=round(time.monotonic() - begin, 2),
        cell=ended,
        error=why,
        parameters=declared | dict(parameters),
        claims=[value | {"cell": cell.id} for cell, value in notebooks.displayed(notebook, CLAIM)],
        records=[value | {"cell": cell.id} for cell, value in notebooks.displayed(notebook, RECORD)],
        peak_bytes=peak,
    ), notebook


def set_parameters(notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Add a cell that sets parameters after the one that declares them."""
    if parameters:
        place = [notebooks.tagged(cell, DECLARES) for cell in notebook.cells].index(True)
        lines = "\n".join(["# Parameters", *(f"{name} = {value!r}" for name, value in parameters.items())])
        notebook.cells.insert(place + 1, new_code_cell(lines, id=INJECTED, metadata={"tags": [INJECTED]}))


def judge(cells: Sequence[NotebookNode]) -> tuple[Status, int | None, str | None]:
    """Status, the cell that ended it and why, of executed code cells whose kernel neither died nor took too long."""
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if CLAIM in output.get("data", {}) and not output.data[CLAIM]["holds"]:
                return "failed", number, f"this claim does not hold: {output.data[CLAIM]['claim']}"
            if output.output_type != "error" or notebooks.tagged(cell, "raises-exception"):
                continue
            if output.ename == "SystemExit" and output.evalue in ("", "0", "None", "False"):
                return "incomplete", number, "this cell ended the notebook with sys.exit() or exit()"
            return "failed", number, f"{output.ename}: {output.evalue}"
        if cell.execution_count is None:
            return "incomplete", number, "this cell was never run"
    return "ok", None, None


class _Interpreter(KernelSpecManager):
    """Knows one kernel: the interpreter that runs this. The `python3` that Jupyter would find may be another's."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


@contextmanager
def _kernel(
    notebook: NotebookNode, folder: Path, environment: Mapping[str, str], left: Callable[[NotebookNode], float | None]
) -> Iterator[NotebookClient]:
    """A kernel for one notebook that is reached through sockets in a folder of its own, by nobody else.

    Kernels that start at the same time on TCP race for ports; a folder for each one ends that. Where there are no
    Unix sockets, or their path would be too long, TCP it is.
    """
    with tempfile.TemporaryDirectory(prefix="mamlkit-", ignore_cleanup_errors=True) as scratch:
        private = os.name == "posix" and len(scratch) < SOCKET_PATH
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=_Interpreter(),
            connection_file=os.path.join(scratch, "kernel.json"),
            **({"transport": "ipc", "ip": os.path.join(scratch, "k")} if private else {}),
        )
        client = NotebookClient(
            notebook, manager, timeout_func=left, iopub_timeout=60, raise_on_iopub_timeout=True, record_timing=False,
            log=LOG, resources={"metadata": {"path": str(folder)}}, on_cell_executed=_see_exit,
        )  # fmt: skip
        with client.setup_kernel(cleanup_kc=True, stderr=subprocess.DEVNULL, env=dict(environment)):
            yield client


def _see_exit(*, execute_reply: Mapping[str, Any], **_: Any) -> None:
    """After `exit()`, which raises nothing, the kernel ends some time later; it ends a notebook as sys.exit() does."""
    if any(part.get("source") == "ask_exit" for part in execute_reply["content"].get("payload", [])):
        raise CellExecutionError("", ename="SystemExit", evalue="")


def _peak_memory(kernel: Any) -> int | None:
    """Bytes that a kernel has held at most so far; what it holds now where the system keeps no such peak."""
    process = kernel.provisioner.pid
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        memory = psutil.Process(process).memory_info()
    except (OSError, psutil.Error):
        return None  # it is gone, or not ours to look at
    return int(peak[1]) * 1024 if peak else int(getattr(memory, "peak_wset", memory.rss))
