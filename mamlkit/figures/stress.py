"""Figures of notebook 09: where adaptation and training break, and what the curvature has to do with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.curves import Curve
from mamlkit.figures.charts import bars, flat, label, line, name_lines, rows, strip, ticks
from mamlkit.figures.theme import CLEAR, FAILURE, LEVEL, MAML, NOTE, QUERY, THETA, TRUTH, canvas

Cell = tuple[float, int]  # α and the number of inner steps
HARM = LinearSegmentedColormap.from_list("harm", ["white", FAILURE.color, TRUTH.color])


def stress_map(
    alphas: Tensor, worse: Tensor, edges: Tensor, alpha: float, climbed: Mapping[str, Sequence[Tensor]], *, title: str
) -> Figure:
    """Where adaptation breaks: the share of tasks left worse off, over α and steps, and the share over α·λmax.

    alphas     inner step sizes, [alphas]
    worse      share of tasks whose query error is above its start, [alphas, steps], from one step on
    edges      2/λmax of each task's support loss at the start, [tasks]
    alpha      the α of the training
    climbed    name to (α·λmax, share of supports whose loss is above its start, half-width of its 95% interval)
    """
    figure, (chart, ax) = canvas(1, 2, height=2.9, title=title)
    count = worse.shape[1]
    mesh = chart.pcolormesh(alphas.cpu(), range(1, count + 1), worse.T.cpu(), cmap=HARM, vmin=0, vmax=1)
    figure.colorbar(mesh, ax=chart, pad=0.02, label=f"share of {len(edges)} tasks left worse off")
    chart.plot(alpha, 0.72, marker="^", color=MAML.color, markersize=8, clip_on=False)
    label(chart, "α in training", alpha, 0.72, dx=-8, dy=5, ha="right", bbox={**CLEAR, "alpha": 0.8}, **NOTE)
    chart.set(xscale="log", xlabel="inner step size α", ylabel="inner steps")
    grid = [tick * 10.0**power for power in range(-6, 3) for tick in (1, 3)]
    ticks(chart.xaxis, (tick for tick in grid if float(alphas.min()) <= tick <= float(alphas.max())))
    ticks(chart.yaxis, (k for k in (1, 2, 3, 5, 10, 20) if k <= count))
    _edges(chart, flat(edges), "2/λmax: 5, 50, 95% of tasks")
    for (name, (product, share, half)), role in zip(climbed.items(), (QUERY, FAILURE, THETA), strict=False):
        seen = share.isfinite()  # no task at any α has its product in the other bins
        bars(ax, product[seen], (share[seen], half[seen]), role)
        line(ax, product[seen][-1:], share[seen][-1:], role, label=name)
    ax.axvline(2, **LEVEL)
    label(ax, "predicted: 2", 2, 0.8, dx=-8, ha="right", **NOTE)
    ax.set(xscale="log", xlabel=f"α·λmax ({len(edges)} tasks, each at every α)", ylim=(-0.03, 1.12))
    ax.set_ylabel("share of supports whose loss\nclimbs above its start (bar: 95%)")
    ticks(ax.xaxis, (0.25, 0.5, 1, 2, 4, 8, 16), lambda product: str(Fraction(product)))
    name_lines(ax)
    return figure


def curvature_of_starts(products: Mapping[float, tuple[Tensor, Tensor]], *, title: str) -> Figure:
    """α·λmax over tasks, of the random start and of the start that was trained with that α.

    products  α to (random start's, trained start's), each [tasks]
    """
    figure, (ax,) = canvas(height=2.7, title=title)
    for place, pair in enumerate(products.values()):
        for values, shift, role in zip(pair, (-0.12, 0.12), (THETA, MAML), strict=True):
            strip(ax, place + shift, values, role, torch.median, width=0.16)
    for (name, role), values in zip((("random start", THETA), ("trained with this α", MAML)), pair, strict=True):
        label(ax, name, place + 0.4, values.median(), role.color, dx=5)
    ax.axhline(2, **LEVEL)
    label(ax, "the edge: 2", -0.4, 2, TRUTH.color, dx=2, dy=6)
    ax.set(yscale="log", xlim=(-0.4, place + 0.4), xlabel="inner step size α")
    ax.set_ylabel(f"α·λmax at the start\n({len(values)} tasks; bar: median)")
    ticks(ax.xaxis, range(len(products)), lambda place: f"{list(products)[place]:g}")
    ticks(ax.yaxis, (0.03, 0.1, 0.3, 1, 2, 4))
    return figure


def training_map(
    worst: Mapping[Cell, float], stopped: Mapping[Cell, int], edges: Tensor, *, title: str, iterations: int
) -> Figure:
    """The largest outer loss in the first iterations of meta-training, over α and inner steps.

    worst    (α, steps) to the largest outer loss
    stopped  (α, steps) to the iteration at which training stopped itself
    edges    2/λmax of each task at the random start, [tasks]
    """
    figure, (ax,) = canvas(height=2.5, title=title)
    alphas, steps = sorted({alpha for alpha, _ in worst}), sorted({k for _, k in worst})
    shade = np.empty((len(steps), len(alphas)))
    for row, k in enumerate(steps):
        for column, alpha in enumerate(alphas):
            loss, lost = worst[alpha, k], (alpha, k) in stopped
            shade[row, column] = 20 if lost else min(math.log10(max(loss, 1e-3)), 20)
            text = f"{loss:.1f}" if loss < 100 else f"$10^{{{math.log10(loss):.0f}}}$" if math.isfinite(loss) else "∞"
            text = f"stopped at\niteration {stopped[alpha, k]}" if lost else text
            ax.text(column, row, text, ha="center", va="center", fontsize=7.5, bbox={**CLEAR, "alpha": 0.8})
    mesh = ax.pcolormesh(range(len(alphas)), range(len(steps)), shade, cmap=HARM, vmin=0.5, vmax=12)
    figure.colorbar(mesh, ax=ax, pad=0.02, extend="max", label="log₁₀ of the largest\nouter loss")
    # Columns are even in their number, not in α: an edge stands between them by its logarithm.
    columns = np.interp(flat(edges).log(), np.log(alphas), range(len(alphas)), left=-0.5, right=len(alphas) - 0.5)
    _edges(ax, torch.from_numpy(columns), "2/λmax of the random start: 5, 50, 95% of tasks")
    ticks(ax.xaxis, range(len(alphas)), lambda column: f"{alphas[column]:g}")
    ticks(ax.yaxis, range(len(steps)), lambda row: f"{steps[row]}")
    ax.set(xlabel=f"inner step size α (each cell: {iterations} outer iterations)", ylabel="inner steps")
    return figure


def _edges(ax: Axes, places: Tensor, name: str) -> None:
    """Vertical lines at which 5, 50 and 95% of tasks have their edge, and the name of the three above them."""
    low, middle, high = places.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=places.dtype)).tolist()
    ax.axvline(middle, color=QUERY.color)
    for place in (low, high):
        ax.axvline(place, color=QUERY.color, linestyle=LEVEL["linestyle"])
    label(ax, name, middle, ax.get_ylim()[1], dx=0, dy=6, ha="center", **{**NOTE, "color": QUERY.color})


class Condition(NamedTuple):
    """How a start fares in a condition: α·λmax over tasks, and error after a step over error before it, with 95%."""

    product: Tensor  # [tasks]
    trained: tuple[float, float]  # ratio and half-width, at the α of the training
    scaled: tuple[float, float]  # the same at the α that the curvature asks for


def conditions(by_name: Mapping[str, Condition], *, title: str) -> Figure:
    """α·λmax on the supports of several conditions, and what one step does to the query error there."""
    figure, (left, right) = canvas(1, 2, height=0.9 + 0.3 * len(by_name), title=title)
    for row, (product, trained, scaled) in enumerate(by_name.values()):
        low, middle, high = flat(product).quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
        left.plot([low, high], [row, row], **QUERY.line)
        left.plot(middle, row, **QUERY.dots, markersize=5)
        for shift, role, (ratio, half) in ((-0.13, FAILURE, trained), (0.13, MAML, scaled)):
            right.errorbar(ratio, row + shift, xerr=half, **role.dots, markersize=5)
    label(right, "trained α", trained[0], row - 0.13, FAILURE.color, dx=-8, ha="right")
    label(right, "scaled α", scaled[0], row + 0.13, MAML.color, dx=-8, ha="right")
    for ax, edge, text, first in ((left, 2, "2 ", 0.5), (right, 1, "helps ", 0.25)):
        rows(ax, by_name, above=0.9)
        ax.axvline(edge, **LEVEL)
        label(ax, text, edge, -0.55, dx=-2, ha="right", **NOTE)
        ax.set_xscale("log")
        places = (0.25, 0.5, 1, 2, 4, 8, 16)
        ticks(ax.xaxis, (place for place in places if place >= first), lambda place: str(Fraction(place)))
    label(right, " harms", 1, -0.55, dx=2, **NOTE)
    right.tick_params(labelleft=False)
    left.set_xlabel(f"α·λmax on the support\n(median and 5 to 95% of {len(product)} tasks)")
    right.set_xlabel("query error after a step / before it\n(bar: 95% interval over tasks)")
    return figure


def errors_by_width(curves: Mapping[str, Curve], *, title: str) -> Figure:
    """Query error before and after one step, a row for each distribution over tasks, trained and examined on it.

    At the end of each row stands what the step gains.
    """
    figure, (ax,) = canvas(height=2.0, title=title)
    for row, curve in enumerate(curves.values()):
        mean, half = flat(curve.mean()), flat(curve.half_width())
        ax.plot(mean[:2], [row, row], color=MAML.color, linewidth=1)
        for step, (name, role, size) in enumerate((("before", THETA, 8), ("after", MAML, 5))):
            ax.errorbar(mean[step], row, xerr=half[step], **role.dots, markersize=size)
            if row == 0:
                label(ax, name, mean[step], row, role.color, dx=0, dy=12, ha="center")
        gain = round(float(mean[0] - mean[1]), 2) + 0.0  # adding 0 takes the sign off −0
        label(ax, f"gain {gain:.2f}", (mean + half)[:2].max(), row, dx=8, **NOTE)
    rows(ax, curves, above=0.8)
    ax.set(xlim=(-0.05, None), xlabel=f"query MSE (mean of {len(curve.loss)} tasks; bar: 95% interval)")
    return figure
