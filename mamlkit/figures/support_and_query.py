"""Figures of notebook 02: support loss against query loss, of fits in closed form and of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mamlkit.figures.charts import Band, Tensors, label, line, name_lines, ticks
from mamlkit.figures.theme import LEVEL, MAML, QUERY, SUPPORT, THETA, TRUTH, canvas


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
    curves: Mapping[str, Band], floor: float, constant: float, tasks: int, example: Tensors
) -> Figure:
    """A network fitted to one task's support, and the two losses over the gradient steps, averaged over tasks.

    curves    "support" and "query": mean and half-width of the 95% interval over tasks, [steps + 1] each
    floor     the noise σ²; `constant` is the loss of predicting 0 everywhere
    example   one task: "grid", "wave", "fit" [points]; "support x", "support y", "query x", "query y"
    """
    figure, (left, right) = canvas(1, 2, height=2.9)
    line(left, example["grid"], example["fit"], MAML._replace(dash=(0, (6, 2))), label="fit")
    line(left, example["grid"], example["wave"], TRUTH, linewidth=1, label="wave")
    for name, role in (("support", SUPPORT), ("query", QUERY)):
        left.plot(example[f"{name} x"], example[f"{name} y"], **role.dots, markersize=4.5, label=name)
        mean, half = curves[name]
        line(right, range(len(mean)), mean, role, half, linewidth=1.8, label=name)
    low, high = left.get_ylim()
    left.set(xlabel="x", ylabel="y", ylim=(low, high + 0.3 * (high - low)), title="Task 0: the fit follows the support")
    left.legend(loc="upper left", ncols=2, labelcolor="linecolor")
    right.axhline(constant, **THETA.line, linewidth=1)
    label(right, "predict 0 everywhere", 0.45 * len(mean), constant, THETA.color, dy=6)
    if floor:
        right.axhline(floor, **LEVEL)
        label(right, "noise σ²", 0, floor, TRUTH.color, dy=-7)
    right.set(xlabel="gradient steps on the support", xlim=(0, 1.02 * (len(mean) - 1)), ylim=(0, None))
    right.set(ylabel=f"mean loss (band: 95% over {tasks} tasks)", title="The support loss falls, the query loss lags")
    name_lines(right)
    return figure
