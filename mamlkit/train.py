"""The outer loop, equation (E4): θ ← θ − β ∇F(θ), with Adam's step on the meta-gradient."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices
from tqdm import tqdm

from mamlkit import checks
from mamlkit.checkpoint import Run, described
from mamlkit.cost import memory_warning
from mamlkit.curves import Curve, follow
from mamlkit.graphs import REPLAYS, Replayed
from mamlkit.inner import GRADIENT_DESCENT, Alpha, InnerLoop, InnerRule, step_sizes
from mamlkit.meta import KNOWN, OuterGradient, in_chunks, unchecked
from mamlkit.objective import Objective
from mamlkit.pure import Params
from mamlkit.tasks import TaskBatch, TaskDistribution, batches


@dataclass(frozen=True)
class Iteration:
    """One iteration of the outer loop; losses and gradient are those of θ before the iteration's update.

    loss_before, loss_after  mean query loss over the iteration's tasks, before and after adaptation
    grad_norm                Euclidean norm of the meta-gradient
    seconds                  training time up to here, that of the runs it was resumed from included
    training, validation     where `examine_every` asks for them: curves of the same θ on the "support" and the "query",
                             over the iteration's tasks and over tasks of the validation split; empty elsewhere.
                             `record.training["query"].accuracy.mean(0)` is the accuracy before, …, after adaptation
    """

    iteration: int
    loss_before: float
    loss_after: float
    grad_norm: float
    seconds: float
    training: Mapping[str, Curve]
    validation: Mapping[str, Curve]


def train(
    objective: Objective,
    tasks: TaskDistribution,
    *,
    alpha: Alpha,
    beta: float,
    iterations: int,
    steps: int = 1,
    order: int = 2,
    tasks_per_iteration: int = 25,
    route: str = "auto",
    rule: InnerRule = GRADIENT_DESCENT,
    outer: OuterGradient = unchecked,
    chunk: int | None = None,
    examine_every: int | None = None,
    examine_tasks: int = 100,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
) -> Iterator[Iteration]:
    """Meta-train the objective's model in place and yield an Iteration each time (Finn et al. 2017, Algorithm 2).

    Iteration i draws tasks i·n to (i + 1)·n of the "train" split, n = `tasks_per_iteration`, so no task comes twice.
    The model's parameters are θ, on the device and in the type that they have; `objective.theta()` copies them.

    alpha, steps, order, rule, chunk  as in `meta_gradient`; step sizes that require a gradient are learned, in place
    route        as in `meta_gradient`; "auto" is "vmap", with MAML's own gradient recorded as a graph where that can be
                 done and repays itself: "traced" from 300 iterations on, to the same bits, "compiled" from 20,000 on
    beta         step size β of Adam, the optimizer of the paper's experiments
    iterations   outer steps in all, those of a resumed checkpoint included
    outer        the gradient to descend along: MAML's, or another function of `meta_gradient`'s arguments
    examine_every  iterations from one examination to the next: each record carries the curves of its training tasks and
                   of `examine_tasks` tasks of the "validation" split; None for no examinations
    checkpoint   file to resume from if it exists, and to save to every `checkpoint_every` iterations and at the end;
                 a resumed run ends with the same bits as one left alone
    progress     show the time left, once a run takes longer than two seconds

    Warns once, before the first iteration, where its memory is predicted to be more than is free (see `cost`).
    Raises ValueError on bad settings and on a checkpoint of another run, CheckpointError on a damaged one, and
    FloatingPointError at the first meta-loss or meta-gradient that is not finite: θ is then as it was before that
    iteration, and the last checkpoint stays.
    """
    theta, learned = objective.parameters(), checks.learned(alpha)
    checks.settings(objective, theta, alpha, steps, order)
    counts = {"tasks_per_iteration": tasks_per_iteration, "checkpoint_every": checkpoint_every}
    counts |= {"iterations": iterations, "examine_tasks": examine_tasks}
    counts |= {} if examine_every is None else {"examine_every": examine_every}
    checks.training(alpha, beta, **counts)
    checks.route(route, (*KNOWN, "auto"))
    checks.chunk(chunk)
    trained = [*theta.values(), *learned.values()]
    place = trained[0].device
    optimizer = Adam(trained, beta)
    settings = {"alpha": alpha, "beta": beta, "steps": steps, "order": order}
    settings |= {"tasks_per_iteration": tasks_per_iteration}
    parts = {"tasks": tasks, "inner rule": rule, "outer gradient": outer}
    run = Run(checkpoint, objective, parts, settings)
    first, past = run.resume(theta, learned, optimizer)
    own = outer is unchecked  # what another does in Python, a graph would leave out, and what it takes is not known
    how = (repaid(iterations) if own else "vmap") if route == "auto" else route
    inner = {"alpha": alpha, "steps": steps, "order": order, "route": how, "rule": rule}

    def replayed(gradient: Callable[..., Any]) -> Callable[..., Any]:
        return Replayed(gradient, how, lenient=route == "auto", progress=progress) if how in REPLAYS else gradient

    # A graph takes the records' sums in, but for those over several chunks.
    whole = replayed(partial(_summed, outer)) if chunk is None else partial(_summed, in_chunks(replayed(outer), chunk))
    began = time.perf_counter() - past

    def examined(batch: TaskBatch) -> Mapping[str, Curve]:
        first_order = InnerLoop(step_sizes(alpha, theta, steps), 1, rule)
        return follow(objective, theta, batch, first_order, how, ("support", "query"))

    with tqdm(
        total=iterations, initial=first, desc="meta-training", delay=2, mininterval=1, disable=not progress
    ) as bar:
        drawn = batches(tasks, tasks_per_iteration, first, iterations, place)
        for iteration, batch in enumerate(drawn, first):
            if iteration == first:
                checks.tasks(batch)
                checks.observed(objective, theta, batch.task(0).support, order, how)
                if own and (much := memory_warning(objective, theta, batch, chunk, **inner)):
                    warnings.warn(much, stacklevel=2)
            result, sums = whole(objective, theta, batch, **inner)
            if iteration == first:
                checks.same_structure(result.grad, theta, "the outer gradient by θ")
                checks.same_structure(result.grad_alpha, learned, "the outer gradient by alpha")
            before, after, norm = sums.tolist()
            if not (math.isfinite(after) and math.isfinite(norm)):
                raise FloatingPointError(
                    f"iteration {iteration}: the meta-loss is {after} and the meta-gradient's norm {norm}; "
                    f"θ is left as it was before. Lower alpha (now {described(alpha)}) or beta (now {beta})"
                )
            due = examine_every is not None and iteration % examine_every == 0
            training = examined(batch) if due else {}
            validation = examined(tasks.batch(0, examine_tasks, "validation").to(place)) if due else {}
            optimizer.descend([*(result.grad[n] for n in theta), *(result.grad_alpha[n] for n in learned)])

            seconds, done = time.perf_counter() - began, iteration + 1
            if done % checkpoint_every == 0 or done == iterations:
                run.save(theta, learned, optimizer, done, seconds)
            bar.update()
            yield Iteration(iteration, before, after, norm, seconds, training, validation)


def repaid(iterations: int) -> str:
    """The route that is fastest in total; by the number of iterations alone, so that a run is the same everywhere."""
    return "compiled" if iterations >= 20_000 else "traced" if iterations >= 300 else "vmap"


class Adam(torch.optim.Adam):
    """PyTorch's Adam, told its gradients.

    The books that PyTorch keeps around the kernel take longer than a small network's step; where there is a kernel for
    all of it, it is called as PyTorch calls it, to the same bits.
    """

    def __init__(self, weights: list[Tensor], beta: float) -> None:
        kernels = _get_fused_kernels_supported_devices()
        fusible = all(weight.is_floating_point() and weight.device.type in kernels for weight in weights)
        self.at_once = fusible and len({(weight.device, weight.dtype) for weight in weights}) == 1
        super().__init__(weights, lr=beta, fused=fusible)

    @torch.no_grad()
    def descend(self, gradients: list[Tensor]) -> None:
        """One step along minus the gradients, which stand in the order of the weights."""
        [group] = self.param_groups
        weights = group["params"]
        if not (self.at_once and self.state):  # the first step makes the state
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            self.step()
            return self.zero_grad()
        mean, square, step = ([self.state[w][k] for w in weights] for k in ("exp_avg", "exp_avg_sq", "step"))
        settings = {name: group[name] for name in ("lr", "eps", "weight_decay", "amsgrad", "maximize")}
        b1, b2 = group["betas"]
        torch._foreach_add_(step, 1)
        torch._fused_adam_(weights, gradients, mean, square, [], step, beta1=b1, beta2=b2, **settings)
        return None


def _summed(outer: OuterGradient, objective: Objective, theta: Params, batch: TaskBatch, **inner: Any) -> Any:
    """An outer gradient, and [mean loss before, mean loss after, its norm] in one tensor, to be fetched at once."""
    result = outer(objective, theta, batch, **inner)
    before, after = result.loss_before.mean(), result.loss.mean()
    parts = pytree.tree_leaves((result.grad, result.grad_alpha))  # of whatever structure, which is checked afterwards
    norms = [torch.linalg.vector_norm(part).to(after) for part in parts if isinstance(part, Tensor)]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros_like(after)
    return result, torch.stack([before, after, norm])
