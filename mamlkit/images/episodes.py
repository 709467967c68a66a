"""N-way, K-shot episodes: each task picks `ways` classes and asks which of them a drawing is (Vinyals et al. 2016)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamlkit.device import device as named_device
from mamlkit.tasks import SPLITS, Batch, TaskBatch, uniforms

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Drawings:
    """A set of images, the same number of each class.

    pixels      [characters, drawings, height, width] uint8 in grey, or [characters, drawings, channels, height, width]
    alphabets   the group of each class: in Omniglot its alphabet
    characters  its name there

    Raises ValueError on another shape or type, for one drawing a class, or where the names don't fit the pixels.
    """

    pixels: NDArray[np.uint8]
    alphabets: tuple[str, ...]
    characters: tuple[str, ...]

    def __post_init__(self) -> None:
        shape, named = self.pixels.shape, (len(self.alphabets), len(self.characters))
        fits = len(shape) in (4, 5) and named == (shape[0], shape[0]) and shape[1] >= 2 and 0 not in shape
        if not fits or self.pixels.dtype != np.uint8:
            raise ValueError(
                f"{named[0]} alphabets and {named[1]} characters were named for pixels {list(shape)} "
                f"{self.pixels.dtype}; wanted are one of each a character, and pixels [characters, drawings, height, "
                "width] or [characters, drawings, channels, height, width] uint8, with 2 drawings or more of each"
            )


@dataclass(frozen=True)
class Episodes(ABC):
    """N-way, K-shot tasks over a set of drawings; Glyphs and Omniglot say which set and which classes a split holds.

    So does a set of your own, here of 30 birds in colour:

        @dataclass(frozen=True)
        class Birds(Episodes):
            @cached_property
            def drawings(self) -> Drawings:
                pixels = np.load("birds.npy")  # [30, 7, 3, 12, 16] uint8
                return Drawings(pixels, alphabets=("bird",) * 30, characters=tuple(map(str, range(30))))

            @property
            def classes(self) -> dict[str, Indices]:
                return dict(zip(SPLITS, np.split(np.arange(30), [20, 25])))  # train, validation, test

    ways       classes a task (N)
    shots      support drawings a class (K)
    queries    query drawings a class
    alphabets  "across" draws a task's classes from the whole split, "within" from one alphabet, which is harder
    device     where the set lies and the batches are made; choices are drawn on the CPU, the same for every device

    A batch has x [tasks, ways·shots, channels, height, width], from 0 to 1, and y [tasks, ways·shots] int64, the label
    of each; the query likewise. Grey sets have one channel. Examples come in the order of their labels. Which class
    gets which label is drawn anew for each task. A task's classes don't depend on shots and queries, nor its support on
    queries or its query on shots.

    Raises ValueError where a split or an alphabet has fewer classes than `ways`, shots + queries exceeds the drawings
    of a class, or images that are not square are to be turned.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    seed: int = 0
    alphabets: str = "across"
    device: torch.device | str = field(default="cpu", repr=False)  # the same tasks: a training may go on elsewhere
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of {least} or more")
        if self.alphabets not in ("across", "within"):
            raise ValueError(f'alphabets is {self.alphabets!r}; it must be "across" or "within"')
        check_kind(self.device, self.dtype)
        each, (height, width) = self._each, self.drawings.pixels.shape[-2:]
        if self.shots + self.queries > each:
            raise ValueError(
                f"shots + queries is {self.shots} + {self.queries}, but a character has {each} drawings and "
                "support and query may not share one; lower either"
            )
        if height != width and any(map(self.rotated, SPLITS)):
            raise ValueError(f"images of {height} × {width} pixels can't be turned by 90°; take square ones")
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

        An identity is (turn · characters + character) · each + drawing, where turn counts quarter turns (0 to 3),
        character indexes `drawings`, characters is their number and each that of drawings of one: 20 in Glyphs and
        Omniglot. A class is therefore identity // each.
        """
        each = self._each
        classes = self._choose(start, size, split)[..., None]
        u = uniforms(self.seed, split, "drawings", start, size, self.ways * each)
        order = u.reshape(size, self.ways, each).argsort(axis=-1, kind="stable")
        support: Indices = classes * each + order[..., : self.shots]
        query: Indices = classes * each + order[..., each - self.queries :]
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
        names = self.drawings.alphabets if self.alphabets == "within" else [""] * len(self.drawings.alphabets)
        group = np.unique(names, return_inverse=True)[1]
        return {
            split: [classes[group[classes] == one] for one in np.unique(group[classes])]
            for split, classes in self.classes.items()
        }

    def _examples(self, identities: Indices, each: int) -> Batch:
        """Gather the drawings: x [tasks, points, channels, height, width] and y [tasks, points]."""
        tasks, points = identities.shape
        turn, drawing = np.divmod(identities.ravel(), len(self._pixels))
        x = self._pixels.index_select(0, torch.from_numpy(drawing).to(self._pixels.device))
        for quarter in (1, 2, 3) if turn.any() else ():
            turned = torch.from_numpy(np.flatnonzero(turn == quarter)).to(x.device)
            x[turned] = torch.rot90(x[turned], quarter, (-2, -1))
        x = x.to(self.dtype).div_(255).reshape(tasks, points, *x.shape[1:])
        labels = torch.arange(self.ways, device=x.device).repeat_interleave(each)
        return Batch(x, labels.repeat(tasks, 1))

    @property
    def _each(self) -> int:
        """Drawings of each class."""
        return int(self.drawings.pixels.shape[1])

    @cached_property
    def _pixels(self) -> Tensor:
        """Every drawing of the set as bytes on the device: [characters · drawings, channels, height, width]."""
        pixels = torch.from_numpy(self.drawings.pixels).to(named_device(self.device)).flatten(0, 1)
        return pixels if pixels.dim() == 4 else pixels[:, None]


def check_kind(device: torch.device | str, dtype: torch.dtype) -> None:
    """Refuse a device that there is not, and a type that cannot hold grey values from 0 to 1."""
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; images need a floating-point type such as torch.float32")
    named_device(device)


def arrays(path: Path, remedy: str) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file. Raises ValueError, with what to do, where it is damaged."""
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            return dict(file)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each have their own for a damaged file
        raise ValueError(f"{path} can't be read ({error}); {remedy}") from error


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
