"""What a sweep shows while it runs: a table on a terminal, now and then a line in a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mamlkit.study.progress import clock

EVERY = 30.0  # seconds between the lines of a log
SHOWN = 8  # runs that did not succeed, the latest ones


def describe(notebook: str, given: Mapping[str, Any]) -> str:
    """A run in words: its notebook and what it was given."""
    return " ".join([notebook, *(f"{name}={value}" for name, value in given.items())])


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, 1:02:05; without hours where there are none."""
    return clock(seconds) if seconds < 3600 else f"{int(seconds) // 3600}:{clock(seconds % 3600):0>5}"


class Board:
    """Runs done, running and not well of each notebook, with the time left.

    planned   notebook of every run, done before included; kept: the sidecars of those
    guesses   seconds that a run of each notebook took before, where known
    """

    def __init__(
        self, planned: Sequence[str], kept: Sequence[Mapping[str, Any]], guesses: Mapping[str, float], workers: int
    ) -> None:
        self.planned, self.workers, self.guesses = Counter(planned), workers, guesses
        self.kept = Counter(sidecar["notebook"] for sidecar in kept)
        self.bad_before: int = sum(sidecar["status"] != "ok" for sidecar in kept)
        self.seconds: dict[str, list[float]] = {notebook: [] for notebook in self.planned}
        self.bad: list[tuple[str, str]] = []
        self.bad_of: Counter[str] = Counter()
        self.running: dict[str, tuple[str, str, float]] = {}
        self.begin = self.said = time.monotonic()
        self.console = Console(highlight=False, soft_wrap=True)
        self.live = Live(get_renderable=self.table, console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def cell(self, key: str, label: str, number: int, total: int) -> None:
        """Note that code cell `number` of `total` of a run starts."""
        begin = self.running[key][2] if key in self.running else time.monotonic()
        self.running[key] = (label, f"cell {number} of {total}", begin)

    def stop(self, key: str) -> bool:
        """Note that a run's worker is gone; returns whether the run had begun."""
        return self.running.pop(key, None) is not None

    def end(self, key: str, sidecar: Mapping[str, Any]) -> None:
        """Note what came of a run; what did not go well is said at once."""
        self.stop(key)
        notebook = sidecar["notebook"]
        self.seconds[notebook].append(sidecar["seconds"])
        if sidecar["status"] != "ok":
            self.bad_of[notebook] += 1
            label, error = describe(notebook, sidecar["given"]), f"{sidecar['status']}: {sidecar['error']}"
            self.bad.append((label, error))
            if not self.console.is_terminal:
                print(f"{label}  {error}", flush=True)
        self.tick()

    def tick(self) -> None:
        """Keep a log going; a terminal redraws itself."""
        if not self.console.is_terminal and time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            print(self.line(), flush=True)

    def _done(self) -> int:
        return sum(map(len, self.seconds.values()))

    def left(self) -> float | None:
        """Seconds until all is done, from what runs of each notebook have taken; None while nothing tells."""
        times = {name: sum(took) / len(took) if took else self.guesses.get(name) for name, took in self.seconds.items()}
        known = [seconds for seconds in times.values() if seconds is not None]
        if not known or not self.workers:
            return None
        middle = sum(known) / len(known)
        total = 0.0
        for name, planned in self.planned.items():
            seconds = times[name]
            total += (planned - self.kept[name] - len(self.seconds[name])) * (middle if seconds is None else seconds)
        return total / self.workers

    def line(self) -> str:
        """The state of the sweep in one line."""
        planned, kept, done = sum(self.planned.values()), sum(self.kept.values()), self._done()
        parts = [f"{kept + done} of {planned} runs done"]
        parts += [f"{kept} of them before"] if kept else []
        bad = self.bad_before + len(self.bad)
        parts += [f"{bad} not ok"] if bad else []
        parts += [f"{duration(time.monotonic() - self.begin)} elapsed"]
        left = self.left()
        parts += ["waiting for workers" if not self.workers else "" if left is None else f"about {duration(left)} left"]
        return ", ".join(part for part in parts if part)

    def table(self) -> Group:
        """The state of the sweep by notebook, what runs now, and what did not go well."""
        table = Table("notebook", box=None, header_style="bold", padding=(0, 2, 0, 0))
        for head in ("done", "of", "not ok", "seconds each"):
            table.add_column(head, justify="right")
        for name, planned in self.planned.items():
            took = self.seconds[name]
            each = f"{sum(took) / len(took):.1f}" if took else ""
            bad = Text(str(self.bad_of[name]), style="red") if self.bad_of[name] else ""
            table.add_row(name, str(self.kept[name] + len(took)), str(planned), bad, each)
        now = [
            Text(f"  {label}  {cell}  {duration(time.monotonic() - begin)}", style="dim")
            for label, cell, begin in list(self.running.values())[: self.workers]
        ]
        bad_lines = [Text(f"{label}  {error}", style="red", no_wrap=True) for label, error in self.bad[-SHOWN:]]
        return Group(table, *now, *bad_lines, Text(self.line(), style="bold"))
