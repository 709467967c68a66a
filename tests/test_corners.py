"""Corners of the core that the tests of its modules leave out: mostly what is refused, and in which words."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import mse
from torch import Tensor, nn
from torch.func import vmap

import mamlkit as mk
from mamlkit import checkpoint
from mamlkit.check import GradientFunction, made
from mamlkit.pure import Params

SINUSOIDS = mk.Sinusoids(shots=4, queries=4, dtype=torch.float64)


def objective(loss: Any = mse, hidden: tuple[int, ...] = (4,)) -> mk.Objective:
    return mk.Objective(mk.models.mlp(1, 1, hidden=hidden, dtype=torch.float64), loss)


# Models, losses and step sizes


def test_a_loss_that_leaves_the_model_out_is_refused() -> None:
    alone = objective(lambda prediction, y: (0 * prediction.detach() + y).mean())
    with pytest.raises(ValueError, match="the loss depends on no parameter of Sequential"):
        mk.meta_gradient(alone, alone.theta(), SINUSOIDS.batch(0, 2), alpha=0.1)


def test_a_lazy_module_that_has_run_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="weight, bias have no shape yet; run the model once"):
        mk.Objective(nn.LazyLinear(1), mse).theta()


def test_dropout_inside_a_readers_own_vmap_is_refused_as_such() -> None:
    model = nn.Sequential(mk.models.mlp(1, 1, dtype=torch.float64), nn.Dropout(0.5))
    dropping, (x, y) = mk.Objective(model, mse), SINUSOIDS.batch(0, 2).support
    with pytest.raises(ValueError, match=r"draws random numbers: .*dropout \(p = 0.5\)"):
        vmap(dropping.__call__, in_dims=(None, 0, 0))(dropping.theta(), x, y)


def test_a_loss_that_refuses_labels_of_zeros_serves_all_the_same() -> None:
    """Whether it broadcasts is tried on such labels; what it says to them is not passed on."""

    def picky(prediction: Tensor, y: Tensor) -> Tensor:
        if not y.any():
            raise ValueError("no label at all")
        return mse(prediction, y)

    batch = SINUSOIDS.batch(0, 2)
    found, wanted = (
        mk.meta_gradient(one, one.theta(), batch, alpha=0.1, route="loop").grad
        for one in (objective(picky), objective())
    )
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("start", [-0.01, "not a leaf"])
def test_step_sizes_to_be_learned_start_as_leaves_of_0_or_more(start: float | str) -> None:
    mine = objective()
    size = torch.tensor(0.01 if isinstance(start, str) else start, dtype=torch.float64, requires_grad=True)
    alpha: dict[str, float | Tensor] = dict.fromkeys(mine.theta(), 2 * size if isinstance(start, str) else size)
    with pytest.raises(ValueError, match="is to be learned, so it must be a leaf tensor"):
        next(mk.train(mine, SINUSOIDS, alpha=alpha, beta=0.01, iterations=1, progress=False))


def test_a_rule_of_vmap_that_is_wrong_by_a_thousandth_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    call = mk.Objective.__call__  # what is mapped; the plain pass goes another way
    monkeypatch.setattr(mk.Objective, "__call__", lambda *given: 1.001 * call(*given))
    wrong = objective()
    with pytest.raises(ValueError, match="vmap computes another loss of Sequential than its plain operations do"):
        mk.meta_gradient(wrong, wrong.theta(), SINUSOIDS.batch(0, 2), alpha=0.1, route="vmap")


@pytest.mark.parametrize("route", ["vmap", "loop"])
def test_the_state_of_an_inner_rule_is_where_theta_is(route: str) -> None:
    def step(theta: Params, gradient: Params, alpha: Any, state: Tensor) -> tuple[Params, Tensor]:
        return theta, state

    one, elsewhere = objective(), mk.InnerRule(init=lambda theta: torch.zeros(1, device="meta"), step=step)
    with pytest.raises(ValueError, match="the state of the inner rule is on meta and theta on cpu"):
        mk.meta_gradient(one, one.theta(), SINUSOIDS.batch(0, 2), alpha=0.1, route=route, rule=elsewhere)


# Checkpoints


class Huber:
    """A loss as a method of an object that has a setting."""

    def __init__(self, delta: float) -> None:
        self.delta = delta

    def __call__(self, prediction: Tensor, y: Tensor) -> Tensor:
        return F.huber_loss(prediction, y, delta=self.delta)

    judge = __call__


def test_a_loss_that_is_a_method_goes_on_with_the_settings_of_its_object_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.checkpoint"
    how: dict[str, Any] = {"alpha": 0.01, "beta": 0.01, "checkpoint": file, "progress": False}
    list(mk.train(objective(Huber(1.0).judge), SINUSOIDS, iterations=1, **how))
    assert len(list(mk.train(objective(Huber(1.0).judge), SINUSOIDS, iterations=2, **how))) == 1, "it goes on"
    with pytest.raises(ValueError, match="another run: its loss function is"):
        list(mk.train(objective(Huber(2.0).judge), SINUSOIDS, iterations=3, **how))


def test_a_checkpoint_that_holds_no_state_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.checkpoint"
    checkpoint.save(file, [1.0])  # type: ignore[arg-type]
    with pytest.raises(mk.CheckpointError, match=r"a\.checkpoint holds a list where a training state is wanted"):
        checkpoint.load(file)


# `check`


def mine(scales: list[float]) -> GradientFunction:
    """The right meta-gradient but for the tasks' weights, 1 where it is right."""
    one = objective()

    def gradient(theta: Params, batch: mk.TaskBatch) -> Params:
        total = {name: torch.zeros_like(weight) for name, weight in theta.items()}
        for i in range(batch.size):
            alone = mk.TaskBatch(*(mk.Batch(part.x[i : i + 1], part.y[i : i + 1]) for part in batch))
            found = mk.meta_gradient(one, theta, alone, alpha=0.1).grad
            total = {name: part + scales[i] / batch.size * found[name] for name, part in total.items()}
        return total

    return gradient


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ([0.5, 1.5], "it weighs the tasks by 0.25, 0.75 for 1/2 each"),
        ([0.0, 1.0], "it leaves out tasks 0"),
        ([1.0008, 1.0008], "it is off by 0.1%"),
    ],
)
def test_a_gradient_that_weighs_its_tasks_is_named(scales: list[float], words: str) -> None:
    report = mk.check(objective(), SINUSOIDS.batch(0, 2), alpha=0.1, gradient=mine(scales))
    assert not report.ok
    assert words in str(report)
    assert mk.check(objective(), SINUSOIDS.batch(0, 2), alpha=0.1, gradient=mine([1.0, 1.0])).ok


