"""The exam: adaptation curves on tasks held out from training, with intervals over tasks and over seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mamlkit.inner import Objective, check_settings, descend
from mamlkit.meta import check_batch
from mamlkit.pure import Params, uses_batch_statistics
from mamlkit.statistics import half_width
from mamlkit.tasks import TaskBatch, TaskDistribution


@dataclass(frozen=True)
class Curve:
    """Query loss of each task after 0, 1, … inner steps.

    loss      [tasks, steps + 1]
    accuracy  [tasks, steps + 1], the share of query examples labelled right; None where labels are not classes
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


def _ends(values: Tensor) -> str:
    mean, half = values.mean(0), half_width(values)
    return " → ".join(f"{mean[step]:.3g} ± {half[step]:.2g}" for step in (0, -1))


class Difference(NamedTuple):
    """A mean difference over paired tasks and the half-width of its 95% interval."""

    mean: float
    half_width: float
    tasks: int


def evaluate(
    objective: Objective,
    theta: Params,
    tasks: TaskDistribution,
    *,
    alpha: float,
    steps: int,
    split: str,
    size: int = 600,
    start: int = 0,
    route: str = "vmap",
    chunk: int = 200,
) -> Curve:
    """Adapt θ to `size` tasks of a split and judge each on its query after every step (no graph is kept).

    alpha, steps  of the inner loop at the test; more steps than in training are usual, and all are reported
    split         "validation" or "test", asked for by name
    size, start   tasks `start` to `start + size`; 600 in the paper
    route         "vmap", or "loop" for a model that vmap cannot take
    chunk         tasks computed at once

    Raises ValueError as `adapt` does. A task that diverges keeps its infinite or NaN loss, and the mean shows it.
    """
    check_settings(objective, theta, alpha, steps, order=1)
    if size < 2:
        raise ValueError(f"size is {size}; an interval over tasks needs 2 or more")

    def task_curve(task: TaskBatch) -> tuple[Tensor, Tensor]:
        theta_prime, judged = detached, []
        for step in range(steps + 1):
            if step:
                theta_prime = descend(objective, theta_prime, task.support, alpha, 1, order=1)
            judged.append(_judge(objective, theta_prime, task))
        losses, accuracies = zip(*judged, strict=True)
        return torch.stack(losses), torch.stack(accuracies)

    detached = {name: weight.detach() for name, weight in theta.items()}
    place = next(iter(detached.values())).device
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for first in range(start, start + size, chunk):
            batch = tasks.batch(first, min(chunk, start + size - first), split).to(place)
            check_batch(batch)
            if route == "vmap":
                parts.append(vmap(task_curve)(batch))
            elif route == "loop":
                columns = zip(*(task_curve(batch.task(i)) for i in range(batch.size)), strict=True)
                parts.append(tuple(torch.stack(column) for column in columns))  # type: ignore[arg-type]
            else:
                raise ValueError(f"route is {route!r}; it must be vmap or loop")
    loss, accuracy = (torch.cat(column) for column in zip(*parts, strict=True))
    statistics = objective.batch_norm if uses_batch_statistics(objective.model) else None
    return Curve(loss, None if accuracy.isnan().all() else accuracy, statistics)


def _judge(objective: Objective, theta: Params, task: TaskBatch) -> tuple[Tensor, Tensor]:
    """Query loss, and the share of query examples labelled right (NaN where labels are not classes)."""
    x, y = task.query
    prediction = objective.predict(theta, x, task.support.x)
    loss = objective.judge(prediction, y)
    if y.is_floating_point():
        return loss, torch.full_like(loss, math.nan)
    return loss, (prediction.argmax(-1) == y).to(loss.dtype).mean()


def paired_difference(a: Curve, b: Curve, *, step: int = -1) -> Difference:
    """Mean of a's loss minus b's after `step` inner steps, over the same tasks in the same order.

    Pairing removes the spread that tasks of different difficulty add to both. Raises ValueError if the numbers of
    tasks differ.
    """
    if len(a.loss) != len(b.loss):
        raise ValueError(
            f"one curve has {len(a.loss)} tasks and the other {len(b.loss)}; pair curves of the same tasks"
        )
    difference = a.loss[:, step] - b.loss[:, step]
    return Difference(difference.mean().item(), half_width(difference).item(), len(difference))
