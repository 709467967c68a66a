"""Adaptation curves: the loss and the accuracy of each task after 0, 1, … inner steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mamlkit import checks
from mamlkit.inner import InnerLoop, prepared, unroll
from mamlkit.objective import Objective
from mamlkit.pure import Params, uses_batch_statistics
from mamlkit.statistics import half_width
from mamlkit.tasks import TaskBatch


@dataclass(frozen=True)
class Curve:
    """Loss of each task on one part of its data, its query as a rule, after 0, 1, … inner steps.

    loss      [tasks, steps + 1]
    accuracy  [tasks, steps + 1], the share of examples labelled right; None where labels are not classes
    batch_norm  whose statistics the model's batch norms used, "transductive" or "inductive"; None if it has none
    """

    loss: Tensor
    accuracy: Tensor | None = None
    batch_norm: str | None = None

    def mean(self) -> Tensor:
        """Mean loss over tasks: [steps + 1]."""
        return self.loss.mean(0)

    def half_width(self) -> Tensor:
        """Half-width of the 95% interval of that mean, over tasks: [steps + 1]."""
        return half_width(self.loss)

    def __str__(self) -> str:
        """Mean and 95% interval over tasks before adaptation and after the last step, in words."""
        tasks, points = self.loss.shape
        parts = [f"loss {_ends(self.loss)}"] + ([] if self.accuracy is None else [f"accuracy {_ends(self.accuracy)}"])
        norm = f"; batch norm: {self.batch_norm}" if self.batch_norm else ""
        return f"{tasks} tasks, 0 → {points - 1} steps: {', '.join(parts)}{norm}"


def follow(
    objective: Objective, theta: Params, tasks: TaskBatch, inner: InnerLoop, route: str, parts: Sequence[str]
) -> dict[str, Curve]:
    """Adapt θ to each task, and examine it on `parts` of the task's data before the first step and after each.

    parts  names among "support" and "query"
    route  as in `meta_gradient`: the same inner loop, of which no graph is kept
    """
    stacked = checks.stacked(route)
    judged: Callable[..., tuple[Tensor, Tensor]] = vmap(objective.judged) if stacked else objective.judged
    inner = prepared(inner, stacked=stacked)

    def examined(theta: Params, tasks: TaskBatch) -> list[tuple[Tensor, Tensor]]:
        """Loss and prediction of each part, θ after θ."""
        path = unroll(lambda theta: judged(theta, *tasks.support)[0], theta, inner)
        return [judged(theta, *getattr(tasks, part), tasks.support.x) for theta in path for part in parts]

    theta = {name: weight.detach() for name, weight in theta.items()}
    with torch.no_grad():
        if stacked:
            found = examined({n: weight.expand(tasks.size, *weight.shape) for n, weight in theta.items()}, tasks)
        else:
            alone = [examined(theta, tasks.task(i)) for i in range(tasks.size)]
            found = [
                (torch.stack([task[place][0] for task in alone]), torch.stack([task[place][1] for task in alone]))
                for place in range(len(alone[0]))
            ]
    norm = objective.batch_norm if uses_batch_statistics(objective.model) else None
    left_out = _ignored(objective.loss)
    return {
        part: _curve(found[i :: len(parts)], getattr(tasks, part).y, norm, left_out) for i, part in enumerate(parts)
    }


def joined(curves: Sequence[Curve]) -> Curve:
    """The curves of several groups of tasks as one."""
    accuracies = [curve.accuracy for curve in curves if curve.accuracy is not None]
    loss = torch.cat([curve.loss for curve in curves])
    return Curve(loss, torch.cat(accuracies) if accuracies else None, curves[0].batch_norm)


def _ignored(loss: Any) -> int:
    """The label that a loss leaves out: that of a module, or that which a partial was given, else PyTorch's −100."""
    return int(getattr(loss, "keywords", {}).get("ignore_index", getattr(loss, "ignore_index", -100)))


def _curve(found: Sequence[tuple[Tensor, Tensor]], y: Tensor, norm: str | None, left_out: int) -> Curve:
    rates = [rate for _, prediction in found if (rate := _accuracy(prediction, y, left_out)) is not None]
    loss = torch.stack([loss for loss, _ in found], 1)
    return Curve(loss, torch.stack(rates, 1) if rates else None, norm)


def _accuracy(prediction: Tensor, y: Tensor, left_out: int) -> Tensor | None:
    """The share of labels y [tasks, points, ...] that the logits [tasks, points, classes, ...] get right: [tasks].

    A label that is no class, as one that the loss ignores, does not count. None where y holds no classes, or a task has
    no label that counts.
    """
    fitting = (*y.shape[:2], *prediction.shape[2:3], *y.shape[2:])
    if y.is_floating_point() or y.is_complex() or prediction.shape != fitting:
        return None
    counted = (y >= 0) & (y < prediction.shape[2]) & (y != left_out)
    right = ((prediction.argmax(2) == y) & counted).flatten(1).sum(1)
    total = counted.flatten(1).sum(1).to(prediction.dtype)
    return right / total if total.all() else None


def _ends(values: Tensor) -> str:
    mean, half = values.mean(0), half_width(values)
    return " → ".join(f"{mean[step]:.3g} ± {half[step]:.2g}" for step in (0, -1))
