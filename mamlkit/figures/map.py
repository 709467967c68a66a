"""Figures of notebook 00: one step from three starts, the way through the package, two meta-gradients, two minima."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from mamlkit.curves import Curve
from mamlkit.figures.charts import STARTS, Points, flat, label, levels, line, name_lines, point_out, ticks
from mamlkit.figures.theme import (
    FIRST_ORDER,
    LEVEL,
    MAML,
    QUERY,
    SUPPORT,
    THETA,
    TRUTH,
    Role,
    canvas,
    ink,
)

# (part of the package, what it does, the symbols, what it passes on, as which role)
BOXES = (
    ("tasks", "draws", r"$\mathcal{T}_i$ from $p(\mathcal{T})$", "support\n$D_i$", SUPPORT),
    ("inner", "adapts (E1)", r"$\theta \to \theta'_i$", r"$\theta'_i$", MAML),
    ("meta", "judges (E2, E3)", r"$F(\theta),\ \nabla F(\theta)$", r"$\nabla F$", TRUTH),
    ("train", "moves θ (E4)", r"$\theta \leftarrow \theta - \beta\nabla F$", r"$\theta$", THETA),
    ("evaluate", "examines θ", "on new tasks", "", TRUTH),
    ("ledger", "records", "claims, figures", "", TRUTH),
)


LINES = ((0.66, "bold", 9.5), (0.41, "normal", 7.6), (0.17, "normal", 7.8))  # height in a box, weight and size


def three_starts(
    grid: Tensor,
    truth: Tensor,
    support: Points,
    fits: Mapping[str, tuple[Tensor, Tensor]],
    curves: Mapping[str, Curve],
    floor: float,
) -> Figure:
    """One gradient step on one task from several starts, and the mean error of each over many tasks.

    grid, truth  the wave at many x: [points, 1] each
    fits         name of a start to its function on the grid before and after the step
    curves       name of a start to its query loss on all tasks, before and after
    floor        what no single function of x can beat in the mean
    """
    tasks = len(next(iter(curves.values())).loss)
    shares = {name: 1 - float(curve.mean()[1] / curve.mean()[0]) for name, curve in curves.items()}
    ours, others = shares.pop("MAML"), max(shares.values())
    title = f"One step removes {ours:.0%} of the error from MAML's start, at most {others:.0%} from the others"
    widths = [1.0] * len(fits) + [0.9]
    figure, (*panels, right) = canvas(1, len(widths), height=2.5, title=title, width_ratios=widths)
    for ax, (name, (before, after)) in zip(panels, fits.items(), strict=True):
        line(ax, grid, truth, TRUTH, linewidth=1, label="wave")
        ax.plot(*map(flat, support), **SUPPORT.dots, zorder=4, label="_")
        line(ax, grid, before, THETA._replace(dash=(0, (1, 1))), label="before")
        line(ax, grid, after, STARTS[name], linewidth=2.2, label="after")
        ax.sharey(panels[0])
        ax.set(title=f"{name} start", xlabel="x", xlim=(float(grid[0]), float(grid[-1])))
        ax.tick_params(labelleft=ax is panels[0])
    panels[0].set_ylabel("y")
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low - 0.16 * (high - low), high)
    point_out(panels[0], "support", support, SUPPORT, near=0, height=low - 0.08 * (high - low))
    for ax in panels:
        name_lines(ax)
    for name, curve in curves.items():
        band = {"yerr": flat(curve.half_width()), **STARTS[name].joined}
        right.errorbar([0, 1], flat(curve.mean()), label="_", **band)
        line(right, [0, 1], curve.mean(), STARTS[name], label=name)
    levels(right, {"floor": floor})
    ticks(right.xaxis, [0, 1], ["before", "after"].__getitem__)
    right.set(xlim=(-0.2, 1.2), ylim=(0, None), title=f"mean of {tasks} waves", xlabel="the step")
    right.set_ylabel("query MSE (95%\ninterval over tasks)")
    name_lines(right)
    return figure


def one_way_through() -> Figure:
    """The algorithm as a diagram: the package's parts as boxes from left to right, and what passes between them."""
    figure, (ax,) = canvas(height=3.2, title="Data move from left to right; θ goes round, one turn an iteration")
    ax.set(xlim=(0, 7), ylim=(0, 3))
    ax.axis("off")
    width, bottom, top = 0.94, 1.42, 2.28
    left = [0.02, 1.5, 2.66, 3.82, 4.98, 6.04]
    centre, middle = [x + width / 2 for x in left], (bottom + top) / 2
    corner = "round,pad=0,rounding_size=0.08"
    for i, (*texts, passed, role) in enumerate(BOXES):
        box = FancyBboxPatch((left[i], bottom), width, top - bottom, boxstyle=corner, fc="#f4f4f4", ec="#444444")
        ax.add_patch(box)
        for text, (height, weight, size) in zip(texts, LINES, strict=True):
            ax.text(centre[i], bottom + height, text, ha="center", va="center", fontweight=weight, fontsize=size)
        if i + 1 < len(BOXES):
            _arrow(ax, [(left[i] + width, middle), (left[i + 1], middle)], role)
            middle_of_gap = (left[i] + width + left[i + 1]) / 2
            ax.text(middle_of_gap, middle + 0.07, passed, ha="center", color=ink(role.color), fontsize=8)
    for role, begin, level, end, edge, text in (
        (QUERY, 0.64, 0.98, centre[2], bottom, "query $D'_i$: fresh data of the same task"),
        (TRUTH, 0.32, 0.42, centre[4], bottom, "unseen tasks, support and query (the test split, asked for by name)"),
        (THETA, centre[3], 2.66, centre[1], top, r"the next iteration starts from the new $\theta$, on new tasks"),
    ):
        _arrow(ax, [(begin, edge), (begin, level), (end, level), (end, edge)], role)
        label(ax, text, min(begin, end), level, role.color, dx=5, dy=9 if edge == top else -9)
    return figure


