"""The sweep's driver: what is still to do goes to Dask's workers, and each result is written where it was computed."""

from __future__ import annotations

import errno
import json
import logging
import os
import queue
import signal
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import CancelledError, Client, Future, LocalCluster, WorkerPlugin, get_worker
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from mamlkit.study import notebooks
from mamlkit.study.notebooks import RefusedError
from mamlkit.sweeps.board import Board, describe, duration
from mamlkit.sweeps.job import FORMAT, Job, UnequalError, jobs, lost, perform
from mamlkit.sweeps.spec import Sweep, load
from mamlkit.sweeps.store import Store

PLAN = "sweep.json"
TOPIC = "mamlkit-cells"
QUIET = logging.CRITICAL  # of Dask's log: the board tells of faults, and what a run said is in its notebook
DEATHS = 3  # workers that one run may take down with it before it is given up
BLAME = 4  # of a death that a run was at work in, against 1 for one that it only waited in


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
    if dry_run:
        kept = _kept(planned, store)
        todo = _todo(planned, kept, force, only)
        print(_plan(sweep, planned, todo, _guesses(list(kept.values())), where, None if scheduler else count))
        return 0
    with store.lock():
        kept = _kept(planned, store)
        todo = _todo(planned, kept, force, only)
        _write_plan(store, sweep, planned)
        for job in todo:
            kept.pop(job.key, None)
        board = Board([job.path.stem for job in planned], list(kept.values()), _guesses(list(kept.values())), count)
        try:
            if todo:
                _work(todo, board, scheduler, count)
        finally:
            bad = board.bad_before + len(board.bad)
            print(f"{board.line().partition(', about')[0]}; results in {where}")
            if bad:
                again = f"python -m mamlkit rerun {path} --out {where} --only failed"
                print(f"{bad} not ok; to do those again: {again}")
    return bad


def _kept(planned: Sequence[Job], store: Store) -> dict[str, dict[str, Any]]:
    """The sidecars of the jobs that are finished, by key. One that cannot be read counts as none."""
    names = store.names()
    found = {}
    for job in planned:
        if f"{job.name}.json" not in names:
            continue
        try:
            sidecar = json.loads(store.read(f"{job.name}.json"))
            if sidecar["format"] == FORMAT and sidecar["key"] == job.key:
                found[job.key] = sidecar
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _todo(planned: Sequence[Job], kept: Mapping[str, Mapping[str, Any]], force: bool, only: str | None) -> list[Job]:
    if only == "failed":
        return [job for job in planned if job.key in kept and kept[job.key]["status"] != "ok"]
    return [job for job in planned if force or job.key not in kept]


def _write_plan(store: Store, sweep: Sweep, planned: Sequence[Job]) -> None:
    listed = [{"key": job.key, "notebook": job.path.stem, "given": dict(job.given)} for job in planned]
    try:
        store.write(PLAN, json.dumps({"format": FORMAT, "name": sweep.name, "planned": listed}, ensure_ascii=False))
    except OSError as error:
        raise RefusedError(f"the plan cannot be written: {error}; make room, or choose another --out") from error


