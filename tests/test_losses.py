"""Losses on labels of every shape: right against plain PyTorch where they mean something, refused where they do not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import flat, relative_error
from torch import Tensor, nn
from zoo import ALPHA, STEPS, by_hand, data, made

import mamlkit as mk

Loss = Callable[[Tensor, Tensor], Tensor]


def gaussian(prediction: Tensor, y: Tensor) -> Tensor:
    """Negative log likelihood under a mean and a log variance, the columns of the prediction."""
    mean, log_variance = prediction[:, :1], prediction[:, 1:]
    return ((y - mean) ** 2 / log_variance.exp() + log_variance).mean()


def in_place(prediction: Tensor, y: Tensor) -> Tensor:
    y.mul_(2).sub_(1)
    return ((prediction - y) ** 2).mean()


# The loss, the number of the model's outputs, and labels [points, ...] made from a generator.
MEANINGFUL: dict[str, tuple[Loss, int, Callable[[torch.Generator], Tensor]]] = {
    "mean and variance, y [N, 1]": (gaussian, 2, lambda g: torch.randn(6, 1, generator=g).double()),
    "mean and variance, y [N]": (
        lambda p, y: gaussian(p, y[:, None]),
        2,
        lambda g: torch.randn(6, generator=g).double(),
    ),
    "two columns of one": (
        lambda p, y: ((p[:, 0] - y) ** 2 + p[:, 1] ** 2).mean(),
        2,
        lambda g: torch.randn(6, generator=g).double(),
    ),
    "counts, y [N]": (
        lambda p, y: F.poisson_nll_loss(p.squeeze(1), y.double()),
        1,
        lambda g: torch.randint(0, 5, (6,), generator=g),
    ),
    "classes": (F.cross_entropy, 6, lambda g: torch.randint(0, 6, (6,), generator=g)),
    "classes, some ignored": (F.cross_entropy, 3, lambda g: torch.tensor([0, 2, -100, 1, -100, 2])),
    "a class by its index": (
        lambda p, y: -p.log_softmax(1).gather(1, y).mean(),
        3,
        lambda g: torch.randint(0, 3, (6, 1), generator=g),
    ),
    "classes, weighed by hand": (
        lambda p, y: -(p.log_softmax(1) * torch.linspace(1, 2, 6).double()).gather(1, y[:, None]).mean(),
        6,
        lambda g: torch.randint(0, 6, (6,), generator=g),
    ),
    "shares of classes": (F.cross_entropy, 3, lambda g: torch.rand(6, 3, generator=g).double().softmax(1)),
    "one label for all outputs, by hand": (
        lambda p, y: ((p - y.expand(-1, 3)) ** 2).mean(),
        3,
        lambda g: torch.randn(6, 1, generator=g).double(),
    ),
    "writes into its labels": (in_place, 1, lambda g: torch.randn(6, 1, generator=g).double()),
    "ranks of the examples": (
        lambda p, y: F.softplus(-(p - p.T) * (y - y.T).sign()).mean(),
        1,
        lambda g: torch.randn(6, 1, generator=g).double(),
    ),
}


def tasks(labels: Callable[[torch.Generator], Tensor]) -> mk.TaskBatch:
    """Three tasks of six points with labels of a kind."""
    generator = torch.Generator().manual_seed(0)
    parts = (torch.stack([labels(generator) for _ in range(3)]) for _ in range(2))
    support, query = parts
    return mk.TaskBatch(mk.Batch(data().support.x, support), mk.Batch(data().support.x.flip(0), query))


@pytest.mark.parametrize("route", ["loop", "vmap"])
@pytest.mark.parametrize("name", MEANINGFUL)
def test_a_loss_that_means_something_is_right(name: str, route: str) -> None:
    loss, outputs, labels = MEANINGFUL[name]
    model, batch, untouched = made(lambda: nn.Linear(4, outputs)), tasks(labels), tasks(labels)
    objective = mk.Objective(model, loss)
    found = mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, steps=STEPS, route=route)
    wanted = by_hand(model, batch, lambda p, y: loss(p, y.clone()))
    assert relative_error(flat(found.grad), flat(wanted)) <= 1e-9
    assert torch.equal(batch.support.y, untouched.support.y)
    assert torch.equal(batch.query.y, untouched.query.y)


def test_complex_numbers_are_taken_as_they_are() -> None:
    class Waves(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.polar(torch.ones_like(x[:, :1]), super().forward(x))

    model = made(lambda: Waves(4, 1))
    batch = tasks(lambda g: torch.polar(torch.ones(6, 1), torch.rand(6, 1, generator=g)).to(torch.complex128))

    def loss(prediction: Tensor, y: Tensor) -> Tensor:
        return ((prediction - y).abs() ** 2).mean()

    objective = mk.Objective(model, loss)
    for route in ("loop", "vmap"):
        found = mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, steps=STEPS, route=route)
        assert relative_error(flat(found.grad), flat(by_hand(model, batch, loss))) <= 1e-9


# The loss, the shape of the prediction, the shape of y: all would be broadcast to more, or to other, pairs than meant.
BROADCAST: dict[str, tuple[Loss, tuple[int, ...], tuple[int, ...]]] = {
    "mse, one column": (F.mse_loss, (6, 1), (6,)),
    "mse, no column": (F.mse_loss, (6,), (6, 1)),
    "mse, a square": (F.mse_loss, (6, 6), (6,)),
    "mse, one label for three outputs": (F.mse_loss, (6, 3), (6, 1)),
    "mean absolute error": (F.l1_loss, (6, 1), (6,)),
    "Huber": (F.smooth_l1_loss, (6, 1), (6,)),
    "Poisson": (F.poisson_nll_loss, (6, 1), (6,)),
    "by hand": (lambda p, y: ((p - y) ** 2).mean(), (6, 1), (6,)),
    "by hand, y first": (lambda p, y: (y - p).abs().mean(), (6, 1), (6,)),
    "by hand, y cast": (lambda p, y: (p * y.double()).mean(), (6, 1), (6,)),
    "by hand, a square": (lambda p, y: ((p - y) ** 2).mean(), (6, 6), (6,)),
    "a column of two": (lambda p, y: ((p[:, 0] - y) ** 2).mean(), (6, 2), (6, 1)),
}


class Shaped(nn.Module):
    """Predicts a shape [points, ...]."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.shape = nn.Linear(4, max(1, *shape[1:]) if len(shape) > 1 else 1), shape[1:]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found.reshape(len(x), *self.shape)


