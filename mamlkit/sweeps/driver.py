"""The sweep's driver: what is still to do goes to Dask's workers, and each result is written where it was computed."""

from __future__ import annotations

import errno
import json
import logging
import os
import queue
import signal
import tempfile
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import dask
from distributed import CancelledError, Client, Future, LocalCluster, WorkerPlugin, get_worker
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from mamlkit.study import notebooks
from mamlkit.study.notebooks import RefusedError
from mamlkit.study.progress import clock, shown
from mamlkit.sweeps.board import Board
from mamlkit.sweeps.job import Job, jobs, lost, perform
from mamlkit.sweeps.sidecar import FORMAT, PLAN
from mamlkit.sweeps.spec import Sweep, load
from mamlkit.sweeps.store import Store

TOPIC = "mamlkit-cells"
QUIET = logging.CRITICAL  # of Dask's log: the board tells of faults, and what a run said is in its notebook
DEATHS = 3  # workers that one run may take down with it before it is given up
WAITED = 0.25  # of a death, for a run that only waited on the worker that died


def rerun(
    path: Path,
    where: str | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    dry_run: bool = False,
    force: bool = False,
    only: str | None = None,
) -> int:
    """Do what is left of a sweep; returns how many of its runs are not well, the ones of earlier times included.

    where      the folder or the store's address; "runs/" and the sweep's name if None
    scheduler  of a Dask cluster; None starts one of `workers` processes on this machine, one a core by default
    threads    of each run's kernel
    dry_run    print the plan, and do nothing
    force      do all runs again; only="failed": those again that are not well, and no others

    Raises RefusedError for a sweep that cannot be done, a folder that another sweep writes into or that fails, and
    workers unlike this machine. Whatever ends it, finished runs are kept, and the same command goes on from there.
    """
    if threads < 1 or (workers is not None and workers < 1):
        raise RefusedError(f"there are {workers} workers of {threads} threads; each must be 1 or more")
    sweep = load(path)
    where = where or str(Path("runs") / sweep.name)
    store = Store(where)
    planned = jobs(sweep.runs, store.where, sweep.limit, threads)
    count = workers or max(1, (os.cpu_count() or 1) // threads)
    with nullcontext() if dry_run else store.lock():
        finished = _finished(planned, store)
        if only == "failed":
            todo = [job for job in planned if job.key in finished and finished[job.key]["status"] != "ok"]
        else:
            todo = [job for job in planned if force or job.key not in finished]
        board = Board(planned, todo, finished, _guesses(finished.values()), 1 if scheduler else count)
        if dry_run:
            print(_plan(sweep, planned, board, where, scheduler))
            return 0
        _write_plan(store, sweep, planned)
        try:
            if todo:
                _work(todo, board, scheduler, count)
        finally:
            bad = board.bad.total()
            print(f"{board.state()}; results in {where}")
            if bad:
                again = f"python -m mamlkit rerun {path} --out {where} --only failed"
                print(f"{bad} not ok; to do those again: {again}")
    return bad


def _finished(planned: Sequence[Job], store: Store) -> dict[str, dict[str, Any]]:
    """The sidecars of the jobs that are finished, by key. One that cannot be read counts as none."""
    names, found = store.names(), {}
    for job in planned:
        if f"{job.name}.json" in names:
            with suppress(OSError, ValueError, KeyError, TypeError):
                sidecar = json.loads(store.read(f"{job.name}.json"))
                if sidecar["format"] == FORMAT and sidecar["key"] == job.key:
                    found[job.key] = sidecar
    return found


def _write_plan(store: Store, sweep: Sweep, planned: Sequence[Job]) -> None:
    listed = [{"key": job.key, "notebook": job.path.stem, "given": dict(job.given)} for job in planned]
    try:
        store.write(PLAN, json.dumps({"format": FORMAT, "name": sweep.name, "planned": listed}, ensure_ascii=False))
    except OSError as error:
        raise RefusedError(f"the plan cannot be written: {error}; make room, or choose another --out") from error


def _guesses(finished: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds that a run of each notebook took: here before, or else in the results that the kit ships."""
    shipped = []
    with suppress(RefusedError, OSError, ValueError):
        shipped = [json.loads(path.read_text("utf-8")) for path in notebooks.folder().glob("sweeps/claims/*-*.json")]
    found: dict[str, float] = {}
    for sidecars in (shipped, finished):
        took = defaultdict(list)
        for sidecar in sidecars:
            took[sidecar["notebook"]].append(sidecar["seconds"])
        found |= {name: fmean(seconds) for name, seconds in took.items()}
    return found


def _plan(sweep: Sweep, planned: Sequence[Job], board: Board, where: str, scheduler: str | None) -> str:
    """The plan in words."""
    todo, left = board.todo.total(), board.left()
    lines = [f"{'do  ' if job.key in board.labels else 'done'}  {job.label}" for job in planned]
    lines += ["", f"{sweep.name}: {len(planned)} runs, {todo} to do, at most {clock(sweep.limit)} each, into {where}"]
    if len(planned) < len(sweep.runs):
        lines += [f"{len(sweep.runs) - len(planned)} runs are asked for twice and are done once"]
    if left:
        share = "over the cluster's workers" if scheduler else f"on {board.workers} workers"
        lines += [f"about {clock(left)} {share}, as earlier runs of these notebooks took"]
    elif todo:
        lines += ["no time is known for these notebooks yet"]
    return "\n".join(lines)


def _work(todo: Sequence[Job], board: Board, scheduler: str | None, workers: int) -> None:
    """Have the jobs done, and follow them to their ends.

    No more are handed over than workers can take at once. A worker's death then seldom hits a run that only waited
    behind the one that caused it, and one that had not begun is hardly blamed.
    """
    waiting = deque(todo)
    flying: dict[Future[Any], Job] = {}
    deaths: dict[str, float] = defaultdict(float)
    ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()

    def started(event: tuple[float, Mapping[str, Any]]) -> None:
        message = event[1]
        board.cell(message["key"], message["cell"], message["total"])

    with _client(scheduler, workers) as client, shown(board.line, board.table) as console:
        client.subscribe_topic(TOPIC, started)
        while waiting or flying:
            board.workers = workers if scheduler is None else _threads(client)
            while waiting and len(flying) < board.workers:
                job = waiting.popleft()
                future = client.submit(_on_worker, job, key=f"{job.name}-{os.urandom(4).hex()}", pure=False)
                flying[future] = job
                future.add_done_callback(ended.put)
            try:
                future = ended.get(timeout=1)
            except queue.Empty:
                continue  # a cluster may have other workers by now
            job = flying.pop(future)
            with refusing():
                try:
                    sidecar = future.result()
                except KilledWorker:
                    deaths[job.key] += 1 if board.stop(job.key) else WAITED
                    if deaths[job.key] < DEATHS:
                        waiting.append(job)
                        continue
                    sidecar = lost(job, f"{DEATHS} workers died while they ran it; is there enough memory?", DEATHS)
            board.end(job.key, sidecar)
            if sidecar["status"] != "ok":
                console.print(f"{job.label}  {sidecar['status']}: {sidecar['error']}", style="red")


@contextmanager
def refusing() -> Iterator[None]:
    """What ends a sweep, in words that say what to do."""
    try:
        yield
    except (CommClosedError, CancelledError) as error:
        raise RefusedError("the cluster is gone; start it and the sweep again: what is finished is kept") from error
    except ImportError as error:
        raise RefusedError(
            f"a worker cannot import what a run needs ({error}); install the same kit on every worker"
        ) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "make room" if full else "see that every worker can write there"
        raise RefusedError(
            f"a result cannot be written: {error}; {hint}, and start the sweep again: what is finished is kept"
        ) from error


def _threads(client: Client) -> int:
    """How many runs a cluster can take at once."""
    return sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())


def _on_worker(job: Job) -> dict[str, Any]:
    worker = get_worker()

    def watch(cell: int, total: int) -> None:
        worker.log_event(TOPIC, {"key": job.key, "cell": cell, "total": total})

    return perform(job, watch)


class _Calm(WorkerPlugin):
    """Ctrl-C reaches every process of a terminal. The driver answers it; its workers are ended by the driver."""

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Client]:
    """A client of the cluster at an address, or of one on this machine that listens to this machine alone."""
    for name in ("distributed", "distributed.client", "distributed.gc"):  # Dask gives each a level of its own
        logging.getLogger(name).setLevel(QUIET)
    if scheduler:
        try:
            client = Client(scheduler, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise RefusedError(
                f"there is no Dask scheduler at {scheduler} ({error}); start one with `dask scheduler`"
            ) from error
        with client:
            yield client
        return
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.daemon": False}
    with (
        # One folder for all that workers and kernels leave lying when they are ended in the middle.
        tempfile.TemporaryDirectory(prefix="mk", ignore_cleanup_errors=True) as scratch,
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # any port; Dask warns where its own is taken
            memory_limit=0,  # the kernels hold the memory, which Dask does not see
            local_directory=scratch,
            silence_logs=QUIET,
            env={"TMPDIR": scratch, "DASK_LOGGING__DISTRIBUTED": "critical"},
            plugins=(_Calm(),),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
