"""What the tests hold the kit against: closed forms and finite differences, written without the kit's derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import mamlkit as mk
from mamlkit.pure import Params

mse = F.mse_loss


def sinusoid_problem(tasks: int = 3, seed: int = 0) -> tuple[mk.Objective, Params, mk.TaskBatch]:
    """A small MLP on a few sinusoids, in float64."""
    objective = mk.Objective(mk.models.mlp(1, 1, hidden=(5, 5), seed=seed, dtype=torch.float64), mse)
    batch = mk.Sinusoids(shots=6, queries=7, seed=seed, dtype=torch.float64).batch(0, tasks)
    return objective, objective.theta(), batch


def quadratic_problem(tasks: int = 4, seed: int = 0) -> tuple[mk.Objective, Params, mk.TaskBatch]:
    """A linear model without bias on regression tasks whose Hessians differ; θ is away from every optimum."""
    model = mk.models.mlp(3, 1, hidden=(), seed=seed, dtype=torch.float64)
    model[0].register_parameter("bias", None)
    objective = mk.Objective(model, mse)
    batch = mk.Quadratics(shots=5, queries=7, seed=seed, scales=(0.5, 1.0, 1.5), noise=0.3, dtype=torch.float64).batch(
        0, tasks
    )
    return objective, objective.theta(), batch


def hessian(x: Tensor) -> Tensor:
    """The Hessian 2·XᵀX/K of the mean squared error of a linear model."""
    return 2 * x.T @ x / len(x)


def gradient(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Its gradient 2·Xᵀ(Xw − y)/K."""
    return 2 * x.T @ (x @ w - y) / len(x)


def closed_form(batch: mk.TaskBatch, w: Tensor, alpha: float, steps: int, order: int) -> Tensor:
    """Meta-gradient of the quadratic problem: the mean over tasks of (I − αH)ᵏ ∇L(θ'; D'), H left out at order 1."""
    total = torch.zeros_like(w)
    for i in range(batch.size):
        (x, y), (query_x, query_y) = batch.task(i)
        shrink = torch.eye(len(w), dtype=w.dtype) - alpha * hessian(x)
        w_prime = w
        for _ in range(steps):
            w_prime = w_prime - alpha * gradient(x, y, w_prime)
        outer = gradient(query_x, query_y, w_prime)
        total += outer if order == 1 else torch.linalg.matrix_power(shrink, steps) @ outer
    return total / batch.size


def meta_loss(objective: mk.Objective, batch: mk.TaskBatch, alpha: float, steps: int) -> Callable[[Params], float]:
    """F(θ) by plain values, its inner steps written out: nothing of the kit's inner loop, and no outer derivative."""
    model, inductive = objective.model, objective.batch_norm == "inductive"

    def loss(theta: Params, x: Tensor, y: Tensor, support: Tensor) -> Tensor:
        # Only the kit knows the inductive mode of batch norm; `test_models` holds that against the native one.
        return objective(theta, x, y, support) if inductive else objective.loss(functional_call(model, theta, x), y)

    def value(theta: Params) -> float:
        losses = []
        for (x, y), (query_x, query_y) in map(batch.task, range(batch.size)):
            adapted = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
            for _ in range(steps):
                slope = torch.autograd.grad(loss(adapted, x, y, x), list(adapted.values()), materialize_grads=True)
                adapted = {
                    name: (weight - alpha * g).detach().requires_grad_()
                    for (name, weight), g in zip(adapted.items(), slope, strict=True)
                }
            losses.append(loss(adapted, query_x, query_y, x).item())
        return sum(losses) / len(losses)

    return value


def finite_differences(value: Callable[[Params], float], theta: Params, epsilon: float = 1e-5) -> Tensor:
    """The whole gradient of `value` at θ by central differences, flat."""
    slopes = []
    for name, weight in theta.items():
        for i in range(weight.numel()):
            ends = []
            for sign in (1, -1):
                moved = weight.clone()
                moved.view(-1)[i] += sign * epsilon
                ends.append(value({**theta, name: moved}))
            slopes.append((ends[0] - ends[1]) / (2 * epsilon))
    return torch.tensor(slopes, dtype=torch.float64)


def flat(params: Params) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


class WithEverything(nn.Module):
    """A module with what real ones have: a frozen parameter, buffers, an unused parameter, tied weights, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        body = mk.models.mlp(1, 6, hidden=(6,), seed=3, dtype=torch.float64)
        self.body = body
        self.norm = nn.BatchNorm1d(6, dtype=torch.float64)
        self.again = mk.models.mlp(6, 6, hidden=(), seed=4, dtype=torch.float64)
        self.tied = self.again
        self.head = mk.models.mlp(6, 1, hidden=(), seed=5, dtype=torch.float64)
        self.frozen = nn.Parameter(torch.ones(1, dtype=torch.float64), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.offset: Tensor
        self.register_buffer("offset", torch.full((1,), 0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.body(x)))
        h = torch.tanh(self.tied(torch.tanh(self.again(h))))
        result: Tensor = self.head(h) * self.frozen + self.offset
        return result
