"""Equations (E2) and (E3): the meta-gradient against closed forms, finite differences and the other route."""

from __future__ import annotations

import weakref
from typing import Any, Literal, cast

import pytest
import torch
from oracles import (
    WithEverything,
    closed_form,
    finite_differences,
    flat,
    meta_loss,
    mse,
    quadratic_problem,
    relative_error,
    sinusoid_problem,
)
from torch import Tensor, nn

import mamlkit as mk
from mamlkit import meta
from mamlkit.pure import Params

ROUTES = [*meta.ROUTES]
PROBLEMS = {"mlp": sinusoid_problem, "quadratic": quadratic_problem}


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("route", ROUTES)
def test_second_order_meta_gradient_equals_finite_differences(route: str, problem: str, steps: int) -> None:
    objective, theta, batch = PROBLEMS[problem]()
    found = flat(mk.meta_gradient(objective, theta, batch, alpha=0.05, steps=steps, route=route).grad)
    wanted = finite_differences(meta_loss(objective, batch, alpha=0.05, steps=steps), theta)
    assert relative_error(found, wanted) <= 1e-6


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("route", ROUTES)
def test_meta_gradient_equals_the_closed_form_on_quadratics(route: str, steps: int, order: int) -> None:
    objective, theta, batch = quadratic_problem()
    found = mk.meta_gradient(objective, theta, batch, alpha=0.1, steps=steps, order=order, route=route)
    wanted = closed_form(batch, theta["0.weight"].T, 0.1, steps, order)
    assert torch.allclose(flat(found.grad), wanted[:, 0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("route", ROUTES)
def test_first_order_equals_the_query_gradient_at_theta_prime_exactly(route: str, steps: int) -> None:
    objective, theta, batch = sinusoid_problem(tasks=1)
    support, query = batch.task(0)
    theta_prime = mk.adapt(objective, theta, support, alpha=0.1, steps=steps, order=1)
    wanted = torch.func.grad(objective)(theta_prime, *query)
    found = mk.meta_gradient(objective, theta, batch, alpha=0.1, steps=steps, order=1, route=route).grad
    if "loop" in route:
        assert torch.equal(flat(found), flat(wanted))
    assert torch.allclose(flat(found), flat(wanted), atol=1e-14, rtol=0)


def test_first_order_differs_from_second_by_the_hessian_term() -> None:
    objective, theta, batch = quadratic_problem(tasks=1)
    first, second = (flat(mk.meta_gradient(objective, theta, batch, alpha=0.1, order=order).grad) for order in (1, 2))
    x = batch.support.x[0]
    assert torch.allclose(first - second, 0.1 * (2 * x.T @ x / len(x)) @ first, atol=1e-12)
    assert relative_error(first, second) > 0.01


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("problem", [*PROBLEMS, "everything"])
def test_all_routes_agree(problem: str, steps: int, order: int) -> None:
    if problem == "everything":
        objective = mk.Objective(WithEverything(), mse)
        theta, batch = objective.theta(), mk.Sinusoids(dtype=torch.float64).batch(0, 3)
    else:
        objective, theta, batch = PROBLEMS[problem]()
    loop, *others = (
        mk.meta_gradient(objective, theta, batch, alpha=0.05, steps=steps, order=order, route=route, chunk=chunk)
        for route in ["loop", *ROUTES]
        for chunk in (None, 2)
    )
    assert list(loop.grad) == list(theta)
    for other in others:
        assert list(other.grad) == list(theta)
        assert torch.allclose(loop.loss, other.loss, atol=1e-12, rtol=0)
        assert torch.allclose(loop.loss_before, other.loss_before, atol=1e-12, rtol=0)
        assert torch.allclose(flat(loop.grad), flat(other.grad), atol=1e-12, rtol=0)


@pytest.mark.parametrize("route", ROUTES)
def test_norms_inside_a_module_have_the_right_second_order_gradient(route: str) -> None:
    objective = mk.Objective(WithEverything(), mse)
    theta, batch = objective.theta(), mk.Sinusoids(shots=6, dtype=torch.float64).batch(0, 2)
    found = flat(mk.meta_gradient(objective, theta, batch, alpha=0.05, steps=2, route=route).grad)
    wanted = finite_differences(meta_loss(objective, batch, alpha=0.05, steps=2), theta)
    assert relative_error(found, wanted) <= 1e-6


@pytest.mark.parametrize("route", ROUTES)
def test_a_parameter_the_loss_does_not_touch_gets_a_zero_gradient(route: str) -> None:
    objective = mk.Objective(WithEverything(), mse)
    batch = mk.Sinusoids(dtype=torch.float64).batch(0, 2)
    result = mk.meta_gradient(objective, objective.theta(), batch, alpha=0.1, route=route)
    assert torch.equal(result.grad["unused"], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("route", ROUTES)
def test_losses_are_those_of_adapt(route: str) -> None:
    objective, theta, batch = sinusoid_problem()
    result = mk.meta_gradient(objective, theta, batch, alpha=0.1, steps=2, route=route)
    for i in range(batch.size):
        support, query = batch.task(i)
        theta_prime = mk.adapt(objective, theta, support, alpha=0.1, steps=2)
        assert result.loss[i].item() == pytest.approx(objective(theta_prime, *query).item(), abs=1e-14)
        assert result.loss_before[i].item() == pytest.approx(objective(theta, *query).item(), abs=1e-14)


@pytest.mark.parametrize("statistics", ["transductive", "inductive"])
@pytest.mark.parametrize("route", ROUTES)
def test_losses_and_gradient_of_thirty_tasks_are_those_of_plain_pytorch_in_both_modes_of_batch_norm(
    route: str, statistics: Literal["transductive", "inductive"]
) -> None:
    parts = [mk.models.mlp(1, 4, hidden=()), nn.BatchNorm1d(4, eps=0.1), mk.models.mlp(4, 1, hidden=(), seed=1)]
    objective = mk.Objective(nn.Sequential(*parts).double(), mse, batch_norm=statistics)
    batch = mk.Sinusoids(shots=4, queries=5, dtype=torch.float64).batch(0, 30)
    found = mk.meta_gradient(objective, objective.theta(), batch, alpha=0.05, steps=2, route=route)

    def loss(theta: list[Tensor], x: Tensor, y: Tensor, others: Tensor) -> Tensor:
        weight, bias, scale, shift, last, constant = theta
        h, judges = x @ weight.T + bias, others @ weight.T + bias
        normal = (h - judges.mean(0)) / (judges.var(0, correction=0) + 0.1).sqrt()
        return ((normal * scale + shift) @ last.T + constant - y).square().mean()

    theta = [weight.requires_grad_() for weight in objective.theta().values()]
    losses = []
    for i, (support, query) in enumerate(map(batch.task, range(30))):
        others = query.x if statistics == "transductive" else support.x
        assert found.loss_before[i].item() == pytest.approx(loss(theta, *query, others).item(), rel=1e-12)
        adapted = theta
        for _ in range(2):
            slopes = torch.autograd.grad(loss(adapted, *support, support.x), adapted, create_graph=True)
            adapted = [weight - 0.05 * slope for weight, slope in zip(adapted, slopes, strict=True)]
        losses.append(loss(adapted, *query, others))
    assert torch.allclose(found.loss, torch.stack(losses), rtol=1e-12, atol=0)
    wanted = torch.autograd.grad(torch.stack(losses).mean(), theta)
    for slope, name in zip(wanted, found.grad, strict=True):
        assert torch.allclose(found.grad[name], slope, rtol=1e-9, atol=1e-12), name


def test_results_carry_no_graph_and_theta_is_left_alone() -> None:
    objective, theta, batch = sinusoid_problem()
    for route in ROUTES:
        result = mk.meta_gradient(objective, theta, batch, alpha=0.1, route=route)
        tensors = [result.loss, result.loss_before, *result.grad.values()]
        assert not any(tensor.requires_grad for tensor in tensors)
        assert not any(weight.requires_grad or weight.grad is not None for weight in theta.values())


def test_meta_gradient_works_where_gradients_are_switched_off() -> None:
    objective, theta, batch = sinusoid_problem()
    wanted = flat(mk.meta_gradient(objective, theta, batch, alpha=0.1).grad)
    for route in ROUTES:
        with torch.no_grad():
            found = flat(mk.meta_gradient(objective, theta, batch, alpha=0.1, route=route).grad)
        assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("route", ROUTES)
def test_bad_tasks_are_refused(route: str) -> None:
    objective, theta, batch = sinusoid_problem()
    support, query = batch
    cases: list[tuple[Any, str]] = [
        (mk.TaskBatch(mk.Batch(support.x[:0], support.y[:0]), query), "support is empty"),
        (mk.TaskBatch(support, mk.Batch(query.x[:, :0], query.y[:, :0])), "query is empty"),
        (mk.TaskBatch(support, mk.Batch(query.x, query.y[:, :3])), "the query has x of shape"),
        (mk.TaskBatch(support, mk.Batch(query.x[:2], query.y[:2])), "support holds 3 tasks and the query 2"),
        (mk.TaskBatch(support, mk.Batch(query.x, query.y * float("nan"))), "query's y are NaN"),
        (batch.task(0), "support holds 6 tasks and the query 7"),
        (mk.Sinusoids(), "the tasks are Sinusoids; they must be drawn"),
        (tuple(batch), "the tasks are tuple of Batch, Batch; they must be drawn"),
        (
            mk.TaskBatch(*cast(Any, (tuple(support), tuple(query)))),
            "the tasks are TaskBatch of tuple, tuple; they must be drawn",
        ),
        (support.x, "the tasks are Tensor; they must be drawn"),
    ]
    for bad, words in cases:
        with pytest.raises(ValueError, match=words):
            mk.meta_gradient(objective, theta, bad, alpha=0.1, route=route)


@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_the_gradient_of_a_parameter_is_refused_and_not_passed_over(hook: str) -> None:
    """It stands on the model's own parameter, which θ replaces: nothing would call it."""
    objective, theta, batch = sinusoid_problem()
    wanted = flat(mk.meta_gradient(objective, theta, batch, alpha=0.1).grad)
    handle = getattr(dict(objective.model.named_parameters())["2.bias"], hook)(lambda gradient: None)
    settings: dict[str, Any] = {"alpha": 0.1}
    for ask in (
        lambda: mk.meta_gradient(objective, theta, batch, **settings),
        lambda: mk.adapt(objective, theta, batch.task(0).support, **settings),
        lambda: mk.check(objective, batch, **settings),
        lambda: next(mk.train(objective, mk.Sinusoids(), beta=0.1, iterations=1, **settings)),
    ):
        with pytest.raises(ValueError, match=r"^2\.bias have a hook on their gradient, which would not run"):
            ask()
    handle.remove()
    assert torch.equal(flat(mk.meta_gradient(objective, theta, batch, alpha=0.1).grad), wanted)


def test_a_hook_that_a_pass_sets_is_called_by_the_loop_and_refused_where_vmap_loses_it() -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = super().forward(x)
            if found.requires_grad:
                found.register_hook(lambda gradient: 2 * gradient)
            return found

    layer = Doubled(1, 1, dtype=torch.float64)
    objective, batch = mk.Objective(layer, mse), sinusoid_problem()[2]
    with pytest.raises(ValueError, match="a hook that the forward pass sets is lost there"):
        mk.meta_gradient(objective, objective.theta(), batch, alpha=0.1)
    (x, y), (slope, offset) = batch.task(0).support, objective.theta().values()
    by_hand = 2 * 2 * ((slope * x + offset - y) * x).mean()  # twice the gradient of the mean squared error
    theta_prime = mk.adapt(objective, objective.theta(), batch.task(0).support, alpha=0.1)
    assert torch.allclose(theta_prime["weight"], slope - 0.1 * by_hand, rtol=1e-12)


def test_an_unknown_route_is_refused() -> None:
    objective, theta, batch = sinusoid_problem()
    with pytest.raises(ValueError, match="route is 'fast'; it must be one of vmap, loop"):
        mk.meta_gradient(objective, theta, batch, alpha=0.1, route="fast")


def test_classification_with_integer_labels_serves() -> None:
    model = mk.models.mlp(2, 3, hidden=(5,), dtype=torch.float64)
    objective = mk.Objective(model, nn.functional.cross_entropy)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 2, dtype=torch.float64, generator=generator)
    y = torch.tensor([0, 1, 2, 0, 1, 2]).expand(2, 6)
    batch = mk.TaskBatch(mk.Batch(x, y), mk.Batch(x.flip(1), y.flip(1)))
    found = flat(mk.meta_gradient(objective, objective.theta(), batch, alpha=0.5, steps=2).grad)
    wanted = finite_differences(meta_loss(objective, batch, alpha=0.5, steps=2), objective.theta())
    assert relative_error(found, wanted) <= 1e-6


class Ticket:
    """What is let go with the tensor that it stands for."""


class Kept:
    """The bytes that autograd keeps for backward passes at any one time, and the most of them so far."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __enter__(self) -> Kept:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda kept: kept[0])
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    def keep(self, tensor: Tensor) -> tuple[Tensor, Ticket]:
        size = tensor.numel() * tensor.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        ticket = Ticket()
        weakref.finalize(ticket, self.drop, size)
        return tensor, ticket

    def drop(self, size: int) -> None:
        self.now -= size


def kept(objective: mk.Objective, theta: Params, batch: mk.TaskBatch, **settings: Any) -> int:
    """The most bytes that a meta-gradient keeps for backward passes, once its model has been watched."""
    mk.meta_gradient(objective, theta, batch, alpha=0.01, **settings)
    with Kept() as found:
        mk.meta_gradient(objective, theta, batch, alpha=0.01, **settings)
    return found.most


@pytest.mark.parametrize(("route", "grows"), [("vmap", True), ("loop", True), ("flat", False), ("flat-loop", False)])
def test_what_is_kept_for_the_backward_pass_grows_with_the_inner_steps_except_on_the_flat_routes(
    route: str, grows: bool
) -> None:
    objective, theta, batch = sinusoid_problem()
    most = [kept(objective, theta, batch, steps=steps, route=route) for steps in (1, 8)]
    assert (most[1] > 4 * most[0]) if grows else (most[1] == most[0])


@pytest.mark.parametrize("route", ROUTES)
def test_chunks_take_no_more_memory_than_their_own_tasks(route: str) -> None:
    objective, theta, _ = sinusoid_problem()
    batch = mk.Sinusoids(dtype=torch.float64).batch(0, 12)
    alone = kept(objective, theta, mk.Sinusoids(dtype=torch.float64).batch(0, 3), route=route)
    assert kept(objective, theta, batch, route=route, chunk=3) == alone
    assert kept(objective, theta, batch, route=route) > 1.5 * alone or "loop" in route


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_no_task_is_refused_before_anything_is_computed(chunk: int) -> None:
    objective, theta, batch = sinusoid_problem()
    tasks = mk.Sinusoids(dtype=torch.float64)
    with pytest.raises(ValueError, match=f"chunk is {chunk}; it must be 1 task or more"):
        mk.meta_gradient(objective, theta, batch, alpha=0.1, chunk=chunk)
    with pytest.raises(ValueError, match="chunk is"):
        next(mk.train(objective, tasks, alpha=0.1, beta=0.1, iterations=1, chunk=chunk))
    with pytest.raises(ValueError, match="chunk is"):
        mk.evaluate(objective, theta, tasks, alpha=0.1, steps=1, split="test", size=4, chunk=chunk)
