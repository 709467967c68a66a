"""Tasks are a pure function of (seed, split, index), and follow the law that they claim."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

import mamlkit as mk
from mamlkit.tasks import batches, normals, uniforms

DISTRIBUTIONS: list[mk.Sinusoids | mk.Quadratics] = [
    mk.Sinusoids(shots=5, queries=15, noise=0.1, dtype=torch.float64),
    mk.Quadratics(shots=5, queries=15, noise=0.1, scales=(1.0, 2.0, 3.0)),
]


FROZEN = [0.7189603557780037, 0.07844205127028847]


def same(a: mk.TaskBatch, b: mk.TaskBatch) -> bool:
    return all(torch.equal(p, q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True))


@pytest.mark.parametrize("tasks", DISTRIBUTIONS, ids=["sinusoids", "quadratics"])
def test_task_17_is_the_same_alone_and_in_any_batch(tasks: mk.TaskDistribution) -> None:
    alone = tasks.batch(17, 1).task(0)
    assert same(alone, tasks.batch(0, 25).task(17))
    assert same(alone, tasks.batch(10, 9).task(7))


def test_task_17_is_the_same_in_another_process() -> None:
    code = (
        "import mamlkit as mk; b = mk.Sinusoids(seed=3).batch(17, 1, 'test');"
        "print(b.support.x.flatten().tolist(), b.query.y.flatten().tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = mk.Sinusoids(seed=3).batch(0, 25, "test").task(17)
    assert printed.strip() == f"{here.support.x.flatten().tolist()} {here.query.y.flatten().tolist()}"


def test_uniform_draws_are_the_bits_that_every_machine_draws() -> None:
    """Frozen from the definition (SeedSequence → Philox → top 53 bits), so that a change of law cannot pass unseen."""
    drawn = uniforms(seed=0, split="train", stream="wave", start=17, size=1, count=2)
    assert drawn.tolist() == uniforms(seed=0, split="train", stream="wave", start=0, size=18, count=2)[17:].tolist()
    assert drawn[0].tolist() == FROZEN


@pytest.mark.parametrize("tasks", DISTRIBUTIONS, ids=["sinusoids", "quadratics"])
def test_seed_split_and_index_each_change_the_task(tasks: mk.Sinusoids | mk.Quadratics) -> None:
    first = tasks.batch(0, 1)
    others = [
        tasks.batch(1, 1),
        tasks.batch(0, 1, "test"),
        tasks.batch(0, 1, "validation"),
        replace(tasks, seed=1).batch(0, 1),
    ]
    assert not any(same(first, other) for other in others)


def test_shots_do_not_change_the_waves() -> None:
    few, many = mk.Sinusoids(shots=1), mk.Sinusoids(shots=50)
    assert torch.equal(few.waves(0, 9)[0], many.waves(0, 9)[0])
    assert torch.equal(few.waves(0, 9)[1], many.waves(0, 9)[1])


def test_sinusoids_follow_the_papers_law() -> None:
    tasks = mk.Sinusoids(dtype=torch.float64)
    amplitude, phase = tasks.waves(0, 20_000)
    for values, (low, high) in ((amplitude, (0.1, 5.0)), (phase, (0.0, math.pi))):
        assert values.min() >= low
        assert values.max() <= high
        # Five standard errors of a uniform law's mean; its variance is (high − low)²/12.
        spread = (high - low) / math.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 5 * spread / math.sqrt(20_000)
        assert values.std() == pytest.approx(spread, rel=0.02)
    x, y = tasks.batch(0, 50).query
    a, p = (values[:50, None, None] for values in (amplitude, phase))
    assert torch.allclose(y, a * torch.sin(x - p), atol=1e-14)
    assert x.min() >= -5
    assert x.max() <= 5
    assert torch.allclose(a * torch.sin(p - p), torch.zeros(1, dtype=torch.float64))


def test_noise_has_the_stated_deviation_and_leaves_x_alone() -> None:
    clean = mk.Sinusoids(shots=40, dtype=torch.float64)
    noisy = replace(clean, noise=0.5)
    a, b = clean.batch(0, 500), noisy.batch(0, 500)
    assert torch.equal(a.support.x, b.support.x)
    residual = b.support.y - a.support.y
    assert residual.std().item() == pytest.approx(0.5, rel=0.03)
    assert abs(residual.mean().item()) < 5 * 0.5 / math.sqrt(residual.numel())


@pytest.mark.parametrize("tasks", DISTRIBUTIONS, ids=["sinusoids", "quadratics"])
def test_inputs_and_noise_are_drawn_anew_for_each_part_seed_and_split(tasks: mk.Sinusoids | mk.Quadratics) -> None:
    tasks = replace(tasks, shots=15, queries=15)
    inputs, noises = [], []
    for drawn, split in ((tasks, "train"), (tasks, "validation"), (tasks, "test"), (replace(tasks, seed=1), "train")):
        for noisy, clean in zip(
            drawn.batch(0, 400, split), replace(drawn, noise=0.0).batch(0, 400, split), strict=True
        ):
            assert torch.equal(noisy.x, clean.x)
            inputs.append(noisy.x.flatten())
            noises.append((noisy.y - clean.y).flatten())
    for values in (inputs, noises):
        correlations = torch.corrcoef(torch.stack(values)) - torch.eye(8)
        assert correlations.abs().max() < 5 / math.sqrt(len(values[0]))
    assert torch.stack(noises).std().item() == pytest.approx(0.1, rel=0.02)
    assert abs(torch.stack(noises).mean()) < 5 * 0.1 / math.sqrt(8 * 6000)


def test_what_is_not_said_is_as_in_the_paper_and_without_noise() -> None:
    everywhere = {"shots": 10, "queries": 10, "seed": 0, "noise": 0.0}
    ranges = {"amplitude": (0.1, 5.0), "phase": (0.0, math.pi), "domain": (-5.0, 5.0)}
    assert vars(mk.Sinusoids()) == {**everywhere, **ranges, "dtype": torch.float32}
    assert vars(mk.Quadratics()) == {**everywhere, "scales": (1.0, 1.0), "spread": 1.0, "dtype": torch.float64}


def test_normals_are_standard_and_independent_across_streams() -> None:
    z, other = (normals(0, "train", stream, 0, 5000, 4).ravel() for stream in ("a", "b"))
    assert abs(z.mean()) < 5 / math.sqrt(z.size)
    assert z.std() == pytest.approx(1, rel=0.03)
    assert abs((z * other).mean()) < 5 / math.sqrt(z.size)


def test_normals_are_those_of_box_and_muller() -> None:
    """Written out, so that no other transform of the same law passes: it would change every noisy task."""
    u = uniforms(seed=2, split="test", stream="a", start=5, size=3, count=8)
    for found, radius, angle in zip(normals(2, "test", "a", 5, 3, 4).T, u[:, :4].T, u[:, 4:].T, strict=True):
        wanted = [
            math.sqrt(-2 * math.log(1 - r)) * math.cos(2 * math.pi * a) for r, a in zip(radius, angle, strict=True)
        ]
        assert found.tolist() == pytest.approx(wanted, rel=1e-12)


def test_quadratics_have_the_stated_hessian_and_weights() -> None:
    tasks = mk.Quadratics(shots=7, scales=(1.0, 3.0), spread=2.0)
    batch = tasks.batch(0, 400)
    hessian = 2 * batch.support.x.mT @ batch.support.x / 7
    assert torch.allclose(hessian.diagonal(dim1=1, dim2=2), torch.tensor([2.0, 18.0], dtype=torch.float64))
    weights = tasks.weights(0, 400)
    assert weights.std().item() == pytest.approx(2.0, rel=0.1)
    assert torch.allclose(batch.query.x @ weights[..., None], batch.query.y)


def test_dtype_and_device_are_those_asked_for() -> None:
    batch = mk.Sinusoids(dtype=torch.float64).batch(0, 2)
    assert {part.dtype for pair in batch for part in pair} == {torch.float64}
    assert {part.device.type for pair in batch.to("meta") for part in pair} == {"meta"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"shots": 0}, "shots is 0"),
        ({"queries": -1}, "queries is -1"),
        ({"seed": -3}, "seed is -3"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"dtype": torch.int64}, "torch.int64"),
        ({"amplitude": (5.0, 0.1)}, "amplitude is"),
        ({"domain": (0.0, math.inf)}, "domain is"),
    ],
)
def test_a_bad_distribution_is_refused_by_name(bad: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mk.Sinusoids(**bad)  # type: ignore[arg-type]


def test_an_unknown_split_and_an_empty_range_are_refused() -> None:
    with pytest.raises(ValueError, match="train, validation, test"):
        mk.Sinusoids().batch(0, 1, "tset")
    with pytest.raises(ValueError, match="size 1 or more"):
        mk.Sinusoids().batch(0, 0)
    with pytest.raises(ValueError, match="dimension is 0"):
        mk.Quadratics(scales=())


@dataclass(frozen=True)
class Noting:
    """Sinusoids that note what is asked, each shifted by what the call it is drawn in begins with."""

    asked: list[tuple[int, int]]
    shift: float = 0.0
    shots: int = 10

    def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
        self.asked.append((start, size))
        support, query = mk.Sinusoids(shots=self.shots).batch(start, size, split)
        return mk.TaskBatch(support, mk.Batch(query.x, query.y + self.shift * (start > 40)))


@pytest.mark.parametrize(
    ("tasks", "last", "most"),
    [
        (Noting([]), 112, 300),  # a hundred together, and then what is left
        (Noting([], shift=1.0), 112, 300),  # with others, tasks come out otherwise: each batch as it is drawn alone
        (Noting([], shots=200_000), 10, 3),  # too large to be drawn ahead
    ],
)
def test_batches_of_a_training_are_those_drawn_alone_however_they_are_drawn(
    tasks: Noting, last: int, most: int
) -> None:
    found = list(batches(tasks, 3, 7, last, torch.device("cpu")))
    assert max(size for _, size in tasks.asked) == most
    assert len(found) == last - 7
    assert tasks.shift or len(tasks.asked) <= 6
    assert all(same(batch, tasks.batch(3 * i, 3)) for i, batch in enumerate(found, 7))
    assert list(batches(tasks, 3, 7, 7, torch.device("cpu"))) == []
