"""Figures of notebook 01: tasks, the average of their waves, and what is left for adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.figures.charts import Tensors, line, rows
from mamlkit.figures.theme import CLEAR, FAILURE, MAML, QUERY, SUPPORT, THETA, TRUTH, canvas
from mamlkit.tasks import TaskBatch


def gallery(tasks: TaskBatch, amplitude: Tensor, phase: Tensor, domain: tuple[float, float] = (-5.0, 5.0)) -> Figure:
    """Six sinusoid tasks, each with its wave (which the learner never sees), its support and its query."""
    title = "Six tasks: each is one wave, seen at a few points"
    figure, panels = canvas(2, 3, height=3.9, sharex=True, sharey=True, title=title)
    grid = torch.linspace(*domain, 201, dtype=torch.float64)
    for i, ax in enumerate(panels):
        line(ax, grid, amplitude[i] * torch.sin(grid - phase[i]), TRUTH, linewidth=1, label="unseen wave")
        for name, part, role in (("support", tasks.support, SUPPORT), ("query", tasks.query, QUERY)):
            ax.plot(part.x[i, :, 0], part.y[i, :, 0], **role.dots, markersize=4.5, label=name)
        ax.set_title(rf"task {i}:  $A$ = {amplitude[i]:.2f},  $\varphi$ = {phase[i]:.2f}", fontweight="normal")
        ax.set(xlabel="x", ylabel="y")
        ax.label_outer()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
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
    line(ax, curves["grid"], curves["wave of means"], FAILURE, label="wave of the mean\nA and φ")
    line(ax, curves["grid"], curves["mean of waves"], TRUTH, label="mean of all waves,\nclosed form")
    ax.errorbar(*measured, **QUERY.dots, label="measured, 95%\ninterval over tasks")
    ax.set(xlabel=f"x (grey: one point of each of {count:,} tasks)", ylabel="y")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelspacing=1)
    return figure


def mean_square_in_parts(families: Mapping[str, tuple[float, float, float]]) -> Figure:
    """E[y²] of task families in three parts: shared by all tasks, differing from task to task, noise."""
    title = "Only what differs between tasks is left for adaptation to win"
    figure, (ax,) = canvas(height=0.55 * len(families) + 1.1, title=title)
    parts = (("shared by all tasks", THETA, ""), ("differs between tasks", MAML, "//"), ("noise", FAILURE, "xx"))
    left = torch.zeros(len(families), dtype=torch.float64)
    widest = max(map(sum, families.values()))
    for (name, role, hatch), values in zip(parts, zip(*families.values(), strict=True), strict=True):
        look: dict[str, Any] = {"color": role.color, "alpha": 0.75, "hatch": hatch, "edgecolor": "white", "label": name}
        drawn = ax.barh(range(len(families)), values, left=left, height=0.62, **look)
        numbers = [f"{value:.2f}" if value > 0.05 * widest else "" for value in values]
        ax.bar_label(drawn, numbers, label_type="center", bbox=CLEAR)
        left += torch.tensor(values)
    rows(ax, families)
    ax.set(xlabel="mean squared label E[y²], closed form", xlim=(0, 1.05 * widest))
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure
