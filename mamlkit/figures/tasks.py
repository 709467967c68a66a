"""Figures of notebooks 00 to 02: the map, tasks and their average, support loss against query loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from mamlkit.figures.theme import FAILURE, FIRST_ORDER, MAML, QUERY, SUPPORT, THETA, TRUTH, Role, canvas, label
from mamlkit.tasks import TaskBatch

# (room, what it does, the symbols)
ROOMS = (
    ("tasks", "draws", r"$\mathcal{T}_i$ from $p(\mathcal{T})$"),
    ("inner", "adapts (E1)", r"$\theta \to \theta'_i$"),
    ("meta", "judges (E2, E3)", r"$F(\theta),\ \nabla F(\theta)$"),
    ("train", "moves θ (E4)", r"$\theta \leftarrow \theta - \beta\nabla F$"),
    ("evaluate", "examines θ", "on new tasks"),
    ("report", "shows", "figures, claims"),
)


def one_way_through() -> Figure:
    """The algorithm as a diagram: the package's rooms from left to right, and what passes between them."""
    figure, (axes,) = canvas(height=3.2)
    axes.set(xlim=(0, 7), ylim=(0, 3))
    axes.axis("off")
    axes.set_title("Data move from left to right; θ goes round, one turn an iteration")
    width, bottom, top = 0.94, 1.42, 2.28
    left = [0.02, 1.5, 2.66, 3.82, 4.98, 6.04]
    centre = [x + width / 2 for x in left]
    for x, (room, verb, symbols) in zip(left, ROOMS, strict=True):
        corner = "round,pad=0,rounding_size=0.08"
        axes.add_patch(
            FancyBboxPatch((x, bottom), width, top - bottom, boxstyle=corner, facecolor="#f4f4f4", edgecolor="#444444")
        )
        for text, height, weight, size in (
            (room, 0.66, "bold", 9.5),
            (verb, 0.41, "normal", 7.6),
            (symbols, 0.17, "normal", 7.8),
        ):
            axes.text(x + width / 2, bottom + height, text, ha="center", va="center", fontweight=weight, fontsize=size)

    middle = (bottom + top) / 2
    passed = (
        ("support\n$D_i$", SUPPORT),
        (r"$\theta'_i$", MAML),
        (r"$\nabla F$", TRUTH),
        (r"$\theta$", THETA),
        ("", TRUTH),
    )
    for i, (text, role) in enumerate(passed):
        start, end = left[i] + width, left[i + 1]
        _arrow(axes, [(start, middle), (end, middle)], role)
        axes.text((start + end) / 2, middle + 0.07, text, ha="center", va="bottom", color=role.color, fontsize=8)

    _arrow(axes, [(0.64, bottom), (0.64, 0.98), (centre[2], 0.98), (centre[2], bottom)], QUERY)
    _arrow(axes, [(0.32, bottom), (0.32, 0.42), (centre[4], 0.42), (centre[4], bottom)], TRUTH)
    _arrow(axes, [(centre[3], top), (centre[3], 2.66), (centre[1], 2.66), (centre[1], top)], THETA)
    for text, x, y, role in (
        ("query $D'_i$: fresh data of the same task", 0.72, 0.91, QUERY),
        ("unseen tasks, support and query (the test split, asked for by name)", 0.4, 0.35, TRUTH),
        ("the next iteration starts from the new $\\theta$, on new tasks", centre[1], 2.9, THETA),
    ):
        axes.text(x, y, text, ha="left", va="top", color=role.color, fontweight="bold")
    return figure


def _arrow(axes: Axes, corners: Sequence[tuple[float, float]], role: Role) -> None:
    """A line through corners, drawn as its role, with a head at the end."""
    xs, ys = zip(*corners, strict=True)
    axes.plot(xs, ys, color=role.color, linestyle=role.dash, linewidth=1.6, zorder=0)
    head = FancyArrowPatch(*corners[-2:], arrowstyle="-|>", mutation_scale=11, color=role.color, linewidth=0, shrinkB=0)
    axes.add_patch(head)


def slopes(
    starts: Tensor, before: Tensor, after: Tensor, theta: float, value: float, second: float, first: float
) -> Figure:
    """Query loss over starts θ [points], before and after one inner step; two meta-gradients at one θ as slopes.

    before, after  mean query loss over the tasks: [points]
    value          F(θ) at the start `theta`; `second` and `first` are the meta-gradients there
    """
    figure, (axes,) = canvas(height=2.9)
    axes.plot(starts, before, color=THETA.color, linestyle=THETA.dash)
    axes.plot(starts, after, color=MAML.color, linestyle=MAML.dash)
    reach = torch.tensor([-0.6, 0.6], dtype=torch.float64)
    for slope, role, dash, text in (
        (second, TRUTH, (0, (5, 1.5)), "second order: touches F"),
        (first, FIRST_ORDER, FIRST_ORDER.dash, "first order: cuts F"),
    ):
        axes.plot(theta + reach, value + slope * reach, color=role.color, linestyle=dash)
        label(axes, text, theta + 0.6, value + 0.6 * slope, role)
    axes.plot([theta], [value], marker="o", color=TRUTH.color, zorder=3)
    label(axes, "query loss before the step", float(starts[-1]), float(before[-1]), THETA)
    label(axes, r"$F(\theta)$: after one step", float(starts[-1]), float(after[-1]), MAML)
    axes.set(xlabel=r"start $\theta$ (one weight)", ylabel="mean query loss, two tasks", ylim=(0, 2.8 * value))
    axes.set_title("The second-order meta-gradient is the slope of F; the first-order one is not")
    return figure


def gallery(tasks: TaskBatch, amplitude: Tensor, phase: Tensor, domain: tuple[float, float] = (-5.0, 5.0)) -> Figure:
    """Six sinusoid tasks, each with its wave (which the learner never sees), its support and its query."""
    figure, panels = canvas(2, 3, height=3.6, share=True)
    grid = torch.linspace(*domain, 201, dtype=torch.float64)
    for i, axes in enumerate(panels):
        axes.plot(grid, amplitude[i] * torch.sin(grid - phase[i]), color=TRUTH.color, linewidth=1)
        for part, role in ((tasks.support, SUPPORT), (tasks.query, QUERY)):
            axes.plot(part.x[i, :, 0], part.y[i, :, 0], role.marker, color=role.color, markersize=4.5)
        axes.set_title(rf"task {i}:  $A$ = {amplitude[i]:.2f},  $\varphi$ = {phase[i]:.2f}", fontweight="normal")
    for axes in panels[::3]:
        axes.set_ylabel("y")
    for axes in panels[3:]:
        axes.set_xlabel("x")
    figure.suptitle("Six tasks: each is one wave, seen at a few points", x=0.01, ha="left")
    for x, text, role in ((0.59, "● support", SUPPORT), (0.72, "■ query", QUERY), (0.83, "— unseen wave", TRUTH)):
        figure.text(x, 0.965, text, color=role.color, va="center", fontweight="bold")
    return figure


def pooled_average(
    x: Tensor, y: Tensor, curves: Mapping[str, Tensor], measured: tuple[Tensor, Tensor, Tensor], count: int
) -> Figure:
    """All tasks' points together, the mean of the waves, and the wave of the mean parameters.

    x, y      one point a task: [tasks]
    curves    "grid" and, at its points, "mean of waves" and "wave of means" (of the mean amplitude and phase)
    measured  centres, means and half-widths of 95% intervals of y in bins of x: [bins] each
    count     tasks, as the axis says
    """
    figure, (axes,) = canvas(height=3.0)
    axes.plot(x, y, ".", color="#bbbbbb", markersize=2.5, zorder=0)
    axes.plot(curves["grid"], curves["wave of means"], color=FAILURE.color, linestyle=FAILURE.dash)
    axes.plot(curves["grid"], curves["mean of waves"], color=TRUTH.color, linestyle=TRUTH.dash)
    axes.errorbar(*measured[:2], yerr=measured[2], fmt=QUERY.marker, color=QUERY.color, capsize=2, markersize=4)
    low, high = axes.get_ylim()
    peaks = [float(curves[name].max()) for name in ("wave of means", "mean of waves")]
    heights = [peaks[0], min(peaks[1], peaks[0] - 0.15 * (high - low))]
    heights.append(heights[1] - 0.15 * (high - low))
    texts = ("wave of the mean\nA and φ", "mean of all waves,\nclosed form", "measured, 95%\ninterval over tasks")
    for text, y_text, role in zip(texts, heights, (FAILURE, TRUTH, QUERY), strict=True):
        label(axes, text, float(curves["grid"][-1]), y_text, role, dx=8)
    peak, rival = (float(curves[name].abs().max()) for name in ("mean of waves", "wave of means"))
    flatter = peak < 0.95 * rival
    axes.set_title(
        "The mean of all waves is flatter than the wave of the mean A and φ"
        if flatter
        else "All waves have nearly one phase, so their mean is the wave of the mean A and φ"
    )
    axes.set(xlabel=f"x (grey: one point of each of {count:,} tasks)", ylabel="y")
    return figure


def shares(families: Mapping[str, tuple[float, float, float]]) -> Figure:
    """E[y²] of task families in three parts: shared by all tasks, differing from task to task, noise."""
    figure, (axes,) = canvas(height=0.55 * len(families) + 1.1)
    parts = (("shared by all tasks", THETA, ""), ("differs between tasks", MAML, "//"), ("noise", FAILURE, "xx"))
    widest = max(sum(values) for values in families.values()) or 1.0
    for row, values in enumerate(families.values()):
        start = 0.0
        for value, (_, role, hatch) in zip(values, parts, strict=True):
            if value > 0:
                axes.barh(
                    row, value, left=start, height=0.62, color=role.color, alpha=0.75, hatch=hatch, edgecolor="white"
                )
            if value > 0.05 * widest:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
                axes.text(start + value / 2, row, f"{value:.2f}", ha="center", va="center", bbox=box)
            start += value
    axes.set_yticks(range(len(families)), list(families))
    axes.set(xlabel="mean squared label E[y²], closed form", ylim=(len(families) - 0.5, -0.95))
    axes.tick_params(axis="y", length=0)
    for i, (text, role, hatch) in enumerate(parts):
        at = (0.0, 0.27, 0.58)[i]
        axes.bar(
            at * widest + 0.01 * widest,
            0.24,
            0.02 * widest,
            bottom=-0.85,
            color=role.color,
            alpha=0.75,
            hatch=hatch,
            edgecolor="white",
        )
        axes.text(at * widest + 0.03 * widest, -0.73, text, color=role.color, va="center", fontweight="bold")
    axes.set_title("Only what differs between tasks is left for adaptation to win")
    return figure


