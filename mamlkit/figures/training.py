"""Figures of training and adaptation: curves over inner steps, fits to one wave, and what the outer loop does to both.

Each function takes tensors or Curves and returns a Figure. Titles are the caller's: they state what was found there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from mamlkit.figures.theme import FAILURE, MAML, QUERY, SUPPORT, THETA, TRUTH, Role, canvas, label

# The named starts, each with the role that draws it; any other name is drawn as a query curve.
STARTS = {"random": THETA, "pooled": FAILURE, "MAML": MAML}
ORACLE = (0, (2, 2))  # the dash of lines that nothing computed here can move


class Adaptation(Protocol):
    """What `adaptation_curves` needs of an `evaluate` result: loss is [tasks, steps + 1]."""

    @property
    def loss(self) -> Tensor: ...
    def mean(self) -> Tensor: ...
    def half_width(self) -> Tensor: ...


class Iteration(Protocol):
    """What `learning_curve` needs of a `train` record: losses before and after adaptation, means over tasks."""

    @property
    def iteration(self) -> int: ...
    @property
    def loss_before(self) -> float: ...
    @property
    def loss_after(self) -> float: ...


def adaptation_curves(
    *panels: Mapping[str, Adaptation],
    title: str,
    panel_titles: Sequence[str] = (),
    oracles: Mapping[str, float] | None = None,
    trained_steps: int | None = None,
    ceiling: float | None = None,
) -> Figure:
    """Query MSE after 0, 1, … inner steps for several named starts, one panel for each mapping of name to Curve.

    oracles        horizontal lines: name to error
    trained_steps  where training stopped adapting, marked by a vertical line
    ceiling        top of the vertical axis; by default just above everything drawn

    Bands are 95% intervals of the mean over tasks; the axis says over how many. Panels of more than 20 steps have a
    logarithmic axis (linear up to one step).
    """
    figure, axes = canvas(1, len(panels), height=2.9)
    count = len(next(iter(panels[0].values())).loss)
    bands = [(curve.mean() + curve.half_width()).cpu() for panel in panels for curve in panel.values()]
    start = max([*(float(band[0]) for band in bands), *(oracles or {}).values()])
    highest = max(float(band.nan_to_num(nan=math.inf).clamp(max=1.4 * start).max()) for band in bands)
    top = ceiling or 1.04 * max(highest, start)
    for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        last = max(curve.loss.shape[1] for curve in panel.values()) - 1
        ends = []
        for name, curve in panel.items():
            role, steps = STARTS.get(name, QUERY), range(curve.loss.shape[1])
            # A diverged curve leaves through the top; values that no axis can hold would not be drawn at all.
            mean = curve.mean().cpu().nan_to_num(nan=math.inf).clamp(max=10 * top)
            half = curve.half_width().cpu().nan_to_num(nan=math.inf).clamp(max=10 * top)
            ax.plot(
                steps,
                mean,
                color=role.color,
                linestyle=role.dash,
                marker=role.marker,
                markevery=1 if last <= 20 else [0, 1, 2, 5, 10, *range(20, len(mean), 40)],
            )
            ax.fill_between(steps, mean - half, mean + half, color=role.color, alpha=0.18, linewidth=0)
            ends.append((name, float(mean[-1]), role))
        ends += _oracles(ax, oracles)
        if last > 20:
            ax.set_xscale("symlog", linthresh=1, linscale=0.4)
            ax.set_xticks([k for k in (0, 1, 3, 10, 30, 100, 300, 1000) if k <= last], minor=False)
            ax.xaxis.set_major_formatter(lambda k, _: f"{k:.0f}")
            ax.xaxis.set_minor_locator(NullLocator())
        if trained_steps is not None:
            ax.axvline(trained_steps, color=TRUTH.color, linewidth=0.8, linestyle=ORACLE)
            ax.annotate(
                "k in training",
                (trained_steps, top),
                xytext=(3, -2),
                textcoords="offset points",
                va="top",
                fontsize=8,
            )
        ax.set(xlabel="inner steps k", ylim=(0, top), xlim=(0, last))
        if number < len(panel_titles):
            ax.set_title(panel_titles[number])
        name_lines(ax, ends, last)
    axes[0].set_ylabel(f"query MSE (mean of {count}\ntasks, band: 95% interval)")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def fits(
    x: Tensor,
    truth: Tensor,
    support: tuple[Tensor, Tensor],
    predictions: Mapping[str, Mapping[int, Tensor]],
    *,
    title: str,
) -> Figure:
    """Fits to one task after some numbers of inner steps: one panel a start, name to {steps: prediction at x}.

    x, truth and each prediction are [points, 1]; support is the pair (x, y) that every start adapts on.
    """
    figure, axes = canvas(1, len(predictions), height=2.7, share=True)
    for ax, (name, by_steps) in zip(axes, predictions.items(), strict=True):
        role, last = STARTS.get(name, QUERY), max(by_steps)
        ax.plot(*_flat(x, truth), color=TRUTH.color, linewidth=1)
        ends = [("truth", float(truth.flatten()[-1]), TRUTH)]
        for steps, y in by_steps.items():
            style = _step_style(role, steps, last)
            ax.plot(*_flat(x, y), color=style.color, linestyle=style.dash, linewidth=2.2 if steps == last else 1.4)
            ends.append((f"k = {steps}", float(y.flatten()[-1]), style))
        ax.plot(*_flat(*support), linestyle="", marker=SUPPORT.marker, color=SUPPORT.color, zorder=4)
        ax.set(xlabel="x", title=f"{name} start")
        ax.margins(x=0)
        name_lines(ax, ends, float(x.max()))
    axes[0].set_ylabel("y")
    i = int(support[1].flatten().argmax())
    label(axes[0], "support", float(support[0].flatten()[i]), float(support[1].flatten()[i]), SUPPORT, dx=5, dy=6)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def learning_curve(
    records: Sequence[Iteration],
    *,
    steps: int,
    tasks: int,
    oracles: Mapping[str, float],
    title: str,
    windows: int = 60,
) -> Figure:
    """The outer loop's query loss on its training tasks, before and after adaptation, averaged over windows.

    The band spans the 10th to the 90th percentile of the iterations in a window, each a mean over `tasks` tasks.
    No records, as from a checkpoint that was complete, give an empty figure that says so.
    """
    figure, (ax,) = canvas(height=2.8)
    ends = []
    if records:
        width = max(1, len(records) // windows)
        count = len(records) // width
        middle = _windows([r.iteration for r in records], width, count).mean(1)
        before, after = [r.loss_before for r in records], [r.loss_after for r in records]
        for name, losses, role in (("before\nadaptation", before, THETA), (f"after k = {steps}", after, MAML)):
            values = _windows(losses, width, count)
            low, high = values.quantile(0.1, 1), values.quantile(0.9, 1)
            ax.fill_between(middle, low, high, color=role.color, alpha=0.18, linewidth=0)
            ax.plot(middle, values.mean(1), color=role.color, linestyle=role.dash)
            ends.append((name, float(values[-1].mean()), role))
        ax.set_ylabel(f"query MSE (band: 10 to 90% of\n{width} iterations of {tasks} tasks)")
        ax.set_xlim(records[0].iteration, records[-1].iteration + 1)
    else:
        ax.set_ylabel("query MSE")
        text = "no iteration was run here: the checkpoint was complete"
        ax.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center")
    ends += _oracles(ax, oracles)
    ax.set(xlabel="meta-iteration", ylim=(0, None))
    name_lines(ax, ends, ax.get_xlim()[1])
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def step_size_choice(
    errors: Mapping[str, Mapping[float, float]], *, steps: int, tasks: int, oracles: Mapping[str, float], title: str
) -> Figure:
    """Validation MSE after `steps` inner steps against the inner step size α, with each start's best α marked.

    errors  name to {α: mean query MSE}; values far above the first oracle are drawn as diverged, at the top.
    """
    figure, (ax,) = canvas(height=2.7)
    top = 1.6 * max(oracles.values())
    alphas = sorted({alpha for by_alpha in errors.values() for alpha in by_alpha})
    ends: dict[float, list[tuple[str, float, Role]]] = {alpha: [] for alpha in alphas}
    for name, by_alpha in errors.items():
        role = STARTS.get(name, QUERY)
        kept = {alpha: error for alpha, error in by_alpha.items() if error <= top}
        lost = [alpha for alpha in by_alpha if alpha not in kept]
        ax.plot([*kept], [*kept.values()], color=role.color, linestyle=role.dash, marker=role.marker)
        ax.plot(lost, [0.95 * top] * len(lost), linestyle="", marker=FAILURE.marker, color=role.color, markersize=7)
        if kept:
            best = min(kept, key=lambda alpha: kept[alpha])
            ax.plot(best, kept[best], marker="o", markersize=11, fillstyle="none", color=role.color)
            ends[max(kept)].append((f"{name} (best α: {best:g})", kept[max(kept)], role))
        if lost:
            ends[max(lost)].append((f"{name}: off the scale", 0.95 * top, role))
    ends[alphas[-1]] += _oracles(ax, oracles)
    ax.set(xscale="log", xlabel="inner step size α", ylim=(0, top))
    ax.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylabel(f"validation MSE after {steps}\nsteps (mean of {tasks} tasks)")
    for alpha, names in ends.items():
        name_lines(ax, names, alpha if alpha < alphas[-1] else ax.get_xlim()[1], dx=9 if alpha < alphas[-1] else 5)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def average_wave(x: Tensor, waves: Tensor, average: Tensor, typical: Tensor, learned: Tensor, *, title: str) -> Figure:
    """Some tasks' waves, their average, the wave of average amplitude and phase, and what a pooled network learned.

    x, average, typical, learned  [points, 1]
    waves                         [points, tasks]
    """
    figure, (ax,) = canvas(height=2.9)
    ax.plot(x.flatten().cpu(), waves.cpu(), color=THETA.color, alpha=0.25, linewidth=0.8)
    ends = [("single waves", float(waves[-1].max()), THETA)]
    for name, y, role, dash, width in (
        ("average wave E[y|x]", average, TRUTH, "-", 3.2),
        ("wave of average A and φ", typical, QUERY, (0, (4, 1.5, 1, 1.5)), 1.4),
        ("pooled network", learned, FAILURE, FAILURE.dash, 2),
    ):
        ax.plot(*_flat(x, y), color=role.color, linestyle=dash, linewidth=width)
        ends.append((name, float(y.flatten()[-1]), role))
    ax.set(xlabel="x", ylabel="y")
    ax.margins(x=0)
    name_lines(ax, ends, float(x.max()))
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def longer_training(
    iterations: Sequence[int],
    errors: Mapping[int, Sequence[tuple[float, float]]],
    *,
    tasks: int,
    oracles: Mapping[str, float],
    title: str,
) -> Figure:
    """Test MSE of starts that were trained for more and more iterations.

    errors  number of inner steps to a pair (mean, half-width of its 95% interval over `tasks` tasks) for each training
    """
    figure, (ax,) = canvas(height=2.8)
    ends = []
    for (k, pairs), marker in zip(errors.items(), ("o", "s", "D", "v"), strict=False):
        style = _step_style(FAILURE, k, max(errors))
        mean, half = torch.tensor(pairs, dtype=torch.float64).T
        ax.plot(iterations, mean, color=style.color, linestyle=style.dash, marker=marker)
        ax.fill_between(iterations, mean - half, mean + half, color=style.color, alpha=0.12, linewidth=0)
        ends.append((f"after k = {k}", float(mean[-1]), style))
    ends += _oracles(ax, oracles)
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(iterations), [f"{i:,}" for i in iterations])
    ax.set(xlabel="iterations of pooled training", ylim=(0, 1.12 * max(oracles.values())))
    ax.set_ylabel(f"query MSE (mean of {tasks}\ntasks, band: 95% interval)")
    name_lines(ax, ends, ax.get_xlim()[1])
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def name_lines(ax: Axes, ends: Sequence[tuple[str, float, Role]], x: float, *, gap: float = 11, dx: float = 5) -> None:
    """Write each line's name at its right end (x, y), pushed apart vertically so that names are `gap` points apart."""
    low, high = ax.get_ylim()
    points = ax.bbox.height / ax.figure.dpi * 72 / (high - low)  # of one unit of y
    placed = -math.inf
    for text, y, role in sorted(ends, key=lambda end: end[1]):
        at = (min(max(y, low), high) - low) * points
        lines = text.count("\n") + 1
        wanted = max(at, placed + gap * (1 + (lines - 1) / 2))
        label(ax, text, x, low + at / points, role, dx=dx, dy=wanted - at)
        placed = wanted + gap * (lines - 1) / 2


def _oracles(ax: Axes, oracles: Mapping[str, float] | None) -> list[tuple[str, float, Role]]:
    for level in (oracles or {}).values():
        ax.axhline(level, color=TRUTH.color, linewidth=0.9, linestyle=ORACLE, zorder=1)
    return [(name, level, TRUTH) for name, level in (oracles or {}).items()]


def _step_style(role: Role, steps: int, last: int) -> Role:
    """The unadapted function in θ's grey, the last number of steps in the start's own style, others dotted."""
    if steps == 0:
        return THETA
    return Role(role.color, "-", role.marker) if steps == last else Role(role.color, (0, (1, 1)), role.marker)


def _flat(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().flatten().cpu() for tensor in tensors]


def _windows(values: Sequence[float], width: int, count: int) -> Tensor:
    return torch.tensor(values[: width * count], dtype=torch.float64).reshape(count, width)
