"""Equation (E4), the outer loop: what it learns, what it keeps, how it stops and how it goes on."""

from __future__ import annotations

import inspect
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import flat, mse

import mamlkit as mk
from mamlkit import checkpoint as store
from mamlkit.inner import GRADIENT_DESCENT
from mamlkit.meta import ROUTES, unchecked
from mamlkit.pure import Params

TASKS = mk.Sinusoids(shots=4, queries=4, dtype=torch.float64)


def objective(seed: int = 0) -> mk.Objective:
    return mk.Objective(mk.models.mlp(1, 1, hidden=(6,), seed=seed, dtype=torch.float64), mse)


def training(
    target: mk.Objective, iterations: int, tasks: mk.TaskDistribution = TASKS, **kwargs: object
) -> Iterator[mk.Iteration]:
    settings = {"alpha": 0.01, "beta": 0.01, "tasks_per_iteration": 3, "progress": False} | kwargs
    return mk.train(target, tasks, iterations=iterations, **settings)  # type: ignore[arg-type]


def test_an_iteration_is_adams_step_on_the_meta_gradient() -> None:
    target, by_hand = objective(), objective()
    parameters = dict(by_hand.model.named_parameters())
    optimizer = torch.optim.Adam(parameters.values(), lr=0.01)
    for i, record in enumerate(training(target, 3)):
        result = mk.meta_gradient(by_hand, by_hand.theta(), TASKS.batch(3 * i, 3), alpha=0.01)
        for name, parameter in parameters.items():
            parameter.grad = result.grad[name]
        optimizer.step()
        assert record.iteration == i
        assert record.loss_after == pytest.approx(result.loss.mean().item(), rel=1e-12)
        assert record.loss_before == pytest.approx(result.loss_before.mean().item(), rel=1e-12)
        assert record.grad_norm == pytest.approx(flat(result.grad).norm().item(), rel=1e-12)
    assert torch.equal(flat(target.theta()), flat(by_hand.theta()))


def test_meta_training_learns_to_adapt_on_unseen_tasks() -> None:
    target = mk.Objective(mk.models.mlp(1, 1, dtype=torch.float64), mse)
    tasks = mk.Sinusoids(dtype=torch.float64)
    untrained = mk.evaluate(target, target.theta(), tasks, alpha=0.01, steps=1, split="test", size=100)
    list(mk.train(target, tasks, alpha=0.01, beta=1e-3, iterations=400, progress=False))
    trained = mk.evaluate(target, target.theta(), tasks, alpha=0.01, steps=1, split="test", size=100)
    gain = mk.paired_difference(untrained, trained)
    assert gain.mean - gain.half_width > 0
    # 400 iterations are a start: the share left was 0.70; an untrained θ keeps 0.98.
    assert trained.mean()[1] < 0.8 * trained.mean()[0]


@dataclass(frozen=True)
class Watched:
    """A distribution that notes what is asked of it."""

    asked: list[tuple[int, int, str]]

    def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
        self.asked.append((start, size, split))
        return TASKS.batch(start, size, split)


def test_training_asks_for_each_training_task_once_and_for_no_other_split() -> None:
    watched = Watched([])
    list(training(objective(), 4, watched))
    assert {split for *_, split in watched.asked} == {"train"}
    assert {task for start, size, _ in watched.asked for task in range(start, start + size)} == set(range(12))
    assert watched.asked[1] == (0, 12, "train"), "all at once, and the first and the last also alone"
    assert len(watched.asked) == 3


def test_seconds_grow_and_progress_names_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    class Slow(Watched):
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            time.sleep(0.9)
            return super().batch(start, size, split)

    records = list(training(objective(), 4, Slow([]), progress=True))
    seconds = [record.seconds for record in records]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert "meta-training" in capsys.readouterr().err


@pytest.mark.parametrize("route", ROUTES)
def test_a_resumed_run_ends_with_the_bits_of_one_left_alone(tmp_path: Path, route: str) -> None:
    alone, resumed = objective(), objective()
    list(training(alone, 7, route=route))
    file = tmp_path / "deep" / "run.checkpoint"
    list(training(resumed, 3, route=route, checkpoint=file))
    fresh = objective(seed=5)
    records = list(training(fresh, 7, route=route, checkpoint=file))
    assert [record.iteration for record in records] == [3, 4, 5, 6]
    assert torch.equal(flat(fresh.theta()), flat(alone.theta()))
    assert list(training(fresh, 7, route=route, checkpoint=file)) == []