def support_against_query(
    shots: Sequence[int],
    measured: Mapping[str, tuple[Tensor, Tensor]],
    theory: Mapping[str, Tensor],
    floor: float,
    tasks: int,
) -> Figure:
    """Mean loss of fitted tasks over the number of support points: on the support, on the query, and the floor σ².

    measured  "support" and "query": means and half-widths of 95% intervals over tasks, [len(shots)] each
    theory    "support" and "query": closed forms, [len(shots)]
    """
    figure, (axes,) = canvas(height=2.9)
    axes.axhline(floor, color=TRUTH.color, linewidth=1, linestyle=(0, (6, 3)))
    for name, role, sign in (("query", QUERY, "+"), ("support", SUPPORT, "−")):
        mean, half = measured[name]
        axes.plot(shots, theory[name], color=role.color, linestyle=role.dash)
        axes.errorbar(shots, mean, yerr=half, fmt=role.marker, color=role.color, capsize=2)
        label(
            axes,
            f"{name} loss: σ²(1 {sign} 1/K)",
            shots[1],
            float(theory[name][1]),
            role,
            dx=14,
            dy=6 if name == "query" else -6,
        )
    axes.set_xscale("log")
    axes.set_xlim(shots[0] / 1.2, shots[-1] * 1.08)
    label(axes, "floor σ²: the noise", shots[-1] * 1.08, floor, TRUTH)
    axes.set_xticks(list(shots), [str(k) for k in shots])
    axes.minorticks_off()
    axes.set(
        xlabel="K, support points a task (log scale)",
        ylabel=f"mean squared error\n(95% intervals, {tasks:,} tasks)",
        ylim=(-0.06 * floor if floor else None, None),
    )
    axes.set_title("After a fit the support reads too low by as much as the query pays")
    return figure


def fitting(
    curves: Mapping[str, tuple[Tensor, Tensor]],
    floor: float,
    constant: float,
    tasks: int,
    example: Mapping[str, Tensor],
) -> Figure:
    """A network fitted to one task's support, and the two losses over the gradient steps, averaged over tasks.

    curves    "support" and "query": mean and half-width of the 95% interval over tasks, [steps + 1] each
    floor     the noise σ²; `constant` is the loss of predicting 0 everywhere
    example   one task: "grid", "wave", "fit" [points]; "support x", "support y", "query x", "query y"
    """
    figure = canvas(1, 2, height=2.9)[0]
    left, right = figure.axes
    left.plot(example["grid"], example["wave"], color=TRUTH.color, linewidth=1)
    left.plot(example["grid"], example["fit"], color=MAML.color, linestyle=(0, (6, 2)))
    for name, role in (("support", SUPPORT), ("query", QUERY)):
        left.plot(example[f"{name} x"], example[f"{name} y"], role.marker, color=role.color, markersize=4.5)
    left.set(xlabel="x", ylabel="y")
    left.set_title("Task 0: the fit follows the support")
    low, high = left.get_ylim()
    left.set_ylim(low, high + 0.24 * (high - low))
    for (text, role), (x, y) in zip(
        (("● support", SUPPORT), ("■ query", QUERY), ("– – fit", MAML), ("— wave", TRUTH)),
        ((0.02, 0.97), (0.02, 0.89), (0.5, 0.97), (0.5, 0.89)),
        strict=True,
    ):
        left.text(x, y, text, transform=left.transAxes, color=role.color, va="top", fontweight="bold")
    steps = range(len(curves["query"][0]))
    for name, role in (("query", QUERY), ("support", SUPPORT)):
        mean, half = curves[name]
        right.fill_between(steps, mean - half, mean + half, color=role.color, alpha=0.2, linewidth=0)
        right.plot(steps, mean, color=role.color, linestyle=role.dash, linewidth=1.8)
        label(right, name, steps[-1], float(mean[-1]), role)
    right.set_xlim(0, 1.02 * steps[-1])
    right.axhline(constant, color=THETA.color, linestyle=THETA.dash, linewidth=1)
    label(right, "predict 0 everywhere", 0.45 * steps[-1], constant, THETA, dy=6)
    if floor:
        right.axhline(floor, color=TRUTH.color, linestyle=(0, (6, 3)), linewidth=1)
        label(right, "noise σ²", 0, floor, TRUTH, dy=-7)
    right.set(
        xlabel="gradient steps on the support", ylabel=f"mean loss (band: 95% over {tasks} tasks)", ylim=(0, None)
    )
    right.set_title("The support loss falls, the query loss lags")
    return figure
