"""What is shown while something runs: redrawn on a terminal, a line now and then in a log file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

EVERY = 30.0  # seconds between the lines of a log
SURE = 3  # cells done before the time left is guessed: the first ones import and say little


def clock(seconds: float) -> str:
    """Minutes and seconds, 1:05, after the hours where there are any, 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


@contextmanager
def shown(line: Callable[[], str], table: Callable[[], RenderableType] | None = None) -> Iterator[Console]:
    """While it lasts, a terminal sees `table` (or `line`) as it is then; a log file gets `line` every half minute.

    Yields the console, whose `print` adds a line that stays.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if console.is_terminal:
        drawn = table or (lambda: Text(line(), no_wrap=True, overflow="ellipsis"))
        with Live(get_renderable=drawn, console=console, refresh_per_second=2, transient=True):
            yield console
        return
    ended = threading.Event()

    def log() -> None:
        while not ended.wait(EVERY):
            print(line(), flush=True)

    ticker = threading.Thread(target=log, daemon=True)
    ticker.start()
    try:
        yield console
    finally:
        ended.set()
        ticker.join()


@dataclass
class Cells:
    """How far one notebook is: its code cells, the time elapsed, the time left."""

    label: str
    begin: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0

    def start(self, number: int, total: int) -> None:
        """Note that code cell `number` of `total` starts."""
        self.done, self.total = number - 1, total

    def line(self) -> str:
        """What is said of it now."""
        elapsed = time.monotonic() - self.begin
        if not self.total:
            return f"{self.label}  starting"
        left = f", about {clock(elapsed / self.done * (self.total - self.done))} left" if self.done >= SURE else ""
        return f"{self.label}  cell {self.done + 1} of {self.total}  {clock(elapsed)} elapsed{left}"