def test_a_loss_without_curvature_is_said_to_have_none() -> None:
    linear = objective(lambda prediction, y: (prediction * y).mean(), hidden=())
    report = mk.check(linear, SINUSOIDS.batch(0, 2), alpha=0.1)
    assert "the support loss is linear in θ: its Hessian is zero" in str(report)


def test_a_power_method_that_is_cut_short_is_no_more_than_a_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def largest() -> float:
        report = mk.check(objective(), SINUSOIDS.batch(0, 2), alpha=0.1)
        (text,) = (finding.text for finding in report.findings if finding.subject == "curvature")
        return float(text.split("the largest of a support loss is ")[1].split(",")[0])

    long = largest()
    monkeypatch.setattr(sys.modules["mamlkit.check"], "ITERATIONS", 1)
    assert 0 < largest() < long


def test_a_factory_is_found_in_a_file_or_a_module_and_leaves_the_path_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_factory.py").write_text(
        "def pair(): return 1, 2\ndef full(): return {'objective': 1, 'batch': 2, 'alpha': 3}\n"
        "def unknown(): return {'objective': 1, 'batch': 2, 'beta': 3}\n"
    )
    monkeypatch.chdir(tmp_path)
    before = [*sys.path]
    assert made("a_factory:pair") == made(f"{tmp_path}{os.sep}a_factory.py:pair")
    assert made("a_factory.py:full") == {"objective": 1, "batch": 2, "alpha": 3}
    for target, words in (("a_factory:unknown", "returned .*beta"), ("a_factory:no", "names no function"), ("", "no")):
        with pytest.raises(ValueError, match=words):
            made(target)
    assert sys.path == before
