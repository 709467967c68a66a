"""The exam: adaptation curves on tasks held out from training, and their differences."""

from __future__ import annotations

from typing import NamedTuple

from mamlkit import checks
from mamlkit.curves import Curve, follow, joined
from mamlkit.inner import GRADIENT_DESCENT, Alpha, InnerLoop, InnerRule, step_sizes
from mamlkit.meta import KNOWN
from mamlkit.objective import Objective
from mamlkit.pure import Params
from mamlkit.statistics import half_width
from mamlkit.tasks import TaskDistribution


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
    alpha: Alpha,
    steps: int,
    split: str,
    size: int = 600,
    start: int = 0,
    route: str = "vmap",
    rule: InnerRule = GRADIENT_DESCENT,
    chunk: int | None = 200,
) -> Curve:
    """Adapt θ to `size` tasks of a split and judge each on its query after every step (no graph is kept).

    alpha, steps, rule  of the inner loop at the test; more steps than in training are usual, and all are reported
    split         "validation" or "test", asked for by name
    size, start   tasks `start` to `start + size`; 600 in the paper
    route         as in `meta_gradient`: "loop" takes a model that vmap cannot
    chunk         tasks computed at once; None for all

    Raises ValueError as `adapt` does. A task that diverges keeps its infinite or NaN loss, and the mean shows it.
    """
    checks.settings(objective, theta, alpha, steps, order=1)
    checks.route(route, KNOWN)
    checks.chunk(chunk)
    if size < 2:
        raise ValueError(f"size is {size}; an interval over tasks needs 2 or more")
    inner = InnerLoop(step_sizes(alpha, theta, steps), 1, rule)
    place = next(iter(theta.values())).device
    curves = []
    chunk = chunk or size
    for first in range(start, start + size, chunk):
        batch = tasks.batch(first, min(chunk, start + size - first), split).to(place)
        checks.tasks(batch)
        checks.observed(objective, theta, batch.task(0).support, order=1, route=route)
        curves.append(follow(objective, theta, batch, inner, route, ("query",))["query"])
    return joined(curves)


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
