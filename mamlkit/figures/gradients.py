"""Figures of notebooks 03, 05 and 07: steps on a loss, Jacobians, and what first order leaves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from mamlkit.figures.theme import FAILURE, FIRST_ORDER, MAML, QUERY, SUPPORT, THETA, TRUTH, Role, canvas, label

ORDERS = {"first": FIRST_ORDER, "second": MAML}
Interval = tuple[Tensor, Tensor]  # a mean and the half-width of its 95% interval, elementwise


def loss_map(loss: Callable[[Tensor], Tensor], path: Tensor, optimum: Tensor, *, title: str) -> Figure:
    """The path of θ over a task's loss surface.

    loss     the loss of parameters [2] → scalar
    path     [steps + 1, 2], the start first; the second point is θ'
    optimum  [2], where the task's loss is lowest
    """
    path, optimum = path.detach().cpu(), optimum.detach().cpu()
    figure, (axes,) = canvas(width=5.2, height=3.6)
    _contours(axes, loss, torch.cat([path, optimum[None]]), ratio=1.5)
    axes.plot(*path[1:].T, color=MAML.color, ls=MAML.dash, marker=MAML.marker, ms=3)
    axes.plot(*path[:2].T, color=THETA.color, ls=THETA.dash, lw=1.6)
    axes.plot(*path[0], color=THETA.color, marker=THETA.marker, ms=7, ls="")
    axes.plot(*optimum, color=TRUTH.color, marker=TRUTH.marker, ms=8, mew=2, ls="")
    _name(axes, "θ", path[0], THETA, dx=-3, dy=11)
    if len(path) > 1:
        axes.plot(*path[1], color=MAML.color, marker=MAML.marker, ms=7, ls="")
        _name(axes, "θ', after one step", path[1], MAML, dx=-3, dy=12)
    _name(axes, "optimum", optimum, TRUTH, dx=-22, dy=-13)
    axes.set(xlabel="first weight", ylabel="second weight", title=title)
    return figure


def limit_of_alpha(
    alphas: Tensor,
    left: Tensor,
    limit: float,
    loss: Callable[[Tensor], Tensor],
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
    figure, (sweep, plane) = canvas(1, 2, height=2.9)
    alphas, left, path, optimum = (values.detach().cpu() for values in (alphas, left, path, optimum))
    for role, part in ((MAML, alphas <= limit), (FAILURE, alphas >= limit)):
        sweep.plot(alphas[part], left[part], color=role.color, ls=role.dash)
    sweep.set_yscale("log")
    sweep.axhline(1, color=THETA.color, ls=THETA.dash, lw=1)
    sweep.axvline(limit, color=TRUTH.color, lw=1)
    top = left.max().item()
    label(sweep, "as far as the start", alphas[0].item(), 1, THETA, dy=7)
    label(sweep, r"$\mathbf{2/\lambda_{max}}$", limit, top, TRUTH, dx=-40)
    sweep.set(xlabel="inner step size α", ylabel=f"distance from the optimum\nafter {steps} steps ÷ before")

    _contours(plane, loss, torch.cat([path[:7], optimum[None]]), ratio=1.4)
    plane.plot(*path.T, color=FAILURE.color, ls="-", lw=1, marker=FAILURE.marker)
    plane.plot(*path[0], color=THETA.color, marker=THETA.marker, ms=7, ls="")
    plane.plot(*optimum, color=TRUTH.color, marker=TRUTH.marker, ms=8, mew=2, ls="")
    _name(plane, "θ", path[0], THETA, dx=-12, dy=4)
    _name(plane, "optimum", optimum, TRUTH, dx=-20, dy=-13)
    plane.set(xlabel="first weight", ylabel="second weight")
    plane.set_title(path_name, fontweight="normal")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def share_left(alphas: Tensor, left: Interval, *, alpha: float, tasks: int, title: str) -> Figure:
    """The share of a loss that one step leaves, against α: mean over tasks with its 95% interval, and the floor."""
    mean, half = (values.detach().cpu() for values in left)
    figure, (axes,) = canvas(width=5.0, height=2.6)
    axes.plot(alphas, mean, color=MAML.color, ls=MAML.dash)
    axes.fill_between(alphas, mean - half, mean + half, color=MAML.color, alpha=0.2, lw=0)
    best = int(mean.argmin())
    axes.plot(alphas[best], mean[best], color=MAML.color, marker=MAML.marker, ms=6)
    label(axes, "the best α", alphas[best].item(), mean[best].item(), MAML, dx=-22, dy=14)
    if alphas.min() <= alpha <= alphas.max():
        near = int((alphas - alpha).abs().argmin())
        label(axes, "α of this notebook", alpha, mean[near].item(), QUERY, dx=10, dy=4)
        axes.plot(alpha, mean[near], color=QUERY.color, marker=QUERY.marker, ms=5)
    axes.axhline(1, color=THETA.color, ls=THETA.dash, lw=1)
    axes.axhline(0, color=TRUTH.color, lw=1)
    label(axes, "the start θ", alphas[0].item(), 1, THETA, dx=0, dy=6)
    label(axes, "each task's optimum", alphas[-1].item(), 0, TRUTH, dx=-98, dy=7)
    axes.set(
        xlabel="inner step size α",
        ylabel=f"query loss after one step\n÷ before (mean of {tasks} tasks,\nband: 95% interval)",
        title=title,
        ylim=(-0.05, min(1.4, mean.max().item() + 0.1)),
    )
    return figure


def random_start(
    x: Tensor,
    truth: Tensor,
    support: Sequence[Tensor],
    fits: Mapping[str, Tensor],
    curve: Interval,
    *,
    tasks: int,
    title: str,
) -> Figure:
    """Left: one wave and the network's function after some numbers of steps. Right: query loss against steps.

    x, truth   [points], the wave; support: its examples (x, y)
    fits       name → the network's function at x; the first is the start, before adaptation
    curve      query loss after 0, 1, … steps
    """
    figure, (wave, losses) = canvas(1, 2, height=2.9)
    wave.plot(x, truth, color=TRUTH.color, ls=TRUTH.dash, lw=2, label="the wave")
    for (name, fit), role in zip(fits.items(), (THETA, QUERY, MAML), strict=False):
        wave.plot(x, fit, color=role.color, ls=role.dash, marker=role.marker, markevery=0.1, label=name)
    wave.plot(*support, color=SUPPORT.color, marker=SUPPORT.marker, ms=6, ls="", label="support")
    wave.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, frameon=False, fontsize=7.5, columnspacing=1)
    wave.set(xlabel="x", ylabel="y")

    mean, half = (values.detach().cpu() for values in curve)
    steps = torch.arange(len(mean))
    losses.errorbar(steps, mean, half, color=MAML.color, ls=MAML.dash, marker=MAML.marker, capsize=2)
    losses.axhline(float(mean[0]), color=THETA.color, ls=THETA.dash, lw=1)
    losses.axhline(0, color=TRUTH.color, lw=1)
    label(losses, "dashed: no adaptation", 0, float((mean + half).max()), THETA, dx=0, dy=9)
    label(losses, "a perfect fit", 0, 0, TRUTH, dx=0, dy=7)
    losses.set(xlabel="inner steps", ylabel=f"query MSE (mean of {tasks} tasks,\nbar: 95% interval)")
    losses.set_ylim(-0.2, 1.25 * float((mean + half).max()))
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def heat_maps(matrices: Mapping[str, Tensor], *, title: str, blocks: Mapping[str, int] | None = None) -> Figure:
    """Square matrices side by side on one diverging scale around zero; small ones with their numbers written in.

    matrices  title → [n, n]
    blocks    name of a parameter → how many of the n rows are its own, to draw lines between parameters
    """
    figure, axes = canvas(1, len(matrices), height=3.0)
    plain = {name: matrix.detach().cpu() for name, matrix in matrices.items()}
    bound = max(float(matrix.abs().max()) for matrix in plain.values())
    for ax, (name, matrix) in zip(axes, plain.items(), strict=True):
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound)
        ax.set_title(name)
        ax.spines[:].set_visible(False)
        if blocks:
            _mark_blocks(ax, blocks)
        else:
            ax.set(xticks=range(len(matrix)), yticks=range(len(matrix)))
            ax.set_xticklabels(str(1 + column) for column in range(len(matrix)))
            ax.set_yticklabels(str(1 + row) for row in range(len(matrix)))
            ax.set(xlabel="θ moved in coordinate", ylabel="θ' moves in coordinate")
        if len(matrix) <= 6:
            for row, values in enumerate(matrix.tolist()):
                for column, value in enumerate(values):
                    shade = "white" if abs(value) > 0.6 * bound else "black"
                    ax.text(column, row, f"{value:.2f}".replace("-", "−"), color=shade, ha="center", va="center")
    figure.colorbar(image, ax=axes, shrink=0.8, label="value of the entry")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def finite_difference_gap(widths: Tensor, gaps: Mapping[str, tuple[Tensor, str]], *, title: str) -> Figure:
    """Relative gap between a gradient and the central difference of the same loss, against the difference's width.

    gaps  name → ([widths], "first" or "second" order); a right gradient's gap falls with the width until rounding
    """
    figure, (axes,) = canvas(width=5.0, height=2.8)
    for name, (gap, order) in gaps.items():
        role = ORDERS[order]
        axes.loglog(widths, gap.detach().cpu(), color=role.color, ls=role.dash, marker=role.marker)
        label(axes, name, widths[-1].item(), gap[-1].item(), role, dx=6)
    axes.margins(x=0.02)
    axes.set_xlim(float(widths.min()) / 1.5, float(widths.max()) * 60)
    axes.set_xticks([float(10.0**n) for n in range(-10, 0, 2)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(
        xlabel="width h of the finite difference",
        ylabel="gap to the finite difference\n(relative; 1 = as large as itself)",
        title=title,
    )
    return figure


def cosines(
    alphas: Tensor,
    network: Interval,
    linear: Tensor,
    against_steps: Interval,
    *,
    closed_form: tuple[Tensor, Tensor],
    alpha: float,
    batches: int,
    title: str,
) -> Figure:
    """Cosine between the first- and the second-order meta-gradient: left against α, right against inner steps.

    network        mean over batches and half-width, [alphas] each, of a network
    linear         [alphas], of linear tasks; `closed_form` is their theory: step sizes and cosines
    against_steps  as `network`, for 1, 2, … steps at `alpha`; drawn as 1 − cosine
    """
    figure, (left, right) = canvas(1, 2, height=2.9)
    left.plot(*(values.cpu() for values in closed_form), color=TRUTH.color, lw=1)
    left.plot(alphas, linear, color=TRUTH.color, marker=TRUTH.marker, ms=5, ls="")
    label(left, "linear tasks:\n× measured, — formula", alphas[0].item(), float(linear[0]), TRUTH, dx=0, dy=-22)
    mean = _bars(left, alphas, network, QUERY)
    label(left, "network", alphas[0].item(), mean[0].item(), QUERY, dx=0, dy=11)
    left.set_xscale("log")
    _cosine_axis(left)
    left.set(xlabel="inner step size α", ylabel=f"cosine (mean of {batches} batches,\nbar: 95% interval)")
    mean, half = against_steps
    _bars(right, torch.arange(1, len(mean) + 1), (1 - mean, half), QUERY)
    right.axhline(0, color=THETA.color, ls=THETA.dash, lw=1)
    label(right, "the same direction", len(mean), 0, THETA, dx=-92, dy=7)
    right.set(xlabel=f"inner steps, network at α = {alpha:g}", ylabel="1 − cosine")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def cosines_after_training(
    alphas: Tensor,
    curves: Mapping[str, Interval],
    steepness: Mapping[str, Tensor],
    *,
    alpha: float,
    batches: int,
    title: str,
) -> Figure:
    """Left: the cosine against α at several starts. Right: α·λmax of the support loss at those starts, a dot a task.

    curves     start → mean over batches and half-width, [alphas] each
    steepness  start → [tasks]
    """
    figure, (left, right) = canvas(1, 2, height=2.9)
    roles = (THETA, FIRST_ORDER, MAML)
    for (name, curve), role in zip(curves.items(), roles, strict=True):
        _bars(left, alphas, curve, role)
        left.plot([], [], color=role.color, ls=role.dash, marker=role.marker, label=name)
    left.legend(loc="lower left", frameon=False)
    left.axvline(alpha, color=TRUTH.color, lw=0.8)
    left.set_xscale("log")
    _cosine_axis(left)
    label(left, "α of the training", alpha, left.get_ylim()[1], TRUTH, dx=-45, dy=6)
    left.set(xlabel="inner step size α", ylabel=f"cosine (mean of {batches} batches,\nbar: 95% interval)")
    for row, ((_, values), role) in enumerate(zip(steepness.items(), roles, strict=True)):
        spread = torch.linspace(-0.25, 0.25, len(values))[torch.arange(len(values)) * 7 % len(values)]
        right.plot(row + spread, values.cpu(), color=role.color, marker=role.marker, ls="", ms=2.5, alpha=0.7)
        right.plot([row - 0.32, row + 0.32], [values.median().item()] * 2, color=TRUTH.color, lw=1.6)
    right.axhline(1, color=THETA.color, ls=THETA.dash, lw=1)
    right.axhline(2, color=FAILURE.color, ls=FAILURE.dash, lw=1)
    label(right, "a step settles it", 2.4, 1, THETA, dx=-2, dy=6)
    label(right, "a step diverges", 2.4, 2, FAILURE, dx=-2, dy=6)
    right.set_xticks(range(len(steepness)))
    right.set_xticklabels(steepness)
    right.set(xlim=(-0.5, 3.3), ylabel=f"α·λmax at α = {alpha:g}\n(a dot a task, bar: median)", ylim=(0, None))
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def two_orders(
    training: Mapping[str, Mapping[str, Sequence[float]]],
    differences: Mapping[str, Interval],
    *,
    names: Mapping[str, str],
    window: int,
    tasks: int,
    title: str,
) -> Figure:
    """Left: query loss after adaptation during training. Right: first order's loss minus second order's, unseen tasks.

    training     setting → "first" or "second" → losses, one an iteration
    differences  setting → mean paired difference after 0, 1, … steps and the half-width of its 95% interval
    """
    figure, (left, right) = canvas(1, 2, height=3.0)
    for setting, runs in training.items():
        ends = []
        for order, losses in runs.items():
            role, width = ORDERS[order], min(window, len(losses))
            smooth = torch.tensor(losses, dtype=torch.float64).unfold(0, width, 1).mean(1)
            left.plot(torch.arange(len(smooth)) + width, smooth, color=role.color, ls=role.dash)
            ends.append(smooth[-1].item())
        label(left, setting, len(losses), sum(ends) / len(ends), TRUTH, dx=3)
    for order, name in names.items():
        left.plot([], [], color=ORDERS[order].color, ls=ORDERS[order].dash, label=name)
    left.legend(loc="upper right", frameon=False)
    left.axhline(0, color=TRUTH.color, lw=1)
    label(left, "a perfect fit", 0, 0, TRUTH, dx=0, dy=7)
    left.set(xlabel="meta-iteration", ylabel=f"training tasks: query MSE after\nadapting (mean of last {window})")
    left.set_ylim(bottom=-0.1)

    for (name, curve), role in zip(differences.items(), (QUERY, SUPPORT), strict=False):
        mean = _bars(right, torch.arange(len(curve[0])), curve, role)
        label(right, name, len(mean) - 1, mean[-1].item(), role, dx=6)
    right.axhline(0, color=TRUTH.color, lw=1)
    label(right, "no difference", 5, 0, TRUTH, dx=-68, dy=-9)
    right.set(
        xlabel="inner steps at the test",
        ylabel=f"{names['first']} − {names['second']},\nMSE ({tasks} unseen tasks, bar: 95%)",
    )
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def work(counts: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Work of a meta-gradient against inner steps, in units of one gradient; counts: "first" or "second" → [steps]."""
    figure, (axes,) = canvas(width=5.4, height=2.6)
    for order, count in counts.items():
        role = ORDERS[order]
        steps = range(1, len(count) + 1)
        axes.plot(steps, count, color=role.color, ls=role.dash, marker=role.marker)
        label(axes, f"{order} order", steps[-1], count[-1], role, dx=7)
    axes.set(xlabel="inner steps", ylabel="matrix products of a task,\nin units of one gradient", title=title)
    axes.set_xticks(range(1, len(next(iter(counts.values()))) + 1))
    axes.set_ylim(bottom=0)
    return figure


