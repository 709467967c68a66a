"""Figures of notebook 10: episodes, accuracy with chance in view, the norms, and what adaptation moves.

Accuracies come as tensors [tasks] or [tasks, steps + 1]: the share of query drawings labelled right. Bars and bands are
95% intervals of the mean over tasks. Titles are the caller's where the finding could be another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mamlkit.figures.theme import FAILURE, FIRST_ORDER, MAML, QUERY, SUPPORT, THETA, TRUTH, Role, canvas
from mamlkit.figures.training import name_lines
from mamlkit.tasks import TaskBatch

STYLES = {"random start": THETA, "MAML": MAML, "second order": MAML, "first order": FIRST_ORDER}
LEVEL = (0, (2, 2))  # the dash of lines that no training moves
GAP = 3  # pixels between two drawings
NUMBER: dict[str, Any] = {
    "textcoords": "offset points",
    "fontsize": 8,
    "bbox": {"facecolor": "white", "linewidth": 0, "pad": 0.5},
}


def episodes(batch: TaskBatch, *, ways: int, rows: int = 2) -> Figure:
    """The tasks of a small batch side by side: support drawings above, `rows` query drawings a class below."""
    shots, queries = batch.support.x.shape[1] // ways, batch.query.x.shape[1] // ways
    rows, tall = min(rows, queries), min(shots, 2)
    figure, axes = canvas(1, batch.size, height=0.95 + 2.3 * (tall + rows) / ways)
    for number, ax in enumerate(axes):
        task = batch.task(number)
        support, query = (part.x.unflatten(0, (ways, -1))[:, :, 0].cpu() for part in task)
        side = support.shape[-1] + GAP
        sheet = torch.ones((tall + rows) * side + 2 * GAP, ways * side)
        for label in range(ways):
            column = [*support[label, :tall], *query[label, :rows]]
            for row, drawing in enumerate(column):
                top, left = row * side + 2 * GAP * (row >= tall), label * side
                sheet[top : top + side - GAP, left : left + side - GAP] = 1 - drawing
        ax.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        _frame(ax, 0, tall * side, ways * side, SUPPORT)
        _frame(ax, tall * side + 2 * GAP, rows * side, ways * side, QUERY)
        ax.set_xticks([(i + 0.5) * side for i in range(ways)], [str(i) for i in range(ways)])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set(xlim=(-5, ways * side + 2), ylim=(len(sheet) + 2, -5))
        ax.tick_params(length=0)
        ax.set(title=f"task {number}", xlabel="label")
    axes[0].set_ylabel("query        support" if tall < rows else "query    support")
    figure.suptitle(f"Each task brings {ways} characters and deals out the labels anew", x=0.01, ha="left")
    return figure


def accuracy_curves(
    accuracies: Mapping[str, Tensor], *, ways: int, title: str, levels: Mapping[str, float] | None = None
) -> Figure:
    """Query accuracy after 0, 1, … inner steps for several named starts, [tasks, steps + 1] each, and chance, 1/N."""
    figure, (ax,) = canvas(height=2.9)
    ends = []
    for name, accuracy in accuracies.items():
        role, mean, half = STYLES.get(name, QUERY), *_mean(accuracy)
        steps = range(len(mean))
        ax.plot(steps, mean, color=role.color, linestyle=role.dash, marker=role.marker)
        ax.fill_between(steps, mean - half, mean + half, color=role.color, alpha=0.18, linewidth=0)
        ends.append((name, float(mean[-1]), role))
    count, points = next(iter(accuracies.values())).shape
    for name, level in {f"chance, 1/{ways}": 1 / ways, **(levels or {})}.items():
        ax.axhline(level, color=TRUTH.color, linewidth=0.9, linestyle=LEVEL, zorder=1)
        ends.append((name, level, TRUTH))
    ax.set(xlabel="inner steps k", ylim=(0, 1), xlim=(0, points - 1), xticks=range(points))
    ax.set_ylabel(f"query accuracy (mean of {count}\ntasks, band: 95% interval)")
    name_lines(ax, ends, points - 1)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def paired_accuracy(second: Tensor, first: Tensor, *, ways: int, title: str) -> Figure:
    """Accuracies [tasks, steps + 1] of second and first order: both means against steps, and the mean difference."""
    figure, (left, right) = canvas(1, 2, height=2.7)
    ends, steps = [], range(second.shape[1])
    for name, accuracy in (("second order", second), ("first order", first)):
        role, mean, half = STYLES[name], *_mean(accuracy)
        left.plot(steps, mean, color=role.color, linestyle=role.dash, marker=role.marker)
        left.fill_between(steps, mean - half, mean + half, color=role.color, alpha=0.18, linewidth=0)
        ends.append((name.replace(" ", "\n"), float(mean[-1]), role))
    left.axhline(1 / ways, color=TRUTH.color, linewidth=0.9, linestyle=LEVEL)
    ends.append(("chance", 1 / ways, TRUTH))
    left.set(ylim=(0, 1), title="Each by itself", ylabel="query accuracy")
    name_lines(left, ends, len(steps) - 1)
    mean, half = _mean(second - first)
    right.errorbar(steps, mean, half, color=QUERY.color, marker="o", linestyle="", capsize=3)
    right.axhline(0, color=TRUTH.color, linewidth=0.9, linestyle=LEVEL)
    bound = 1.25 * float((mean.abs() + half).max())
    right.set(ylim=(-bound, bound), title="Task by task", ylabel="second minus first order")
    for ax in (left, right):
        ax.set(xlabel="inner steps k", xlim=(-0.2, len(steps) - 0.8), xticks=steps)
    figure.suptitle(f"{title} (mean of {len(second)} tasks, 95% interval)", x=0.01, ha="left")
    return figure


def norm_dial(
    accuracies: Mapping[str, Tensor], *, ways: int, title: str, levels: Mapping[str, float] | None = None
) -> Figure:
    """One row a norm: accuracy [tasks] after adaptation. Names with "query's" are transductive and drawn apart."""
    figure, (ax,) = canvas(height=0.9 + 0.3 * len(accuracies))
    for row, (name, accuracy) in enumerate(accuracies.items()):
        role = FAILURE if "query's" in name else QUERY
        mean, half = (float(value) for value in _mean(accuracy))
        ax.errorbar(mean, row, xerr=half, color=role.color, marker=role.marker, capsize=3, markersize=6)
        ax.annotate(f"{mean:.2f}", (mean, row), xytext=(0, 6), ha="center", **NUMBER)
    for name, level in {"chance": 1 / ways, **(levels or {})}.items():
        ax.axvline(level, color=TRUTH.color, linewidth=0.9, linestyle=LEVEL, zorder=1)
        ax.annotate(name, (level, -0.75), xytext=(3, 0), textcoords="offset points", fontsize=8, fontweight="bold")
    ax.set_yticks(range(len(accuracies)), list(accuracies))
    ax.set(xlim=(0, 1), ylim=(len(accuracies) - 0.5, -1))
    ax.set_xlabel(f"query accuracy after adaptation (mean of {len(accuracy)} tasks, bar: 95% interval)")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def layers_moved(moves: Mapping[str, Tensor], parts: Mapping[str, Tensor], *, ways: int, title: str) -> Figure:
    """Relative change of each layer in adaptation, [tasks] each, and accuracy [tasks] if only a part may move."""
    figure, (left, right) = canvas(1, 2, height=2.7)
    names = list(moves)
    means, halves = zip(*(_mean(move) for move in moves.values()), strict=True)
    left.bar(range(len(names)), [float(mean) for mean in means], color=MAML.color, yerr=[float(h) for h in halves])
    left.set_xticks(range(len(names)), names)
    left.set_ylabel(r"moved, $\|\theta' - \theta\| / \|\theta\|$")
    left.set_title("How far each layer moves")
    for row, accuracy in enumerate(parts.values()):
        mean, half = (float(value) for value in _mean(accuracy))
        right.errorbar(mean, row, xerr=half, color=MAML.color, marker=MAML.marker, capsize=3)
        right.annotate(f"{mean:.2f}", (mean, row), xytext=(0, 6), ha="center", **NUMBER)
    right.axvline(1 / ways, color=TRUTH.color, linewidth=0.9, linestyle=LEVEL)
    right.annotate("chance", (1 / ways, -0.75), xytext=(3, 0), textcoords="offset points", fontsize=8)
    right.set_yticks(range(len(parts)), list(parts))
    right.set(xlim=(0, 1), ylim=(len(parts) - 0.5, -1), xlabel="query accuracy", title="What may move")
    figure.suptitle(f"{title} (mean of {len(accuracy)} tasks, 95% interval)", x=0.01, ha="left")
    return figure


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over tasks and the half-width of its 95% interval."""
    values = values.detach().double().cpu()
    return values.mean(0), 1.96 * values.std(0) / math.sqrt(len(values))


def _frame(ax: Axes, top: float, height: float, width: float, role: Role) -> None:
    corner = (-2.5, top - 2.5)
    ax.add_patch(Rectangle(corner, width + 2, height + 1, fill=False, edgecolor=role.color, linewidth=1.5))
