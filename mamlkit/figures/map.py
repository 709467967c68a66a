"""Figures of notebook 00: the rooms and what passes between them, and two meta-gradients as slopes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from mamlkit.figures.charts import label, line
from mamlkit.figures.theme import FIRST_ORDER, MAML, QUERY, SUPPORT, THETA, TRUTH, Role, canvas, ink

# (room, what it does, the symbols, what it passes on, as which role)
ROOMS = (
    ("tasks", "draws", r"$\mathcal{T}_i$ from $p(\mathcal{T})$", "support\n$D_i$", SUPPORT),
    ("inner", "adapts (E1)", r"$\theta \to \theta'_i$", r"$\theta'_i$", MAML),
    ("meta", "judges (E2, E3)", r"$F(\theta),\ \nabla F(\theta)$", r"$\nabla F$", TRUTH),
    ("train", "moves θ (E4)", r"$\theta \leftarrow \theta - \beta\nabla F$", r"$\theta$", THETA),
    ("evaluate", "examines θ", "on new tasks", "", TRUTH),
    ("ledger", "records", "claims, figures", "", TRUTH),
)


LINES = ((0.66, "bold", 9.5), (0.41, "normal", 7.6), (0.17, "normal", 7.8))  # height in a room, weight and size


def one_way_through() -> Figure:
    """The algorithm as a diagram: the package's rooms from left to right, and what passes between them."""
    figure, (ax,) = canvas(height=3.2, title="Data move from left to right; θ goes round, one turn an iteration")
    ax.set(xlim=(0, 7), ylim=(0, 3))
    ax.axis("off")
    width, bottom, top = 0.94, 1.42, 2.28
    left = [0.02, 1.5, 2.66, 3.82, 4.98, 6.04]
    centre, middle = [x + width / 2 for x in left], (bottom + top) / 2
    corner = "round,pad=0,rounding_size=0.08"
    for i, (*texts, passed, role) in enumerate(ROOMS):
        box = FancyBboxPatch((left[i], bottom), width, top - bottom, boxstyle=corner, fc="#f4f4f4", ec="#444444")
        ax.add_patch(box)
        for text, (height, weight, size) in zip(texts, LINES, strict=True):
            ax.text(centre[i], bottom + height, text, ha="center", va="center", fontweight=weight, fontsize=size)
        if i + 1 < len(ROOMS):
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
