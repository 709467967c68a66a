"""What a sweep knows of itself while it runs: a line that says it, and a table for a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mamlkit.study.progress import Cells, clock
from mamlkit.sweeps.job import Job


class Board:
    """Runs done, running and not well of each notebook, with the time left.

    planned   every run of the sweep; todo: those that are to be done now
    finished  the sidecars of the runs done before, by key; one that is to be done again does not count as done
    guesses   seconds that a run of each notebook took before, where known
    """

    def __init__(
        self,
        planned: Sequence[Job],
        todo: Sequence[Job],
        finished: Mapping[str, Mapping[str, Any]],
        guesses: Mapping[str, float],
        workers: int,
    ) -> None:
        self.guesses, self.workers = guesses, workers
        self.labels = {job.key: job.label for job in todo}
        kept = [sidecar for key, sidecar in finished.items() if key not in self.labels]
        self.planned = Counter(job.path.stem for job in planned)
        self.todo = Counter(job.path.stem for job in todo)
        self.kept = Counter(sidecar["notebook"] for sidecar in kept)
        self.bad = Counter(sidecar["notebook"] for sidecar in kept if sidecar["status"] != "ok")
        self.seconds: dict[str, list[float]] = {notebook: [] for notebook in self.planned}
        self.running: dict[str, Cells] = {}
        self.begin = time.monotonic()

    def cell(self, key: str, number: int, total: int) -> None:
        """Note that code cell `number` of `total` of a run starts; a cluster may be serving another sweep as well."""
        if key in self.labels:
            self.running.setdefault(key, Cells(self.labels[key])).start(number, total)

    def stop(self, key: str) -> bool:
        """Note that a run's worker is gone; returns whether the run had begun."""
        return self.running.pop(key, None) is not None

    def end(self, key: str, sidecar: Mapping[str, Any]) -> None:
        """Note what came of a run."""
        self.labels.pop(key)  # first: what its worker still says of it may come late
        self.stop(key)
        self.seconds[sidecar["notebook"]].append(sidecar["seconds"])
        self.bad[sidecar["notebook"]] += sidecar["status"] != "ok"

    def left(self) -> float | None:
        """Seconds until all is done, from what runs of each notebook have taken; None while nothing tells."""
        each = dict(self.guesses) | {name: fmean(took) for name, took in self.seconds.items() if took}
        known = [each[name] for name in self.planned if name in each]
        if not known or not self.workers:
            return None
        runs = {name: todo - len(self.seconds[name]) for name, todo in self.todo.items()}
        return sum(count * each.get(name, fmean(known)) for name, count in runs.items()) / self.workers

    def state(self) -> str:
        """What is done so far, in words."""
        kept, bad = self.kept.total(), self.bad.total()
        parts = [f"{kept + sum(map(len, self.seconds.values()))} of {self.planned.total()} runs done"]
        parts += [f"{kept} of them before"] if kept else []
        parts += [f"{bad} not ok"] if bad else []
        return ", ".join([*parts, f"{clock(time.monotonic() - self.begin)} elapsed"])

    def line(self) -> str:
        """That, and the time left."""
        if not self.workers:
            return f"{self.state()}, waiting for workers"
        left = self.left()
        return self.state() if left is None else f"{self.state()}, about {clock(left)} left"

    def table(self) -> Group:
        """The state of the sweep by notebook, what runs now, and the line."""
        table = Table("notebook", box=None, header_style="bold", padding=(0, 2, 0, 0))
        for head in ("done", "of", "not ok", "seconds each"):
            table.add_column(head, justify="right")
        for name, planned in self.planned.items():
            took = self.seconds[name]
            bad = Text(str(self.bad[name] or ""), style="red")
            each = f"{fmean(took):.1f}" if took else ""
            table.add_row(name, str(self.kept[name] + len(took)), str(planned), bad, each)
        running = [Text(f"  {cells.line()}", style="dim") for cells in list(self.running.values())]
        return Group(table, *running, Text(self.line(), style="bold"))
