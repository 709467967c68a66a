"""What a wing needs beyond the core is installed by the extra of its name: `pip install "mamlkit[figures]"`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports within it that find a module missing raise ModuleNotFoundError with the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == __package__:  # a slip of the kit's own, which no installation mends
            raise
        raise ModuleNotFoundError(
            f'{error.name} is not installed and this part of mamlkit needs it; run: pip install "mamlkit[{name}]"',
            name=error.name,
        ) from error
