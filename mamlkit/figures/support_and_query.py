"""Figures of notebook 02: support loss against query loss, of fits in closed form and of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.figures.charts import Band, Tensors, label, levels, line, name_lines, over_tasks, point_out, ticks
from mamlkit.figures.theme import LEVEL, MAML, QUERY, SUPPORT, TRUTH, canvas


def support_against_query(
    shots: Sequence[int], measured: Mapping[str, Band], theory: Tensors, floor: float, tasks: int
) -> Figure:
    """Mean loss of fitted tasks over the number of support points: on the support, on the query, and the floor σ².

    measured  "support" and "query": means and half-widths of 95% intervals over tasks, [len(shots)] each
    theory    "support" and "query": closed forms, [len(shots)]
    """
    figure, (ax,) = canvas(height=2.9, title="After a fit the support reads too low by as much as the query pays")
    for name, role, sign, dy in (("query", QUERY, "+", 6), ("support", SUPPORT, "−", -6)):
        line(ax, shots, theory[name], role)
        ax.errorbar(shots, *measured[name], **role.dots)
        label(ax, f"{name} loss: σ²(1 {sign} 1/K)", shots[1], theory[name][1], role.color, dx=14, dy=dy)
    ax.axhline(floor, **LEVEL, label="floor σ²: the noise")
    ax.set(xscale="log", xlim=(shots[0] / 1.2, shots[-1] * 1.08), xlabel="K, support points a task (log scale)")
    ticks(ax.xaxis, shots)
    ax.set_ylabel(f"mean squared error\n(95% intervals, {tasks:,} tasks)")
    if floor:
        ax.set_ylim(bottom=-0.06 * floor)
    name_lines(ax)
    return figure


def losses_while_fitting(
    losses: Mapping[str, Tensor], floor: float, constant: float, example: Tensors, *, title: str
) -> Figure:
    """A network fitted to one task's support; over many tasks, the two losses and how each changes since the start.

    losses    "support" and "query": loss of each task after 0, 1, … gradient steps, [tasks, steps + 1] each
    floor     the noise σ²; `constant` is the loss of predicting 0 everywhere
    example   one task: "grid", "wave", "fit" [points]; "support x", "support y", "query x", "query y"

    The band of a change is the 95% interval of its mean over tasks, each compared with itself at the start.
    """
    figure, (left, middle, right) = canvas(1, 3, height=2.9, title=title)
    line(left, example["grid"], example["fit"], MAML._replace(dash=(0, (6, 2))), label="fit")
    line(left, example["grid"], example["wave"], TRUTH, linewidth=1, label="wave")
    for name, role in (("support", SUPPORT), ("query", QUERY)):
        left.plot(example[f"{name} x"], example[f"{name} y"], **role.dots, markersize=4.5)
        line(middle, range(losses[name].shape[1]), losses[name].mean(0), role, linewidth=1.8, label=name)
        mean, half = over_tasks(losses[name] - losses[name][:, :1])
        line(right, range(len(mean)), mean, role, half, linewidth=1.8, label=name)
    low, high = left.get_ylim()
    room = 0.18 * (high - low)
    left.set(xlabel="x", ylabel="y", ylim=(low - room, high + room), title="one task and its fit")
    left.margins(x=0.02)
    highest, lowest = example["support y"].argmax(), example["query y"].argmin()
    for name, role, i, height in (
        ("support", SUPPORT, highest, high + room / 2),
        ("query", QUERY, lowest, low - room / 2),
    ):
        points = example[f"{name} x"], example[f"{name} y"]
        point_out(left, name, points, role, near=float(points[0][i]), height=height)
    name_lines(left)
    levels(middle, {"predict 0": constant} | ({"noise σ²": floor} if floor else {}))
    middle.set(ylabel="mean loss", ylim=(0, None), title=f"mean of {len(losses['query'])} tasks")
    levels(right, {"no change": 0})
    right.set(ylabel="mean change since the start\n(paired; band: 95% over tasks)", title="the same, paired")
    for ax in (middle, right):
        ax.set(xlabel="gradient steps", xlim=(0, losses["query"].shape[1] - 1))
        name_lines(ax)
    return figure
