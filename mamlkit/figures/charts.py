"""Parts that charts are made of, and the two charts that serve notebooks 04 and 06 alike.

Roles are styles that matplotlib takes: `ax.plot(x, y, **MAML.line)`. Tensors may be on any device and carry a graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from mamlkit.curves import Curve
from mamlkit.figures.theme import CLEAR, FAILURE, LEVEL, MAML, NOTE, QUERY, SUPPORT, THETA, TRUTH, Role, canvas, ink
from mamlkit.statistics import half_width

# The named starts, each with the role that draws it; any other name is drawn as a query curve.
STARTS = {"random": THETA, "random start": THETA, "pooled": FAILURE, "MAML": MAML}

Band = tuple[Tensor, Tensor]  # a mean and the half-width of its 95% interval, elementwise
Values = Tensor | Sequence[float]
Number = float | Tensor  # of one element
Tensors = Mapping[str, Tensor]  # by name, as all that is named in a figure
Numbers = Mapping[str, float]
Points = tuple[Tensor, Tensor]  # x and y


def flat(values: Values | Number) -> Tensor:
    """The numbers of a tensor or a sequence in a row, on the CPU and without a graph: [n], float64."""
    return torch.as_tensor(values, dtype=torch.float64).detach().flatten().cpu()


def over_tasks(values: Tensor) -> Band:
    """The mean of values [tasks, …] over tasks, and the half-width of its 95% interval."""
    values = values.detach().double().cpu()
    return values.mean(0), half_width(values)


def line(ax: Axes, x: Values, y: Values, role: Role, half: Values | None = None, **style: Any) -> None:
    """A line in the style of its role; with half-widths, the band y ± half around it."""
    ax.plot(flat(x), flat(y), **{**role.line, **style})
    if half is not None:
        low, high = flat(y) - flat(half), flat(y) + flat(half)
        ax.fill_between(flat(x), low, high, color=role.color, alpha=0.18, linewidth=0)


def bars(ax: Axes, x: Values, band: Band, role: Role) -> None:
    """Markers on a line, each with the bar of its 95% interval."""
    ax.errorbar(flat(x), flat(band[0]), flat(band[1]), **role.joined)


def levels(ax: Axes, known: Numbers) -> None:
    """Horizontal lines at what is known beforehand, by name."""
    for name, value in known.items():
        ax.axhline(value, label=name, **LEVEL)


def label(
    ax: Axes, text: str, x: Number, y: Number, color: str = "black", *, dx: float = 4, dy: float = 0, **style: Any
) -> None:
    """Write a text at the data point (x, y), moved by (dx, dy) points: bold, in the ink of a colour, or as styled."""
    shown = {"color": ink(color), "va": "center", "fontweight": "bold", "annotation_clip": False, **style}
    ax.annotate(text, (flat(x).item(), flat(y).item()), (dx, dy), textcoords="offset points", **shown)


def point_out(ax: Axes, text: str, points: tuple[Values, Values], role: Role, *, near: float, height: float) -> None:
    """Write a text straight above or below the point nearest to x = `near`, at a height in data units, tied to it.

    A vertical tie does not cross the curve that its point lies on. The horizontal limits of the axes must stand by now.
    """
    x, y = map(flat, points)
    i = int((x - near).abs().argmin())
    share = ax.transAxes.inverted().transform(ax.transData.transform((float(x[i]), height)))[0]
    ha, end = ("left", 0.0) if share < 0.12 else ("right", 1.0) if share > 0.88 else ("center", 0.5)
    tie = {"arrowstyle": "-", "color": role.color, "linewidth": 0.8, "relpos": (end, 0.5), "shrinkA": 0, "shrinkB": 1}
    style: dict[str, Any] = {"ha": ha, "va": "center", "fontweight": "bold", "annotation_clip": False, "bbox": CLEAR}
    ax.annotate(text, (float(x[i]), float(y[i])), (float(x[i]), height), color=ink(role.color), arrowprops=tie, **style)


def name_lines(ax: Axes, *, gap: float = 11) -> None:
    """Write the label of each line at the right edge of the axes, in its colour, pushed apart to `gap` points.

    Labels are those that `line`, `ax.plot` and `ax.axhline` were given. The limits of the axes must stand by now.
    """
    right, (low, high), lowest = ax.get_xlim()[1], ax.get_ylim(), -math.inf
    named = [drawn for drawn in ax.lines if not str(drawn.get_label()).startswith("_")]
    for drawn in sorted(named, key=lambda drawn: float(drawn.get_ydata()[-1])):  # type: ignore[index,arg-type]
        text, y = str(drawn.get_label()), min(max(float(drawn.get_ydata()[-1]), low), high)  # type: ignore[index,arg-type]
        at = ax.transData.transform((right, y))[1] / ax.figure.dpi * 72
        half = gap * text.count("\n") / 2  # of what a text of several lines takes above and below its middle
        wanted = max(at, lowest + gap + half)
        label(ax, text, right, y, str(drawn.get_color()), dx=5, dy=wanted - at)
        lowest = wanted + half


def ticks(axis: Axis, places: Iterable[float], name: Callable[[Any], str] = "{:g}".format) -> None:
    """Ticks at these places and at no others, on any scale."""
    places = list(places)
    axis.set_ticks(places, [name(place) for place in places])
    axis.set_minor_locator(NullLocator())


def rows(ax: Axes, names: Collection[str], *, above: float = 0.6) -> None:
    """A named row for each thing, 0, 1, …, from the top down, with so much room `above` the first."""
    ax.set_yticks(range(len(names)), list(names))
    ax.set_ylim(len(names) - 0.4, -above)


def strip(
    ax: Axes, place: float, values: Tensor, role: Role, middle: Callable[[Tensor], Tensor], *, width: float
) -> None:
    """Values of many tasks as dots over one place of the horizontal axis, with a bar at their mean or median."""
    values = flat(values)
    spread = torch.arange(len(values)) * 0.618034 % 1 - 0.5  # by the golden ratio: even, whatever their number
    ax.plot(place + width * spread, values, **role.dots, markersize=2.5, alpha=0.6)
    ax.plot([place - 0.6 * width, place + 0.6 * width], [float(middle(values))] * 2, color=TRUTH.color, linewidth=1.8)


def adaptation_curves(
    panels: Mapping[str, Mapping[str, Curve]], *, title: str, oracles: Numbers, trained_steps: int | None = None
) -> Figure:
    """Query MSE after 0, 1, … inner steps for several named starts.

    panels         heading of a panel to {start: Curve}
    oracles        horizontal lines: name to error
    trained_steps  where training stopped adapting, marked by a vertical line

    Bands are 95% intervals of the mean over tasks; the axis says over how many. Panels of more than 20 steps have a
    logarithmic axis (linear up to one step).
    """
    figure, axes = canvas(1, len(panels), height=2.9, title=title)
    curves = [curve for panel in panels.values() for curve in panel.values()]
    ends = [(curve.mean() + curve.half_width()).nan_to_num(nan=math.inf) for curve in curves]
    start = max(*(float(end[0]) for end in ends), *oracles.values())
    top = 1.04 * max(start, *(float(end.clamp(max=1.4 * start).max()) for end in ends))
    for ax, (heading, panel) in zip(axes, panels.items(), strict=True):
        last = max(curve.loss.shape[1] for curve in panel.values()) - 1
        for name, curve in panel.items():
            role = STARTS.get(name, QUERY)
            # A diverged curve leaves through the top; values that no axis can hold would not be drawn at all.
            mean, half = (v.nan_to_num(nan=math.inf).clamp(max=10 * top) for v in (curve.mean(), curve.half_width()))
            marks = range(len(mean)) if last <= 20 else [0, 1, 2, 5, 10, *range(20, len(mean), 40)]
            line(ax, range(len(mean)), mean, role, half, label=name, marker=role.marker, markevery=list(marks))
        levels(ax, oracles)
        ax.set_xlabel("inner steps k")
        if last > 20:
            ax.set_xscale("symlog", linthresh=1, linscale=0.4)
            ticks(ax.xaxis, (k for k in (0, 1, 3, 10, 30, 100, 300, 1000) if k <= last))
            ax.set_xlabel("inner steps k (logarithmic from 1 on)")
        if trained_steps is not None:
            ax.axvline(trained_steps, **LEVEL)
            label(ax, "k in training", trained_steps, top, dx=3, dy=-2, va="top", **NOTE)
        ax.set(ylim=(0, top), xlim=(0, last), title=heading)
        name_lines(ax)
    axes[0].set_ylabel(f"query MSE (mean of {len(curves[0].loss)}\ntasks, band: 95% interval)")
    return figure


def adapted_functions(
    x: Tensor, truth: Tensor, support: Points, predictions: Mapping[str, Mapping[int, Tensor]], *, title: str
) -> Figure:
    """The function on one task after some numbers of inner steps: one panel a start, name to {steps: f at x}.

    x, truth and each f are [points, 1]; support is the pair (x, y) that every start adapts on.
    """
    figure, axes = canvas(1, len(predictions), height=2.7, sharex=True, sharey=True, title=title)
    for ax, (name, by_steps) in zip(axes, predictions.items(), strict=True):
        line(ax, x, truth, TRUTH, linewidth=1, label="truth")
        for steps, y in by_steps.items():
            style = step_style(STARTS.get(name, QUERY), steps, max(by_steps))
            line(ax, x, y, style, linewidth=2.2 if steps == max(by_steps) else 1.4, label=f"k = {steps}")
        ax.plot(*map(flat, support), **SUPPORT.dots, zorder=4)
        ax.set(xlabel="x", title=f"{name} start")
        ax.margins(x=0)
    axes[0].set_ylabel("y")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high + 0.16 * (high - low))
    x, y = map(flat, support)
    point_out(axes[0], "support", support, SUPPORT, near=float(x[y.argmax()]), height=high + 0.08 * (high - low))
    for ax in axes:  # the limits stand by now
        name_lines(ax)
    return figure


def step_style(role: Role, steps: int, last: int) -> Role:
    """A start's own colour for all its steps: the last number of them solid, none dashed, others dotted."""
    return role._replace(dash="-" if steps == last else (0, (1, 1)) if steps else (0, (4, 2)))