@pytest.mark.filterwarnings("ignore:.*target size")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", BROADCAST)
def test_labels_that_a_loss_would_broadcast_are_refused_by_every_entry(name: str, whole: bool) -> None:
    loss, shape, labels = BROADCAST[name]
    objective = mk.Objective(made(lambda: Shaped(shape)), loss)
    batch = tasks(
        lambda g: torch.randint(0, 5, labels, generator=g) if whole else torch.rand(labels, generator=g) + 0.0
    )
    batch = batch if whole else mk.TaskBatch(*(mk.Batch(part.x, part.y.double()) for part in batch))
    theta, support = objective.theta(), batch.task(0).support
    calls: list[Callable[[], object]] = [
        lambda: objective(theta, *support),
        lambda: mk.adapt(objective, theta, support, alpha=ALPHA),
        lambda: mk.meta_gradient(objective, theta, batch, alpha=ALPHA, route="loop"),
        lambda: mk.meta_gradient(objective, theta, batch, alpha=ALPHA, route="vmap"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"would be broadcast against each other .*Give y the prediction's shape"):
            call()


@pytest.mark.parametrize("route", ["loop", "vmap"])
def test_a_loss_that_draws_is_refused(route: str) -> None:
    class Smoothed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, prediction: Tensor, y: Tensor) -> Tensor:
            return F.mse_loss(self.dropout(prediction), y)

    for loss, words in (
        (lambda p, y: ((p - y + 0.1 * torch.randn(6, 1)) ** 2).mean(), "draws random numbers"),
        (Smoothed(), r"Smoothed draws random numbers: .*dropout \(p = 0.5\) at dropout"),
    ):
        objective = mk.Objective(made(lambda: nn.Linear(4, 1)), loss)
        batch = data()
        state = torch.get_rng_state()
        with pytest.raises(ValueError, match=words):
            mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, route=route)
        assert torch.equal(torch.get_rng_state(), state)


