"""One writer at a time in a folder of results."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from mamlkit.study import RefusedError


def lock(folder: Path) -> AbstractContextManager[object]:
    """Make a folder that is this process's own while the lock is held. The system frees the lock of one that died.

    Raises RefusedError where another run or sweep is at work, or nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise RefusedError(
            f"another run or another sweep is writing into {folder}; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise RefusedError(f"{folder} cannot be written: {error}; choose another --out") from error
