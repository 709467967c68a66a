"""Figures of notebook 04: the average wave, the choice of α, and longer pooled training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.figures.charts import (
    STARTS,
    Numbers,
    Values,
    bars,
    flat,
    label,
    levels,
    line,
    name_lines,
    over_tasks,
    point_out,
    step_style,
    ticks,
)
from mamlkit.figures.theme import CLEAR, FAILURE, QUERY, THETA, TRUTH, canvas


def average_wave(x: Tensor, waves: Tensor, average: Tensor, typical: Tensor, learned: Tensor, *, title: str) -> Figure:
    """Some tasks' waves, their average, the wave of average amplitude and phase, and what a pooled network learned.

    x, average, typical, learned  [points, 1]
    waves                         [points, tasks]
    """
    figure, (ax,) = canvas(height=2.9, title=title)
    ax.plot(flat(x), waves.cpu(), color=THETA.color, alpha=0.25, linewidth=0.8)
    line(ax, x, average, TRUTH, linewidth=3.2)
    line(ax, x, typical, QUERY, linestyle=(0, (4, 1.5, 1, 1.5)))
    line(ax, x, learned, FAILURE, linewidth=2)
    top = float(waves.abs().max())
    ax.set(xlabel="x", ylabel="y", ylim=(-1.1 * top, 1.5 * top))
    ax.margins(x=0)
    for text, y, role, near in (  # each with the x at which its curve is clear of the others from above
        ("pooled network", learned, FAILURE, -3.1),
        (r"average wave $\bar f$", average, TRUTH, 0),
        ("wave of average A and φ", typical, QUERY, 3.1),
    ):
        point_out(ax, text, (x, y), role, near=near, height=1.3 * top)
    label(ax, "single\nwaves", x[-1], waves[-1].max(), THETA.color)
    return figure


def step_size_choice(
    errors: Mapping[str, Mapping[float, tuple[float, float]]], *, steps: int, n: int, oracles: Numbers, title: str
) -> Figure:
    """Validation MSE after `steps` inner steps against the inner step size α, with each start's best α ringed.

    errors  name to {α: (mean query MSE over n tasks, half-width of its 95% interval)}; means far above the oracles are
            drawn as diverged, at the top
    """
    figure, (ax,) = canvas(height=3.0, title=title)
    top = 1.6 * max(oracles.values())
    for name, by_alpha in errors.items():
        role = STARTS.get(name, QUERY)
        kept = {alpha: pair for alpha, pair in by_alpha.items() if pair[0] <= top}
        if kept:
            best = min(kept, key=lambda alpha: kept[alpha][0])
            mean, half = torch.tensor([*kept.values()]).T
            bars(ax, [*kept], (mean, half), role)
            ax.plot(best, kept[best][0], marker="o", markersize=11, fillstyle="none", color=role.color)
            (first, low), *others = ((alpha, mean) for alpha, (mean, _) in kept.items())
            second, high = others[0] if others else (first, low)
            label(ax, f"{name} start", (first * second) ** 0.5, (low + high) / 2, role.color, dx=0, dy=9, ha="center")
        if lost := [alpha for alpha in by_alpha if alpha not in kept]:
            ax.plot(lost, [0.95 * top] * len(lost), **(role.dots | {"marker": FAILURE.marker, "markersize": 7}))
            label(ax, f"{name}: off the scale", lost[0], 0.95 * top, role.color, dx=-8, ha="right")
    levels(ax, oracles)
    ax.set(xscale="log", xlabel="inner step size α (logarithmic; ringed: each start's best)", ylim=(0, top))
    ticks(ax.xaxis, {alpha for by_alpha in errors.values() for alpha in by_alpha})
    ax.set_ylabel(f"validation MSE after {steps} steps\n(mean of {n} tasks,\nbar: 95% interval)")
    name_lines(ax)
    return figure


def longer_training(iterations: Values, errors: Mapping[int, Tensor], *, floor: float, title: str) -> Figure:
    """Left: test MSE of starts that were trained for more and more iterations. Right: what it changed, paired by task.

    errors  number of inner steps to the query MSE of each task after them, from each start: [tasks, trainings]
    floor   what no function of x alone can beat in the mean

    Bands and bars are 95% intervals over tasks; on the right each task is compared with itself in the first column.
    """
    figure, (left, right) = canvas(1, 2, height=2.8, title=title)
    for (k, values), marker in zip(errors.items(), "osDv", strict=False):
        style = step_style(FAILURE, k, max(errors))._replace(marker=marker)
        mean, half = over_tasks(values)
        line(left, iterations, mean, style, half, marker=marker)
        if k:  # below the end of a line that falls
            last = flat(iterations)[-1]
            label(left, f"after k = {k}", last, mean[-1], style.color, dx=0, dy=-10, ha="right", bbox=CLEAR)
        else:
            label(left, "before any step", flat(iterations)[0], mean[0], style.color, dx=0, dy=10, bbox=CLEAR)
        change = over_tasks(values - values[:, :1])
        line(right, iterations, change[0], style, label=f"k = {k}")
        bars(right, iterations, change, style)
    levels(left, {"floor": floor})
    levels(right, {"no change": 0})
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ticks(ax.xaxis, iterations, "{:,}".format)
        ax.set_xlabel("iterations of pooled training (logarithmic)")
    left.set(ylim=(0, 1.3 * floor), ylabel=f"query MSE (mean of {len(errors[0])}\ntasks, band: 95% interval)")
    right.set_ylabel(f"change since {int(flat(iterations)[0]):,} iterations\n(paired by task, bar: 95% interval)")
    for ax in (left, right):
        name_lines(ax)
    return figure
