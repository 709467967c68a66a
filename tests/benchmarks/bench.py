"""`make bench`: the kit against the libraries of `rivals`, in one run, each held to the same meta-gradient first.

    make bench                                                # about ten minutes on two idle cores
    make bench BENCH="--full"                                 # every step count and number of tasks, longer rounds
    make bench BENCH="--only sinusoid training --rounds 5"    # some groups of cases
    make bench BENCH="--full --iterations 70000"              # the paper's length for whole trainings
    make bench BENCH="--only training --iterations 70000 --rounds 1 --among 'mamlkit compiled' JAX"

Results go to runs/bench/bench.json after each case; the same command goes on after an interruption, `--again` starts
over. At the end bench_report.py makes tables and a figure of them.

A contender at a case is a process of its own, with one thread, on one core, the same for all. All of a case are made
ready, and a meta-gradient that is not that of plain autograd in float64 leaves its contender out. Then they take turns:
in each round, in an order drawn anew, each is timed over as many iterations as make 20 ms. At last each runs one
iteration more for its peak memory. glibc keeps freed blocks as it pleases, so it is first told to give them back
(`mallopt` to what MALLOC_MMAP_THRESHOLD_=131072 MALLOC_TRIM_THRESHOLD_=131072 say), and the peak is counted above what
the process holds at rest.

bench.json:
    machine   processor, instructions, cores, memory_gb, system, load (of the last minute, when it began)
    versions  of Python and of each library
    golden    rows of golden_libraries' table: all of them on exact meta-gradients, before anything is timed
    cases     one for each, with its name, group, problem, steps, tasks, points, iterations, and
              rows      contender, order, error (of the meta-gradient, against float64), ready (seconds until it could
                        be timed, compilation included), seconds (of an iteration, one for each round; entry i of each
                        row belongs to round i), peak (bytes; null where it is not measured)
              left_out  contender → why, in one sentence
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import queue
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bench_report
import golden_libraries
import numpy as np
import rivals
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rivals import Problem, Ready
from tqdm import tqdm

import mamlkit as mk
from mamlkit import files
from mamlkit.graphs import REPLAYS, Replayed
from mamlkit.meta import ROUTES, unchecked

PROCESSES = multiprocessing.get_context("forkserver")  # its children begin with what is loaded once, here:
PROCESSES.set_forkserver_preload(["torch._dynamo", "mamlkit.meta", "mamlkit.models", "mamlkit.images"])
DIED = "its process died"
TOLERANCE = 1e-3  # of float32 against float64; the two orders are further apart
LEAST = 0.02  # seconds that are timed at once
FRESH = multiprocessing.get_context(
    "spawn"
)  # its children are new programs, which read their environment as they start
GIVES_BACK = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "131072")  # bytes
WEIGHED = ("conv4", "inner steps", "memory")  # groups whose peak memory is measured


@dataclass(frozen=True)
class Contender:
    """One way to compute: its recipe; environment variables that it needs; whether it takes one task at a time."""

    recipe: Callable[[Problem], Ready]
    environment: Mapping[str, str] = field(default_factory=dict)
    by_task: bool = False


@dataclass(frozen=True)
class Case:
    """What is computed: `group` names the cases that belong together, `orders` those that are timed."""

    group: str
    steps: int
    tasks: int = 25
    points: int = 10  # of the support, and as many of the query
    problem: str = "sinusoid"
    orders: Sequence[int] = (2,)
    iterations: int = 1  # of a whole training

    @property
    def name(self) -> str:
        whole = f", {self.iterations:,} iterations" if self.group == "training" else ""
        return f"{self.group}: {self.steps} steps, {self.tasks} tasks, {self.points} points{whole}"

    def made(self, order: int, dtype: torch.dtype = torch.float32) -> Problem:
        """The problem itself, the same in either type."""
        loss: Callable[..., torch.Tensor]
        if self.problem == "sinusoid":
            model, loss, alpha = mk.models.mlp(1, 1), F.mse_loss, 0.01
            batch = mk.Sinusoids(shots=self.points, queries=self.points).batch(0, self.tasks)
        else:  # 5-way 1-shot with 25 queries
            model, loss, alpha = mk.models.conv4(5, filters=64, downsample="stride"), F.cross_entropy, 0.1
            batch = mk.Glyphs(ways=5, shots=1, queries=5).batch(0, self.tasks)
        x, y, query_x, query_y = (
            part.to(dtype) if part.is_floating_point() else part for pair in batch for part in pair
        )
        batch = mk.TaskBatch(mk.Batch(x, y), mk.Batch(query_x, query_y))
        return Problem(model.to(dtype), loss, batch, alpha, self.steps, order, self.iterations)


CONTENDERS = {
    **{f"mamlkit {route}": Contender(partial(rivals.kit, route=route, outer=unchecked), by_task="loop" in route)
       for route in ROUTES},  # as in a training, which checks once
    **{f"mamlkit {route}": Contender(partial(rivals.kit, route=route, outer=Replayed(unchecked, route)))
       for route in REPLAYS},
    "torch.func": Contender(rivals.torch_func),
    "higher": Contender(rivals.higher, by_task=True),
    "TorchOpt": Contender(rivals.torchopt, by_task=True),
    "learn2learn": Contender(rivals.learn2learn, by_task=True),
    "JAX": Contender(rivals.jax),
}  # fmt: skip
CONV = {**CONTENDERS, "JAX lax.map": Contender(partial(rivals.jax, over="map"))}
TRAININGS = {
    **{f"mamlkit {route}": Contender(partial(rivals.kit_training, route=route))
       for route in ("vmap", *REPLAYS)},
    "JAX": Contender(rivals.jax_training),
}  # fmt: skip
GROUPS = ("sinusoid", "conv4", "inner steps", "tasks", "memory", "training")


def contenders(case: Case, full: bool) -> dict[str, Contender]:
    """Who runs a case. Series go without those that take one task at a time, unless all is asked for."""
    known = {"conv4": CONV, "training": TRAININGS}.get(case.group, CONTENDERS)
    everyone = full or case.group not in ("inner steps", "tasks", "memory")
    return {name: contender for name, contender in known.items() if everyone or not contender.by_task}


def cases(full: bool, iterations: int) -> list[Case]:
    """Every case, in the order of `GROUPS`."""
    steps, tasks = ((1, 2, 5, 10, 20, 50, 100), (1, 4, 8, 25, 64, 256)) if full else ((1, 10, 100), (1, 8, 64, 256))
    return [
        *(Case("sinusoid", k, orders=(2, 1)) for k in (1, 5)),
        *(Case("conv4", k, tasks=4, points=5, problem="conv4", orders=(2, 1)) for k in (1, 5)),
        *(Case("inner steps", k) for k in steps),
        *(Case("tasks", 1, tasks=n) for n in tasks),
        *(Case("memory", k, points=2000) for k in ((1, 5, 20, 50) if full else (1, 50))),
        *(Case("training", k, iterations=iterations) for k in (1, 5)),
    ]


def reference(case: Case, order: int) -> NDArray[np.float64]:
    """The meta-gradient by plain autograd in float64, as one vector."""
    return flat(rivals.plain(case.made(order, torch.float64)).gradient())


def flat(gradient: Sequence[Any]) -> NDArray[np.float64]:
    """Tensors or arrays as one vector."""
    return np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in gradient])


def off(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """The relative error of a gradient; infinite where it has another size or is not finite."""
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted) if found.shape == wanted.shape else math.inf
    return float(error) if np.isfinite(error) else math.inf


def pin(core: int) -> None:
    """This process, with the threads that it has and those that it will start, on one core, where that can be had."""
    if hasattr(os, "sched_setaffinity"):
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {core})


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]


def resident(what: str) -> int:
    """Bytes of memory: "VmRSS", now, or "VmHWM", the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(what)))


