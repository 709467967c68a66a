"""Lake's one-shot exam: 20 published runs of 20-way, 1-shot classification (Lake, Salakhutdinov, Tenenbaum 2015).

`python -m mamlkit data fetch omniglot` brings all_runs.zip with the drawings. MIT licence, © 2015 Brenden Lake.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from mamlkit.device import device as named_device
from mamlkit.images.episodes import check_kind
from mamlkit.images.omniglot import FETCH, RUNS, check_published, omniglot_folder, opened, read_png, shrink
from mamlkit.tasks import Batch, TaskBatch

COUNT = 20  # runs, and in each of them classes and drawings to be named


class Runs(NamedTuple):
    """The exam's drawings and answers; ink 255, paper 0.

    support  [20 runs, 20 classes, 28, 28] uint8, one drawing of each class, in the order of their numbers
    query    [20 runs, 20 items, 28, 28] uint8, the drawings to be named
    answers  [20 runs, 20 items] int64, the class of each item
    """

    support: NDArray[np.uint8]
    query: NDArray[np.uint8]
    answers: NDArray[np.int64]


def read_runs(path: Path) -> Runs:
    """The runs of a zip in the layout of all_runs.zip, shrunk to 28 × 28 as the drawings of Omniglot are.

    Raises ValueError where the file is no such zip: cut off, with a run or a drawing missing, with labels that don't
    give each item one class, or with an image of another size.
    """
    with opened(path) as archive:
        names = set(archive.namelist())
        found = [_read_run(archive, names, f"run{number:02d}", path) for number in range(1, COUNT + 1)]
    return Runs(*map(np.stack, zip(*found, strict=True)))


def _read_run(
    archive: ZipFile, names: set[str], run: str, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    classes = [f"{run}/training/class{number:02d}.png" for number in range(1, COUNT + 1)]
    items = [f"{run}/test/item{number:02d}.png" for number in range(1, COUNT + 1)]
    labels = f"{run}/class_labels.txt"
    wanted = {*classes, *items, labels}
    held = {name for name in names if name.startswith(f"{run}/") and not name.endswith("/")}
    if not held:
        raise ValueError(f"{path} holds no {run}; wanted are run01 to run{COUNT}, as in the published {RUNS}")
    if off := sorted(wanted ^ held):
        more = "lacks" if off[0] in wanted else "also holds"
        raise ValueError(
            f"{path}: {run} {more} {off[0]} ({len(off)} such); wanted are {COUNT} classes and {COUNT} items"
        )
    lines = [line.split() for line in archive.read(labels).decode().splitlines() if line.strip()]
    answers = dict(line for line in lines if len(line) == 2)
    if len(lines) != COUNT or set(answers) != set(items) or not set(answers.values()) <= set(classes):
        raise ValueError(
            f"{path}: {labels} doesn't give each of the {COUNT} items one of the {COUNT} classes, a line each"
        )
    support, query = (
        shrink(np.stack([read_png(archive.read(name), f"{path}: {name}") for name in part]))
        for part in (classes, items)
    )
    return support, query, np.array([classes.index(answers[item]) for item in items], np.int64)


@dataclass(frozen=True)
class OneShotExam:
    """The exam as 20 test tasks: a support of 20 × 1 drawings, a query of 20, of characters of one alphabet each.

    The characters are of Omniglot's evaluation alphabets, which are the test split of `Omniglot(splits="background")`.
    A start trained with `splits="paper"` has met some of them. In the published files each class is the answer once;
    the rules don't tell, so a learner must not use it.

    folder  where all_runs.zip is; by default where `python -m mamlkit data fetch omniglot` puts it
    device  where the set lies and the batches are made

    Raises FileNotFoundError without the file, and ValueError where it isn't the published one.
    """

    folder: Path | str | None = None
    device: torch.device | str = field(default="cpu", repr=False)
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        check_kind(self.device, self.dtype)
        _ = self.runs  # a missing or damaged file is reported here, not at the first batch

    @cached_property
    def runs(self) -> Runs:
        """Drawings and answers of all runs."""
        path = (Path(self.folder) if self.folder is not None else omniglot_folder()) / RUNS
        if not path.exists():
            raise FileNotFoundError(f"{RUNS} is not in {path.parent}; {FETCH}")
        check_published(path)
        return read_runs(path)

    def batch(self, start: int, size: int, split: str = "train") -> TaskBatch:
        """Runs `start` to `start + size`, counted from 0, of the "test" split, which is all that the exam has."""
        if split != "test":
            raise ValueError(f'split is {split!r}; the exam is for testing alone: split="test"')
        if start < 0 or size < 1 or start + size > COUNT:
            raise ValueError(f"runs {start} to {start + size} were asked for; the exam has runs 0 to {COUNT}")
        taken = slice(start, start + size)
        classes = np.tile(np.arange(COUNT), (size, 1))
        return TaskBatch(
            self._examples(self.runs.support[taken], classes),
            self._examples(self.runs.query[taken], self.runs.answers[taken]),
        )

    def _examples(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Batch:
        """x [size, 20, 1, 28, 28], from 0 to 1, and y [size, 20]."""
        place = named_device(self.device)
        x = torch.from_numpy(pixels).to(place).to(self.dtype).div_(255).unsqueeze(2)
        return Batch(x, torch.from_numpy(labels.copy()).to(place))
