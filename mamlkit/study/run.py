"""Runs notebooks and writes down what they showed: executed copies, pages, a ledger of claims, results.json."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nbformat import NotebookNode

from mamlkit import files
from mamlkit.device import device as find_device
from mamlkit.study import RefusedError, notebooks, pages
from mamlkit.study.execute import execute
from mamlkit.study.lock import lock
from mamlkit.study.progress import Cells, clock, shown
from mamlkit.study.result import Result, dumps

PACKAGES = ("mamlkit", "torch", "numpy", "matplotlib", "nbclient", "ipykernel")


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

    Raises RefusedError, before any kernel starts, for a notebook, parameter, device or folder that will not do; and
    where the report can no longer be written, which leaves what is finished whole.
    """
    chosen = notebooks.select(names)
    settings = assign(chosen, dict(given or {}) | ({} if device is None else {"device": device}))
    if not timeout > 0:
        raise RefusedError(f"the time-out is {timeout:g} s; it must be positive")
    if any(path.resolve().parent == out.resolve() for path in chosen):
        raise RefusedError(f"an executed copy would replace its notebook in {out}; choose another --out")
    results: list[Result] = []
    fronts: dict[str, pages.Front] = {}
    with lock(out):
        with _writing(out):
            pages.prepare(out)
            _report(out, chosen, results, fronts)
        try:
            for number, path in enumerate(chosen, 1):
                cells = Cells(f"[{number}/{len(chosen)}] {path.stem}")
                with shown(cells.line) as console:
                    result, executed = execute(path, settings[path], timeout=timeout, watch=cells.start)
                    console.print(f"{cells.label}  {_summary(result)}")
                with _writing(out):
                    copy = notebooks.dumps(stamped(executed, result, provenance(path.parent)))
                    files.write(out / f"{path.stem}.ipynb", copy)
                    if front := pages.front(executed):
                        files.write(out / f"{path.stem}.png", front.png)
                        fronts[path.stem] = front
                    _report(out, chosen, [*results, result], fronts)
                results.append(result)
        finally:
            bad = sum(result.status != "ok" for result in results)
            state = f"{bad} did not succeed" if bad else "all well"
            print(f"{len(results)} of {len(chosen)} notebooks ran, {state}; the report is {out / 'index.html'}")
    return results


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise RefusedError(
            f"the report cannot be written into {out}: {error}; make room, or choose another --out: what is finished "
            "is kept"
        ) from error


def assign(chosen: Sequence[Path], given: Mapping[str, str]) -> dict[Path, dict[str, Any]]:
    """For each notebook the given parameters that it declares, as values of the declared types.

    Raises RefusedError for a text that is no such value, a device that is not there, a name that nobody declares.
    """
    declared = {path: notebooks.declared(path) for path in chosen}
    for name in given:
        if not any(name in parameters for parameters in declared.values()):
            lines = [
                f"  {path.stem}: {', '.join(map(str, found.values())) or 'none'}" for path, found in declared.items()
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


def stamped(notebook: NotebookNode, result: Result, provenance: Mapping[str, Any]) -> NotebookNode:
    """The notebook with what ran it in its metadata."""
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


def _report(out: Path, chosen: Sequence[Path], results: Sequence[Result], fronts: Mapping[str, pages.Front]) -> None:
    """Write results.json, the index, and the pages that the last result changes: its own, and those that link to it.

    These are the one before it and, once all notebooks have a page, any other.
    """
    titles = {result.notebook: result.title for result in results}
    changed = results if len(results) == len(chosen) else results[-2:]
    for result in reversed(changed):  # a page is there before a link leads to it
        page = pages.page(notebooks.load(out / f"{result.notebook}.ipynb"), result.notebook, titles)
        files.write(out / pages.file_name(result.notebook), page)
    summary = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "planned": [path.stem for path in chosen],
        "provenance": provenance(chosen[0].parent),
        "notebooks": [asdict(result) for result in results],
    }
    files.write(out / "results.json", dumps(summary))
    files.write(out / "index.html", pages.index(summary, fronts))


def _summary(result: Result) -> str:
    if result.status == "ok":
        return f"ok  {clock(result.seconds)}  claims: {len(result.claims)}, all hold"
    place = f"at cell {result.cell}: " if result.cell else ""
    return f"{result.status.upper()}  {clock(result.seconds)}  {place}{result.error}"
