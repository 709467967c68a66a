"""The exam: adaptation curves on tasks held out from training, with intervals over tasks and over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor
from torch.func import vmap

from mamlkit.inner import Objective, check_settings, descend
from mamlkit.meta import check_batch
from mamlkit.pure import Params, uses_batch_statistics
from mamlkit.tasks import TaskBatch, TaskDistribution

Z95 = 1.96  # two-sided 95% point of the normal law, as in the paper's intervals


@dataclass(frozen=True)
class Curve:
    """Query loss of each task after 0, 1, … inner steps.

    loss      [tasks, steps + 1]
    accuracy  [tasks, steps + 1], the share of query examples labelled right; None where labels are not classes
    statistics  whose statistics the model's batch norms used, "transductive" or "inductive"; None if it has none
    """

    loss: Tensor
    accuracy: Tensor | None = None
    statistics: str | None = None

    def mean(self) -> Tensor:
        """Mean loss over tasks: [steps + 1]."""
        return self.loss.mean(0)

    def ci95(self) -> Tensor:
        """Half-width of the 95% interval of that mean, over tasks: [steps + 1]."""
        return half_width(self.loss)

    def __str__(self) -> str:
        """Mean and 95% interval over tasks before adaptation and after the last step, in words."""
        tasks, points = self.loss.shape
        parts = [f"loss {_ends(self.loss)}"] + ([] if self.accuracy is None else [f"accuracy {_ends(self.accuracy)}"])
        norm = f"; batch norm: {self.statistics}" if self.statistics else ""
        return f"{tasks} tasks, 0 → {points - 1} steps: {', '.join(parts)}{norm}"


def _ends(values: Tensor) -> str:
    mean, half = values.mean(0), half_width(values)
    return " → ".join(f"{mean[step]:.3g} ± {half[step]:.2g}" for step in (0, -1))


class Difference(NamedTuple):
    """A mean difference over paired tasks and the half-width of its 95% interval."""

    mean: float
    ci95: float
    tasks: int


class Interval(NamedTuple):
    """A mean and the ends of its 95% interval, over n training runs or trials."""

    mean: float
    low: float
    high: float
    n: int


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
    statistics = objective.statistics if uses_batch_statistics(objective.model) else None
    return Curve(loss, None if accuracy.isnan().all() else accuracy, statistics)


def _judge(objective: Objective, theta: Params, task: TaskBatch) -> tuple[Tensor, Tensor]:
    """Query loss, and the share of query examples labelled right (NaN where labels are not classes)."""
    x, y = task.query
    prediction = objective.predict(theta, x, task.support.x)
    loss = objective.judge(prediction, y)
    if y.is_floating_point():
        return loss, torch.full_like(loss, math.nan)
    return loss, (prediction.argmax(-1) == y).to(loss.dtype).mean()


def half_width(values: Tensor) -> Tensor:
    """Half-width of the normal 95% interval of a mean over the first dimension: 1.96·s/√n.

    For the hundreds of tasks that one trained θ is examined on. It says how θ does on tasks like these, and nothing of
    what another training would find: that is `over_seeds`.
    """
    return Z95 * values.std(0) / math.sqrt(len(values))


def paired(a: Curve, b: Curve, *, step: int = -1) -> Difference:
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


def over_seeds(values: Iterable[float]) -> Interval:
    """95% interval of a mean over training runs: mean ± t·s/√n, with Student's t for n − 1 degrees of freedom.

    values  one number for each seed: a run's own mean over its tasks, or the difference of two runs of the same seed

    With ten seeds t is 2.26, with three 4.30: the normal law's 1.96 would promise too much. Raises ValueError for
    fewer than two values, and for one that is not finite.
    """
    runs = [float(value) for value in values]
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} value(s); an interval over seeds needs 2 or more: run more seeds")
    if bad := [run for run in runs if not math.isfinite(run)]:
        raise ValueError(f"{len(bad)} of {len(runs)} values are not finite ({bad[0]}); count such runs apart")
    mean, error = math.fsum(runs) / len(runs), stats.sem(runs)
    half = float(stats.t.ppf(0.975, len(runs) - 1) * error)
    return Interval(mean, mean - half, mean + half, len(runs))


def over_rate(successes: int, trials: int) -> Interval:
    """95% interval of a rate: Wilson's score interval (1927), which stays inside [0, 1] and is honest near its ends.

    Raises ValueError unless 0 ≤ successes ≤ trials and there is a trial.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(
            f"{successes} successes in {trials} trials; there must be 1 trial or more, and no more successes"
        )
    low, high = stats.binomtest(int(successes), int(trials)).proportion_ci(method="wilson")
    return Interval(successes / trials, float(low), float(high), int(trials))


def needed(difference: float, spread: float, *, pairs: bool = False, power: float = 0.8) -> int:
    """The smallest n, tasks or seeds, whose 95% t interval of a difference of means leaves out zero with some power.

    difference  the true difference to be found, in the units of spread
    spread      standard deviation of one value in each arm; with `pairs`, of the difference within a pair
    pairs       whether the n values of both arms come in pairs; otherwise each arm has n of its own
    power       the share of repetitions in which the interval must end on the right side of zero

    Raises ValueError for a difference or a spread that is not positive, and a power outside (0.025, 1).
    """
    if not (0 < difference < math.inf and 0 < spread < math.inf):
        raise ValueError(f"difference is {difference} and spread {spread}; both must be positive and finite")
    if not 0.025 < power < 1:
        raise ValueError(f"power is {power}; it must lie between 0.025, which is luck alone, and 1")
    arms, effect = (1 if pairs else 2), difference / spread

    def found(n: int) -> float:  # how often the t interval from n ends on the right side of zero
        freedom = arms * (n - 1)
        return float(stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, effect * math.sqrt(n / arms)))

    # Where the normal law would stop. Student's t asks for a few more, so the search is short.
    n = max(2, math.floor(arms * float((stats.norm.ppf(0.975) + stats.norm.ppf(power)) / effect) ** 2))
    while found(n) < power:
        n += 1
    return n