def peak(iterate: Callable[[], object]) -> int | None:
    """The most memory in use during a call, in bytes above what was before; None where the system does not tell."""
    iterate()  # so that what is kept from call to call is there
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the most so far
        before = resident("VmRSS")
    except (OSError, StopIteration):
        return None
    iterate()
    return max(0, resident("VmHWM") - before)


def work(pipe: Connection, contender: Contender, case: Case, order: int, core: int) -> None:
    """The life of a contender's process: it gets ready, and then does what it is told through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is for the one who deals out the turns
    os.environ.update(contender.environment)
    pin(core)
    torch.set_num_threads(1)
    began = time.perf_counter()
    try:
        ready = contender.recipe(case.made(order))
        gradient = flat(ready.gradient())
        ready.iterate()
    except Exception as error:
        return pipe.send((" ".join(f"{type(error).__name__}: {error}".split())[:200], 0.0))
    pipe.send((gradient, time.perf_counter() - began))
    while (turn := pipe.recv()) is not None:
        what, value = turn
        if what == "pin":
            pin(value)
        elif what == "peak":
            pipe.send(peak(ready.iterate))
        else:
            if value > 1:
                ready.iterate()  # caches are its own again
            began = time.perf_counter()
            for _ in range(value):
                ready.iterate()
            pipe.send((time.perf_counter() - began) / value / case.iterations)
    return None


class Worker:
    """A contender's process, at the other end of the pipe."""

    def __init__(self, contender: Contender, case: Case, order: int, core: int, *, gives_back: bool = False) -> None:
        context: Any = FRESH if gives_back else PROCESSES
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=work, args=(end, contender, case, order, core), daemon=True)
        with patch.dict(os.environ, GIVES_BACK if gives_back else {}):
            self.process.start()
        end.close()

    def answer(self, seconds: float | None = None) -> Any:
        """What it sends. Raises TimeoutError after so many seconds, EOFError where it has ended."""
        if not self.pipe.poll(seconds):
            raise TimeoutError
        return self.pipe.recv()

    def ask(self, what: str, value: int = 0) -> Any:
        """Its turn: "time", over so many iterations, or "peak"."""
        self.pipe.send((what, value))
        return self.answer()

    def stop(self) -> None:
        if not self.pipe.closed:
            self.process.kill()
            self.process.join()
            self.pipe.close()


