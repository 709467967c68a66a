"""Where a sweep's results lie: a folder, or any store that papermill can write to."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from papermill.exceptions import PapermillException
from papermill.iorw import papermill_io

from mamlkit import files
from mamlkit.study.notebooks import RefusedError

PAUSES = (1.0, 5.0)  # seconds between the tries of a write that failed
HOPELESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)


class Store(Protocol):
    """Files by name; each is written whole or not at all, and a write replaces what was there."""

    def names(self) -> set[str]:
        """The names of all files."""

    def read(self, name: str) -> str:
        """The text of a file. Raises OSError where there is none."""

    def write(self, name: str, text: str) -> None:
        """Write a file. Raises OSError where it cannot be."""

    def alone(self) -> Iterator[None]:
        """A context in which no other sweep writes here, where the store can promise that."""


class Folder:
    """A folder of this machine, or one that all workers share."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir() if not path.name.startswith(".")}

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        files.write(self.path / name, text)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises RefusedError where another sweep is at work. The system frees the lock of a process that died."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise RefusedError(
                f"another sweep is writing into {self.path}; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise RefusedError(f"{self.path} cannot be written: {error}; choose another --out") from error
        try:
            yield
        finally:
            lock.release()


class Remote:
    """A store that papermill knows by its address, such as `s3://bucket/sweep`. It has no locks and needs none.

    Stores of this kind put a file whole. Two sweeps at once would do work twice, and write the same results.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def names(self) -> set[str]:
        with _as_os_error():
            return {str(name).rstrip("/").rpartition("/")[2] for name in papermill_io.listdir(self.address)}

    def read(self, name: str) -> str:
        with _as_os_error():
            return str(papermill_io.read(f"{self.address}/{name}"))

    def write(self, name: str, text: str) -> None:
        with _as_os_error():
            papermill_io.write(text, f"{self.address}/{name}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        try:
            self.names()
        except OSError as error:
            raise RefusedError(f"{self.address} cannot be listed: {error}; choose another --out") from error
        yield


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Each of papermill's stores fails in its own library's way; to a sweep all of it is a disk that failed."""
    try:
        yield
    except OSError:
        raise
    except (PapermillException, NotImplementedError) as error:
        raise OSError(errno.ENOENT, str(error) or "papermill cannot do that there") from error
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def store(where: str) -> Folder | Remote:
    """The store at a path, or at an address with `://` in it."""
    return Remote(where) if "://" in where else Folder(Path(where))


def keep(place: Folder | Remote, name: str, text: str) -> None:
    """Write a file, and try again where a fault may pass: hours of work should not be lost to one of a moment."""
    for pause in (*PAUSES, None):
        try:
            return place.write(name, text)
        except OSError as error:
            if pause is None or error.errno in HOPELESS:
                raise
        time.sleep(pause)
    return None