KILLED = """
import sys, torch, mamlkit as mk
from oracles import mse
objective = mk.Objective(mk.models.mlp(1, 1, hidden=(6,), dtype=torch.float64), mse)
tasks = mk.Sinusoids(shots=4, queries=4, dtype=torch.float64)
for record in mk.train(objective, tasks, alpha=0.01, beta=0.01, iterations=int(sys.argv[2]), tasks_per_iteration=3,
                       checkpoint=sys.argv[1], checkpoint_every=5, progress=False):
    print(record.iteration, flush=True)
"""


def test_training_killed_and_resumed_ends_with_the_bits_of_one_left_alone(tmp_path: Path) -> None:
    file, iterations = tmp_path / "run.checkpoint", 60
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(file), str(iterations)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 17:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = store.load(file)["iteration"]
    assert 15 <= done < iterations

    resumed, alone = objective(), objective()
    records = list(training(resumed, iterations, checkpoint=file, checkpoint_every=5))
    list(training(alone, iterations))
    assert records[0].iteration == done
    assert torch.equal(flat(resumed.theta()), flat(alone.theta()))
    assert [path.name for path in tmp_path.iterdir()] == ["run.checkpoint"]


def test_the_first_non_finite_meta_loss_stops_training_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    class Poisoned(Watched):
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            batch = super().batch(start, size, split)
            factor = 1e200 if start >= 12 else 1.0
            return mk.TaskBatch(batch.support, mk.Batch(batch.query.x, batch.query.y * factor))

    target, good, file = objective(), objective(), tmp_path / "run.checkpoint"
    with pytest.raises(FloatingPointError, match=r"iteration 4: the meta-loss is inf.*Lower alpha"):
        list(training(target, 10, Poisoned([]), checkpoint=file, checkpoint_every=2))
    list(training(good, 4))
    assert torch.equal(flat(target.theta()), flat(good.theta()))
    assert store.load(file)["iteration"] == 4


def test_a_meta_gradient_that_is_not_finite_stops_training_though_the_loss_is() -> None:
    def broken(*args: object, **kwargs: object) -> mk.MetaGradient:
        found = mk.meta_gradient(*args, **kwargs)  # type: ignore[arg-type]
        return found._replace(grad={name: g * math.nan for name, g in found.grad.items()})

    target = objective()
    before = target.theta()
    with pytest.raises(FloatingPointError, match="the meta-gradient's norm nan; θ is left as it was"):
        list(training(target, 2, outer=broken))
    assert torch.equal(flat(target.theta()), flat(before))