def measure(
    case: Case,
    who: Mapping[str, Contender],
    *,
    rounds: int,
    seconds: float,
    patience: float,
    tick: Callable[[], object] = lambda: None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """A case's entry of bench.json.

    rounds    so many at most
    seconds   no further round begins after so many, once there are three
    patience  seconds that a contender may take to get ready
    tick, say  are called at each step, and with each sentence
    """
    left_out: dict[str, str] = {}
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    workers: dict[tuple[str, int], Worker] = {}
    wanted = {order: reference(case, order) for order in case.orders}
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in cores():
        free.put(core)

    def start(key: tuple[str, int]) -> None:
        core = free.get()
        worker = workers[key] = Worker(who[key[0]], case, key[1], core)
        try:
            gradient, took = worker.answer(patience)
            if isinstance(gradient, str):
                left_out[title(*key)] = gradient
            elif (error := off(gradient, wanted[key[1]])) > TOLERANCE:
                left_out[title(*key)] = f"its meta-gradient is off by {error:.1e} of what plain autograd finds"
            else:
                rows[key] = {"contender": key[0], "order": key[1], "error": error, "ready": took, "seconds": []}
        except TimeoutError:
            left_out[title(*key)] = f"it was not ready after {patience:.0f} s"
        except EOFError:
            left_out[title(*key)] = DIED
        finally:
            if key not in rows:
                worker.stop()
            free.put(core)
            tick()

    def turn(key: tuple[str, int], what: str, repeats: int = 1) -> Any:
        """What a contender answers; one whose process dies is left out from there on."""
        try:
            return workers[key].ask(what, repeats)
        except (EOFError, ConnectionError):
            del rows[key]
            left_out[title(*key)] = DIED

    def weigh(key: tuple[str, int]) -> int | None:
        core = free.get()
        worker = Worker(who[key[0]], case, key[1], core, gives_back=True)
        try:
            worker.answer(patience)
            most: int | None = worker.ask("peak")
        except (TimeoutError, EOFError, ConnectionError):
            return None
        finally:
            worker.stop()
            free.put(core)
        return most

    entrants = [(name, order) for name in who for order in case.orders]
    pool = ThreadPoolExecutor(len(cores()))
    try:
        for started in [pool.submit(start, key) for key in entrants]:
            started.result()
        worst = max((row["error"] for row in rows.values()), default=0.0)
        say(f"{case.name}: {len(rows)} compute the same meta-gradient, to {worst:.0e}; {len(left_out)} are left out")
        for name, why in left_out.items():
            say(f"    {name}: {why}")
        for worker in (workers[key] for key in rows):
            worker.pipe.send(("pin", cores()[-1]))
        single = {key: turn(key, "time") for key in [*rows]}
        began = time.perf_counter()
        for number in range(rounds):
            if number >= 3 and time.perf_counter() - began > seconds:
                break
            for key in random.Random(number).sample([*rows], len(rows)):
                repeats = math.ceil(min(100, LEAST / (single[key] * case.iterations)))
                if (found := turn(key, "time", repeats)) is not None:
                    rows[key]["seconds"].append(found)
            tick()
        for worker in workers.values():
            worker.stop()
        # JAX keeps what it frees for itself, so that nothing of it can be seen from outside.
        known = {key for key in rows if case.group in WEIGHED and not key[0].startswith("JAX")}
        weighed = [pool.submit(weigh, key) if key in known else None for key in rows]
        for row, found in zip(rows.values(), weighed, strict=True):
            row["peak"] = found.result() if found else None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in [*workers.values()]:
            worker.stop()
    found = [rows[key] for key in entrants if key in rows]
    return {"name": case.name, **asdict(case), "rows": found, "left_out": left_out}


def title(contender: str, order: int) -> str:
    """A contender's name, with the order where it is not the second."""
    return contender if order == 2 else f"{contender}, first order"


def machine() -> dict[str, Any]:
    """What the times depend on besides the code."""
    info = Path("/proc/cpuinfo")
    models = (
        [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else [platform.processor()]
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": models[0],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(cores()),
        "memory_gb": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", default=GROUPS, help=", ".join(GROUPS))
    everyone = sorted({*CONV, *TRAININGS})
    parser.add_argument("--among", nargs="+", choices=everyone, metavar="NAME", default=everyone, help="contenders")
    parser.add_argument("--full", action="store_true", help="every step count and number of tasks, longer rounds")
    parser.add_argument("--rounds", type=int, help="rounds of a case at most: 15, and 40 with --full")
    parser.add_argument("--seconds", type=float, help="no new round after so many: 15, and 120 with --full; 3 at least")
    parser.add_argument("--patience", type=float, help="seconds to get ready in: 90, and 900 with --full")
    parser.add_argument("--iterations", type=int, default=2000, help="of a whole training; the paper's are 70000")
    parser.add_argument("--again", action="store_true", help="start over")
    chosen = parser.parse_args()
    limits = {
        "rounds": chosen.rounds or (40 if chosen.full else 15),
        "seconds": chosen.seconds or (120 if chosen.full else 15),
        "patience": chosen.patience or (900 if chosen.full else 90),
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    file = chosen.out / "bench.json"
    results: dict[str, Any] = {"machine": machine(), "versions": {"python": platform.python_version()}, "cases": []}
    results["versions"] |= rivals.versions()
    if file.exists() and not chosen.again:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["versions"] != results["versions"] or kept["machine"]["processor"] != results["machine"]["processor"]:
            sys.exit(f"{file} is of other versions or another processor: give --again to start over, or another --out")
        results = kept
    else:
        results["golden"] = []
        for row in golden_libraries.table():
            print(row, flush=True)
            results["golden"].append(row)
    done = {case["name"] for case in results["cases"]}
    wanted = [case for case in cases(chosen.full, chosen.iterations) if case.group in chosen.only]
    left = [case for case in wanted if case.name not in done]
    crowd = [
        {name: who for name, who in contenders(case, chosen.full).items() if name in chosen.among} for case in left
    ]
    parts = [len(who) * len(case.orders) + limits["rounds"] for case, who in zip(left, crowd, strict=True)]
    print(f"{len(done)} cases are there, {len(left)} are left; core {cores()[-1]}, load {os.getloadavg()[0]:.1f}")
    with tqdm(total=sum(parts), unit="turn") as bar:
        for case, who, size in zip(left, crowd, parts, strict=True):
            before = bar.n
            bar.set_description(case.name)
            found = measure(case, who, **limits, tick=bar.update, say=bar.write)
            bar.update(before + size - bar.n)
            results["cases"].append(found)
            files.write(file, json.dumps(results, indent=1))
    bench_report.write(results, file)


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: what was measured is kept, and the same command goes on")
