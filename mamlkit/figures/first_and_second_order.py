"""Figures of notebook 07: what first order leaves out, what it costs, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.figures.charts import Band, Points, Tensors, bars, flat, label, line, name_lines, strip, ticks
from mamlkit.figures.theme import FAILURE, FIRST_ORDER, LEVEL, MAML, NOTE, QUERY, THETA, TRUTH, canvas

ORDERS = {"first": FIRST_ORDER, "second": MAML}
MEMORY = {"second": MAML, "second, by parts": QUERY, "first": FIRST_ORDER}


class Progress(NamedTuple):
    """The error of one order's trainings on validation tasks, as they go on.

    name   of the order
    work   of one iteration, in the unit of the middle axis
    error  iterations done → [trainings]
    """

    name: str
    work: float
    error: Mapping[int, Tensor]


def angles(
    alphas: Tensor, net: Band, linear: Tensor, by_steps: Band, *, theory: Points, alpha: float, batches: int, title: str
) -> Figure:
    """1 − cosine between the first- and the second-order meta-gradient: left against α, right against inner steps.

    net       mean of 1 − cosine over batches and half-width, [alphas] each, of a network
    linear    [alphas], of linear tasks; `theory` is their closed form: step sizes and 1 − cosine
    by_steps  as `net`, for 1, 2, … steps at `alpha`
    """
    figure, (left, right) = canvas(1, 2, height=2.9, title=title)
    line(left, theory[0], theory[1], TRUTH, linewidth=1)
    left.plot(alphas, linear, **TRUTH.dots, markersize=5)
    bars(left, alphas, net, QUERY)
    _square(left, alphas, 0.2 * linear[0])
    _angle_axis(left, alphas, batches, room=12)
    label(left, "network", alphas[0], net[0][0], QUERY.color, dx=-7, ha="right")
    label(left, "linear tasks:\n× measured,\n— formula", alphas[-1], 4 * linear[0], TRUTH.color, dx=4, ha="right")
    mean, half = by_steps
    bars(right, range(1, len(mean) + 1), by_steps, QUERY)
    ticks(right.xaxis, range(1, len(mean) + 1))
    top = float((mean + half).max())
    right.set(xlabel=f"inner steps k, network at α = {alpha:g}", ylabel="1 − cosine", ylim=(0, 1.1 * top))
    label(right, "0: the same direction", len(mean), 0, dx=0, dy=7, ha="right", **NOTE)
    return figure


def angles_after_training(
    alphas: Tensor, curves: Mapping[str, Band], steepness: Tensors, *, alpha: float, batches: int, title: str
) -> Figure:
    """Left: 1 − cosine against α at several starts. Right: α·λmax of the support loss at those starts, a dot a task.

    curves     start → mean of 1 − cosine over batches and half-width, [alphas] each
    steepness  start → [tasks]
    """
    figure, (left, right) = canvas(1, 2, height=2.9, title=title)
    for i, (name, role) in enumerate(zip(curves, (THETA, FIRST_ORDER, MAML), strict=True)):
        bars(left, alphas, curves[name], role)
        label(left, name, alphas[0], curves[name][0][0], role.color, dx=-7, dy=(0, -4, 4)[i], ha="right")
        strip(right, i, steepness[name], role, torch.median, width=0.5)
    _angle_axis(left, alphas, batches, room=200)
    left.axvline(alpha, **LEVEL)
    label(left, "α in\ntraining", alpha, left.get_ylim()[0], dx=4, dy=13, **NOTE)
    for level, role, text in ((1, THETA, "a step\nsettles it"), (2, FAILURE, "a step\ndiverges")):
        right.axhline(level, **role.line, linewidth=1, label=text)
    ticks(right.xaxis, range(len(curves)), lambda i: list(curves)[i].replace(" ", "\n"))
    right.set(xlim=(-0.5, len(curves) - 0.5), ylim=(0, None))
    right.set_ylabel(f"α·λmax at α = {alpha:g}\n(a dot a task, bar: median)")
    name_lines(right)
    return figure


def two_orders(
    first: Progress,
    second: Progress,
    differences: Mapping[str, Band],
    *,
    floor: float,
    seeds: Sequence[int],
    tasks: int,
    title: str,
) -> Figure:
    """Validation error against iterations and against work, and the differences on test tasks, training by training.

    differences  what was held equal → first order's error minus second order's and the half-width over tasks, [seeds]
    floor        the error of the best function of x alone
    """
    figure, (left, middle, right) = canvas(1, 3, height=3.1, title=title)
    left.sharey(middle)
    for ax, cost in ((left, False), (middle, True)):
        for order, role in ((first, FIRST_ORDER), (second, MAML)):
            each = torch.stack([flat(values) for values in order.error.values()])  # [points, trainings]
            x = torch.tensor(list(order.error), dtype=torch.float64) * (order.work if cost else 1)
            for one in each.T:
                line(ax, x, one, role, linewidth=0.6, alpha=0.7)
            line(ax, x, each.mean(1), role, linewidth=2, label=order.name.replace(" ", "\n"))
        ax.axhline(floor, label="floor", **LEVEL)
        ax.set_xlim(0, 1.02 * float(x[-1]))
        ax.set_ylim(0, 1.25 * floor)
    name_lines(left)
    left.set(xlabel="meta-iterations", ylabel=f"query MSE, validation tasks\n(thick: mean of {len(seeds)} trainings)")
    end = max(first.error) * first.work
    middle.axvline(end, **LEVEL)
    label(middle, "equal work", end, 0, dx=3, dy=8, **NOTE)
    middle.set(xlabel="work, in 1,000 gradients\nof one task")
    middle.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}")
    for place, band in enumerate(differences.values()):
        spread = 0.14 * (torch.arange(len(seeds)) - (len(seeds) - 1) / 2)
        for i, shift in enumerate(spread.tolist()):
            role = QUERY if i == 0 else THETA
            bars(right, [place + shift], (band[0][i : i + 1], band[1][i : i + 1]), role)
    mean, half = next(iter(differences.values()))
    edge = 0.14 * (len(seeds) - 1) / 2
    label(right, f"seed {seeds[0]}", -edge, (mean + half).max(), QUERY.color, dx=0, dy=8, ha="center")
    if len(seeds) > 1:
        label(right, "other\nseeds", edge, mean[-1], THETA.color, dx=6)
    right.margins(y=0.15)
    right.axhline(0, color=TRUTH.color, linewidth=1)
    ticks(right.xaxis, range(len(differences)), lambda i: list(differences)[i])
    right.set(xlim=(-0.5, len(differences) - 0.5))
    right.set_ylabel(f"{first.name} − {second.name}\n({tasks} test tasks, bar: 95% interval)")
    return figure


def cost_of_inner_steps(counts: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Cost of a meta-gradient against inner steps, in units of one gradient; counts: "first" or "second" → [steps]."""
    figure, (ax,) = canvas(width=5.4, height=2.6, title=title)
    for order, count in counts.items():
        ax.plot(range(1, len(count) + 1), count, **ORDERS[order].joined)
        label(ax, f"{order} order", len(count), count[-1], ORDERS[order].color, dx=7)
    ticks(ax.xaxis, range(1, len(count) + 1))
    ax.set(xlabel="inner steps k", ylabel="matrix products of a task,\nin units of one gradient", ylim=(0, None))
    return figure


