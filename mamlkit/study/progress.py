"""The one line that a notebook has on the terminal while it runs."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Self

CLEAR = "\r\x1b[K"  # back to the start of the terminal's line, and empty it
SURE = 3  # cells done before the time left is guessed: the first ones import and say little


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """The one line of a running notebook: cell i of n, time elapsed, time left.

    A terminal sees it change every second; a log file gets a new line every half minute.
    """

    def __init__(self, label: str) -> None:
        self.label, self.done, self.total, self.begin = label, 0, 0, time.monotonic()
        self.live = sys.stdout.isatty()
        self.stopped = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        self.ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if error and self.live:
            print()

    def cell(self, number: int, total: int) -> None:
        """Note that code cell `number` of `total` starts."""
        self.done, self.total = number - 1, total

    def end(self, text: str) -> None:
        """Close the line with what came of it."""
        self._stop()
        print(f"{CLEAR if self.live else ''}{self.label}  {text}", flush=True)

    def _stop(self) -> None:
        self.stopped.set()
        self.ticker.join()

    def _tick(self) -> None:
        while True:
            if self.live:
                print(f"{CLEAR}{self.line()[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
            if self.stopped.wait(1 if self.live else 30):
                return
            if not self.live:
                print(self.line(), flush=True)

    def line(self) -> str:
        """What the line says now."""
        elapsed = time.monotonic() - self.begin
        if not self.total:
            return f"{self.label}  starting"
        left = f", about {clock(elapsed / self.done * (self.total - self.done))} left" if self.done >= SURE else ""
        return f"{self.label}  cell {self.done + 1} of {self.total}  {clock(elapsed)} elapsed{left}"
