"""One run of a sweep, on whichever worker: execute, write the notebook, then its sidecar."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from nbformat import NotebookNode

from mamlkit.study import RefusedError, notebooks
from mamlkit.study.execute import execute
from mamlkit.study.result import Result
from mamlkit.study.run import provenance, stamped
from mamlkit.sweeps import key
from mamlkit.sweeps.sidecar import Sidecar
from mamlkit.sweeps.spec import Run
from mamlkit.sweeps.store import Store

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ATTEMPTS = 2  # a kernel that died of something outside it deserves another; one that dies twice is the notebook's doing
_provenance = cache(provenance)  # of this worker: it takes several commands to find out
PARTS = {"kit": "mamlkit", "data": "the data", "inputs": "what its parameters name"}


class UnequalError(RefusedError):
    """A worker has another kit or another notebook than the plan was made with."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of one run.

    key         names its files: the digest of everything that its results depend on
    parameters  every declared one, with the given ones in place
    identity    the digests, besides the parameters, that the key is made of
    where       the store's path or address
    limit       seconds it may take; threads: of its kernel
    """

    key: str
    path: Path
    given: Mapping[str, Any]
    parameters: Mapping[str, Any]
    identity: Mapping[str, str]
    where: str
    limit: float
    threads: int

    @property
    def name(self) -> str:
        """Of its files, without their endings."""
        return f"{self.path.stem}-{self.key}"

    @property
    def label(self) -> str:
        """In words: its notebook and what it was given."""
        return " ".join([self.path.stem, *(f"{name}={value}" for name, value in self.given.items())])


def jobs(runs: tuple[Run, ...], where: str, limit: float, threads: int) -> list[Job]:
    """The jobs of a plan, each once, in its order."""
    declared = {path: notebooks.declared(path) for path in {run.path for run in runs}}
    identities: dict[Any, dict[str, str]] = {}  # runs differ in numbers far more often than in what texts name
    found = {}
    for run in runs:
        parameters = {name: one.default for name, one in declared[run.path].items()} | dict(run.given)
        asked = (run.path, *(value for value in parameters.values() if isinstance(value, str)))
        if asked not in identities:
            identities[asked] = key.identity(run.path, parameters)
        named = key.key(run.path, parameters, identities[asked])
        found[named] = Job(named, run.path, run.given, parameters, identities[asked], where, limit, threads)
    return list(found.values())


def perform(job: Job, watch: Callable[[int, int], None] = lambda cell, total: None) -> dict[str, Any]:
    """Run one job and write its files: the notebook, then the sidecar that says it is there. Returns the sidecar.

    Raises UnequalError where this worker has another kit, data or notebook, and OSError where the results cannot be
    written; whatever the notebook itself does ends up in the sidecar.
    """
    _check(job)
    started = datetime.now(UTC)
    pools = dict.fromkeys(POOLS, str(job.threads))
    with one_gpu() as gpu:
        environment = pools | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        attempts, status = 0, "dead"
        while status == "dead" and attempts < ATTEMPTS:
            result, executed = execute(
                job.path, job.given, timeout=job.limit, limit=job.limit, environment=environment, watch=watch
            )
            attempts, status = attempts + 1, result.status
    origin = _provenance(job.path.parent) | {"threads": job.threads, "device": gpu}
    return _write(job, result, stamped(executed, result, origin), started, origin, attempts)


def lost(job: Job, error: str, attempts: int) -> dict[str, Any]:
    """Write and return the sidecar of a job whose workers died, so that nothing of it came back."""
    result = Result(
        notebook=job.path.stem, title=notebooks.title(notebooks.load(job.path), job.path.stem), status="dead",
        seconds=0.0, cell=None, error=error, parameters=dict(job.parameters), claims=[], records=[], peak_bytes=None,
    )  # fmt: skip
    return _write(job, result, None, datetime.now(UTC), {"threads": job.threads, "device": None}, attempts)


def _write(
    job: Job, result: Result, executed: NotebookNode | None, started: datetime, origin: dict[str, Any], attempts: int
) -> dict[str, Any]:
    sidecar = Sidecar(
        **vars(result),
        key=job.key,
        given=dict(job.given),
        identity=dict(job.identity),
        started=started.isoformat(timespec="seconds"),
        executed=None if executed is None else f"{job.name}.ipynb",
        provenance=origin,
        attempts=attempts,
    )
    store = Store(job.where)
    if executed is not None:
        store.write(f"{job.name}.ipynb", notebooks.dumps(executed))
    store.write(f"{job.name}.json", sidecar.dumps())
    return asdict(sidecar)


def _check(job: Job) -> None:
    try:
        found = key.identity(job.path, job.parameters)
    except (RefusedError, OSError) as error:
        raise UnequalError(f"{error}; every worker needs the notebooks at the same path") from error
    for name, digest in job.identity.items():
        if (other := found.get(name, "nothing")) != digest:
            what = PARTS.get(name, job.path.name)
            raise UnequalError(
                f"{what} is not what the plan was made with ({other[:24]}, not {digest[:24]}): it changed while "
                "the sweep ran, or this worker has another copy; start the sweep again, with the same one everywhere"
            )


@contextmanager
def one_gpu() -> Iterator[str | None]:
    """A GPU of this machine that no other run holds, as CUDA_VISIBLE_DEVICES names it; None with fewer than two.

    Where there are more workers than GPUs they share.
    """
    names = visible_gpus()
    if len(names) < 2:
        yield None
        return
    with ExitStack() as held:
        for name in names:
            with suppress(Timeout):
                held.enter_context(FileLock(Path(tempfile.gettempdir()) / f"mamlkit-gpu-{name}.lock", timeout=0))
                break
        else:
            name = names[os.getpid() % len(names)]
        yield name


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]