def saved(tmp_path: Path) -> Path:
    file = tmp_path / "run.checkpoint"
    list(training(objective(), 2, checkpoint=file))
    return file


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-20], "damaged or cut off"),
        (lambda content: content[:-9] + b"x" + content[-8:], "damaged or cut off"),
        (lambda content: content[:30], "damaged or cut off"),
        (lambda content: b"", "not a mamlkit checkpoint"),
        (lambda content: b"PK\x03\x04 something else", "not a mamlkit checkpoint"),
    ],
    ids=["truncated", "flipped", "header only", "empty", "foreign"],
)
def test_a_damaged_checkpoint_is_refused_by_name_and_never_half_loaded(
    tmp_path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    file = saved(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    target = objective(seed=1)
    before = target.theta()
    with pytest.raises(mk.CheckpointError, match=words) as caught:
        list(training(target, 4, checkpoint=file))
    assert str(file) in str(caught.value)
    assert torch.equal(flat(target.theta()), flat(before))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    file, marker = tmp_path / "evil.checkpoint", tmp_path / "ran"

    class Touch:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.system, (f"touch {marker}",))

    store.save(file, {"theta": Touch()})
    with pytest.raises(mk.CheckpointError, match="holds more than tensors"):
        store.load(file)
    assert not marker.exists()


def test_a_checkpoint_that_holds_no_training_state_is_refused(tmp_path: Path) -> None:
    store.save(tmp_path / "run.checkpoint", [1, 2])  # type: ignore[arg-type]
    with pytest.raises(mk.CheckpointError, match="holds a list where a training state is wanted"):
        list(training(objective(), 4, checkpoint=tmp_path / "run.checkpoint"))


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    file = saved(tmp_path)
    with pytest.raises(ValueError, match=r"another run: its settings are alpha=0\.01.*this run's are alpha=0\.02"):
        list(training(objective(), 4, checkpoint=file, alpha=0.02))
    with pytest.raises(ValueError, match=r"another run: its tasks are Sinusoids\(shots=4.*Sinusoids\(shots=9"):
        list(training(objective(), 4, replace(TASKS, shots=9), checkpoint=file))
    wide = mk.Objective(mk.models.mlp(1, 1, hidden=(7,), dtype=torch.float64), mse)
    with pytest.raises(ValueError, match=r"another run: its parameters are.*\(6, 1\).*\(7, 1\)"):
        list(training(wide, 4, checkpoint=file))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": 2}, r"steps=1.*steps=2"),
        ({"order": 1}, r"order=2.*order=1"),
        ({"beta": 0.02}, r"beta=0\.01.*beta=0\.02"),
        ({"tasks_per_iteration": 4}, r"tasks_per_iteration=3.*tasks_per_iteration=4"),
        ({"rule": GRADIENT_DESCENT._replace(init=lambda theta: ())}, "its inner rule is"),
        ({"outer": lambda *args, **kwargs: mk.meta_gradient(*args, **kwargs)}, "its outer gradient is"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_checkpoint_of_a_run_with_one_other_setting_is_refused(
    tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    file = saved(tmp_path)
    with pytest.raises(ValueError, match=f"another run: {words}" if words.startswith("its") else words):
        list(training(objective(), 4, TASKS, checkpoint=file, **changed))
    assert [record.iteration for record in training(objective(), 3, checkpoint=file)] == [2]


class Whole(Watched):
    """Sinusoids with complex inputs."""

    def __init__(self) -> None:
        super().__init__([])

    def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
        return mk.TaskBatch(*(mk.Batch(x.to(torch.complex128), y) for x, y in super().batch(start, size, split)))


def test_complex_parameters_are_trained_by_adams_plain_step() -> None:
    """PyTorch has no kernel of its own for them."""

    class Turned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([[0.5 + 0.5j]], dtype=torch.complex128))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight).abs()

    target, by_hand = mk.Objective(Turned(), mse), mk.Objective(Turned(), mse)
    [parameter] = by_hand.model.parameters()
    optimizer = torch.optim.Adam([parameter], lr=0.01)
    for i, _ in enumerate(training(target, 2, tasks=Whole())):
        parameter.grad = mk.meta_gradient(by_hand, by_hand.theta(), Whole().batch(3 * i, 3), alpha=0.01).grad["weight"]
        optimizer.step()
    assert torch.allclose(target.theta()["weight"], parameter.detach(), rtol=1e-12)


def test_chunks_of_an_iteration_go_to_the_outer_gradient_one_after_another() -> None:
    sizes: list[int] = []

    def outer(target: mk.Objective, theta: Params, batch: mk.TaskBatch, **settings: Any) -> mk.MetaGradient:
        sizes.append(batch.size)
        return unchecked(target, theta, batch, **settings)

    whole, parted = objective(), objective()
    list(training(whole, 2, tasks_per_iteration=5))
    list(training(parted, 2, tasks_per_iteration=5, chunk=2, outer=outer))
    assert sizes == [2, 2, 1] * 2
    assert torch.allclose(flat(parted.theta()), flat(whole.theta()), atol=1e-9)


def test_what_is_not_said_is_as_the_documentation_has_it() -> None:
    found = {name: p.default for name, p in inspect.signature(mk.train).parameters.items() if p.default is not p.empty}
    assert found.pop("rule") is GRADIENT_DESCENT
    assert found.pop("outer") is unchecked
    assert found == {
        "steps": 1, "order": 2, "tasks_per_iteration": 25, "route": "auto", "chunk": None, "examine_every": None,
        "examine_tasks": 100, "checkpoint": None, "checkpoint_every": 1000, "progress": True,
    }  # fmt: skip


def test_frozen_parameters_are_not_trained() -> None:
    target = objective()
    frozen = target.model.get_parameter("0.weight").requires_grad_(False)
    kept, learned = frozen.clone(), target.theta()
    list(training(target, 3))
    assert torch.equal(frozen, kept)
    assert not any(torch.equal(weight, learned[name]) for name, weight in target.theta().items())


def test_a_failed_write_leaves_the_old_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path)
    content = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mamlkit.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        list(training(objective(), 4, checkpoint=file))
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_checkpoint_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    watched = Watched([])
    with pytest.raises(ValueError, match="cannot be written"):
        list(training(objective(), 4, watched, checkpoint=tmp_path / "file" / "run.checkpoint"))
    with pytest.raises(ValueError, match="is a folder"):
        list(training(objective(), 4, watched, checkpoint=tmp_path))
    assert watched.asked == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"beta": 0.0}, "beta is 0"),
        ({"beta": math.nan}, "beta is nan"),
        ({"alpha": -1.0}, "alpha is -1"),
        ({"tasks_per_iteration": 0}, "tasks_per_iteration is 0"),
        ({"iterations": -1}, "iterations is -1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"route": "fast"}, "route is 'fast'"),
    ],
)
def test_bad_settings_are_refused(bad: dict[str, object], words: str) -> None:
    settings = {"iterations": 3} | bad
    with pytest.raises(ValueError, match=words):
        list(training(objective(), **settings))  # type: ignore[arg-type]


