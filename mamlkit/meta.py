"""The meta-gradient, equations (E2) and (E3): F(θ) = (1/n) Σᵢ L(θ'ᵢ; D'ᵢ) and ∇F(θ).

A route is a way to compute it, never another quantity: each is one function of the same signature.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mamlkit import checks
from mamlkit.inner import GRADIENT_DESCENT, Alpha, InnerLoop, InnerRule, prepared, step_sizes, unroll
from mamlkit.objective import Objective
from mamlkit.pure import Params
from mamlkit.tasks import Batch, TaskBatch


class MetaGradient(NamedTuple):
    """The meta-gradient over a batch of tasks.

    loss         [tasks]: L(θ'ᵢ; D'ᵢ), each task's query loss after adaptation
    grad         ∇F(θ), the gradient of the mean of `loss`, shaped like θ
    loss_before  [tasks]: L(θ; D'ᵢ), the same loss before adaptation
    grad_alpha   the gradient of the same mean by each step size that is learned, shaped like it; a tensor that serves
                 several parameters stands under the first of their names
    """

    loss: Tensor
    grad: Params
    loss_before: Tensor
    grad_alpha: Params = {}  # noqa: RUF012  # never written


# What `train` descends along: `meta_gradient`, or another function of its arguments, such as Reptile's.
OuterGradient = Callable[..., MetaGradient]


def meta_gradient(
    objective: Objective,
    theta: Params,
    batch: TaskBatch,
    *,
    alpha: Alpha,
    steps: int = 1,
    order: int = 2,
    route: str = "vmap",
    rule: InnerRule = GRADIENT_DESCENT,
) -> MetaGradient:
    """∇F(θ), the gradient of the mean query loss after adaptation (E3; Finn et al. 2017, Algorithm 2, line 10).

    batch  TaskBatch of tensors [tasks, points, ...]: θ'ᵢ is found on the support and judged on the query
    alpha, steps, order, rule  as in `adapt`; step sizes that require a gradient get theirs in `grad_alpha`
    route  "vmap": all tasks at once; "loop": one task at a time, the plain reference

    The mean over tasks is taken where the paper writes a sum, so that β means the same for any number of tasks.
    Raises ValueError on bad settings, and on a support or query that is empty, mismatched or not finite.
    """
    checks.settings(objective, theta, alpha, steps, order)
    checks.tasks(batch)
    checks.route(route, ROUTES)
    checks.observed(objective, theta, batch.task(0).support, order, route)
    return unchecked(objective, theta, batch, alpha=alpha, steps=steps, order=order, route=route, rule=rule)


def unchecked(
    objective: Objective,
    theta: Params,
    batch: TaskBatch,
    *,
    alpha: Alpha,
    steps: int,
    order: int,
    route: str,
    rule: InnerRule,
) -> MetaGradient:
    """`meta_gradient` without its checks, which `train` makes once."""
    theta = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
    inner = InnerLoop(step_sizes(alpha, theta, steps), order, rule)
    with torch.enable_grad():
        return ROUTES[route](objective, theta, batch, inner, checks.learned(alpha))


def loop(objective: Objective, theta: Params, batch: TaskBatch, inner: InnerLoop, learned: Params) -> MetaGradient:
    """One task at a time: ∇F is the mean of the tasks' gradients."""
    inner, after, before, gradients = prepared(inner, stacked=False), [], [], []
    for support, query in map(batch.task, range(batch.size)):
        *_, theta_prime = unroll(partial(_on, objective, support), theta, inner)
        loss = objective(theta_prime, *query, support.x)
        gradients.append(_gradients(loss, theta, learned))
        after.append(loss.detach())
        with torch.no_grad():
            before.append(objective(theta, *query, support.x))
    grad, grad_alpha = (
        {name: torch.stack([task[name] for task in part]).mean(0) for name in part[0]}
        for part in zip(*gradients, strict=True)
    )
    return MetaGradient(torch.stack(after), grad, torch.stack(before), grad_alpha)


def vmapped(objective: Objective, theta: Params, batch: TaskBatch, inner: InnerLoop, learned: Params) -> MetaGradient:
    """All tasks at once: ∇F is the gradient of the tasks' mean loss.

    Only the forward pass is mapped. Derivatives are taken outside, so that none goes through a batching rule, of which
    PyTorch has wrong ones (pytorch/functorch#534).
    """
    support, query = batch
    # Methods have a name, which vmap asks for; the object itself would be named by printing its whole model.
    each, shared = vmap(objective.__call__), vmap(objective.__call__, in_dims=(None, 0, 0, 0))
    start = {name: weight.expand(batch.size, *weight.shape) for name, weight in theta.items()}
    *_, theta_prime = unroll(partial(_on, each, support), start, prepared(inner, stacked=True))
    loss = each(theta_prime, *query, support.x)
    grad, grad_alpha = _gradients(loss.mean(), theta, learned)
    with torch.no_grad():
        before = shared(theta, *query, support.x)
    return MetaGradient(loss.detach(), grad, before, grad_alpha)


def _on(loss: Callable[..., Tensor], support: Batch, theta: Params) -> Tensor:
    """L(θ; D) as a function of θ alone."""
    return loss(theta, *support)


def _gradients(loss: Tensor, theta: Params, learned: Params) -> tuple[Params, Params]:
    """∇θ and ∇α of a loss; zero by a parameter that the loss does not touch."""
    found = torch.autograd.grad(loss, [*theta.values(), *learned.values()], materialize_grads=True)
    by_theta, by_alpha = found[: len(theta)], found[len(theta) :]
    return dict(zip(theta, by_theta, strict=True)), dict(zip(learned, by_alpha, strict=True))


ROUTES: dict[str, Callable[..., MetaGradient]] = {"vmap": vmapped, "loop": loop}
