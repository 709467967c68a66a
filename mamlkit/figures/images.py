"""Figures of notebook 10: episodes, accuracy with chance in view, the yardsticks, the norms, and what adaptation moves.

Accuracies come as tensors [tasks] or [tasks, steps + 1]: the share of query drawings labelled right. Bars and bands are
95% intervals of the mean over tasks. Titles are the caller's where the finding could be another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mamlkit.figures.charts import (
    STARTS,
    Numbers,
    Tensors,
    bars,
    label,
    levels,
    line,
    name_lines,
    over_tasks,
    rows,
    ticks,
)
from mamlkit.figures.theme import (
    CLEAR,
    FAILURE,
    FIRST_ORDER,
    LEVEL,
    MAML,
    NOTE,
    QUERY,
    SUPPORT,
    THETA,
    Role,
    canvas,
)
from mamlkit.tasks import TaskBatch

GAP = 3  # pixels between two drawings
RULE = {**LEVEL, "linestyle": (0, (7, 2, 1, 2))}  # of a rule that needs no training, apart from chance


def episodes(batch: TaskBatch, *, ways: int, rows: int = 2) -> Figure:
    """The tasks of a small batch side by side: support drawings above, `rows` query drawings a class below."""
    shots, queries = batch.support.x.shape[1] // ways, batch.query.x.shape[1] // ways
    rows, tall = min(rows, queries), min(shots, 2)
    title = f"Tasks of {ways} characters each: support above, query below"
    figure, axes = canvas(1, batch.size, height=0.95 + 2.3 * (tall + rows) / ways, title=title)
    for number, ax in enumerate(axes):
        support, query = (part.x.unflatten(0, (ways, -1))[:, :, 0].cpu() for part in batch.task(number))
        side = support.shape[-1] + GAP
        sheet = torch.ones((tall + rows) * side + 2 * GAP, ways * side)
        for column in range(ways):
            for row, drawing in enumerate([*support[column, :tall], *query[column, :rows]]):
                top, left = row * side + 2 * GAP * (row >= tall), column * side
                sheet[top : top + side - GAP, left : left + side - GAP] = 1 - drawing
        ax.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for role, top, height in ((SUPPORT, 0, tall * side), (QUERY, tall * side + 2 * GAP, rows * side)):
            ax.add_patch(Rectangle((-2.5, top - 2.5), ways * side + 2, height + 1, fill=False, ec=role.color, lw=1.5))
        ax.set_xticks([(i + 0.5) * side for i in range(ways)], [str(i) for i in range(ways)])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.set(xlim=(-5, ways * side + 2), ylim=(len(sheet) + 2, -5), title=f"task {number}", xlabel="label")
    axes[0].set_ylabel("query        support" if tall < rows else "query    support")
    return figure


def accuracy_curves(accuracies: Tensors, *, ways: int, title: str, known: Numbers | None = None) -> Figure:
    """Query accuracy after 0, 1, … inner steps for several named starts, [tasks, steps + 1] each, and chance, 1/N."""
    figure, (ax,) = canvas(height=2.9, title=title)
    for name, accuracy in accuracies.items():
        _curve(ax, name, accuracy, STARTS.get(name, QUERY))
    levels(ax, {f"chance, 1/{ways}": 1 / ways})
    for name, level in (known or {}).items():
        ax.axhline(level, label=name, **RULE)
    count, points = accuracy.shape
    ax.set(xlabel="inner steps k", ylim=(0, 1), xlim=(0, points - 1), xticks=range(points))
    ax.set_ylabel(f"query accuracy (mean of {count}\ntasks, band: 95% interval)")
    name_lines(ax)
    return figure


def six_curves(iterations: Sequence[int], panels: Mapping[str, Tensors], *, ways: int, title: str) -> Figure:
    """Accuracy while a start is trained, a panel a split: {"support before": [examinations, tasks], …}, and chance."""
    figure, axes = canvas(1, len(panels), height=2.8, sharey=True, title=title)
    styles = {"support before": THETA, "support after": SUPPORT, "query after": QUERY}
    for ax, (heading, curves) in zip(axes, panels.items(), strict=True):
        for name, accuracy in curves.items():
            line(ax, iterations, accuracy.mean(1), styles[name], label=name.replace(" ", "\n"))
        tasks = accuracy.shape[1]
        levels(ax, {"chance": 1 / ways})
        ax.set(title=heading, xlabel="outer iterations", ylim=(0, 1.04), xlim=(0, max(iterations)))
        ax.set_ylabel(f"accuracy (mean of {tasks} tasks)")
        name_lines(ax)
    return figure


def yardstick(maml: Mapping[int, Tensors], prototypes: Mapping[int, Tensor], *, ways: int, title: str) -> Figure:
    """Accuracy against the support drawings a class: MAML after some steps and prototypes, and the paired difference.

    maml        K to {name of the number of steps: accuracies [tasks]}
    prototypes  K to accuracies [tasks] on the same tasks
    """
    shots, names = list(prototypes), list(next(iter(maml.values())))
    title = f"{title} ({len(next(iter(prototypes.values())))} tasks, 95% intervals)"
    figure, (left, right) = canvas(1, 2, height=2.9, title=title)
    roles = dict(zip(names, (FIRST_ORDER._replace(color=MAML.color), MAML), strict=False))
    for name in names:
        each = torch.stack([maml[K][name] for K in shots], 1)
        _against(left, shots, name, each, roles[name])
        _against(right, shots, f"over {name}", torch.stack(list(prototypes.values()), 1) - each, roles[name])
    _against(left, shots, "prototypes", torch.stack(list(prototypes.values()), 1), QUERY)
    levels(left, {"chance": 1 / ways})
    right.axhline(0, **LEVEL)
    left.set(ylim=(0, 1), ylabel="query accuracy", title="Each by itself")
    right.set(ylabel="prototypes minus MAML", title="Task by task")
    for ax in (left, right):
        ax.set(xlim=(min(shots) - 0.4, max(shots) + 0.4), xlabel="support drawings a class, K")
        ticks(ax.xaxis, shots)
        name_lines(ax)
    return figure


def deals(accuracies: Tensor, ensemble: Tensor, *, ways: int, title: str) -> Figure:
    """Accuracies [tasks, N!] over the deals of labels, sorted in each task, that of all deals together, and chance."""
    figure, (ax,) = canvas(height=2.6, title=title)
    ranked = accuracies.sort(1).values
    ranks = range(1, ranked.shape[1] + 1)
    bars(ax, ranks, over_tasks(ranked), MAML)
    for name, values, style in (("one deal, on average", accuracies, LEVEL), ("all deals together", ensemble, RULE)):
        ax.axhline(float(values.mean()), label=name, **style)
    levels(ax, {f"chance, 1/{ways}": 1 / ways})
    ax.set(xlabel="deals of a task, from its worst to its best", xlim=(0.8, ranks[-1] + 0.2), xticks=list(ranks))
    ax.set_ylim(0, 1)
    ax.set_ylabel(f"query accuracy (mean of {len(ranked)}\ntasks, bar: 95% interval)")
    name_lines(ax)
    return figure


def paired_accuracy(second: Tensor, first: Tensor, *, ways: int, title: str) -> Figure:
    """Accuracies [tasks, steps + 1] of second and first order: both means against steps, and the mean difference."""
    title = f"{title} (mean of {len(second)} tasks, 95% interval)"
    figure, (left, right) = canvas(1, 2, height=2.7, title=title)
    _curve(left, "second order", second, MAML)
    _curve(left, "first order", first, FIRST_ORDER)
    levels(left, {"chance": 1 / ways})
    left.set(ylim=(0, 1), title="Each by itself", ylabel="query accuracy")
    steps, (mean, half) = range(second.shape[1]), over_tasks(second - first)
    right.errorbar(steps, mean, half, **QUERY.dots)
    right.axhline(0, **LEVEL)
    bound = 1.25 * float((mean.abs() + half).max())
    right.set(ylim=(-bound, bound), title="Task by task", ylabel="second minus first order")
    for ax in (left, right):
        ax.set(xlabel="inner steps k", xlim=(-0.2, len(steps) - 0.8), xticks=steps)
    name_lines(left)
    return figure


def norm_dial(accuracies: Tensors, *, ways: int, title: str, known: Numbers | None = None) -> Figure:
    """One row a norm: accuracy [tasks] after adaptation. Names with "query's" are judged by what is asked: a cross."""
    figure, (ax,) = canvas(height=0.9 + 0.3 * len(accuracies), title=title)
    roles = {name: FAILURE if "query's" in name else QUERY for name in accuracies}
    _accuracy_rows(ax, accuracies, roles, {"chance": 1 / ways, **(known or {})})
    count = len(next(iter(accuracies.values())))
    ax.set_xlabel(
        f"query accuracy after adaptation (mean of {count} tasks, bar: 95% interval)\n"
        "cross: batch norm by what is asked; square: by the support, or layer norm"
    )
    return figure


def layers_moved(moves: Tensors, parts: Tensors, *, ways: int, title: str) -> Figure:
    """Relative change of each layer in adaptation, [tasks] each, and accuracy [tasks] if only a part may move."""
    count = len(next(iter(parts.values())))
    title = f"{title} (mean of {count} tasks, 95% interval)"
    figure, (left, right) = canvas(1, 2, height=2.7, title=title)
    means, halves = over_tasks(torch.stack([*moves.values()], 1))
    left.bar(list(moves), means.tolist(), color=MAML.color, yerr=halves.tolist())
    left.set(ylabel=r"moved, $\|\theta' - \theta\| / \|\theta\|$", title="How far each layer moves")
    _accuracy_rows(right, parts, dict.fromkeys(parts, MAML), {"chance": 1 / ways})
    right.set(xlabel="query accuracy", title="What may move")
    return figure


def _curve(ax: Axes, name: str, accuracy: Tensor, role: Role) -> None:
    _against(ax, range(accuracy.shape[1]), name, accuracy, role)


def _against(ax: Axes, x: Sequence[float], name: str, values: Tensor, role: Role) -> None:
    """The mean of values [tasks, x] over tasks as a named line, with its band."""
    mean, half = over_tasks(values)
    line(ax, x, mean, role, half, marker=role.marker, label=name)


def _accuracy_rows(ax: Axes, accuracies: Tensors, roles: Mapping[str, Role], known: Numbers) -> None:
    """A row for each mean accuracy with its number, and vertical lines at what is known beforehand."""
    rows(ax, accuracies, above=1)
    for row, (name, accuracy) in enumerate(accuracies.items()):
        mean, half = map(float, over_tasks(accuracy))
        ax.errorbar(mean, row, xerr=half, **roles[name].dots, markersize=5)
        label(ax, f"{mean:.2f}", mean, row, dx=0, dy=9, ha="center", bbox=CLEAR, **NOTE)
    for name, level in known.items():
        ax.axvline(level, **(LEVEL if name == "chance" else RULE))
        label(ax, name, level, -0.75, dx=3, **NOTE)
    ax.set_xlim(0, 1)
