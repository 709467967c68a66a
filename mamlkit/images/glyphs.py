"""Glyphs: 50 alphabets, 1,000 characters, 20,000 drawings by a simulated hand. data/README.md is its card."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mamlkit.images.episodes import Drawings, Episodes, Indices, arrays
from mamlkit.tasks import SPLITS

FILE = "glyphs.npz"
# sha256 of the bytes of bits, codepoints, alphabets and split, one after another: it follows the drawings, not the zip.
CHECKSUM = "e76918dafabfa0e072af6b9bc5f4af5ffa1a6f9a2b205613ace532548c387a4a"


def glyphs_file() -> Path:
    """The file of the set: in `data` beside the package in a clone, inside the package where a wheel was installed."""
    package = Path(__file__).parents[1]
    inside = package / "data" / FILE
    return inside if inside.exists() else package.parent / "data" / FILE


def load_glyphs(path: Path | None = None) -> tuple[Drawings, dict[str, Indices]]:
    """The drawings, and the classes of each split. Raises ValueError where the arrays aren't the published ones."""
    path = path or glyphs_file()
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; clone or install mamlkit again")
    kept = arrays(path, "take it from a fresh clone")
    bits, codepoints, alphabets, split = (kept[key] for key in ("bits", "codepoints", "alphabets", "split"))
    found = hashlib.sha256(b"".join(array.tobytes() for array in (bits, codepoints, alphabets, split))).hexdigest()
    if found != CHECKSUM:
        raise ValueError(f"the arrays of {path} have sha256 {found}, not {CHECKSUM}; take the file from a fresh clone")
    per_alphabet = codepoints.shape[1]
    drawings = Drawings(
        pixels=np.unpackbits(bits, axis=1).reshape(-1, 20, 28, 28) * np.uint8(255),
        alphabets=tuple(alphabets.repeat(per_alphabet).tolist()),
        characters=tuple(chr(point) for point in codepoints.ravel()),
    )
    return drawings, {name: np.flatnonzero(split.repeat(per_alphabet) == i) for i, name in enumerate(SPLITS)}


@dataclass(frozen=True)
class Glyphs(Episodes):
    """Episodes on Glyphs, split by alphabet: 32 for training, 6 for validation, 12 for the test, of 20 characters each.

    The drawings are synthetic: results on them are results on Glyphs, never on Omniglot. Classes turned by 90° aren't
    offered, since the set was cleared of look-alikes upright only. Fields, shapes and errors are those of `Episodes`.
    """

    @property
    def drawings(self) -> Drawings:
        """The set: 1,000 characters."""
        return self._loaded[0]

    @property
    def classes(self) -> dict[str, Indices]:
        """The classes of each split: 640, 120 and 240."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[Drawings, dict[str, Indices]]:
        return load_glyphs()