class Averaged(nn.Module):
    """A loss by its own running average, kept in `held`."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self.register_buffer("average", torch.ones((), dtype=torch.float64))
        self.held, self.number = held, 0.0

    def forward(self, prediction: Tensor, y: Tensor) -> Tensor:
        loss = F.mse_loss(prediction, y)
        if self.held == "a number":
            self.number = 0.9 * self.number + 0.1
        else:
            cast(Tensor, self.average).mul_(0.9).add_(0.1)
        return loss / (self.number + 1) / cast(Tensor, self.average)


class Uncertain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.precision = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, prediction: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(prediction, y) * self.precision.exp() - self.precision


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1).double()

    def forward(self, prediction: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(cast(Tensor, self.norm(prediction)), y)


IMPURE: dict[str, tuple[Callable[[], Any], str]] = {
    "Python's random": (lambda: lambda p, y: F.mse_loss(p, y) * (1 + random.random()), "or its loss judges so"),
    "NumPy's random": (lambda: lambda p, y: F.mse_loss(p, y) * np.random.default_rng().random(), "or its loss judges"),
    "an average in a number": (lambda: Averaged("a number"), "or its loss judges so"),
    "an average in a buffer": (lambda: Averaged("a buffer"), "or its loss writes into average"),
    "a batch norm": (Normed, "or its loss uses norm.weight|or its loss writes into norm"),
    "a parameter of its own": (Uncertain, "or its loss uses precision by another way"),
    "a tensor that wants a gradient": (
        lambda: (lambda weight: lambda p, y: F.mse_loss(p, y) * weight)(torch.ones(()).double().requires_grad_()),
        "or its loss uses a tensor of shape .* that requires a gradient",
    ),
}


@pytest.mark.parametrize("route", ["loop", "flat-loop", "vmap", "flat", "traced"])
@pytest.mark.parametrize("name", IMPURE)
def test_a_loss_that_is_no_function_of_prediction_and_labels_is_refused_and_left_as_it_was(
    name: str, route: str
) -> None:
    build, words = IMPURE[name]
    loss = build()
    objective = mk.Objective(made(lambda: nn.Linear(4, 1)), loss)
    held = {n: value.clone() for n, value in loss.state_dict().items()} if isinstance(loss, nn.Module) else {}
    with pytest.raises(ValueError, match=words):
        mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, route=route)
    assert all(torch.equal(loss.state_dict()[n], value) for n, value in held.items())
    with pytest.raises(ValueError, match=words):
        mk.adapt(objective, objective.theta(), data().task(0).support, alpha=ALPHA)


@pytest.mark.parametrize("route", ["loop", "flat-loop"])
def test_a_loss_that_cannot_take_what_another_theta_predicts_is_no_less_right(route: str) -> None:
    model, batch = made(lambda: nn.Linear(4, 1)), data()
    with torch.no_grad():
        most = max(cast(Tensor, model(part.x)).abs().max().item() for part in batch)
        batch = mk.TaskBatch(*(mk.Batch(part.x, 0.9 * model(part.x)) for part in batch))  # which θ' predicts lower

    def bounded(prediction: Tensor, y: Tensor) -> Tensor:
        if prediction.abs().max() > 1.2 * most:
            raise RuntimeError("the prediction is out of bounds")
        return F.mse_loss(prediction, y)

    objective = mk.Objective(model, bounded)
    found = mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, steps=STEPS, route=route)
    assert relative_error(flat(found.grad), flat(by_hand(model, batch))) <= 1e-9


def test_a_row_of_predictions_against_a_column_of_labels_is_refused() -> None:
    class Row(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).T

    objective = mk.Objective(made(lambda: Row(4, 1)), lambda p, y: ((p - y) ** 2).mean())
    for route in ("loop", "vmap"):
        with pytest.raises(ValueError, match="would be broadcast against each other"):
            mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, route=route)


def test_labels_that_pytorch_would_convert_are_refused() -> None:
    objective = mk.Objective(made(lambda: nn.Linear(4, 1)), F.mse_loss)
    support = mk.Batch(data().support.x[0], torch.ones(6, 1, dtype=torch.long))
    with pytest.raises(TypeError, match=r"y holds torch\.int64 where the model predicts torch\.float64; convert y"):
        mk.adapt(objective, objective.theta(), support, alpha=ALPHA)
