"""The meta-gradient, equations (E2) and (E3): F(θ) = (1/n) Σᵢ L(θ'ᵢ; D'ᵢ) and ∇F(θ).

A route is a way to compute it, never another quantity: each is one function of the same signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from mamlkit.inner import Objective, check_examples, check_settings, descend
from mamlkit.pure import Params
from mamlkit.tasks import TaskBatch

# (θ, one task) → its query loss after adaptation, L(θ'ᵢ; D'ᵢ), and before it, L(θ; D'ᵢ)
TaskLoss = Callable[[Params, TaskBatch], tuple[Tensor, Tensor]]


class MetaGradient(NamedTuple):
    """The meta-gradient over a batch of tasks.

    loss         [tasks]: L(θ'ᵢ; D'ᵢ), each task's query loss after adaptation
    grad         ∇F(θ), the gradient of the mean of `loss`, shaped like θ
    loss_before  [tasks]: L(θ; D'ᵢ), the same loss before adaptation
    """

    loss: Tensor
    grad: Params
    loss_before: Tensor


def meta_gradient(
    objective: Objective,
    theta: Params,
    batch: TaskBatch,
    *,
    alpha: float,
    steps: int = 1,
    order: int = 2,
    route: str = "vmap",
) -> MetaGradient:
    """∇F(θ), the gradient of the mean query loss after adaptation (E3; Finn et al. 2017, Algorithm 2, line 10).

    batch  TaskBatch of tensors [tasks, points, ...]: θ'ᵢ is found on the support and judged on the query
    alpha, steps, order  as in `adapt`
    route  "vmap": all tasks at once; "loop": one task at a time, the plain reference

    The mean over tasks is taken where the paper writes a sum, so that β means the same for any number of tasks.
    Raises ValueError on bad settings, and on a support or query that is empty, mismatched or not finite.
    """
    check_settings(objective, theta, alpha, steps, order)
    check_batch(batch)
    if route not in ROUTES:
        raise ValueError(f"route is {route!r}; it must be one of {', '.join(ROUTES)}")

    def task_loss(theta: Params, task: TaskBatch) -> tuple[Tensor, Tensor]:
        theta_prime = descend(objective, theta, task.support, alpha, steps, order)
        with torch.no_grad():
            before = objective(theta, *task.query, task.support.x)
        return objective(theta_prime, *task.query, task.support.x), before

    return ROUTES[route](task_loss, {name: weight.detach() for name, weight in theta.items()}, batch)


def loop(task_loss: TaskLoss, theta: Params, batch: TaskBatch) -> MetaGradient:
    """One task at a time: ∇F is the mean of the tasks' gradients."""
    task_gradient = grad_and_value(task_loss, has_aux=True)
    gradients, losses = zip(*(task_gradient(theta, batch.task(i)) for i in range(batch.size)), strict=True)
    after, before = (torch.stack(column) for column in zip(*losses, strict=True))
    return MetaGradient(after, {name: torch.stack([g[name] for g in gradients]).mean(0) for name in theta}, before)


def vmapped(task_loss: TaskLoss, theta: Params, batch: TaskBatch) -> MetaGradient:
    """All tasks at once: ∇F is the gradient of the tasks' mean loss."""
    theta = {name: weight.requires_grad_() for name, weight in theta.items()}
    with torch.enable_grad():
        after, before = vmap(task_loss, in_dims=(None, 0))(theta, batch)
        # A parameter that the loss does not touch gets a zero gradient, not an error.
        gradient = torch.autograd.grad(after.mean(), list(theta.values()), materialize_grads=True)
    return MetaGradient(after.detach(), dict(zip(theta, gradient, strict=True)), before)


ROUTES: dict[str, Callable[[TaskLoss, Params, TaskBatch], MetaGradient]] = {"vmap": vmapped, "loop": loop}


def check_batch(batch: TaskBatch) -> None:
    """Refuse tasks whose support or query cannot be used, or that are not as many in the one as in the other."""
    check_examples(batch.support, "support", dims=2)
    check_examples(batch.query, "query", dims=2)
    if len(batch.support.x) != len(batch.query.x):
        raise ValueError(
            f"the support holds {len(batch.support.x)} tasks and the query {len(batch.query.x)}; "
            "each task needs both, stacked along the first dimension"
        )
