"""What must hold of every meta-gradient, on problems that Hypothesis draws: the same ones on every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st
from oracles import flat
from torch import Tensor

import mamlkit as mk
from mamlkit.meta import ROUTES, MetaGradient
from mamlkit.pure import Params

TOLERANCE = 1e-12  # of a gradient's size, in float64
FEATURES, HIDDEN, CLASSES = 2, 4, 3
# No explanation of a failure: it takes minutes, and the examples are small.
fixed = settings(derandomize=True, deadline=None, max_examples=25, database=None, phases=set(Phase) - {Phase.explain})


class Problem(NamedTuple):
    """A network with one hidden layer, tasks for it, and how it adapts to them."""

    objective: mk.Objective
    theta: Params
    batch: mk.TaskBatch
    how: dict[str, Any]

    def solved(self, batch: mk.TaskBatch | None = None, theta: Params | None = None, **how: Any) -> MetaGradient:
        """The meta-gradient, of the problem or of another that differs as said."""
        found = self.batch if batch is None else batch, self.theta if theta is None else theta
        return mk.meta_gradient(self.objective, found[1], found[0], **(self.how | how))


def problem(seed: int, tasks: int, shots: int, queries: int, classify: bool = False, **how: Any) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def drawn(points: int) -> mk.Batch:
        x = torch.randn(tasks, points, FEATURES, dtype=torch.float64, generator=generator)
        if classify:
            return mk.Batch(x, torch.randint(CLASSES, (tasks, points), generator=generator))
        return mk.Batch(x, torch.randn(tasks, points, 1, dtype=torch.float64, generator=generator))

    outputs = CLASSES if classify else 1
    model = mk.models.mlp(FEATURES, outputs, hidden=(HIDDEN,), seed=seed, dtype=torch.float64)
    objective = mk.Objective(model, F.cross_entropy if classify else F.mse_loss)
    return Problem(objective, objective.theta(), mk.TaskBatch(drawn(shots), drawn(queries)), how)


HOW: dict[str, Any] = {
    "alpha": st.floats(0.001, 0.2),
    "steps": st.integers(1, 3),
    "order": st.sampled_from([1, 2]),
    "route": st.sampled_from([*ROUTES]),
}
SIZES: dict[str, Any] = {
    "seed": st.integers(0, 2**16),
    "tasks": st.integers(1, 4),
    "shots": st.integers(1, 5),
    "queries": st.integers(1, 5),
}
classifications = st.builds(problem, classify=st.just(True), **SIZES, **HOW)
regressions = st.builds(problem, **SIZES, **HOW)
problems = regressions | classifications


def over(batch: mk.TaskBatch, function: Callable[[Tensor], Tensor]) -> mk.TaskBatch:
    """The tasks with a function applied to each of their tensors."""
    return mk.TaskBatch(*(mk.Batch(function(part.x), function(part.y)) for part in batch))


def alike(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() <= TOLERANCE * wanted.norm())


def same(found: MetaGradient, wanted: MetaGradient) -> bool:
    return alike(flat(found.grad), flat(wanted.grad)) and alike(found.loss, wanted.loss)


def order_of(seed: int, size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Of tensors this small, threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Tasks


@fixed
@given(problems, SIZES["seed"])
def test_the_order_of_the_tasks_is_that_of_the_losses_and_nothing_to_the_gradient(p: Problem, seed: int) -> None:
    order = order_of(seed, p.batch.size)
    found, wanted = p.solved(over(p.batch, lambda part: part[order])), p.solved()
    assert same(found, wanted._replace(loss=wanted.loss[order]))
    assert alike(found.loss_before, wanted.loss_before[order])


@fixed
@given(problems, st.integers(2, 3))
def test_tasks_that_all_stand_there_twice_change_no_mean(p: Problem, times: int) -> None:
    found, wanted = p.solved(over(p.batch, lambda part: torch.cat([part] * times))), p.solved()
    assert same(found, wanted._replace(loss=wanted.loss.repeat(times)))


@fixed
@given(problems, st.integers(1, 3))
def test_the_gradient_of_a_batch_is_the_weighted_mean_of_those_of_its_parts(p: Problem, cut: int) -> None:
    size = p.batch.size
    assume(cut < size)
    parts = [p.solved(over(p.batch, lambda part, s=part: part[s])) for part in (slice(cut), slice(cut, size))]  # type: ignore[misc]
    mean = sum(weight / size * flat(part.grad) for weight, part in zip((cut, size - cut), parts, strict=True))
    assert isinstance(mean, Tensor)
    whole = p.solved()
    assert alike(mean, flat(whole.grad))
    assert alike(torch.cat([part.loss for part in parts]), whole.loss)


@fixed
@given(problems)
def test_a_task_alone_is_what_it_is_among_others(p: Problem) -> None:
    alone = [p.solved(over(p.batch, lambda part, i=i: part[i : i + 1])) for i in range(p.batch.size)]  # type: ignore[misc]
    assert alike(torch.cat([task.loss for task in alone]), p.solved().loss)
    assert alike(torch.stack([flat(task.grad) for task in alone]).mean(0), flat(p.solved().grad))


# Examples


@fixed
@given(problems, SIZES["seed"])
def test_the_order_of_the_examples_changes_nothing(p: Problem, seed: int) -> None:
    assert same(p.solved(over(p.batch, lambda part: part[:, order_of(seed, part.shape[1])])), p.solved())


@fixed
@given(problems, st.integers(2, 3), st.sampled_from(["support", "query"]))
def test_examples_that_all_stand_there_twice_change_no_mean_loss(p: Problem, times: int, which: str) -> None:
    part = getattr(p.batch, which)
    again = mk.Batch(torch.cat([part.x] * times, 1), torch.cat([part.y] * times, 1))
    assert same(p.solved(p.batch._replace(**{which: again})), p.solved())


@fixed
@given(problems)
@example(problem(0, tasks=1, shots=1, queries=1, alpha=0.1, steps=3, order=2, route="loop"))
@example(problem(1, tasks=3, shots=1, queries=5, alpha=0.1, steps=2, order=2, route="vmap"))
@example(problem(2, tasks=2, shots=5, queries=1, classify=True, alpha=0.2, steps=1, order=2, route="vmap"))
def test_all_routes_agree_on_any_number_of_tasks_shots_and_queries(p: Problem) -> None:
    found = [p.solved(route=route) for route in ROUTES]
    assert all(same(found[0], other) for other in found)
    assert all(alike(found[0].loss_before, other.loss_before) for other in found)
    assert found[0].loss.shape == (p.batch.size,)
    assert {name: part.shape for name, part in found[0].grad.items()} == {n: w.shape for n, w in p.theta.items()}


# Names and units, which are nobody's business


@fixed
@given(classifications, st.permutations(range(CLASSES)))
def test_classes_under_other_labels_have_the_same_gradient_in_other_rows(p: Problem, labels: list[int]) -> None:
    label, row = torch.tensor(labels), torch.tensor(labels).argsort()
    relabelled = mk.TaskBatch(*(mk.Batch(part.x, label[part.y]) for part in p.batch))

    def moved(params: Params) -> Params:
        return {name: part[row] if name.startswith("2.") else part for name, part in params.items()}

    wanted = p.solved()
    assert same(p.solved(relabelled, moved(p.theta)), wanted._replace(grad=moved(wanted.grad)))


@fixed
@given(problems, st.permutations(range(HIDDEN)))
def test_hidden_units_in_another_order_have_the_same_gradient_in_that_order(p: Problem, order: list[int]) -> None:
    def moved(params: Params) -> Params:
        first, bias, last, head = params.values()
        return dict(zip(params, (first[order], bias[order], last[:, order], head), strict=True))

    wanted = p.solved()
    assert same(p.solved(theta=moved(p.theta)), wanted._replace(grad=moved(wanted.grad)))


@fixed
@given(problems, st.sampled_from([0.25, 3.0, 100.0]))
def test_a_loss_in_other_units_with_alpha_to_match_gives_the_gradient_in_those_units(p: Problem, unit: float) -> None:
    loss = p.objective.loss
    scaled = p._replace(objective=mk.Objective(p.objective.model, lambda prediction, y: unit * loss(prediction, y)))
    found, wanted = scaled.solved(alpha=p.how["alpha"] / unit), p.solved()
    assert alike(flat(found.grad) / unit, flat(wanted.grad))
    assert alike(found.loss / unit, wanted.loss)


# Steps


@fixed
@given(problems, st.integers(0, 3), st.integers(0, 3))
def test_steps_of_plain_descent_compose(p: Problem, first: int, then: int) -> None:
    support, alpha = p.batch.task(0).support, p.how["alpha"]
    between = mk.adapt(p.objective, p.theta, support, alpha=alpha, steps=first)
    found = mk.adapt(p.objective, between, support, alpha=alpha, steps=then)
    assert alike(flat(found), flat(mk.adapt(p.objective, p.theta, support, alpha=alpha, steps=first + then)))


@fixed
@given(problems)
def test_without_a_step_the_gradient_is_that_of_the_query_at_either_order(p: Problem) -> None:
    model, leaves = p.objective.model, {name: weight.clone().requires_grad_() for name, weight in p.theta.items()}
    (x, y), count = p.batch.query, p.batch.size * p.batch.query.x.shape[1]
    prediction = torch.func.functional_call(model, leaves, (x.reshape(count, FEATURES),))
    loss = p.objective.loss(prediction, y.reshape(count, *y.shape[2:]))
    wanted = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(leaves.values()))])
    for how in ({"steps": 0}, {"alpha": 0.0}):
        for order in (1, 2):
            found = p.solved(order=order, **how)
            assert alike(flat(found.grad), wanted)
            assert alike(found.loss, found.loss_before)


@fixed
@given(problems)
def test_alpha_by_parameter_and_by_step_is_alpha(p: Problem) -> None:
    alpha, steps = p.how["alpha"], p.how["steps"]
    by_step = {name: torch.full((steps, *w.shape), alpha, dtype=torch.float64) for name, w in p.theta.items()}
    for sizes in (dict.fromkeys(p.theta, alpha), by_step):
        assert same(p.solved(alpha=sizes), p.solved())


@fixed
@given(problems)
def test_what_alpha_learns_is_the_slope_of_the_loss_along_alpha(p: Problem) -> None:
    """At second order, by central differences."""
    shared = torch.tensor(p.how["alpha"], dtype=torch.float64, requires_grad=True)
    (found,) = p.solved(alpha=dict.fromkeys(p.theta, shared), order=2).grad_alpha.values()
    ends = [p.solved(alpha=p.how["alpha"] + sign * 1e-6).loss.mean() for sign in (1, -1)]
    assert found.item() == pytest.approx(((ends[0] - ends[1]) / 2e-6).item(), rel=1e-5, abs=1e-7)


# Threads


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("order", [1, 2])
def test_two_threads_compute_what_one_does(route: str, order: int) -> None:
    """Of tensors that are large enough to be shared out."""
    objective = mk.Objective(mk.models.mlp(4, 1, hidden=(128,), dtype=torch.float64), F.mse_loss)
    batch = mk.Quadratics(shots=20, queries=20, scales=(1.0,) * 4).batch(0, 25)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(mk.meta_gradient(objective, objective.theta(), batch, alpha=0.05, order=order, route=route))
    assert same(*found)