def _bars(axes: Axes, x: Tensor, curve: Interval, role: Role) -> Tensor:
    mean, half = curve[0].detach().cpu(), curve[1].detach().cpu()
    axes.errorbar(x, mean, half, color=role.color, ls=role.dash, marker=role.marker, capsize=2)
    return mean


def _name(axes: Axes, text: str, point: Tensor, role: Role, *, dx: float, dy: float) -> None:
    label(axes, text, float(point[0]), float(point[1]), role, dx=dx, dy=dy)


def _cosine_axis(axes: Axes) -> None:
    axes.axhline(1, color=THETA.color, ls=THETA.dash, lw=1)
    axes.axhline(0, color=THETA.color, lw=0.8)
    axes.set_ylim(min(-0.05, axes.get_ylim()[0]), 1.05)


def _contours(axes: Axes, loss: Callable[[Tensor], Tensor], points: Tensor, *, ratio: float) -> None:
    """Labelled contour lines of a loss around the points, evenly spaced in its square root; width = ratio · height."""
    low, high = points.min(0).values, points.max(0).values
    middle, span = (low + high) / 2, high - low
    height = 0.65 * max(float(span[1]), float(span[0]) / ratio)
    first = middle[0] + torch.linspace(-1, 1, 91, dtype=points.dtype) * height * ratio
    second = middle[1] + torch.linspace(-1, 1, 91, dtype=points.dtype) * height
    surface = torch.tensor([[float(loss(torch.stack([a, b]))) for a in first] for b in second])
    levels = torch.linspace(0, float(surface.max()) ** 0.5, 12)[1:] ** 2
    lines = axes.contour(first, second, surface, levels=levels, colors="#a0a0a0", linewidths=0.7)
    axes.clabel(lines, levels[1::2].tolist(), fmt="%.2g", fontsize=7)
    axes.set_aspect("equal")
    axes.set_xlim(float(first[0]), float(first[-1]))
    axes.set_ylim(float(second[0]), float(second[-1]))


def _mark_blocks(axes: Axes, blocks: Mapping[str, int]) -> None:
    edges, ticks = [0], []
    for count in blocks.values():
        ticks.append(edges[-1] + (count - 1) / 2)
        edges.append(edges[-1] + count)
    for edge in edges[1:-1]:
        axes.axhline(edge - 0.5, color=TRUTH.color, lw=0.6)
        axes.axvline(edge - 0.5, color=TRUTH.color, lw=0.6)
    axes.set(xticks=ticks, yticks=ticks)
    axes.set_xticklabels(blocks, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(blocks)
    axes.tick_params(length=0)
