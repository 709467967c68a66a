"""Figures of notebook 04: the average wave, the choice of α, and longer pooled training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.figures.charts import STARTS, Numbers, Values, flat, levels, line, name_lines, step_style, ticks
from mamlkit.figures.theme import FAILURE, QUERY, THETA, TRUTH, canvas


def average_wave(x: Tensor, waves: Tensor, average: Tensor, typical: Tensor, learned: Tensor, *, title: str) -> Figure:
    """Some tasks' waves, their average, the wave of average amplitude and phase, and what a pooled network learned.

    x, average, typical, learned  [points, 1]
    waves                         [points, tasks]
    """
    figure, (ax,) = canvas(height=2.9, title=title)
    ax.plot(flat(x), waves.T[waves[-1].argsort()].T.cpu(), color=THETA.color, alpha=0.25, linewidth=0.8)
    ax.lines[-1].set_label("single waves")  # the one that ends highest
    line(ax, x, average, TRUTH, linewidth=3.2, label="average wave E[y|x]")
    line(ax, x, typical, QUERY, linestyle=(0, (4, 1.5, 1, 1.5)), label="wave of average A and φ")
    line(ax, x, learned, FAILURE, linewidth=2, label="pooled network")
    ax.set(xlabel="x", ylabel="y")
    ax.margins(x=0)
    name_lines(ax)
    return figure


def step_size_choice(
    errors: Mapping[str, Mapping[float, float]], *, steps: int, tasks: int, oracles: Numbers, title: str
) -> Figure:
    """Validation MSE after `steps` inner steps against the inner step size α, with each start's best α marked.

    errors  name to {α: mean query MSE}; values far above the first oracle are drawn as diverged, at the top.
    """
    figure, (ax,) = canvas(height=2.7, title=title)
    top = 1.6 * max(oracles.values())
    for name, by_alpha in errors.items():
        role = STARTS.get(name, QUERY)
        kept = {alpha: error for alpha, error in by_alpha.items() if error <= top}
        if kept:
            best = min(kept, key=lambda alpha: kept[alpha])
            ax.plot([*kept], [*kept.values()], **role.joined, label=f"{name} (best α: {best:g})")
            ax.plot(best, kept[best], marker="o", markersize=11, fillstyle="none", color=role.color)
        if lost := [alpha for alpha in by_alpha if alpha not in kept]:
            off = {"marker": FAILURE.marker, "label": f"{name}: off the scale", "markersize": 7}
            ax.plot(lost, [0.95 * top] * len(lost), **(role.dots | off))
    levels(ax, oracles)
    ax.set(xscale="log", xlabel="inner step size α", ylim=(0, top))
    ticks(ax.xaxis, {alpha for by_alpha in errors.values() for alpha in by_alpha})
    ax.set_ylabel(f"validation MSE after {steps}\nsteps (mean of {tasks} tasks)")
    name_lines(ax)
    return figure


def longer_training(
    iterations: Values, errors: Mapping[int, Sequence[Sequence[float]]], *, tasks: int, oracles: Numbers, title: str
) -> Figure:
    """Test MSE of starts that were trained for more and more iterations.

    errors  number of inner steps to a pair (mean, half-width of its 95% interval over `tasks` tasks) for each training
    """
    figure, (ax,) = canvas(height=2.8, title=title)
    for (k, pairs), marker in zip(errors.items(), "osDv", strict=False):
        mean, half = torch.tensor(pairs, dtype=torch.float64).T
        style = step_style(FAILURE, k, max(errors))
        line(ax, iterations, mean, style, half, marker=marker, label=f"after k = {k}")
    levels(ax, oracles)
    ax.set_xscale("log", base=2)
    ticks(ax.xaxis, iterations, "{:,}".format)
    ax.set(xlabel="iterations of pooled training", ylim=(0, 1.12 * max(oracles.values())))
    ax.set_ylabel(f"query MSE (mean of {tasks}\ntasks, band: 95% interval)")
    name_lines(ax)
    return figure
