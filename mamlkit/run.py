"""Runs notebooks and writes down what they showed: executed copies, pages, a ledger of claims, results.json."""

from __future__ import annotations

import json
import logging
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import nbformat
import papermill
import torch
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers
from papermill.translators import PythonTranslator, papermill_translators

from mamlkit import notebooks, pages
from mamlkit.device import device as find_device
from mamlkit.notebooks import Parameter, RefusedError
from mamlkit.report.ledger import CLAIM, RECORD

PACKAGES = ("mamlkit", "torch", "numpy", "matplotlib", "papermill", "nbclient", "ipykernel")
LOG = logging.getLogger(__name__)
LOG.addHandler(logging.NullHandler())
CLEAR = "\r\x1b[K"  # back to the start of the terminal's line, and empty it


@dataclass(frozen=True)
class Result:
    """What one run of a notebook showed.

    status      "ok"; "failed": a cell raised; "dead": its kernel died; "timeout": a cell took too long;
                "incomplete": the notebook ended before its last cell
    cell        the number of the code cell that ended it, as its prompt shows it; None where all is well
    parameters  every declared parameter, with the value it had
    claims      {"claim", "holds", "cell"} each; records: {"name", "value", "cell"} each; cell is the cell's id
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


class _Literals(PythonTranslator):  # type: ignore[misc]  # papermill has no types
    """Writes a parameter's value into the injected cell. papermill's own translator turns a tuple into a string."""

    @classmethod
    def translate(cls, value: Any) -> str:
        return repr(value)


papermill_translators.register("python", _Literals)


class _Engine(Engine):  # type: ignore[misc]  # papermill has no types
    """Runs the cells in a kernel of these settings, whose own log is not shown: what a cell says, its outputs hold."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *, settings: dict[str, Any], **_: Any) -> None:
        client = PapermillNotebookClient(nb_man, kernel_name=kernel_name, log=LOG, **settings)
        client.execute(stderr=subprocess.DEVNULL)


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
                result = execute(path, out, settings[path], timeout, progress.cell)
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
    out: Path,
    parameters: Mapping[str, Any],
    timeout: float,
    watch: Callable[[int, int], None] = lambda cell, total: None,
) -> Result:
    """Run one notebook in its folder with parameters of the right types, and write the executed copy into `out`.

    watch    called with (number, total) as each code cell starts

    Never raises for what a cell does: the result says it. The copy is written whole, or, if interrupted, not at all.
    """
    source = notebooks.load(path)
    total = len(notebooks.code_cells(source)) + bool(parameters)  # papermill adds a cell that sets them
    started, stopped, begin = 0, None, time.monotonic()

    def start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal started
        if notebooks.is_code(cell):
            started += 1
            watch(started, total)

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
                settings={
                    "config": config,
                    "timeout": timeout,
                    "iopub_timeout": 60,
                    "on_cell_start": start,
                    "resources": {"metadata": {"path": str(path.parent)}},
                },
            )
        except PapermillExecutionError:
            pass  # the cell's own output says it
        except CellTimeoutError:
            stopped = ("timeout", f"this cell ran longer than {timeout:g} s; raise --timeout or ask less of it")
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
    )
    notebooks.write(out / path.name, notebooks.dumps(_stamped(executed, result, path.parent)))
    return result


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


def _stamped(notebook: NotebookNode, result: Result, home: Path) -> NotebookNode:
    """The notebook with what ran it in its metadata, in place of papermill's paths and times."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
    notebook.metadata["mamlkit"] = {"parameters": result.parameters, "status": result.status, **provenance(home)}
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
        notebooks.write(out / f"{result.notebook}.html", page)
    summary = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "planned": [path.stem for path in chosen],
        "provenance": provenance(chosen[0].parent),
        "notebooks": [asdict(result) for result in results],
    }
    notebooks.write(out / "results.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    notebooks.write(out / "index.html", pages.index(summary))


def _summary(result: Result) -> str:
    clock = _clock(result.seconds)
    if result.status == "ok":
        return f"ok  {clock}  claims: {len(result.claims)}, all hold"
    place = f"at cell {result.cell}: " if result.cell else ""
    return f"{result.status.upper()}  {clock}  {place}{result.error}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """The one line of a running notebook: cell i of n, time elapsed, time left.

    A terminal sees it change every second; a log file gets a new line every half minute.
    """

    def __init__(self, label: str) -> None:
        self.label, self.done, self.total, self.begin = label, 0, 0, time.monotonic()
        self.live = sys.stdout.isatty()
        self.stopped = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        self.ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if error and self.live:
            print()

    def cell(self, number: int, total: int) -> None:
        """Note that code cell `number` of `total` starts."""
        self.done, self.total = number - 1, total

    def end(self, text: str) -> None:
        """Close the line with what came of it."""
        self._stop()
        print(f"{CLEAR if self.live else ''}{self.label}  {text}", flush=True)

    def _stop(self) -> None:
        self.stopped.set()
        self.ticker.join()

    def _tick(self) -> None:
        while True:
            if self.live:
                print(f"{CLEAR}{self._line()[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
            if self.stopped.wait(1 if self.live else 30):
                return
            if not self.live:
                print(self._line(), flush=True)

    def _line(self) -> str:
        elapsed = time.monotonic() - self.begin
        if not self.total:
            return f"{self.label}  starting"
        left = f", about {_clock(elapsed / self.done * (self.total - self.done))} left" if self.done else ""
        return f"{self.label}  cell {self.done + 1} of {self.total}  {_clock(elapsed)} elapsed{left}"
