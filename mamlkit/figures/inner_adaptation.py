"""Figures of notebook 03: steps on a loss, the limit of α, and adaptation from random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from mamlkit.figures.charts import Band, Points, Tensors, bars, flat, label, line, name_lines, over_tasks, point_out
from mamlkit.figures.theme import CLEAR, FAILURE, LEVEL, MAML, NOTE, QUERY, SUPPORT, THETA, TRUTH, Role, canvas

Loss = Callable[[Tensor], Tensor]  # of parameters [2] → scalar


def loss_map(loss: Loss, path: Tensor, optimum: Tensor, *, title: str) -> Figure:
    """The path of θ over a task's loss surface, and the straight way to the optimum.

    loss     the loss of parameters [2] → scalar
    path     [steps + 1, 2], the start first; the second point is θ'
    optimum  [2], where the task's loss is lowest
    """
    figure, (ax,) = canvas(width=5.2, height=3.6, title=title)
    straight = torch.stack([path[0], optimum])
    line(ax, straight[:, 0], straight[:, 1], TRUTH, **LEVEL)
    _plane(ax, loss, path[1:], path, optimum, MAML, ratio=1.5)
    line(ax, path[:2, 0], path[:2, 1], THETA, linewidth=1.6)
    middle = 0.45 * path[0] + 0.55 * optimum
    above = 1 if path[1, 1] > middle[1] else -1  # the side of θ', which the name of the straight line leaves free
    label(ax, "the straight line", middle[0], middle[1], dy=-11 * above, ha="right", bbox=CLEAR, **NOTE)
    if len(path) > 1:
        ax.plot(*flat(path[1]), **MAML.dots, markersize=7)
        label(ax, "θ', after one step", path[1, 0], path[1, 1], MAML.color, dx=-3, dy=12 * above, bbox=CLEAR)
    if len(path) > 2:
        ha, outward = ("left", 8) if path[-1, 0] > path[0, 0] else ("right", -8)
        label(ax, f"{len(path) - 1} steps", path[-1, 0], path[-1, 1], MAML.color, dx=outward, ha=ha, bbox=CLEAR)
    ax.set_xlabel("first weight (grey: lines of equal loss, with its value)")
    return figure


def limit_of_alpha(
    alphas: Tensor,
    left: Tensor,
    limit: float,
    loss: Loss,
    path: Tensor,
    optimum: Tensor,
    *,
    steps: int,
    path_name: str,
    title: str,
) -> Figure:
    """Left: what is left of a task after some steps, against α, with the predicted limit. Right: a path beyond it.

    alphas, left     step sizes, and the distance from the optimum after `steps` steps over that of the start
    limit            2/λmax
    path, optimum    as in `loss_map`, for a step size that `path_name` describes
    """
    figure, (sweep, plane) = canvas(1, 2, height=2.9, title=title)
    for role, part in ((MAML, alphas <= limit), (FAILURE, alphas >= limit)):
        line(sweep, alphas[part], left[part.to(left.device)], role)
    sweep.axhline(1, **THETA.line, linewidth=1)
    sweep.axvline(limit, color=TRUTH.color, linewidth=1)
    label(sweep, "as far as the start", alphas[0], 1, THETA.color, dy=7)
    label(sweep, r"$\mathbf{2/\lambda_{max}}$", limit, left.max(), TRUTH.color, ha="right", dx=-4)
    ylabel = f"distance from the optimum\nafter {steps} steps ÷ before"
    sweep.set(xlabel="inner step size α", ylabel=ylabel, yscale="log")
    _plane(plane, loss, path, path[:7], optimum, FAILURE, ratio=1.4)
    plane.set_title(path_name, fontweight="normal")
    return figure


def share_left(alphas: Tensor, left: Band, *, test: tuple[float, float], alpha: float, n: int, title: str) -> Figure:
    """The share of a loss that one step leaves, against α, on validation tasks; at the best α, that on test tasks.

    left   mean over n tasks and the half-width of its 95% interval
    test   the same two numbers on n test tasks, at the α that is best on the validation tasks
    alpha  another step size to mark
    """
    figure, (ax,) = canvas(width=5.6, height=2.9, title=title)
    mean, half = map(flat, left)
    line(ax, alphas, mean, MAML, half)
    best = int(mean.argmin())
    ax.plot(alphas[best], mean[best], marker="o", markersize=9, fillstyle="none", color=MAML.color)
    ax.errorbar(float(alphas[best]), *test, **QUERY.joined, markersize=4)
    chosen = f"α = {float(alphas[best]):.2f}, chosen on validation:\n{test[0]:.0%} left on test tasks"
    point_out(ax, chosen, (alphas, mean + 0.06), QUERY, near=float(alphas[best]), height=0.7)
    if alphas.min() <= alpha <= alphas.max():
        near = mean[int((alphas - alpha).abs().argmin())]
        ax.plot(alpha, near, **MAML.dots, markersize=5)
        ha, outward = ("right", -8) if alpha < alphas[best] else ("left", 8)  # outside the valley
        label(ax, f"α = {alpha:g},\nas above", alpha, near, MAML.color, dx=outward, dy=-8, ha=ha)
    ax.axhline(1, **THETA.line, linewidth=1)
    ax.axhline(0, color=TRUTH.color, linewidth=1)
    label(ax, "the start θ", alphas[0], 1, THETA.color, dx=0, dy=6)
    label(ax, "each task's optimum", alphas[-1], 0, TRUTH.color, dx=0, dy=7, ha="right")
    ax.set(xlabel="inner step size α", ylim=(-0.05, min(1.4, float(mean.max()) + 0.1)))
    ax.set_ylabel(f"query loss after one step ÷ before\n(line: {n} validation tasks;\nband, bar: 95% interval)")
    return figure


def random_start(
    x: Tensor, truth: Tensor, support: Points, functions: Tensors, losses: Tensor, *, title: str
) -> Figure:
    """Left: one wave and the network's function after some numbers of steps. Right: what steps change of the loss.

    x, truth   [points], the wave; support: its examples (x, y)
    functions  name → the network's function at x; the first is the start, before adaptation
    losses     query loss of each task after 0, 1, … steps: [tasks, steps + 1]

    On the right each task is compared with itself before the first step; the bars are 95% intervals of the mean change.
    """
    figure, (wave, right) = canvas(1, 2, height=2.9, title=title)
    line(wave, x, truth, TRUTH, linewidth=2, label="the wave")
    for (name, y), role in zip(functions.items(), (THETA, QUERY, MAML), strict=False):
        line(wave, x, y, role, marker=role.marker, markevery=0.1, label=name)
    wave.plot(*support, **SUPPORT.dots, markersize=6)
    low, high = wave.get_ylim()
    wave.set(xlabel="x", ylabel="y", ylim=(low, high + 0.16 * (high - low)))
    wave.margins(x=0)
    name_lines(wave)
    crest = float(support[0][support[1].argmax()])
    point_out(wave, "support", support, SUPPORT, near=crest, height=high + 0.08 * (high - low))
    change, start = over_tasks(losses - losses[:, :1]), float(losses[:, 0].mean())
    bars(right, range(len(change[0])), change, MAML)
    right.axhline(0, **THETA.line, linewidth=1)
    right.axhline(-start, color=TRUTH.color, linewidth=1)
    highest = max(0.0, float((change[0] + change[1]).max()))
    label(right, "no adaptation", 0, highest, THETA.color, dx=0, dy=9)
    label(right, f"a perfect fit: −{start:.2f}", 0, -start, TRUTH.color, dx=0, dy=7)
    right.set(xlabel="inner steps k", ylim=(-1.06 * start, highest + 0.12 * start))
    right.set_ylabel(f"change of the query MSE, paired\n(mean of {len(losses)} tasks, bar: 95% interval)")
    return figure


def _plane(ax: Axes, loss: Loss, path: Tensor, inside: Tensor, optimum: Tensor, role: Role, *, ratio: float) -> None:
    """A path, its start and the optimum over contours of the loss around the points `inside`; width = ratio · height.

    The contours are evenly spaced in the loss's square root, each named where it is farthest from the path.
    """
    start, optimum, path = (values.detach().cpu() for values in (inside[0], optimum, path))
    points = torch.cat([inside.detach().cpu(), optimum[None]])
    low, high = points.min(0).values, points.max(0).values
    middle, span = (low + high) / 2, high - low
    height = 0.65 * max(float(span[1]), float(span[0]) / ratio)
    unit = torch.linspace(-1, 1, 91, dtype=points.dtype) * height
    first, second = middle[0] + unit * ratio, middle[1] + unit
    surface = torch.tensor([[float(loss(torch.stack([a, b]))) for a in first] for b in second])
    steps = torch.linspace(0, float(surface.max()) ** 0.5, 12)[1:] ** 2
    lines = ax.contour(first, second, surface, levels=steps, colors="#a0a0a0", linewidths=0.7)
    inner = torch.stack([middle[0] + unit[[6, -7]] * ratio, middle[1] + unit[[6, -7]]])  # where a number is not cut off
    places = [_free(lines.allsegs[i], inner, torch.cat([path, optimum[None]])) for i in range(1, len(steps), 2)]
    for level, place in zip(steps[1::2].tolist(), places, strict=True):
        if place is not None:
            ax.clabel(lines, [level], fmt="%.2g", fontsize=7, colors="#595959", manual=[place.tolist()])
    ax.set(aspect="equal", xlim=(first[0], first[-1]), ylim=(second[0], second[-1]))
    ax.set(xlabel="first weight", ylabel="second weight")
    ax.plot(*path.T, color=role.color, marker=role.marker, linewidth=1, markersize=3)
    ax.plot(*start, **THETA.dots, markersize=7)
    ax.plot(*optimum, **TRUTH.dots, markersize=8, markeredgewidth=2)
    label(ax, "θ", start[0], start[1], THETA.color, dx=-9, dy=9)
    label(ax, "optimum", optimum[0], optimum[1], TRUTH.color, dx=0, dy=-13, ha="center", bbox=CLEAR)


def _free(contour: Sequence[ArrayLike], inner: Tensor, path: Tensor) -> Tensor | None:
    """The point of a contour, inside a box, that is farthest from the lines of a path; None if it lies outside.

    inner  [2, 2], of each coordinate the lowest and the highest
    path   [points, 2]
    """
    points = torch.cat([torch.as_tensor(np.asarray(segment)).to(path) for segment in contour])
    points = points[((points > inner[:, 0]) & (points < inner[:, 1])).all(1)]
    if not len(points):
        return None
    between = torch.linspace(0, 1, 20, dtype=path.dtype)[:, None, None]
    passed = (path[:-1] * (1 - between) + path[1:] * between).reshape(-1, 2)  # along the path, not at its corners alone
    return points[torch.cdist(points, passed).min(1).values.argmax()]
