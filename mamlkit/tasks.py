"""Tasks: what MAML draws from p(T), and the data of each task.

A distribution over tasks is any object with `batch(start, size, split)`. A task is a pure function of
(seed, split, index): task 17 is the same alone, in a batch of 25 and in another process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SPLITS = ("train", "validation", "test")


class Batch(NamedTuple):
    """Examples: inputs x [points, ...] and labels y [points, ...]; over several tasks, [tasks, points, ...]."""

    x: Tensor
    y: Tensor


class TaskBatch(NamedTuple):
    """Tasks, stacked: the support Dᵢ adapts, the query D'ᵢ judges. Each tensor is [tasks, points, ...].

    `task(i)` is task i alone, the same pair without the first dimension.
    """

    support: Batch
    query: Batch

    @property
    def size(self) -> int:
        """The number of tasks."""
        return len(self.support.x)

    def task(self, i: int) -> TaskBatch:
        """Task i: support and query without the dimension of tasks."""
        return self.chosen(i)

    def chosen(self, tasks: int | slice | list[int]) -> TaskBatch:
        """The tasks at these places, as a tensor is indexed by them."""
        return TaskBatch(*(Batch(part.x[tasks], part.y[tasks]) for part in self))

    def chunks(self, size: int) -> Iterator[TaskBatch]:
        """The same tasks, `size` at a time."""
        yield from (self.chosen(slice(first, first + size)) for first in range(0, self.size, size))

    def to(self, device: torch.device | str) -> TaskBatch:
        """The same data on a device. Draws happen on the CPU, so every device sees the same tasks."""
        return TaskBatch(*(Batch(part.x.to(device), part.y.to(device)) for part in self))


class TaskDistribution(Protocol):
    """p(T). Anything with this method can be trained on and evaluated on."""

    def batch(self, start: int, size: int, split: str = "train") -> TaskBatch:
        """Tasks `start` to `start + size` of a split."""
        ...


_AHEAD = 4 << 20  # bytes of tasks drawn together: small ones then cost a tenth, and large ones little memory


def batches(
    tasks: TaskDistribution, size: int, first: int, last: int, place: torch.device, split: str = "train"
) -> Iterator[TaskBatch]:
    """Batches `first` to `last` of `size` tasks each, on a device: the i-th begins with task i · size.

    Many are drawn together, as long as the last of them is the same drawn alone.
    """

    def drawn(start: int, count: int) -> TaskBatch:
        return tasks.batch(start * size, count * size, split)

    together = 100
    while first < last:
        one = drawn(first, 1)
        count = min(together, _AHEAD // sum(part.nbytes for pair in one for part in pair), last - first)
        if count > 1:
            many, alone = drawn(first, count), drawn(first + count - 1, 1)
            ends = many.chosen(slice((count - 1) * size, None))
            if all(map(torch.equal, (*ends.support, *ends.query), (*alone.support, *alone.query))):
                yield from many.to(place).chunks(size)
                first += count
                continue
            together = 1
        yield one.to(place)
        first += 1


def uniforms(seed: int, split: str, stream: str, start: int, size: int, count: int) -> NDArray[np.float64]:
    """Uniform draws in [0, 1) for tasks `start` to `start + size`: [size, count], the same bits on every machine.

    Philox is a counter-based generator (Salmon et al. 2011), so that the draws of task i are found by moving
    the counter to i rather than by drawing all tasks before it. Each `stream` (a name) is an independent sequence.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    if start < 0 or size < 1:
        raise ValueError(f"tasks {start} to {start + size} were asked for; start must be 0 or more and size 1 or more")
    path = (SPLITS.index(split), *stream.encode())
    key = np.random.SeedSequence(seed, spawn_key=path).generate_state(2, np.uint64)
    blocks = math.ceil(count / 4)  # one step of the counter gives four 64-bit words
    generator = np.random.Philox(key=key)
    generator.advance(start * blocks)
    words = generator.random_raw(size * blocks * 4).reshape(size, blocks * 4)[:, :count]
    return np.asarray((words >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def normals(seed: int, split: str, stream: str, start: int, size: int, count: int) -> NDArray[np.float64]:
    """Standard normal draws [size, count] made from `uniforms` by the Box–Muller transform."""
    u = uniforms(seed, split, stream, start, size, 2 * count)
    return np.asarray(np.sqrt(-2 * np.log1p(-u[:, :count])) * np.cos(2 * np.pi * u[:, count:]), dtype=np.float64)


@dataclass(frozen=True)
class Sinusoids:
    """The sinusoid regression tasks of Finn et al. (2017), section 5.1: y = A·sin(x − φ), x, A and φ uniform.

    shots, queries  support and query points a task (10 and 10 in the paper's training)
    noise           standard deviation of normal noise added to y (0 in the paper)

    A batch has x and y of shape [tasks, points, 1]. Amplitude and phase of a task depend on seed, split and index
    alone, so two distributions that differ in `shots` hold the same waves. Raises ValueError on an empty range.
    """

    shots: int = 10
    queries: int = 10
    seed: int = 0
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    domain: tuple[float, float] = (-5.0, 5.0)
    noise: float = 0.0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        _check_counts(shots=self.shots, queries=self.queries)
        _check_draws(self.seed, self.noise, self.dtype)
        for name in ("amplitude", "phase", "domain"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name} is ({low}, {high}); it must be a finite range (low, high) with low ≤ high")

    def waves(self, start: int, size: int, split: str = "train") -> tuple[Tensor, Tensor]:
        """Amplitudes A and phases φ (radians) of the tasks, each [tasks]."""
        u = uniforms(self.seed, split, "wave", start, size, 2)
        amplitude = _stretch(u[:, 0], self.amplitude)
        phase = _stretch(u[:, 1], self.phase)
        return torch.from_numpy(amplitude).to(self.dtype), torch.from_numpy(phase).to(self.dtype)

    def batch(self, start: int, size: int, split: str = "train") -> TaskBatch:
        """Tasks `start` to `start + size` of a split, as a TaskBatch with tensors [size, points, 1] on the CPU."""
        u = uniforms(self.seed, split, "wave", start, size, 2)
        amplitude = _stretch(u[:, :1], self.amplitude)
        phase = _stretch(u[:, 1:], self.phase)

        def points(stream: str, count: int) -> Batch:
            x = _stretch(uniforms(self.seed, split, stream, start, size, count), self.domain)
            y = amplitude * np.sin(x - phase)
            if self.noise:
                y = y + self.noise * normals(self.seed, split, f"{stream} noise", start, size, count)
            return Batch(*(torch.from_numpy(values[..., None]).to(self.dtype) for values in (x, y)))

        return TaskBatch(points("support", self.shots), points("query", self.queries))


@dataclass(frozen=True)
class Quadratics:
    """Linear regression tasks: y = x·wᵢ + noise, wᵢ ~ N(0, spread²·I). Their losses are quadratic in the weights.

    The j-th feature is ±scales[j] with a fair sign, so the Hessian of the mean squared error, H = 2·XᵀX/K, has the
    known diagonal 2·scales² and varies from task to task off it. In one dimension H = 2·scales[0]² for every task.
    Everything that MAML does to such a task has a closed form, which is what they are for.

    scales  size of each feature; their number is the dimension
    spread  standard deviation τ of the tasks' weights
    noise   standard deviation σ of the labels

    A batch has x [tasks, points, dim] and y [tasks, points, 1]; `weights` gives wᵢ.
    """

    shots: int = 10
    queries: int = 10
    seed: int = 0
    scales: tuple[float, ...] = (1.0, 1.0)
    spread: float = 1.0
    noise: float = 0.0
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        _check_counts(shots=self.shots, queries=self.queries, dimension=len(self.scales))
        _check_draws(self.seed, self.noise, self.dtype)

    def weights(self, start: int, size: int, split: str = "train") -> Tensor:
        """The true weights wᵢ of the tasks: [tasks, dim]."""
        return torch.from_numpy(self._weights(start, size, split)).to(self.dtype)

    def _weights(self, start: int, size: int, split: str) -> NDArray[np.float64]:
        return self.spread * normals(self.seed, split, "weights", start, size, len(self.scales))

    def batch(self, start: int, size: int, split: str = "train") -> TaskBatch:
        """Tasks `start` to `start + size` of a split, on the CPU."""
        dim = len(self.scales)
        w = self._weights(start, size, split)

        def points(stream: str, count: int) -> Batch:
            signs = np.where(uniforms(self.seed, split, stream, start, size, count * dim) < 0.5, -1.0, 1.0)
            x = signs.reshape(size, count, dim) * np.array(self.scales)
            y = (x * w[:, None, :]).sum(-1)
            if self.noise:
                y = y + self.noise * normals(self.seed, split, f"{stream} noise", start, size, count)
            return Batch(torch.from_numpy(x).to(self.dtype), torch.from_numpy(y[..., None]).to(self.dtype))

        return TaskBatch(points("support", self.shots), points("query", self.queries))


def _stretch(u: NDArray[np.float64], interval: tuple[float, float]) -> NDArray[np.float64]:
    low, high = interval
    return low + (high - low) * u


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} is {count!r}; a task needs a whole number of 1 or more")


def _check_draws(seed: int, noise: float, dtype: torch.dtype) -> None:
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; it must be a whole number of 0 or more")
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is {noise!r}; a standard deviation must be finite and 0 or more")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; regression needs a floating-point type such as torch.float32")
