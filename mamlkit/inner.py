"""The inner loop, equation (E1): θ'ᵢ = θ − α ∇L(θ; Dᵢ)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mamlkit import checks
from mamlkit.objective import Objective
from mamlkit.pure import Params
from mamlkit.tasks import Batch

Alpha = float | Mapping[str, float | Tensor]  # α as it is given: see `adapt`
StepSizes = dict[str, Any]  # α of one step, by parameter: numbers or tensors


class InnerRule(NamedTuple):
    """How one inner step moves θ, as two pure functions; what it remembers from step to step is in its state.

    init  θ → state, tensors in dicts, lists and tuples
    step  (θ, gradient, α, state) → (θ, state) after the step, of the structure that they had before it. α holds the
          step size of each parameter by name: numbers, or tensors that the parameter can be multiplied with

    Both are written for one task; the kit maps them over all. Write them of differentiable operations: second order
    differentiates through them.
    """

    init: Callable[[Params], Any]
    step: Callable[[Params, Params, StepSizes, Any], tuple[Params, Any]]


def _descend(theta: Params, gradient: Params, alpha: StepSizes, state: Any) -> tuple[Params, Any]:
    return {name: weight - alpha[name] * gradient[name] for name, weight in theta.items()}, state


GRADIENT_DESCENT = InnerRule(init=lambda theta: (), step=_descend)


class InnerLoop(NamedTuple):
    """An inner loop: the step sizes of each of its steps, the order of its derivative, and its rule."""

    alphas: Sequence[StepSizes]
    order: int
    rule: InnerRule = GRADIENT_DESCENT


def adapt(
    objective: Objective,
    theta: Params,
    support: Batch,
    *,
    alpha: Alpha,
    steps: int = 1,
    order: int = 2,
    rule: InnerRule = GRADIENT_DESCENT,
) -> Params:
    """Adapt θ to one task: θ' = θ − α ∇L(θ; D), `steps` times (E1; Finn et al. 2017, Algorithm 1, line 6).

    theta    dict of parameters, each of its own shape
    support  Batch: x [points, ...], y [points, ...]
    alpha    the inner step size α ≥ 0: a number, or one a parameter by name, each a number or a tensor of the
             parameter's shape; with a first dimension of `steps` where they differ by step; 0 leaves a parameter alone
    steps    the number of gradient steps; with 0, θ' = θ
    order    2 keeps the graph through every inner gradient; 1 treats the gradients as constants (first-order MAML).
             θ' stays a function of θ and α either way, so the outer derivative is never zero.
    rule     what a step does with its gradient, where it is not plain descent

    Returns θ', shaped like theta. Raises ValueError on an empty, mismatched or non-finite support, a negative or
    misshapen alpha, negative steps, another order, and parameters that are not the model's. Works inside
    `torch.func.grad` and `jacrev` of all of θ; of less, and under `vmap`, `jvp` and `jacfwd`, whose derivatives PyTorch
    gets wrong or lacks, it is refused.
    """
    checks.settings(objective, theta, alpha, steps, order)
    checks.examples(support, "support")
    checks.observed(objective, theta, support, order, "loop")
    inner = prepared(InnerLoop(step_sizes(alpha, theta, steps), order, rule), stacked=False)
    *_, theta_prime = unroll(lambda theta: objective(theta, *support), theta, inner)
    return theta_prime


def unroll(loss: Callable[[Params], Tensor], theta: Params, inner: InnerLoop) -> Iterator[Params]:
    """θ, and what it is after each inner step: of one task, or of all at once.

    loss  θ → its loss on the support: a scalar for one task, [tasks] for all, where each θ is [tasks, ...]. The tasks
          do not share their θ, so the gradient of the losses' sum holds each task's own
    """
    state = inner.rule.init(theta)
    yield theta
    for alpha in inner.alphas:
        theta, state = step(loss, theta, state, alpha, inner)
        yield theta


def step(
    loss: Callable[[Params], Tensor], theta: Params, state: Any, alpha: StepSizes, inner: InnerLoop
) -> tuple[Params, Any]:
    """One inner step, from θ and the rule's state to what they are after it; `loss` as in `unroll`."""
    return inner.rule.step(theta, _gradient(loss, theta, inner.order), alpha, state)


def _gradient(loss: Callable[[Params], Tensor], theta: Params, order: int) -> Params:
    keep = order == 2 and torch.is_grad_enabled() and any(weight.requires_grad for weight in theta.values())
    with torch.enable_grad():
        theta = {n: weight if weight.requires_grad else weight.detach().requires_grad_() for n, weight in theta.items()}
        # A parameter that the loss does not touch gets a zero gradient, not an error.
        gradient = torch.autograd.grad(
            loss(theta).sum(), list(theta.values()), create_graph=keep, materialize_grads=True
        )
    return dict(zip(theta, gradient, strict=True))


def step_sizes(alpha: Alpha, theta: Params, steps: int) -> list[StepSizes]:
    """α of each step, by parameter. `theta` has no dimension of tasks."""
    if not isinstance(alpha, Mapping):
        return [dict.fromkeys(theta, alpha)] * steps
    differs = checks.by_step(alpha, {name: weight.shape for name, weight in theta.items()}, steps)
    return [
        {name: size[k] if isinstance(size, Tensor) and name in differs else size for name, size in alpha.items()}
        for k in range(steps)
    ]


def prepared(inner: InnerLoop, *, stacked: bool) -> InnerLoop:
    """An inner loop as `unroll` takes it: its rule over all tasks where these are stacked, its returns checked."""
    rule = inner.rule
    if rule is GRADIENT_DESCENT:
        return inner  # element by element, so that a dimension of tasks makes no difference
    step = vmap(rule.step, in_dims=(0, 0, None, 0)) if stacked else rule.step

    def init(theta: Params) -> Any:
        if not stacked:
            return checks.state(rule.init(theta), theta)
        checks.state(rule.init(one := {name: weight[0] for name, weight in theta.items()}), one)
        return vmap(rule.init)(theta)

    def checked(theta: Params, gradient: Params, alpha: StepSizes, state: Any) -> tuple[Params, Any]:
        return checks.moved(step(theta, gradient, alpha, state), theta, state)

    return inner._replace(rule=InnerRule(init, checked))
