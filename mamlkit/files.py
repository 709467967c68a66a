"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` at the end, and nothing of it stays on an error."""
    part = path.with_name(f".{path.name}-{os.urandom(4).hex()}.part")
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())  # a power cut must not leave the new name with nothing behind it
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8 with plain newlines. Raises OSError where it cannot be."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
