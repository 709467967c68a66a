"""Runs notebooks and writes down what they showed: executed copies, pages, a ledger of claims, results.json."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
import torch
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers
from papermill.translators import PythonTranslator, papermill_translators

from mamlkit import files
from mamlkit.device import device as find_device
from mamlkit.ledger import CLAIM, RECORD
from mamlkit.study import notebooks, pages
from mamlkit.study.notebooks import Parameter, RefusedError
from mamlkit.study.progress import Progress, clock

PACKAGES = ("mamlkit", "torch", "numpy", "matplotlib", "papermill", "nbclient", "ipykernel")
LOG = logging.getLogger(__name__)
LOG.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Result:
    """What one run of a notebook showed.

    status      "ok"; "failed": a cell raised; "dead": its kernel died; "timeout": a cell took too long;
                "incomplete": the notebook ended before its last cell
    cell        the number of the code cell that ended it, as its prompt shows it; None where all is well
    parameters  every declared parameter, with the value it had
    claims      {"claim", "holds", "cell"} each; records: {"name", "value", "cell"} each; cell is the cell's id
    peak_bytes  the most memory that its kernel held, as of the last cell that ended; None where nothing tells
    """

    notebook: str
    title: str
    status: str
    seconds: float
    cell: int | None
    error: str | None
    parameters: dict[str, Any]
    claims: list[dict[str, Any]]
    records: list[dict[str, Any]]
    peak_bytes: int | None


class _Literals(PythonTranslator):  # type: ignore[misc]  # papermill has no types
    """Writes a parameter's value into the injected cell. papermill's own translator turns a tuple into a string."""

    @classmethod
    def translate(cls, value: Any) -> str:
        return repr(value)


papermill_translators.register("python", _Literals)


class _Engine(Engine):  # type: ignore[misc]  # papermill has no types
    """Runs the cells in a kernel of these settings, whose own log is not shown: what a cell says, its outputs hold."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        settings: dict[str, Any],
        environment: dict[str, str],
        look: Callable[[int], None],
        **_: Any,
    ) -> None:
        client = PapermillNotebookClient(nb_man, kernel_name=kernel_name, log=LOG, **settings)
        client.on_cell_executed = lambda **_: look(client.km.provisioner.pid)
        client.execute(stderr=subprocess.DEVNULL, env=environment)


papermill_engines.register("mamlkit", _Engine)


def run(
    names: Sequence[str] = (),
    given: Mapping[str, str] | None = None,
    *,
    device: str | None = None,
    out: Path = Path("runs/study"),
    timeout: float = 3600,
) -> list[Result]:
    """Run notebooks one after the other and write the report into `out`, whole after each of them.

    names    numbers, names or paths; the whole walkthrough if there are none
    given    parameters as texts; each goes to the notebooks that declare it
    timeout  seconds that a cell may take

    Raises RefusedError, before any kernel starts, for a notebook, parameter, device or folder that will not do.
    """
    chosen = notebooks.select(names)
    settings = assign(chosen, dict(given or {}) | ({} if device is None else {"device": device}))
    if timeout <= 0:
        raise RefusedError(f"the time-out is {timeout:g} s; it must be positive")
    try:
        pages.prepare(out)
    except OSError as error:
        raise RefusedError(f"the report cannot be written into {out}: {error}; choose another --out") from error
    results: list[Result] = []
    _report(out, chosen, results)
    try:
        for number, path in enumerate(chosen, 1):
            with Progress(f"[{number}/{len(chosen)}] {path.stem}") as progress:
                result, executed = execute(path, settings[path], timeout=timeout, watch=progress.cell)
                files.write(out / path.name, notebooks.dumps(stamped(executed, result, provenance(path.parent))))
                progress.end(_summary(result))
            results.append(result)
            _report(out, chosen, results)
    finally:
        bad = sum(result.status != "ok" for result in results)
        state = f"{bad} did not succeed" if bad else "all well"
        print(f"{len(results)} of {len(chosen)} notebooks ran, {state}; the report is {out / 'index.html'}")
    return results


def assign(chosen: Sequence[Path], given: Mapping[str, str]) -> dict[Path, dict[str, Any]]:
    """For each notebook the given parameters that it declares, as values of the declared types.

    Raises RefusedError for a text that is no such value, a device that is not there, a name that nobody declares.
    """
    declared = {path: _parameters(path) for path in chosen}
    for name in given:
        if not any(name in parameters for parameters in declared.values()):
            lines = [
                f"  {path.stem}: {', '.join(map(str, parameters.values())) or 'none'}"
                for path, parameters in declared.items()
            ]
            raise RefusedError("\n".join([f"no notebook of this run declares a parameter {name!r}; there are", *lines]))
    if "device" in given:
        try:
            find_device(given["device"])
        except (ValueError, RuntimeError) as error:
            raise RefusedError(str(error)) from error
    return {
        path: {name: notebooks.parse(text, parameters[name]) for name, text in given.items() if name in parameters}
        for path, parameters in declared.items()
    }


