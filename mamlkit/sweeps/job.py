"""One run of a sweep, on whichever worker: execute, write the notebook, then its sidecar."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from nbformat import NotebookNode

import mamlkit
from mamlkit.images.glyphs import glyphs_file
from mamlkit.study import notebooks
from mamlkit.study.notebooks import RefusedError
from mamlkit.study.run import execute, provenance, stamped
from mamlkit.sweeps.spec import Run
from mamlkit.sweeps.store import keep, store

FORMAT = 1
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ATTEMPTS = 2  # a kernel that died of something outside it deserves another; one that dies twice is the notebook's doing
OUTSIDE = ("sweeps", "figures", "pages.py", "regenerate.py", "__main__.py", "data")  # they compute no numbers


class UnequalError(RuntimeError):
    """A worker has another kit or another notebook than the plan was made with."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of one run.

    key       names its files: the digest of everything that its results depend on
    identity  {"notebook", "kit", "data"}: the digests, besides the parameters, that the key is made of
    where     the store's path or address
    limit     seconds it may take; threads: of its kernel
    """

    key: str
    path: Path
    given: Mapping[str, Any]
    identity: Mapping[str, str]
    where: str
    limit: float
    threads: int

    @property
    def name(self) -> str:
        """Of its files, without their endings."""
        return f"{self.path.stem}-{self.key}"


def jobs(runs: tuple[Run, ...], where: str, limit: float, threads: int) -> list[Job]:
    """The jobs of a plan, each once, in its order."""
    kit, data = kit_digest(), data_digest()
    known = {path: (notebook_digest(path), _defaults(path)) for path in {run.path for run in runs}}
    found = {}
    for run in runs:
        digest, defaults = known[run.path]
        identity = {"notebook": digest, "kit": kit, "data": data}
        whole = json.dumps([run.path.stem, identity, defaults | dict(run.given)], sort_keys=True)
        key = hashlib.sha256(whole.encode()).hexdigest()[:16]
        found[key] = Job(key, run.path, run.given, identity, where, limit, threads)
    return list(found.values())


def _defaults(path: Path) -> dict[str, Any]:
    return {name: found.default for name, found in notebooks.parameters(notebooks.load(path)).items()}


def notebook_digest(path: Path) -> str:
    """sha256 of a notebook without the outputs and counts stored in it, which no run sees."""
    notebook = notebooks.load(path)
    for cell in notebooks.code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    return hashlib.sha256(notebooks.dumps(notebook).encode()).hexdigest()


@cache
def kit_digest() -> str:
    """The kit's version and a digest of the code that a notebook can meet: an edited kit is another kit."""
    package = Path(mamlkit.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] not in OUTSIDE:
            digest.update(f"{name.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return f"{version('mamlkit')}+{digest.hexdigest()[:16]}"


@cache
def data_digest() -> str:
    """sha256 of the embedded image set. Omniglot's files are pinned by checksums in the kit's code."""
    return hashlib.sha256(glyphs_file().read_bytes()).hexdigest()


def perform(job: Job, watch: Callable[[int, int], None] = lambda cell, total: None) -> dict[str, Any]:
    """Run one job and write its files: the notebook, then the sidecar that says it is there. Returns the sidecar.

    Raises UnequalError where this worker has another kit, data or notebook, and OSError where the results cannot be
    written; whatever the notebook itself does ends up in the sidecar.
    """
    _check(job)
    started = datetime.now(UTC).isoformat(timespec="seconds")
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
    sidecar = {
        **_sidecar(job, started),
        **asdict(result),
        "executed": f"{job.name}.ipynb",
        "provenance": origin,
        "attempts": attempts,
    }
    _write(job, stamped(executed, result, origin), sidecar)
    return sidecar


def lost(job: Job, error: str, attempts: int) -> dict[str, Any]:
    """Write and return the sidecar of a job whose workers died, so that nothing of it came back."""
    sidecar = _sidecar(job, datetime.now(UTC).isoformat(timespec="seconds")) | {
        "title": notebooks.title(notebooks.load(job.path), job.path.stem),
        "status": "dead",
        "cell": None,
        "error": error,
        "parameters": _defaults(job.path) | dict(job.given),
        "claims": [],
        "records": [],
        "executed": None,
        "provenance": {"threads": job.threads, "device": None},
        "seconds": 0.0,
        "peak_bytes": None,
        "attempts": attempts,
    }
    _write(job, None, sidecar)
    return sidecar


def _sidecar(job: Job, started: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "key": job.key,
        "notebook": job.path.stem,
        "given": dict(job.given),
        "identity": dict(job.identity),
        "started": started,
    }


def _write(job: Job, executed: NotebookNode | None, sidecar: Mapping[str, Any]) -> None:
    place = store(job.where)
    if executed is not None:
        keep(place, f"{job.name}.ipynb", notebooks.dumps(executed))
    keep(place, f"{job.name}.json", json.dumps(sidecar, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _check(job: Job) -> None:
    try:
        found = {"notebook": notebook_digest(job.path), "kit": kit_digest(), "data": data_digest()}
    except (RefusedError, OSError) as error:
        raise UnequalError(f"{error}; every worker needs the notebooks at the same path") from error
    for name, digest in job.identity.items():
        if found[name] != digest:
            what = {"notebook": job.path.name, "kit": "mamlkit", "data": "the data"}[name]
            raise UnequalError(
                f"{what} is not what the plan was made with ({found[name][:24]}, not {digest[:24]}): it changed while "
                "the sweep ran, or this worker has another copy; start the sweep again, with the same one everywhere"
            )


@cache
def _provenance(home: Path) -> dict[str, Any]:
    """Of this worker; asked once, since it takes several commands to find out."""
    return provenance(home)


@contextmanager
def one_gpu() -> Iterator[str | None]:
    """A GPU of this machine that no other run holds, as CUDA_VISIBLE_DEVICES names it; None with fewer than two.

    Where there are more workers than GPUs they share.
    """
    names = visible_gpus()
    if len(names) < 2:
        yield None
        return
    for name in names:
        lock = FileLock(Path(tempfile.gettempdir()) / f"mamlkit-gpu-{name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue
        try:
            yield name
        finally:
            lock.release()
        return
    yield names[os.getpid() % len(names)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]
