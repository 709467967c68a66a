"""Figures of notebook 07: what first order leaves out, what it costs, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.figures.charts import Band, Points, Tensors, Values, bars, flat, label, line, name_lines, strip, ticks
from mamlkit.figures.theme import FAILURE, FIRST_ORDER, MAML, QUERY, SUPPORT, THETA, TRUTH, canvas

WINDOW = 50  # iterations over which a training loss is averaged
ORDERS = {"first": FIRST_ORDER, "second": MAML}


def cosines(
    alphas: Tensor, net: Band, linear: Tensor, by_steps: Band, *, theory: Points, alpha: float, batches: int, title: str
) -> Figure:
    """Cosine between the first- and the second-order meta-gradient: left against α, right against inner steps.

    net       mean over batches and half-width, [alphas] each, of a network
    linear    [alphas], of linear tasks; `theory` is their closed form: step sizes and cosines
    by_steps  as `net`, for 1, 2, … steps at `alpha`; drawn as 1 − cosine
    """
    figure, (left, right) = canvas(1, 2, height=2.9, title=title)
    line(left, theory[0], theory[1], TRUTH, linewidth=1)
    left.plot(alphas, linear, **TRUTH.dots, markersize=5)
    label(left, "linear tasks:\n× measured, — formula", alphas[0], linear[0], TRUTH.color, dx=0, dy=-22)
    bars(left, alphas, net, QUERY)
    label(left, "network", alphas[0], net[0][0], QUERY.color, dx=0, dy=11)
    _cosine_axis(left, batches)
    mean, half = by_steps
    bars(right, range(1, len(mean) + 1), (1 - mean, half), QUERY)
    right.axhline(0, **THETA.line, linewidth=1)
    label(right, "the same direction", len(mean), 0, THETA.color, dx=0, dy=7, ha="right")
    right.set(xlabel=f"inner steps, network at α = {alpha:g}", ylabel="1 − cosine")
    return figure


def cosines_after_training(
    alphas: Tensor, curves: Mapping[str, Band], steepness: Tensors, *, alpha: float, batches: int, title: str
) -> Figure:
    """Left: the cosine against α at several starts. Right: α·λmax of the support loss at those starts, a dot a task.

    curves     start → mean over batches and half-width, [alphas] each
    steepness  start → [tasks]
    """
    figure, (left, right) = canvas(1, 2, height=2.9, title=title)
    for i, (name, role) in enumerate(zip(curves, (THETA, FIRST_ORDER, MAML), strict=True)):
        bars(left, alphas, curves[name], role)
        left.plot([], [], **role.joined, label=name)
        strip(right, i, steepness[name], role, torch.median, width=0.5)
    left.legend(loc="lower left")
    left.axvline(alpha, color=TRUTH.color, linewidth=0.8)
    _cosine_axis(left, batches)
    label(left, "α of the training", alpha, left.get_ylim()[1], TRUTH.color, dx=0, dy=6, ha="center")
    for level, role, text in ((1, THETA, "a step settles it"), (2, FAILURE, "a step diverges")):
        right.axhline(level, **role.line, linewidth=1, label=text)
    ticks(right.xaxis, range(len(curves)), lambda i: list(curves)[i])
    right.set(xlim=(-0.5, len(curves) - 0.5), ylim=(0, None))
    right.set_ylabel(f"α·λmax at α = {alpha:g}\n(a dot a task, bar: median)")
    name_lines(right)
    return figure


def two_orders(
    training: Mapping[str, Mapping[str, Values]], differences: Mapping[str, Band], *, first: str, tasks: int, title: str
) -> Figure:
    """Left: query loss after adaptation during training. Right: first order's loss minus second order's, unseen tasks.

    training     setting → "first" or "second" → losses, one an iteration
    first        what is held against second order, by name
    differences  setting → mean paired difference after 0, 1, … steps and the half-width of its 95% interval
    """
    figure, (left, right) = canvas(1, 2, height=3.0, title=title)
    for setting, runs in training.items():
        ends = []
        for order, losses in runs.items():
            width = min(WINDOW, len(losses))
            smooth = flat(losses).unfold(0, width, 1).mean(1)
            line(left, torch.arange(len(smooth)) + width, smooth, ORDERS[order])
            ends.append(float(smooth[-1]))
        label(left, setting, len(losses), sum(ends) / len(ends), TRUTH.color, dx=3)
    for order, name in (("first", first), ("second", "second order")):
        left.plot([], [], **ORDERS[order].line, label=name)
    left.legend(loc="upper right")
    left.axhline(0, color=TRUTH.color, linewidth=1)
    label(left, "a perfect fit", 0, 0, TRUTH.color, dx=0, dy=7)
    left.set(xlabel="meta-iteration", ylim=(-0.1, None))
    left.set_ylabel(f"training tasks: query MSE after\nadapting (mean of last {WINDOW})")
    for (name, curve), role in zip(differences.items(), (QUERY, SUPPORT), strict=False):
        bars(right, range(len(curve[0])), curve, role)
        label(right, name, len(curve[0]) - 1, curve[0][-1], role.color, dx=6)
    right.axhline(0, color=TRUTH.color, linewidth=1)
    label(right, "no difference", len(curve[0]) - 1, 0, TRUTH.color, dx=0, dy=-9, ha="right")
    right.set_xlabel("inner steps at the test")
    right.set_ylabel(f"{first} − second order,\nMSE ({tasks} unseen tasks, bar: 95%)")
    return figure


def cost_of_inner_steps(counts: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Cost of a meta-gradient against inner steps, in units of one gradient; counts: "first" or "second" → [steps]."""
    figure, (ax,) = canvas(width=5.4, height=2.6, title=title)
    for order, count in counts.items():
        ax.plot(range(1, len(count) + 1), count, **ORDERS[order].joined)
        label(ax, f"{order} order", len(count), count[-1], ORDERS[order].color, dx=7)
    ticks(ax.xaxis, range(1, len(count) + 1))
    ax.set(xlabel="inner steps", ylabel="matrix products of a task,\nin units of one gradient", ylim=(0, None))
    return figure


def _cosine_axis(ax: Axes, batches: int) -> None:
    ax.axhline(1, **THETA.line, linewidth=1)
    ax.axhline(0, color=THETA.color, linewidth=0.8)
    ax.set(xscale="log", xlabel="inner step size α", ylim=(min(-0.05, ax.get_ylim()[0]), 1.05))
    ax.set_ylabel(f"cosine (mean of {batches} batches,\nbar: 95% interval)")
