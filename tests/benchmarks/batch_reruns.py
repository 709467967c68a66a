"""What a sweep costs beside its notebooks: per run, over two workers, and for ten thousand runs.

    python tests/benchmarks/batch_reruns.py             # 200 runs of a trivial notebook, on 1 and on 2 workers
    python tests/benchmarks/batch_reruns.py --runs 40
    python tests/benchmarks/batch_reruns.py --plan      # 10,000 runs: planned, resumed, reported

The measure of a run is a kernel's start and the notebook's cells, by nbclient alone, without and with the kernel's end.
Measure on an idle machine of 2 cores or more; quote ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from mamlkit.study import notebooks
from mamlkit.sweeps.driver import rerun
from mamlkit.sweeps.job import jobs
from mamlkit.sweeps.report import report
from mamlkit.sweeps.spec import load

CELLS = ("seed: int = 0  # of nothing", "x = seed * 2", "print(x)")


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def trivial(folder: Path) -> Path:
    """A notebook of nearly nothing."""
    cells = [new_code_cell(source) for source in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    path = folder / "trivial.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def sweep(folder: Path, runs: int) -> Path:
    """A sweep of it."""
    path = folder / f"sweep{runs}.yml"
    path.write_text(f"runs: [{{notebooks: trivial.ipynb, seeds: 0-{runs - 1}}}]\n")
    return path


def bare(path: Path) -> tuple[float, float]:
    """Seconds from nothing to the last cell's end, and to the kernel's, by nbclient alone."""
    client = NotebookClient(notebooks.load(path), kernel_name="python3")
    began = time.perf_counter()
    with client.setup_kernel():
        for number, cell in enumerate(client.nb.cells):
            client.execute_cell(cell, number)
        ended = time.perf_counter() - began
    return ended, time.perf_counter() - began


def throughput(folder: Path, runs: int) -> None:
    """The time of a run in a sweep, on one worker and on two, against a kernel's start and its cells."""
    path = trivial(folder)
    bare(path)  # the files are in the system's memory from here on

    def each(workers: int) -> float:
        """Seconds a run, less what a sweep of two runs takes, which is the cluster's own start."""
        start = timed(lambda: rerun(sweep(folder, 2), str(folder / f"start{workers}"), workers=workers))
        whole = timed(lambda: rerun(sweep(folder, runs), str(folder / f"out{workers}"), workers=workers))
        return (whole - start) / (runs - 2)

    single, whole = map(statistics.median, zip(*(bare(path) for _ in range(20)), strict=True))
    one, two = each(1), each(2)
    print(f"a kernel's start and its cells: {single:.2f} s; with its end: {whole:.2f} s")
    print(f"a run on 1 worker: {one:.2f} s, {one / single:.2f} of the first and {one / whole:.2f} of the second")
    print(f"2 workers: {one / two:.2f} times as fast as 1")


def plan(folder: Path, runs: int = 10_000) -> None:
    """Planning, resuming and reporting of many runs."""
    trivial(folder)
    path, out = sweep(folder, runs), folder / "out"
    out.mkdir()
    print(f"{runs:,} runs planned and keyed: {timed(lambda: jobs(load(path).runs, str(out), 60, 1)):.1f} s")
    for number, job in enumerate(jobs(load(path).runs, str(out), 60, 1)):
        records = [{"name": f"error {k}", "value": number * 1e-4 + k, "cell": "cell-01"} for k in range(10)]
        records += [{"name": "error by step", "value": [1 / (1 + k) for k in range(11)], "cell": "cell-02"}]
        claims = [{"claim": f"claim {k} holds", "holds": True, "cell": "cell-03"} for k in range(10)]
        sidecar = {
            "format": 1,
            "key": job.key,
            "notebook": "trivial",
            "title": "Trivial",
            "executed": None,
            "status": "ok",
            "cell": None,
            "error": None,
            "given": dict(job.given),
            "parameters": dict(job.given),
            "claims": claims,
            "records": records,
            "identity": dict(job.identity),
            "provenance": {"threads": 1},
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": 2.0,
            "peak_bytes": None,
            "attempts": 1,
        }
        (out / f"{job.name}.json").write_text(json.dumps(sidecar))
    print(f"all of them resumed: {timed(lambda: rerun(path, str(out))):.1f} s")
    print(f"reported: {timed(lambda: report(out)):.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--plan", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.plan:
            plan(Path(folder))
        else:
            throughput(Path(folder), options.runs)


if __name__ == "__main__":  # Dask starts its workers from here
    main()
