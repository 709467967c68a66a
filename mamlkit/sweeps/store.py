"""Where a sweep's results lie: a folder, or any address that fsspec knows."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from mamlkit import files
from mamlkit.extras import extra
from mamlkit.study import RefusedError
from mamlkit.study.lock import lock

with extra("sweeps"):
    import fsspec
    from fsspec.implementations.local import LocalFileSystem
    from tenacity import retry, retry_if_exception, stop_after_attempt, wait_chain, wait_fixed

PAUSES = (1.0, 5.0)  # seconds between the tries of a write that failed
HOPELESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)


class Store:
    """Files by name, each of them written whole or not at all.

    where  a folder, of this machine or one that all workers share, or an address such as `s3://bucket/sweep`

    Raises RefusedError for an address that nothing here can reach.
    """

    def __init__(self, where: str) -> None:
        self.where = where if "://" in where else str(Path(where).resolve())  # as every process finds it
        try:
            self.system, self.root = fsspec.url_to_fs(self.where)
        except (ImportError, ValueError) as error:
            raise RefusedError(f"{where} cannot be reached: {error}; choose another --out") from error
        self.folder = Path(self.root) if isinstance(self.system, LocalFileSystem) else None

    def names(self) -> set[str]:
        """The names of all files; none where nothing is there yet. Raises RefusedError for what cannot be listed."""
        try:
            with _faults():
                self.system.invalidate_cache()
                return {path.rpartition("/")[2] for path in self.system.ls(self.root, detail=False)}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise RefusedError(f"{self.where} cannot be listed: {error}; choose another --out") from error

    def read(self, name: str) -> str:
        """The text of a file. Raises OSError where there is none."""
        with _faults():
            return str(self.system.cat_file(f"{self.root}/{name}").decode())

    @retry(
        retry=retry_if_exception(lambda error: isinstance(error, OSError) and error.errno not in HOPELESS),
        wait=wait_chain(*map(wait_fixed, PAUSES)),
        stop=stop_after_attempt(1 + len(PAUSES)),
        reraise=True,
    )
    def write(self, name: str, text: str) -> None:
        """Write a file, and try again where a fault may pass: hours of work should not be lost to one of a moment.

        Raises OSError where it cannot be written.
        """
        if self.folder:
            files.write(self.folder / name, text)
            return
        with _faults(), self.system.transaction:  # a store that writes piece by piece shows them at the end
            self.system.pipe_file(f"{self.root}/{name}", text.encode())

    def lock(self) -> AbstractContextManager[object]:
        """The lock of this folder: see mamlkit.study.lock.

        Stores that are no folders have none: two sweeps at once would do work twice, and write the same results.
        """
        return lock(self.folder) if self.folder else nullcontext()


@contextmanager
def _faults() -> Iterator[None]:
    """Each kind of store fails in its own library's way; to a sweep all of it is a disk that failed."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error
