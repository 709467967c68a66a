"""Figures of the experiments: which data judges θ', and what breaks a start.

Each function takes tensors or numbers and returns a Figure. Titles are the caller's: they state what was found there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from mamlkit.figures.theme import FAILURE, MAML, QUERY, SUPPORT, THETA, TRUTH, Role, canvas
from mamlkit.figures.training import Adaptation, name_lines
from mamlkit.statistics import half_width

# The three data that can judge θ', each with the role that draws it.
JUDGES = {"same support": SUPPORT, "fresh query": QUERY, "other task": FAILURE}
LEVEL = (0, (2, 2))  # the dash of a level that nothing computed here can move


def judge_parabolas(
    alphas: Tensor,
    paper: Mapping[str, Tensor],
    drawn: Mapping[str, Mapping[float, float]],
    best: Mapping[str, float],
    *,
    title: str,
) -> Figure:
    """The outer loss against the step size α for each judge, with the α at which it is lowest.

    alphas, paper  α and the closed form there, [points]
    drawn          judge to {α: loss over drawn tasks}
    best           judge to α*
    """
    figure, (ax,) = canvas(height=2.9)
    ends = []
    for name, losses in paper.items():
        role = JUDGES[name]
        ax.plot(alphas, losses, color=role.color, linestyle=role.dash)
        values = [*drawn[name].values()]
        ax.plot([*drawn[name]], values, role.marker, color=role.color, fillstyle="none", markersize=6, clip_on=False)
        lowest = float(losses.min())
        ax.plot(best[name], lowest, marker="v", color=role.color, markersize=9)
        above = lowest > min(float(other.min()) for other in paper.values())
        ax.annotate(
            f"α* = {best[name]:.2f}",
            (best[name], lowest),
            xytext=(0 if best[name] > 0.2 else 12, 9 if above else -13),
            textcoords="offset points",
            ha="center" if best[name] > 0.2 else "left",
            va="center",
            color=role.color,
            fontweight="bold",
        )
        ends.append((name, float(losses[-1]), role))
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.12 * (high - low), high)
    ax.set_xlim(float(alphas[0]) - 0.02, float(alphas[-1]))
    ax.set(xlabel="inner step size α", ylabel="outer loss F(α)\n(lines: on paper; marks: drawn tasks)")
    name_lines(ax, ends, float(alphas[-1]))
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def reported_against_examined(
    reported: Mapping[str, Sequence[float]],
    examined: Mapping[str, Mapping[int, float]],
    levels: tuple[Mapping[str, float], Mapping[str, float]],
    *,
    title: str,
    window: int = 50,
    tasks: int = 200,
) -> Figure:
    """What each training reports, its own outer loss, beside what the exam finds: fresh query data of unseen tasks.

    reported  judge to the outer loss of each iteration
    examined  judge to {iteration: mean query MSE after adaptation}
    levels    horizontal lines of the left and of the right panel: name to error
    window    iterations over which the reported loss is averaged
    """
    figure, axes = canvas(1, 2, height=2.9, share=True)
    last = max(len(losses) for losses in reported.values())
    averaged = {
        name: {
            end: sum(losses[max(0, end - window) : end]) / min(window, end)
            for end in sorted({*range(window, len(losses), window), len(losses)})
        }
        for name, losses in reported.items()
    }
    errors = [error for curve in examined.values() for error in curve.values()]
    top = 1.12 * max(*errors, *levels[0].values(), *levels[1].values(), 0.0)
    headings = (f"Reported: own outer loss ({window} iterations)", f"Exam: fresh query ({tasks} unseen tasks)")
    for ax, heading, curves, known in zip(axes, headings, (averaged, examined), levels, strict=True):
        ends = [(name, level, TRUTH) for name, level in known.items()]
        for level in known.values():
            ax.axhline(level, color=TRUTH.color, linewidth=0.8, linestyle=LEVEL)
        for name, curve in curves.items():
            ax.plot([*curve], [*curve.values()], color=JUDGES[name].color, linestyle=JUDGES[name].dash)
            ends += [(name, error, JUDGES[name]) for error in [*curve.values()][-1:]]
        ax.set(title=heading, xlabel="outer iteration", ylim=(0, top), xlim=(0, last))
        name_lines(ax, ends, last)
    axes[0].set_ylabel("mean MSE after one inner step")
    axes[1].tick_params(labelleft=True)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def function_moves(
    x: Tensor,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    support: tuple[Tensor, Tensor],
    truth: Tensor,
    moved: Mapping[str, Tensor],
    *,
    title: str,
) -> Figure:
    """How far one inner step moves the learned function: on one unseen task for each judge, and over many tasks.

    x, truth, before, after  [points, 1]
    support                  that task's x and y, [K, 1]
    moved                    judge to the root mean square over x of the movement, [tasks]
    """
    figure, axes = canvas(1, len(before) + 1, height=2.4)
    reach = 1.15 * max(float(values.abs().max()) for values in (truth, support[1], *before.values(), *after.values()))
    for ax, name in zip(axes, before, strict=False):
        ax.plot(x.cpu(), truth.cpu(), color=TRUTH.color, linewidth=0.9)
        ax.plot(x.cpu(), before[name].cpu(), color=THETA.color, linestyle=THETA.dash)
        ax.plot(x.cpu(), after[name].cpu(), color=MAML.color, linestyle=MAML.dash)
        ax.plot(support[0].cpu(), support[1].cpu(), SUPPORT.marker, color=SUPPORT.color, markersize=5)
        ax.set(xlabel="x", ylim=(-1.35 * reach, reach))
        ax.set_title(name, color=JUDGES[name].color)
        if ax is not axes[0]:
            ax.tick_params(labelleft=False)
    axes[0].set_ylabel("y")
    names = (("θ", THETA), ("θ'", MAML), ("truth", TRUTH), ("support", SUPPORT))
    for (text, role), left in zip(names, (0.03, 0.13, 0.26, 0.54), strict=True):
        axes[0].annotate(
            text,
            (left, 0.02),
            xycoords="axes fraction",
            color=role.color,
            fontweight="bold",
            fontsize=7,
        )
    strip = axes[-1]
    for place, (name, values) in enumerate(moved.items()):
        role = JUDGES[name]
        jitter = torch.rand(len(values), generator=torch.Generator().manual_seed(0)) / 2 - 0.25
        strip.plot(place + jitter, values.cpu(), role.marker, color=role.color, markersize=2, alpha=0.5)
        strip.plot([place - 0.35, place + 0.35], [float(values.mean())] * 2, color=TRUTH.color, linewidth=2)
    strip.set_xticks(range(len(moved)), [name.replace(" ", "\n") for name in moved])
    strip.set_ylim(0, None)
    strip.set_ylabel(f"RMS movement over x\n({len(values)} tasks, bar: mean)")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def gains(panels: Mapping[str, Mapping[str, Tensor]], *, title: str) -> Figure:
    """What one inner step takes off the query error, a row for each judge, a panel for each condition.

    panels  condition to judge to error before the step minus error after it, [tasks]
    """
    figure, axes = canvas(1, len(panels), height=2.1, share=True)
    for ax, (heading, rows) in zip(axes, panels.items(), strict=True):
        for place, (name, gain) in enumerate(rows.items()):
            role, mean, half = JUDGES[name], float(gain.mean()), float(half_width(gain))
            ax.plot([0, mean], [place, place], color=role.color, linestyle=role.dash, linewidth=2)
            ax.errorbar(mean, place, xerr=half, fmt=role.marker, color=role.color, capsize=3, markersize=6)
        ax.axvline(0, color=TRUTH.color, linewidth=0.8)
        ax.text(0, len(rows) - 0.45, "no gain ", ha="right", va="bottom", fontsize=7.5)
        ax.set_yticks(range(len(rows)), [*rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set(title=heading, xlabel=f"gain of one step in query MSE\n(mean of {len(gain)} tasks, bar: 95% interval)")
    low, high = axes[0].get_xlim()
    axes[0].set_xlim(min(low, -0.2 * high), high)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def stress_map(
    alphas: Tensor,
    harmed: Tensor,
    curvature: Tensor,
    trained: float,
    climbed: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    *,
    title: str,
) -> Figure:
    """Where adaptation breaks: the share of tasks left worse off, over α and steps, and the share over α·λmax.

    alphas     inner step sizes, [alphas]
    harmed     share of tasks whose query error is above its start, [alphas, steps], from one step on
    curvature  λmax of each task's support loss at the start, [tasks]
    trained    the α of the training
    climbed    name to (α·λmax, share of supports whose loss is above its start, half-width of its 95% interval)
    """
    figure, (chart, ax) = canvas(1, 2, height=3.0)
    count = harmed.shape[1]
    steps = torch.arange(1, count + 1)
    shading = LinearSegmentedColormap.from_list("harm", ["white", FAILURE.color, TRUTH.color])
    mesh = chart.pcolormesh(alphas.cpu(), steps, harmed.T.cpu(), cmap=shading, vmin=0, vmax=1, shading="nearest")
    bar = figure.colorbar(mesh, ax=chart, pad=0.02)
    bar.set_label("share of tasks left worse off")
    frontier = (2 / curvature).quantile(torch.tensor([0.05, 0.5, 0.95]).to(curvature)).tolist()
    for place, dash in zip(frontier, (LEVEL, "-", LEVEL), strict=True):
        chart.axvline(place, color=QUERY.color, linestyle=dash, linewidth=1.4)
    chart.plot([trained], [0.72], marker="^", color=MAML.color, markersize=8, clip_on=False)
    chart.text(frontier[1], count + 0.65, "2/λmax: 5, 50, 95% of tasks", color=QUERY.color, ha="center", fontsize=7.5)
    chart.set(xscale="log", xlabel="inner step size α (green: trained with)", ylabel="inner steps")
    ticks = [tick * 10.0**power for power in range(-6, 3) for tick in (1, 3)]
    ticks = [tick for tick in ticks if float(alphas.min()) <= tick <= float(alphas.max())]
    chart.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    chart.xaxis.set_minor_locator(NullLocator())
    chart.set_yticks([k for k in (1, 2, 3, 5, 10, 20) if k <= count])
    # Each name stands where its line leaves room: above the first, left of the second, right of the third.
    places = ((QUERY, 1.06, 12, 0, "right"), (FAILURE, 0.7, -8, 0, "right"), (THETA, 0.25, 10, 0, "left"))
    for (name, (product, share, half)), (role, level, dx, dy, side) in zip(climbed.items(), places, strict=False):
        ax.errorbar(
            product.cpu(),
            share.cpu(),
            yerr=half.cpu(),
            color=role.color,
            linestyle=role.dash,
            marker=role.marker,
            capsize=2,
        )
        nearest = int((share - level).abs().argmin())
        x, y = float(product[nearest]), level if level > 1 else float(share[nearest])
        x = min(x, 2.0) if role is FAILURE else x  # left of the line that marks the prediction
        ax.annotate(
            name,
            (x, y),
            (dx, dy),
            textcoords="offset points",
            ha=side,
            va="center",
            color=role.color,
            fontweight="bold",
        )
    ax.axvline(2, color=TRUTH.color, linestyle=LEVEL, linewidth=1)
    ax.text(1.9, 0.4, "predicted: 2", ha="right", va="bottom", fontsize=7.5)
    ax.set(
        xscale="log",
        xlabel="α·λmax of the task",
        ylabel="share of supports whose loss\nclimbs above its start (bar: 95%)",
    )
    ax.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], ["1/4", "1/2", "1", "2", "4", "8", "16"])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(-0.03, 1.12)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def curvature_of_starts(products: Mapping[float, tuple[Tensor, Tensor]], *, title: str) -> Figure:
    """α·λmax over tasks, of the random start and of the start that was trained with that α.

    products  α to (random start's, trained start's), each [tasks]
    """
    figure, (ax,) = canvas(height=2.7)
    ends = []
    for shift, (role, name) in ((-0.12, (THETA, "random start")), (0.12, (MAML, "trained with this α"))):
        for place, (random, trained) in enumerate(products.values()):
            values = (random if role is THETA else trained).cpu()
            jitter = torch.rand(len(values), generator=torch.Generator().manual_seed(0)) * 0.14 - 0.07
            ax.plot(place + shift + jitter, values, role.marker, color=role.color, markersize=2.5, alpha=0.5)
            ax.plot([place + shift - 0.1, place + shift + 0.1], [float(values.median())] * 2, color=TRUTH.color)
        ends.append((name, float(values.median()), role))
    ax.axhline(2, color=TRUTH.color, linestyle=LEVEL, linewidth=1)
    ax.text(-0.39, 2.1, "the edge: 2", va="bottom", fontweight="bold")
    count = len(next(iter(products.values()))[0])
    ax.set(yscale="log", xlabel="inner step size α", ylabel=f"α·λmax at the start\n({count} tasks; bar: median)")
    ax.set_xticks(range(len(products)), [f"{alpha:g}" for alpha in products])
    ax.set_yticks([0.03, 0.1, 0.3, 1, 2, 4], ["0.03", "0.1", "0.3", "1", "2", "4"])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlim(-0.4, len(products) - 0.6)
    name_lines(ax, ends, ax.get_xlim()[1])
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def training_map(
    alphas: Sequence[float],
    steps: Sequence[int],
    worst: Mapping[tuple[float, int], float],
    stopped: Mapping[tuple[float, int], int],
    frontier: Tensor,
    *,
    title: str,
    iterations: int,
) -> Figure:
    """The largest outer loss in the first iterations of meta-training, over α and inner steps.

    worst     (α, steps) to the largest outer loss
    stopped   (α, steps) to the iteration at which training stopped itself
    frontier  2/λmax of each task at the random start, [tasks]
    """
    figure, (ax,) = canvas(height=2.5)
    levels = torch.tensor([[math.log10(max(worst[alpha, k], 1e-3)) for alpha in alphas] for k in steps])
    shading = LinearSegmentedColormap.from_list("harm", ["white", FAILURE.color, TRUTH.color])
    lost = torch.tensor([[(alpha, k) in stopped for alpha in alphas] for k in steps])
    levels = torch.where(lost, torch.tensor(math.inf), levels).clamp(max=20)
    mesh = ax.pcolormesh(range(len(alphas)), range(len(steps)), levels, cmap=shading, vmin=0.5, vmax=12)
    bar = figure.colorbar(mesh, ax=ax, pad=0.02, extend="max")
    bar.set_label("log₁₀ of the largest\nouter loss")
    for row, k in enumerate(steps):
        for column, alpha in enumerate(alphas):
            loss = worst[alpha, k]
            text = f"{loss:.1f}" if loss < 100 else f"$10^{{{math.log10(loss):.0f}}}$" if math.isfinite(loss) else "∞"
            if (alpha, k) in stopped:
                text = f"stopped at\niteration {stopped[alpha, k]}"
            ground = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
            ax.text(column, row, text, ha="center", va="center", fontsize=7.5, bbox=ground)
    logs = [math.log(alpha) for alpha in alphas]

    def place(alpha: float) -> float:
        right = min(max(sum(log < math.log(alpha) for log in logs), 1), len(logs) - 1)
        return right - 1 + (math.log(alpha) - logs[right - 1]) / (logs[right] - logs[right - 1])

    edges = frontier.cpu().quantile(torch.tensor([0.05, 0.5, 0.95], dtype=frontier.dtype)).tolist()
    for edge, dash in zip(edges, (LEVEL, "-", LEVEL), strict=True):
        ax.axvline(place(edge), color=QUERY.color, linestyle=dash, linewidth=1.4)
    ax.text(
        place(edges[1]),
        len(steps) - 0.45,
        "2/λmax of the random start: 5, 50, 95% of tasks",
        color=QUERY.color,
        ha="center",
        va="bottom",
        fontsize=7.5,
    )
    ax.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    ax.set_yticks(range(len(steps)), [str(k) for k in steps])
    ax.set(xlabel=f"inner step size α (each cell: {iterations} outer iterations)", ylabel="inner steps")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


class Condition(NamedTuple):
    """How a start fares in a condition: α·λmax over tasks, and error after a step over error before it, with 95%."""

    product: Tensor  # [tasks]
    trained: tuple[float, float]  # ratio and half-width, at the α of the training
    scaled: tuple[float, float]  # the same at the α that the curvature asks for


def conditions(rows: Mapping[str, Condition], *, title: str) -> Figure:
    """α·λmax on the supports of several conditions, and what one step does to the query error there."""
    figure, (left, right) = canvas(1, 2, height=0.9 + 0.3 * len(rows))
    names = [*rows]
    for place, name in enumerate(names):
        low, middle, high = rows[name].product.quantile(torch.tensor([0.05, 0.5, 0.95]).to(rows[name].product)).tolist()
        left.plot([low, high], [place, place], color=QUERY.color, linewidth=1.2)
        left.plot(middle, place, QUERY.marker, color=QUERY.color, markersize=5)
        for shift, role, (ratio, half) in ((-0.13, FAILURE, rows[name].trained), (0.13, MAML, rows[name].scaled)):
            right.errorbar(ratio, place + shift, xerr=half, fmt=role.marker, color=role.color, capsize=2, markersize=5)
    left.axvline(2, color=TRUTH.color, linestyle=LEVEL, linewidth=1)
    right.axvline(1, color=TRUTH.color, linestyle=LEVEL, linewidth=1)
    count = len(rows[names[0]].product)
    left.set(xscale="log", xlabel=f"α·λmax on the support\n(median and 5 to 95% of {count} tasks)")
    left.set_xticks([0.5, 1, 2, 4, 8, 16], ["1/2", "1", "2", "4", "8", "16"])
    right.set(xscale="log", xlabel="query error after a step / before it\n(bar: 95% interval over tasks)")
    right.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], ["1/4", "1/2", "1", "2", "4", "8", "16"])
    for ax in (left, right):
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylim(len(names) - 0.5, -0.9)
    left.set_yticks(range(len(names)), names)
    right.set_yticks(range(len(names)), [""] * len(names))
    left.text(1.95, -0.5, "2 ", ha="right", va="center", fontsize=7.5)
    right.text(0.95, -0.5, "helps ", ha="right", va="center", fontsize=7.5)
    right.text(1.05, -0.5, " harms", ha="left", va="center", fontsize=7.5)
    last = rows[names[-1]]
    _beside(right, "trained α", last.trained[0], len(names) - 1.13, FAILURE, left=True)
    _beside(right, "scaled α", last.scaled[0], len(names) - 0.87, MAML, left=True)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def errors_by_width(rows: Mapping[str, Adaptation], *, title: str) -> Figure:
    """Query error before and after one step, a row for each distribution over tasks, trained and examined on it."""
    figure, (ax,) = canvas(height=2.0)
    for place, curve in enumerate(rows.values()):
        (before, after), (before_half, after_half) = curve.mean()[:2].tolist(), curve.half_width()[:2].tolist()
        ax.plot([before, after], [place, place], color=MAML.color, linewidth=1)
        ax.errorbar(before, place, xerr=before_half, fmt=THETA.marker, color=THETA.color, capsize=3, markersize=6)
        ax.errorbar(after, place, xerr=after_half, fmt=MAML.marker, color=MAML.color, capsize=3, markersize=6)
        if place == 0:
            ax.annotate("before", (before, place), (0, 9), textcoords="offset points", ha="center", color=THETA.color)
            ax.annotate("after", (after, place), (0, 9), textcoords="offset points", ha="center", color=MAML.color)
    ax.set_yticks(range(len(rows)), [*rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    count = len(next(iter(rows.values())).loss)
    ax.set(xlim=(-0.05, None), xlabel=f"query MSE (mean of {count} tasks; bar: 95% interval)")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _beside(ax: Axes, text: str, x: float, y: float, role: Role, *, left: bool) -> None:
    """Write a name to the left or the right of a data point, in the colour of its role."""
    ax.annotate(
        text,
        (x, y),
        (-8 if left else 8, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        color=role.color,
        fontweight="bold",
    )
