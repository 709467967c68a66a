"""The meta-gradient, equations (E2) and (E3): F(θ) = (1/n) Σᵢ L(θ'ᵢ; D'ᵢ) and ∇F(θ).

A route is a way to compute it, never another quantity: each is one function of the same signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.func import vmap

from mamlkit import checks
from mamlkit.graphs import REPLAYS, Replayed
from mamlkit.inner import GRADIENT_DESCENT, Alpha, InnerLoop, InnerRule, prepared, step, step_sizes, unroll
from mamlkit.objective import Objective
from mamlkit.pure import Params
from mamlkit.tasks import TaskBatch


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
    chunk: int | None = None,
) -> MetaGradient:
    """∇F(θ), the gradient of the mean query loss after adaptation (E3; Finn et al. 2017, Algorithm 2, line 10).

    batch  TaskBatch of tensors [tasks, points, ...]: θ'ᵢ is found on the support and judged on the query
    alpha, steps, order, rule  as in `adapt`; step sizes that require a gradient get theirs in `grad_alpha`
    route  "vmap": all tasks at once; "loop": one task at a time, the plain reference; "flat" and "flat-loop": the same
           by a backward recursion, whose memory hardly grows with the steps; "traced" and "compiled": "vmap" as one
           graph, which is made at the first call for these shapes and settings (see `graphs`)
    chunk  so many tasks at a time, whose mean is taken afterwards: memory for so many is enough; None for all

    The mean over tasks is taken where the paper writes a sum, so that β means the same for any number of tasks.
    Raises ValueError on bad settings, and on a support or query that is empty, mismatched or not finite.
    """
    refuse(objective, theta, batch, alpha, steps, order, route, chunk)
    outer = unchecked if route in ROUTES else objective.replays.setdefault(route, Replayed(unchecked, route))
    gradient = in_chunks(outer, chunk)
    return gradient(objective, theta, batch, alpha=alpha, steps=steps, order=order, route=route, rule=rule)


def refuse(
    objective: Objective,
    theta: Params,
    batch: TaskBatch,
    alpha: Alpha,
    steps: int,
    order: int,
    route: str,
    chunk: int | None,
) -> None:
    """Refuse what `meta_gradient` cannot compute, or not rightly."""
    checks.settings(objective, theta, alpha, steps, order)
    checks.tasks(batch)
    checks.route(route, KNOWN)
    checks.chunk(chunk)
    checks.observed(objective, theta, batch.task(0).support, order, route)


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


def in_chunks(outer: OuterGradient, chunk: int | None) -> OuterGradient:
    """The mean that an outer gradient takes over tasks, found `chunk` tasks at a time."""

    def gradient(objective: Objective, theta: Params, batch: TaskBatch, **settings: Any) -> MetaGradient:
        return averaged([outer(objective, theta, part, **settings) for part in batch.chunks(chunk or batch.size)])

    return outer if chunk is None else gradient


def averaged(parts: Sequence[MetaGradient]) -> MetaGradient:
    """The meta-gradient over all tasks of several groups: each counts by its number of tasks."""
    losses, grads, before, grads_alpha = zip(*parts, strict=True)
    shares = [len(loss) / sum(map(len, losses)) for loss in losses]

    def mean(named: Sequence[Params]) -> Params:
        return {n: torch.stack([s * part[n] for s, part in zip(shares, named, strict=True)]).sum(0) for n in named[0]}

    return MetaGradient(torch.cat(losses), mean(grads), torch.cat(before), mean(grads_alpha))


# L(θ; D) as a function of θ: of one task, a scalar, or of all, [tasks].
Loss = Callable[[Params], Tensor]
# What differentiates: (L on the support, L on the query, θ, …) → (loss, its mean's ∇ by θ and by what is learned of α).
Through = Callable[[Loss, Loss, Params, InnerLoop, Params], Any]


def unrolled(support: Loss, query: Loss, theta: Params, inner: InnerLoop, learned: Params) -> Any:
    """Autograd through the whole inner loop, whose every step it keeps."""
    *_, theta_prime = unroll(support, theta, inner)
    loss = query(theta_prime)
    return loss, *_gradients(loss.mean(), None, theta, learned)


def backwards(support: Loss, query: Loss, theta: Params, inner: InnerLoop, learned: Params) -> Any:
    """One inner step at a time, from the last to the first: the memory of one step and of the path of θ.

    With θ₀ = θ, θⱼ₊₁ = θⱼ − α ∇L(θⱼ; D) and θ' = θₖ, the chain rule for ∇θ L(θ'; D') is a recursion:

        λₖ = ∇L(θₖ; D'),    λⱼ = (∂θⱼ₊₁/∂θⱼ)ᵀ λⱼ₊₁ = λⱼ₊₁ − α H(θⱼ; D) λⱼ₊₁,    ∇θ L(θ'; D') = λ₀

    Each λⱼ needs θⱼ alone, so the path is walked first without a graph, and the graph of one step at a time is made
    and dropped on the way back. The price is a second walk. With another inner rule its state stands beside θ, and α,
    where it is learned, collects λᵀ ∂θⱼ₊₁/∂α from each step. (Kemaev et al. 2025, arXiv 2505.00793, recur likewise,
    with forward over reverse.)
    """
    at: tuple[Params, Any] = (theta, inner.rule.init(theta))
    path = []
    with torch.no_grad():
        for alpha in inner.alphas:
            path.append(at)
            at = step(support, *at, alpha, inner)
    at = _leaves(at)
    loss = query(at[0])
    pulled, grad_alpha = _gradients(loss.mean(), None, at, learned)
    for before, alpha in zip(reversed(path), reversed(inner.alphas), strict=True):
        at = _leaves(before)
        pulled, more = _gradients(step(support, *at, alpha, inner), pulled, at, learned)
        grad_alpha = {name: grad_alpha[name] + more[name] for name in more}
    theta = _leaves(theta)
    return loss, _gradients((theta, inner.rule.init(theta)), pulled, theta, {})[0], grad_alpha


def loop(
    objective: Objective, theta: Params, batch: TaskBatch, inner: InnerLoop, learned: Params, through: Through
) -> MetaGradient:
    """One task at a time: ∇F is the mean of the tasks' gradients."""
    inner, found = prepared(inner, stacked=False), []
    for support, query in map(batch.task, range(batch.size)):
        judge = partial(_on, objective, (*query, support.x))
        loss, grad, grad_alpha = through(partial(_on, objective, support), judge, theta, inner, learned)
        with torch.no_grad():
            found.append(MetaGradient(loss.detach()[None], grad, judge(theta)[None], grad_alpha))
    return averaged(found)


def vmapped(
    objective: Objective, theta: Params, batch: TaskBatch, inner: InnerLoop, learned: Params, through: Through
) -> MetaGradient:
    """All tasks at once: ∇F is the gradient of the tasks' mean loss.

    Only the forward pass is mapped. Derivatives are taken outside, so that none goes through a batching rule, of which
    PyTorch has wrong ones (pytorch/functorch#534).
    """
    support, query = batch
    # Methods have a name, which vmap asks for; the object itself would be named by printing its whole model.
    each, shared = vmap(objective.__call__), vmap(objective.__call__, in_dims=(None, 0, 0, 0))
    start = {name: weight.expand(batch.size, *weight.shape) for name, weight in theta.items()}
    judge = partial(_on, each, (*query, support.x))
    loss, grad, grad_alpha = through(partial(_on, each, support), judge, start, prepared(inner, stacked=True), learned)
    with torch.no_grad():
        before = shared(theta, *query, support.x)
    return MetaGradient(loss.detach(), {name: part.sum(0) for name, part in grad.items()}, before, grad_alpha)


def _on(loss: Callable[..., Tensor], data: Sequence[Tensor], theta: Params) -> Tensor:
    """L(θ; D) as a function of θ alone."""
    return loss(theta, *data)


def _gradients(outputs: Any, by_outputs: Any, inputs: Any, learned: Params) -> Any:
    """(∂outputs/∂inputs)ᵀ by_outputs, where None stands for 1, shaped like the inputs; and the same by α."""
    flat = pytree.tree_leaves(outputs)
    pairs = [pair for pair in zip(flat, pytree.tree_leaves(by_outputs), strict=True) if pair[0].requires_grad]
    sources, structure = pytree.tree_flatten((inputs, learned))
    found = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            [source for source in sources if source.requires_grad],
            [given for _, given in pairs],
            materialize_grads=True,  # zero by a parameter that the outputs do not touch
        )
    )
    return pytree.tree_unflatten([next(found) if source.requires_grad else source for source in sources], structure)


def _leaves(tree: Any) -> Any:
    """The same tensors with nothing behind them, to be differentiated by."""
    return pytree.tree_map(
        lambda part: part.detach().requires_grad_(part.is_floating_point() or part.is_complex()), tree
    )


ROUTES: dict[str, partial[MetaGradient]] = {
    "vmap": partial(vmapped, through=unrolled),
    "loop": partial(loop, through=unrolled),
    "flat": partial(vmapped, through=backwards),
    "flat-loop": partial(loop, through=backwards),
}
KNOWN = (*ROUTES, *REPLAYS)  # every name of a route
