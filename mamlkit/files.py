"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` at the end, and nothing of it stays on an error.

    synced  wait for the disk: a power cut must not leave the new name with nothing behind it
    """
    part = path.with_name(f".{path.name}-{os.urandom(4).hex()}.part")
    try:
        yield part
        if synced:
            with part.open("rb+") as written:
                os.fsync(written.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, content: str | bytes, *, synced: bool = True) -> None:
    """Write a file whole or not at all; text as UTF-8 with plain newlines. Raises OSError where it cannot be."""
    with replacing(path, synced=synced) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