def _parameters(path: Path) -> dict[str, Parameter]:
    try:
        return notebooks.parameters(notebooks.load(path))
    except RefusedError as error:
        raise RefusedError(f"{path.stem}: {error}") from error


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
    source = notebooks.load(path)
    total = len(notebooks.code_cells(source)) + bool(parameters)  # papermill adds a cell that sets them
    started, peak, stopped, begin = 0, None, None, time.monotonic()

    def left(cell: NotebookNode) -> float:
        """Seconds that this cell may take; nbclient takes 0 for no limit."""
        return timeout if limit is None else min(timeout, max(begin + limit - time.monotonic(), 0.001))

    def start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal started
        if notebooks.is_code(cell):
            started += 1
            watch(started, total)

    def look(process: int) -> None:
        nonlocal peak
        peak = _peak_memory(process)

    with notebooks.private_kernel() as (scratch, config):
        copy = scratch / "executed.ipynb"
        try:
            papermill.execute_notebook(
                _unformatted(path),
                _unformatted(copy),
                parameters=dict(parameters),
                engine_name="mamlkit",
                kernel_name="python3",
                language="python",
                progress_bar=False,
                environment={**os.environ, **(environment or {})},
                look=look,
                settings={
                    "config": config,
                    "timeout_func": left,
                    "iopub_timeout": 60,
                    "on_cell_start": start,
                    "resources": {"metadata": {"path": str(path.parent)}},
                },
            )
        except PapermillExecutionError:
            pass  # the cell's own output says it
        except CellTimeoutError:
            stopped = ("timeout", _too_slow(timeout, limit, time.monotonic() - begin))
        except RuntimeError:
            stopped = ("dead", "its kernel died; is there enough memory?")
        executed = remove_error_markers(nbformat.read(copy, as_version=4))
    cells = notebooks.code_cells(executed)
    status, ended, why = (stopped[0], started or None, stopped[1]) if stopped else _judge(cells)
    result = Result(
        notebook=path.stem,
        title=notebooks.title(source, path.stem),
        status=status,
        seconds=round(time.monotonic() - begin, 2),
        cell=ended,
        error=why,
        parameters={name: found.default for name, found in notebooks.parameters(source).items()} | dict(parameters),
        claims=[{**value, "cell": cell.id} for cell, value in notebooks.displayed(executed, CLAIM)],
        records=[{**value, "cell": cell.id} for cell, value in notebooks.displayed(executed, RECORD)],
        peak_bytes=peak,
    )
    return result, executed


def _too_slow(timeout: float, limit: float | None, seconds: float) -> str:
    if limit is not None and seconds >= limit:
        return f"the run took longer than {limit:g} s; raise its limit or ask less of it"
    return f"this cell ran longer than {timeout:g} s; raise --timeout or ask less of it"


def _peak_memory(process: int) -> int | None:
    """Bytes that a process has held at most so far; what it holds now where the system keeps no such peak."""
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        memory = psutil.Process(process).memory_info()
    except (OSError, psutil.Error):
        return None  # it is gone, or not ours to look at
    return int(peak[1]) * 1024 if peak else int(getattr(memory, "peak_wset", memory.rss))


def _unformatted(path: Path) -> str:
    """The path as papermill takes it: it would fill braces in with parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _judge(cells: Sequence[NotebookNode]) -> tuple[str, int | None, str | None]:
    """Status, cell and error, from the cells: papermill's metadata call a notebook that ended early completed."""
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if CLAIM in output.get("data", {}) and not output.data[CLAIM]["holds"]:
                return "failed", number, f"this claim does not hold: {output.data[CLAIM]['claim']}"
            if output.output_type != "error" or "raises-exception" in cell.metadata.get("tags", []):
                continue
            if output.ename == "SystemExit" and output.evalue in ("", "0", "None"):
                return "incomplete", number, "this cell ended the notebook with sys.exit()"
            return "failed", number, f"{output.ename}: {output.evalue}"
        if cell.execution_count is None:
            return "incomplete", number, "this cell was never run"
    return "ok", None, None


def stamped(notebook: NotebookNode, result: Result, provenance: Mapping[str, Any]) -> NotebookNode:
    """The notebook with what ran it in its metadata, in place of papermill's paths and times."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
    notebook.metadata["mamlkit"] = {"parameters": result.parameters, "status": result.status, **provenance}
    return notebook


def provenance(home: Path) -> dict[str, Any]:
    """What the numbers depend on besides the code: versions, processor, threads, platform, and the commit of `home`."""
    commit = _git(home, "rev-parse", "HEAD")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": commit,
        "uncommitted_changes": bool(_git(home, "status", "--porcelain")) if commit else None,
    }


def _git(home: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(home), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _report(out: Path, chosen: Sequence[Path], results: Sequence[Result]) -> None:
    """Write results.json, the index, and the pages that the last result changes: its own and the one before it."""
    titles = {result.notebook: result.title for result in results}
    for result in results[-2:]:
        page = pages.page(notebooks.load(out / f"{result.notebook}.ipynb"), result.notebook, titles)
        files.write(out / f"{result.notebook}.html", page)
    summary = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "planned": [path.stem for path in chosen],
        "provenance": provenance(chosen[0].parent),
        "notebooks": [asdict(result) for result in results],
    }
    files.write(out / "results.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    files.write(out / "index.html", pages.index(summary))


def _summary(result: Result) -> str:
    if result.status == "ok":
        return f"ok  {clock(result.seconds)}  claims: {len(result.claims)}, all hold"
    place = f"at cell {result.cell}: " if result.cell else ""
    return f"{result.status.upper()}  {clock(result.seconds)}  {place}{result.error}"