def _guesses(kept: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds that a run of each notebook took: here before, or else in the results that the kit ships."""
    try:
        shipped = [json.loads(path.read_text("utf-8")) for path in notebooks.folder().glob("sweeps/claims/*-*.json")]
    except (RefusedError, OSError, ValueError):
        shipped = []
    found: dict[str, float] = {}
    for sidecars in (shipped, kept):
        took: dict[str, list[float]] = {}
        for sidecar in sidecars:
            took.setdefault(sidecar["notebook"], []).append(sidecar["seconds"])
        found |= {name: sum(seconds) / len(seconds) for name, seconds in took.items()}
    return found


def _plan(
    sweep: Sweep,
    planned: Sequence[Job],
    todo: Sequence[Job],
    guesses: Mapping[str, float],
    where: str,
    workers: int | None,
) -> str:
    """The plan in words."""
    left = {job.key for job in todo}
    lines = [f"{'do  ' if job.key in left else 'done'}  {describe(job.path.stem, job.given)}" for job in planned]
    known = [guesses[job.path.stem] for job in todo if job.path.stem in guesses]
    each = sum(known) / len(known) if known else None
    lines += [
        "",
        f"{sweep.name}: {len(planned)} runs, {len(todo)} to do, at most {duration(sweep.limit)} each, into {where}",
    ]
    if len(planned) < len(sweep.runs):
        lines += [f"{len(sweep.runs) - len(planned)} runs are asked for twice and are done once"]
    if each is None and todo:
        lines += ["no time is known for these notebooks yet"]
    elif each is not None:
        total = sum(known) + each * (len(todo) - len(known))
        share = f" on {workers} workers" if workers else " over the cluster's workers"
        lines += [f"about {duration(total / (workers or 1))}{share}, as earlier runs of these notebooks took"]
    return "\n".join(lines)


def _work(todo: Sequence[Job], board: Board, scheduler: str | None, workers: int) -> None:
    """Have the jobs done, and follow them to their ends.

    No more are handed over than workers can take at once. A worker's death then seldom hits a run that only waited
    behind the one that caused it, and one that had not begun is not blamed.
    """
    waiting = deque(todo)
    flying: dict[Future[Any], Job] = {}
    labels = {job.key: describe(job.path.stem, job.given) for job in todo}
    deaths: Counter[str] = Counter()
    ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()

    def started(event: tuple[float, Mapping[str, Any]]) -> None:
        message = event[1]
        if message["key"] in labels:  # a cluster may be serving another sweep as well
            board.cell(message["key"], labels[message["key"]], message["cell"], message["total"])

    with _client(scheduler, workers) as client, board:
        client.subscribe_topic(TOPIC, started)
        while waiting or flying:
            board.workers = workers if scheduler is None else _threads(client)
            while waiting and len(flying) < board.workers:
                job = waiting.popleft()
                future = client.submit(_on_worker, job, key=f"{job.name}-{os.urandom(4).hex()}", pure=False)
                flying[future] = job
                future.add_done_callback(ended.put)
            board.tick()
            try:
                future = ended.get(timeout=1)
            except queue.Empty:
                continue
            job = flying.pop(future)
            try:
                board.end(job.key, future.result())
            except KilledWorker:
                deaths[job.key] += BLAME if board.stop(job.key) else 1
                if deaths[job.key] < DEATHS * BLAME:
                    waiting.append(job)
                else:
                    board.end(job.key, _write_lost(job))
            except (CommClosedError, CancelledError) as error:
                raise RefusedError(
                    "the cluster is gone; start it and the sweep again: what is finished is kept"
                ) from error
            except UnequalError as error:
                raise RefusedError(str(error)) from error
            except ImportError as error:
                raise RefusedError(
                    f"a worker cannot import what a run needs ({error}); install the same kit on every worker"
                ) from error
            except OSError as error:
                raise _failing(error) from error


def _threads(client: Client) -> int:
    """How many runs a cluster can take at once."""
    return sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())


def _write_lost(job: Job) -> dict[str, Any]:
    try:
        return lost(job, f"{DEATHS} workers died while they ran it; is there enough memory?", DEATHS)
    except OSError as error:
        raise _failing(error) from error


def _failing(error: OSError) -> RefusedError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "make room" if full else "see that every worker can write there"
    return RefusedError(
        f"a result cannot be written: {error}; {hint}, and start the sweep again: what is finished is kept"
    )


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
    with ExitStack() as stack:
        # One folder for all that workers and kernels leave lying when they are ended in the middle.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="mk", ignore_cleanup_errors=True))
        stack.enter_context(dask.config.set(settings))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=0,  # the kernels hold the memory, which Dask does not see
                local_directory=scratch,
                silence_logs=QUIET,
                env={"TMPDIR": scratch, "DASK_LOGGING__DISTRIBUTED": "critical"},
                plugins=(_Calm(),),
            )
        )
        yield stack.enter_context(Client(cluster, set_as_default=False))
