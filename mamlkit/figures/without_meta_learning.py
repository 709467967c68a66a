"""Figures of notebook 04: the average wave, the choice of α, and longer pooled training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    step_style,
    ticks,
)
from mamlkit.figures.theme import CLEAR, FAILURE, QUERY, THETA, TRUTH, canvas, ink


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
    ax.set(xlabel="x", ylabel="y", ylim=(-1.2 * float(waves.abs().max()), 1.45 * float(waves.abs().max())))
    ax.margins(x=0)
    named = (  # each with the x at which its curve is named, clear of the others, and the way to the name
        ("single waves", waves[:, int(waves[-1].argmax())], THETA, 1.0, (6, 0)),
        ("wave of average A and φ", typical, QUERY, 0.815, (4, 40)),
        ("average wave E[y|x]", average, TRUTH, 0.5, (0, 62)),
        ("pooled network", learned, FAILURE, 0.19, (0, 50)),
    )
    for text, y, role, share, way in named:
        place = min(int(share * len(y)), len(y) - 1)
        at = (float(flat(x)[place]), float(flat(y)[place]))
        arrow = {"arrowstyle": "-", "color": role.color, "linewidth": 0.8, "shrinkB": 1}
        style: dict[str, Any] = {"ha": "left" if share == 1 else "center", "va": "center", "fontweight": "bold"}
        ax.annotate(
            text, at, way, textcoords="offset points", color=ink(role.color), arrowprops=arrow, bbox=CLEAR, **style
        )
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


def longer_training(
    iterations: Values, errors: Mapping[int, Sequence[Sequence[float]]], *, n: int, oracles: Numbers, title: str
) -> Figure:
    """Test MSE of starts that were trained for more and more iterations.

    errors  number of inner steps to a pair (mean, half-width of its 95% interval over `n` tasks) for each training
    """
    figure, (ax,) = canvas(height=2.8, title=title)
    for (k, pairs), marker in zip(errors.items(), "osDv", strict=False):
        mean, half = torch.tensor(pairs, dtype=torch.float64).T
        style = step_style(FAILURE, k, max(errors))
        line(ax, iterations, mean, style, half, marker=marker, label=f"after k = {k}")
    levels(ax, oracles)
    ax.set_xscale("log", base=2)
    ticks(ax.xaxis, iterations, "{:,}".format)
    ax.set(xlabel="iterations of pooled training (logarithmic)", ylim=(0, 1.12 * max(oracles.values())))
    ax.set_ylabel(f"query MSE (mean of {n}\ntasks, band: 95% interval)")
    name_lines(ax)
    return figure