def memory_of_inner_steps(kept: Mapping[str, Mapping[int, int]], *, title: str) -> Figure:
    """Bytes kept for the way back against inner steps; kept: a way, as in MEMORY → inner steps → bytes."""
    figure, (ax,) = canvas(width=5.4, height=2.6, title=title)
    for way, by_steps in kept.items():
        sizes = [size / 1000 for size in by_steps.values()]
        ax.plot(list(by_steps), sizes, **MEMORY[way].joined)
        label(ax, way.replace("first", "first order").replace("second", "second order"), max(by_steps), sizes[-1],
              MEMORY[way].color, dx=7)  # fmt: skip
    ticks(ax.xaxis, next(iter(kept.values())))
    ax.set(xlabel="inner steps k", ylabel="kilobytes kept for the\nway back, one task", ylim=(0, None))
    return figure


def _square(ax: Axes, alphas: Tensor, at: float | Tensor) -> None:
    """A line of slope two, which 1 − cosine follows as α → 0, from the height `at` over the smallest α."""
    part = alphas[: len(alphas) // 2 + 1]
    ax.plot(part, flat(at) * (part / part[0]) ** 2, **LEVEL)
    label(ax, "∝ α²", part[-1], flat(at) * (part[-1] / part[0]) ** 2, dx=3, dy=-4, **NOTE)


def _angle_axis(ax: Axes, alphas: Tensor, batches: int, *, room: float) -> None:
    ax.set(xscale="log", yscale="log", xlabel="inner step size α")
    ax.set_xlim(float(alphas[0]) / room, 1.5 * float(alphas[-1]))
    ax.set_ylim(top=6)
    ticks(ax.xaxis, [10**power for power in range(-4, 0)])
    ax.axhline(1, **LEVEL)
    label(ax, "1: perpendicular", ax.get_xlim()[0], 1, dx=2, dy=6, **NOTE)
    ax.set_ylabel(f"1 − cosine (mean of {batches} batches,\nbar: 95% interval)")
