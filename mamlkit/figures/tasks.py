"""Figures of notebook 01: tasks, the average of their waves, and what is left for adaptation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.figures.charts import Tensors, line, point_out, rows
from mamlkit.figures.theme import CLEAR, FAILURE, MAML, QUERY, SUPPORT, THETA, TRUTH, canvas
from mamlkit.tasks import TaskBatch


def gallery(tasks: TaskBatch, amplitude: Tensor, phase: Tensor, domain: tuple[float, float] = (-5.0, 5.0)) -> Figure:
    """Six sinusoid tasks, each with its wave (which the learner never sees), its support and its query."""
    title = "Six tasks: each is one wave, seen at a few points"
    figure, panels = canvas(2, 3, height=3.8, sharex=True, sharey=True, title=title)
    grid = torch.linspace(*domain, 201, dtype=torch.float64)
    waves = amplitude * torch.sin(grid[:, None] - phase)  # [points, 6]
    names = 1.25 * float(waves.abs().max())  # the height of the names, above and below every wave
    for i, ax in enumerate(panels):
        line(ax, grid, waves[:, i], TRUTH, linewidth=1)
        for part, role in ((tasks.support, SUPPORT), (tasks.query, QUERY)):
            ax.plot(part.x[i, :, 0], part.y[i, :, 0], **role.dots, markersize=4.5)
        ax.set_title(rf"task {i}:  $A$ = {amplitude[i]:.2f},  $\varphi$ = {phase[i]:.2f}", fontweight="normal")
        ax.set(xlabel="x", ylabel="y", ylim=(-1.2 * names, 1.2 * names))
        ax.label_outer()
    first, second = panels[:2]
    point_out(first, "support", (tasks.support.x[0], tasks.support.y[0]), SUPPORT, near=0, height=names)
    point_out(first, "query", (tasks.query.x[0], tasks.query.y[0]), QUERY, near=0, height=-names)
    point_out(second, "unseen wave", (grid, waves[:, 1]), TRUTH, near=0, height=names)
    return figure


def pooled_average(
    x: Tensor, y: Tensor, curves: Tensors, measured: tuple[Tensor, Tensor, Tensor], count: int
) -> Figure:
    """All tasks' points together, the mean of the waves, and the wave of the mean parameters.

    x, y      one point a task: [tasks]
    curves    "grid" and, at its points, "mean of waves" and "wave of means" (of the mean amplitude and phase)
    measured  centres, means and half-widths of 95% intervals of y in bins of x: [bins] each
    count     tasks, as the axis says
    """
    flatter = curves["mean of waves"].abs().max() < 0.95 * curves["wave of means"].abs().max()
    title = "The mean of all waves is flatter than the wave of the mean A and φ"
    if not flatter:
        title = "All waves have nearly one phase, so their mean is the wave of the mean A and φ"
    figure, (ax,) = canvas(height=3.0, title=title)
    ax.plot(x, y, ".", color="#bbbbbb", markersize=2.5, zorder=0)
    grid, centres, top = curves["grid"], measured[0], float(y.abs().max())
    line(ax, grid, curves["wave of means"], FAILURE)
    line(ax, grid, curves["mean of waves"], TRUTH)
    ax.errorbar(*measured, **QUERY.dots)
    ax.set(xlabel=f"x (grey: one point of each of {count:,} tasks)", ylabel="y", ylim=(-1.05 * top, 1.6 * top))
    # Each is named from above where it is uppermost: the higher wave at its crest, the flatter one in its trough.
    crest = float(grid[(curves["wave of means"] - 1e9 * (grid < 0)).argmax()])
    apart = torch.stack([(centres - crest).abs(), (centres - crest + math.pi).abs()]).min(0).values
    clear = float(centres[1:-1][apart[1:-1].argmax()])
    for text, points, role, near in (
        ("wave of the mean\nA and φ", (grid, curves["wave of means"]), FAILURE, crest),
        ("mean of all waves,\nclosed form", (grid, curves["mean of waves"]), TRUTH, crest - math.pi),
        ("measured, 95%\ninterval over tasks", measured[:2], QUERY, clear),
    ):
        point_out(ax, text, points, role, near=near, height=1.35 * top)
    return figure


def mean_square_in_parts(families: Mapping[str, tuple[float, float, float]]) -> Figure:
    """E[y²] of task families in three parts: shared by all tasks, differing from task to task, noise."""
    title = "Only what differs between tasks is left for adaptation to win"
    figure, (ax,) = canvas(height=0.5 * len(families) + 0.8, title=title)
    parts = (("shared by all tasks", THETA, ""), ("differs between tasks", MAML, "//"), ("noise", FAILURE, "xx"))
    left = torch.zeros(len(families), dtype=torch.float64)
    widest = max(map(sum, families.values()))
    for (name, role, hatch), values in zip(parts, zip(*families.values(), strict=True), strict=True):
        look: dict[str, Any] = {"color": role.color, "alpha": 0.75, "hatch": hatch, "edgecolor": "white"}
        drawn = ax.barh(range(len(families)), values, left=left, height=0.62, **look)
        numbers = [f"{value:.2f}" if value > 0.05 * widest else "" for value in values]
        longest = values.index(max(values))  # has room for the part's name
        numbers[longest] = f"{name}: {values[longest]:.2f}"
        ax.bar_label(drawn, numbers, label_type="center", bbox=CLEAR)
        left += torch.tensor(values)
    rows(ax, families)
    ax.set(xlabel="mean squared label E[y²], closed form", xlim=(0, 1.05 * widest))
    ax.tick_params(axis="y", length=0)
    return figure
