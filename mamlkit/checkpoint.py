"""Checkpoints: files that are written whole, read whole, and never able to run code.

A file is one line that names the format, one line with the SHA-256 of what follows, and what `torch.save` wrote.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from mamlkit.files import write

_FORMAT = b"mamlkit checkpoint 1\n"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: damaged, cut off, or not one of ours."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) to `path`, atomically."""
    payload = io.BytesIO()
    torch.save(state, payload)
    content = payload.getvalue()
    write(path, _FORMAT + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote to `path`, on the CPU. Raises CheckpointError, naming the file and what is wrong with it."""
    content = path.read_bytes()
    if not content.startswith(_FORMAT):
        raise CheckpointError(f"{path} is not a mamlkit checkpoint; name another file, or remove it to start afresh")
    digest, _, payload = content[len(_FORMAT) :].partition(b"\n")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise CheckpointError(f"{path} is damaged or cut off (its checksum does not match); restore it, or remove it")
    try:
        # weights_only admits tensors and plain values, so that a foreign file cannot run code.
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values, and was not read") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__} where a training state is wanted")
    return state


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written before hours are spent on what should go there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
    except OSError as error:
        raise ValueError(f"the checkpoint {path} cannot be written ({error}); choose another place") from error