def _arrow(ax: Axes, corners: Sequence[tuple[float, float]], role: Role) -> None:
    """A line through corners, drawn as its role, with a head at the end."""
    ax.plot(*zip(*corners, strict=True), **role.line, linewidth=1.6, zorder=0)
    ax.add_patch(FancyArrowPatch(*corners[-2:], arrowstyle="-|>", mutation_scale=11, color=role.color, lw=0, shrinkB=0))


def slopes(
    starts: Tensor, before: Tensor, after: Tensor, theta: float, value: float, second: float, first: float
) -> Figure:
    """Query loss over starts θ [points], before and after one inner step; two meta-gradients at one θ as slopes.

    before, after  mean query loss over the tasks: [points]
    value          F(θ) at the start `theta`; `second` and `first` are the meta-gradients there
    """
    title = "The second-order meta-gradient is the slope of F; the first-order one is not"
    figure, (ax,) = canvas(height=2.9, title=title)
    reach = torch.tensor([-0.6, 0.6], dtype=torch.float64)
    touches = TRUTH._replace(dash=(0, (5, 1.5)))
    for x, y, role, text in (
        (starts, before, THETA, "query loss before the step"),
        (starts, after, MAML, r"$F(\theta)$: after one step"),
        (theta + reach, value + second * reach, touches, "second order: touches F"),
        (theta + reach, value + first * reach, FIRST_ORDER, "first order: cuts F"),
    ):
        line(ax, x, y, role)
        label(ax, text, x[-1], y[-1], role.color)
    ax.plot(theta, value, marker="o", color=TRUTH.color, zorder=3)
    ax.set(xlabel=r"start $\theta$ (one weight)", ylabel="mean query loss, two tasks", ylim=(0, 2.8 * value))
    return figure


def two_minima(
    starts: Tensor,
    joint: Tensor,
    after: Tensor,
    alphas: Tensor,
    best: Tensor,
    *,
    alpha: float,
    centres: Sequence[float],
) -> Figure:
    """Left: two tasks' mean loss before and after a step, with its minima. Right: the best start against α.

    starts, joint, after  mean loss over the tasks at each start, before the step and after one with `alpha`: [points]
    alphas, best          the start with the smallest loss after a step, for each inner step size: [points]; the first
                          step size is 0, so that best[0] is the minimum of joint training
    centres               the best weight of each task
    """
    figure, (left, right) = canvas(1, 2, height=2.9, title="The step moves the best start; where to depends on α")
    for values, role, text in ((joint, THETA, "before a step"), (after, MAML, "after one")):
        line(left, starts, values, role)
        low = values.argmin()
        left.plot(starts[low], values[low], **role._replace(marker="o").dots, markersize=7)
        label(left, text, starts[-1], values[-1], role.color)
    left.set(
        xlabel=r"start $\theta$ (one weight)", ylabel="mean loss, two tasks", ylim=(0, None), xlim=(None, starts[-1])
    )
    left.set_title(f"α = {alpha:g}")
    line(right, alphas, best, MAML, linewidth=2)
    here, last = (alphas - alpha).abs().argmin(), (best < best[0]).nonzero()[-1]
    label(right, "MAML", alphas[last], best[last], MAML.color, dx=5, dy=-12)
    right.axhline(float(best[0]), **THETA.line, label="joint training")
    for number, centre in enumerate(centres, 1):
        right.axhline(centre, **LEVEL, label=f"best for task {number}")
    right.plot(alpha, best[here], **MAML._replace(marker="o").dots, markersize=7)
    right.set(xlabel=r"inner step size $\alpha$", ylabel=r"best start $\theta$", xlim=(0, alphas[-1]))
    right.set_title("every α: the best start")
    name_lines(right)
    return figure
