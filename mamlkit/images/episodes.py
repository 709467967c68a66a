"""N-way, K-shot episodes: each task picks `ways` classes and asks which of them a drawing is (Vinyals et al. 2016)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamlkit.device import device as named_device
from mamlkit.tasks import SPLITS, Batch, TaskBatch, uniforms

SIDE = 28  # pixels
DRAWINGS = 20  # of each character, in Glyphs as in Omniglot

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Drawings:
    """A set of drawings, 20 of each character.

    pixels      [characters, 20, 28, 28] uint8, from paper 0 to ink 255
    alphabets   the alphabet of each character
    characters  its name there

    Raises ValueError on another shape or type, or where the names don't fit the pixels.
    """

    pixels: NDArray[np.uint8]
    alphabets: tuple[str, ...]
    characters: tuple[str, ...]

    def __post_init__(self) -> None:
        wanted = (len(self.alphabets), DRAWINGS, SIDE, SIDE)
        if self.pixels.shape != wanted or self.pixels.dtype != np.uint8 or len(self.characters) != wanted[0]:
            raise ValueError(
                f"{len(self.alphabets)} alphabets and {len(self.characters)} characters were named for pixels "
                f"{list(self.pixels.shape)} {self.pixels.dtype}; wanted are one of each a character, and pixels "
                f"[characters, {DRAWINGS}, {SIDE}, {SIDE}] uint8"
            )


@dataclass(frozen=True)
class Episodes(ABC):
    """N-way, K-shot tasks over a set of drawings; Glyphs and Omniglot say which set and which classes a split holds.

    ways       classes a task (N)
    shots      support drawings a class (K)
    queries    query drawings a class
    alphabets  "across" draws a task's classes from the whole split, "within" from one alphabet, which is harder
    device     where the set lies and the batches are made; choices are drawn on the CPU, the same for every device

    A batch has x [tasks, ways·shots, 1, 28, 28], paper 0 and ink 1, and y [tasks, ways·shots] int64, the label of each;
    the query likewise. Examples come in the order of their labels. Which class gets which label is drawn anew for each
    task. A task's classes don't depend on shots and queries, nor its support on queries or its query on shots.

    Raises ValueError where a split or an alphabet has fewer classes than `ways`, or shots + queries exceeds 20.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    seed: int = 0
    alphabets: str = "across"
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of {least} or more")
        if self.shots + self.queries > DRAWINGS:
            raise ValueError(
                f"shots + queries is {self.shots} + {self.queries}, but a character has {DRAWINGS} drawings and "
                "support and query may not share one; lower either"
            )
        if self.alphabets not in ("across", "within"):
            raise ValueError(f'alphabets is {self.alphabets!r}; it must be "across" or "within"')
        if not self.dtype.is_floating_point:
            raise ValueError(f"dtype is {self.dtype}; images need a floating-point type such as torch.float32")
        named_device(self.device)
        if len(self.classes["train"]):
            self._pools("train")

    @property
    @abstractmethod
    def drawings(self) -> Drawings:
        """The set, all splits together."""

    @property
    @abstractmethod
    def classes(self) -> Mapping[str, Indices]:
        """The classes of each split, as indices into `drawings`."""

    def rotated(self, split: str) -> bool:
        """Whether the classes of a split are also used turned by 90°, 180° and 270°."""
        return False

    def batch(self, start: int, size: int, split: str = "train") -> TaskBatch:
        """Tasks `start` to `start + size` of a split, on `device`. The test split has to be named."""
        support, query = self.identities(start, size, split)
        return TaskBatch(self._examples(support, self.shots), self._examples(query, self.queries))

    def identities(self, start: int, size: int, split: str = "train") -> tuple[Indices, Indices]:
        """Which drawing each example of a batch is: support [tasks, ways·shots] and query [tasks, ways·queries].

        An identity is (turn · characters + character) · 20 + drawing, where turn counts quarter turns (0 to 3) and
        character indexes `drawings`; characters is their number. A class is therefore identity // 20.
        """
        classes = self._choose(start, size, split)[..., None]
        u = uniforms(self.seed, split, "drawings", start, size, self.ways * DRAWINGS)
        order = u.reshape(size, self.ways, DRAWINGS).argsort(axis=-1, kind="stable")
        support: Indices = classes * DRAWINGS + order[..., : self.shots]
        query: Indices = classes * DRAWINGS + order[..., DRAWINGS - self.queries :]
        return support.reshape(size, -1), query.reshape(size, -1)

    def _choose(self, start: int, size: int, split: str) -> Indices:
        """The classes of each task, in the order of their labels: [tasks, ways]."""
        pools = self._pools(split)
        counts = np.array([len(pool) for pool in pools])
        pool = np.floor(uniforms(self.seed, split, "alphabet", start, size, 1)[:, 0] * len(pools)).astype(np.int64)
        place = distinct(uniforms(self.seed, split, "classes", start, size, self.ways), counts[pool])
        chosen: Indices = np.concatenate(pools)[(counts.cumsum() - counts)[pool, None] + place]
        if self.rotated(split):
            turn = np.floor(uniforms(self.seed, split, "rotation", start, size, self.ways) * 4).astype(np.int64)
            chosen = chosen + turn * len(self.drawings.alphabets)
        return chosen

    def _pools(self, split: str) -> list[Indices]:
        """The classes that a task of a split may choose from: one list, or one an alphabet."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
        pools = self._all_pools[split]
        if not pools:
            sizes = {name: len(classes) for name, classes in self.classes.items()}
            raise ValueError(
                f"split {split!r} has no classes in the files at hand (there are {sizes}); fetch the whole set, or say "
                "by `splits` which alphabets each split holds"
            )
        smallest = min(pools, key=len)
        if len(smallest) < self.ways:
            within = self.alphabets == "within"
            where = f"alphabet {self.drawings.alphabets[smallest[0]]} of " if within else ""
            raise ValueError(
                f"{where}split {split!r} has {len(smallest)} classes and ways is {self.ways}; "
                f"ways must be {len(smallest)} or less"
            )
        return pools

    @cached_property
    def _all_pools(self) -> dict[str, list[Indices]]:
        if self.alphabets == "across":
            return {split: [classes] if len(classes) else [] for split, classes in self.classes.items()}
        alphabet = np.unique(np.array(self.drawings.alphabets), return_inverse=True)[1]
        return {
            split: [classes[alphabet[classes] == one] for one in np.unique(alphabet[classes])]
            for split, classes in self.classes.items()
        }

    def _examples(self, identities: Indices, each: int) -> Batch:
        """Gather the drawings: x [tasks, points, 1, 28, 28] and y [tasks, points]."""
        tasks, points = identities.shape
        turn, drawing = np.divmod(identities.ravel(), len(self._pixels))
        x = self._pixels.index_select(0, torch.from_numpy(drawing).to(self._pixels.device))
        for quarter in (1, 2, 3) if turn.any() else ():
            turned = torch.from_numpy(np.flatnonzero(turn == quarter)).to(x.device)
            x[turned] = torch.rot90(x[turned], quarter, (1, 2))
        x = x.to(self.dtype).div_(255).reshape(tasks, points, 1, SIDE, SIDE)
        labels = torch.arange(self.ways, device=x.device).repeat_interleave(each)
        return Batch(x, labels.repeat(tasks, 1))

    @cached_property
    def _pixels(self) -> Tensor:
        """Every drawing of the set as bytes on the device: [characters · 20, 28, 28]."""
        return torch.from_numpy(self.drawings.pixels.reshape(-1, SIDE, SIDE)).to(named_device(self.device))


def distinct(u: NDArray[np.float64], among: Indices) -> Indices:
    """Distinct whole numbers, in random order, from uniform draws u [tasks, count]; row i below among[i] (≥ count).

    The k-th number takes a place among those still free and steps over the earlier ones, so that every ordered choice
    has the same probability. Only the dimension of `count` is looped over.
    """
    count = u.shape[1]
    chosen = np.floor(u * (among[:, None] - np.arange(count))).astype(np.int64)
    for k in range(1, count):
        for earlier in np.sort(chosen[:, :k], axis=1).T:
            chosen[:, k] += chosen[:, k] >= earlier
    return chosen
