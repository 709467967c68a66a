"""The grader's end of a student's kernel: starts it, asks it and ends it. What it says is JSON, nothing more."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any, Self

from mamlkit.assignment.kernel import serve

STARTING, LONGEST = 300.0, 64 * 2**20  # seconds that a kernel may take to start; bytes of an answer
CONTEXT: Any = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")  # fmt: skip  # noqa: E501


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Without the program that grades: what starts within it would import that program, which is not the student's."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class DiedError(Exception):
    """A kernel that is no more; the message says what ended it, to stand after the name of what it was doing."""


class Student:
    """A kernel for one submission, in a folder of its own."""

    def __init__(self, closed: tuple[str, ...]) -> None:
        CONTEXT.set_forkserver_preload(["mamlkit.assignment.kernel"])
        self.scratch = tempfile.TemporaryDirectory(prefix="mamlkit-", ignore_cleanup_errors=True)
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(theirs, self.scratch.name, closed), daemon=True)
        with _no_main():
            self.process.start()
        theirs.close()
        self.ask({"name": ""}, STARTING)

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """What the kernel answers within `limit` seconds. Raises DiedError where it does not; it is ended then."""
        token, late = secrets.token_hex(8), threading.Event()

        def stop() -> None:
            late.set()
            self._kill()

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            self.pipe.send_bytes(json.dumps({"id": token, **request}).encode())
            answer = json.loads(self.pipe.recv_bytes(LONGEST))
        except (EOFError, OSError):  # also an answer that is too long
            self.close()
            raise DiedError(f"did not end within {limit:g} s" if late.is_set() else "ended its kernel") from None
        except (ValueError, RecursionError):
            answer = None
        finally:
            timer.cancel()
        if not isinstance(answer, dict) or answer.pop("id", None) != token:
            self.close()
            raise DiedError("wrote into the grader's own channel")
        return answer

    def close(self) -> None:
        """End the kernel and all that it started."""
        self._kill()
        self.process.join()
        self.pipe.close()
        self.scratch.cleanup()

    def _kill(self) -> None:
        if self.process.pid is not None and self.process.exitcode is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL) if hasattr(os, "killpg") else self.process.kill()
            with contextlib.suppress(OSError):
                self.process.kill()  # before it leads a group of its own

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