def test_records_carry_the_curves_of_support_and_query_where_they_are_asked_for() -> None:
    target = objective()
    theta = target.theta()
    records = list(training(target, 5, steps=2, examine_every=3, examine_tasks=4))
    assert [bool(record.training) for record in records] == [True, False, False, True, False]
    first = records[0]
    assert first.training["query"].mean()[0].item() == pytest.approx(first.loss_before, abs=1e-12)
    assert first.training["query"].mean()[-1].item() == pytest.approx(first.loss_after, abs=1e-12)
    for curves, split, size in ((first.training, "train", 3), (first.validation, "validation", 4)):
        for i in range(size):
            support, query = TASKS.batch(i, 1, split).task(0)
            for steps in (0, 1, 2):
                adapted = mk.adapt(target, theta, support, alpha=0.01, steps=steps)
                for part, data in (("support", support), ("query", query)):
                    found = curves[part].loss[i, steps].item()
                    assert found == pytest.approx(mse(target.predict(adapted, data.x), data.y).item(), abs=1e-12)


def test_training_examined_or_not_ends_with_the_same_bits() -> None:
    plain, examined = objective(), objective()
    list(training(plain, 4))
    list(training(examined, 4, examine_every=1))
    assert torch.equal(flat(plain.theta()), flat(examined.theta()))


def smooth(epsilon: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A loss that knows itself, as a recursive function does, and that holds a set."""

    def loss(prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return mse(prediction, y) * (1 - epsilon) if loss.__name__ in {"loss", "other", "third"} else mse(prediction, y)

    return loss


class Weighted:
    """A loss that is an object."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.weight * mse(prediction, y)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (smooth(0.0), smooth(0.1)),
        (Weighted(1.0), Weighted(2.0)),
        (torch.nn.HuberLoss(delta=1.0), torch.nn.HuberLoss(delta=2.0)),
        (torch.nn.SmoothL1Loss(), torch.nn.MSELoss()),
        (partial(torch.nn.functional.huber_loss, delta=1.0), partial(torch.nn.functional.huber_loss, delta=2.0)),
    ],
    ids=["closure", "object", "module's setting", "module", "partial"],
)
def test_a_run_is_resumed_under_the_same_loss_and_refused_under_another(
    tmp_path: Path, first: Callable[..., torch.Tensor], second: Callable[..., torch.Tensor]
) -> None:
    file, target = tmp_path / "run.checkpoint", objective()
    list(training(replace(target, loss=first), 2, checkpoint=file))
    assert [record.iteration for record in training(replace(target, loss=first), 3, checkpoint=file)] == [2]
    with pytest.raises(ValueError, match="another run: its loss function is"):
        list(training(replace(target, loss=second), 4, checkpoint=file))


DESCRIBED = """
from test_train import Weighted, smooth
from mamlkit.checkpoint import described
print(described([smooth(0.1), Weighted(2.0), {"a", "b", "c", "d"}]))
"""


def test_a_loss_is_the_same_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", DESCRIBED],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize("name", ["examine_every", "examine_tasks"])
def test_examinations_of_nothing_are_refused(name: str) -> None:
    nothing: dict[str, object] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0; it must be 1 or more"):
        next(training(objective(), 1, TASKS, **nothing))
