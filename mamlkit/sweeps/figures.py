"""Figures of a sweep: how often claims hold, what settings do to the records, and curves, all over seeds."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from textwrap import fill, shorten
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mamlkit.figures.theme import FAILURE, FIRST_ORDER, MAML, QUERY, SUPPORT, THETA, TRUTH, Role, canvas
from mamlkit.statistics import Interval, t_interval, wilson_interval

DPI = 144
RATES, ROWS, LINES = 24, 16, 6  # the most claims in a figure, rows in a panel, curves in a panel
POINTS, FEW = 200, 12  # of a curve that are drawn, and that are marked each
SHORT = 14  # characters of a row, if two panels are to stand side by side
STYLES = (MAML, QUERY, FIRST_ORDER, SUPPORT, FAILURE, TRUTH)


class Rate(NamedTuple):
    """How many of the runs that checked a claim found that it holds."""

    claim: str
    held: int
    runs: int


class Dots(NamedTuple):
    """A panel: a record's values over seeds, for each row's label."""

    title: str
    rows: Mapping[str, Sequence[float]]


class Curves(NamedTuple):
    """A panel: for each line's label {x: the record's values over seeds}; `x` names the axis, if it has a name."""

    title: str
    x: str
    lines: Mapping[str, Mapping[float, Sequence[float]]]


def spread(values: Sequence[float]) -> Interval | None:
    """Mean and 95% interval over seeds; None for a single seed and where a value is not finite."""
    return t_interval(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def pass_rates(rates: Sequence[Rate], title: str) -> Figure:
    """The share of runs in which each claim holds, with its Wilson 95% interval."""
    shown = list(rates[:RATES])
    figure, (ax,) = canvas(height=1.1 + 0.27 * len(shown))
    for place, rate in enumerate(shown):
        interval, role = wilson_interval(rate.held, rate.runs), MAML if rate.held == rate.runs else FAILURE
        ax.plot([interval.low, interval.high], [place, place], color=role.color, solid_capstyle="butt")
        ax.plot(interval.mean, place, role.marker, color=role.color)
        ax.annotate(f"{rate.held} of {rate.runs}", (1.03, place), va="center", annotation_clip=False)
    ax.set_yticks(range(len(shown)), [shorten(rate.claim, 68, placeholder=" …") for rate in shown])
    ax.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.4, -0.6), xlabel="share of runs in which it holds, 95% interval")
    figure.suptitle(fill(title, 80), x=0.01, ha="left")
    return figure


def dots(panels: Sequence[Dots], title: str) -> Figure:
    """One panel a record, one row a setting: each seed as a dot, their mean and its 95% interval over seeds."""
    longest = max(len(name) for panel in panels for name in panel.rows)
    columns = min(2 if longest < SHORT else 1, len(panels))
    lines = [panels[place : place + columns] for place in range(0, len(panels), columns)]
    heights = [0.6 + 0.2 * max(min(len(panel.rows), ROWS) for panel in line) for line in lines]
    figure = Figure(figsize=(7.0, sum(heights) + 0.45), layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for ax, panel in zip(grid.flat, panels, strict=False):
        _dots(ax, panel, narrow=columns > 1)
    for ax in list(grid.flat)[len(panels) :]:
        ax.remove()
    figure.suptitle(fill(title, 80), x=0.01, ha="left")
    return figure


def _dots(ax: Axes, panel: Dots, *, narrow: bool) -> None:
    rows = list(panel.rows.items())[:ROWS]
    names = []
    for place, (name, values) in enumerate(rows):
        finite = [value for value in values if math.isfinite(value)]
        ax.plot(
            finite, [place] * len(finite), "o", color=THETA.color, alpha=0.7, markersize=3, markeredgewidth=0, zorder=3
        )
        if interval := spread(values):
            ax.plot([interval.low, interval.high], [place, place], color=MAML.color, linewidth=1.2)
            ax.plot(interval.mean, place, MAML.marker, color=MAML.color, markersize=4.5, zorder=4)
        if len(finite) < len(values):
            ax.plot(1, place, FAILURE.marker, color=FAILURE.color, transform=ax.get_yaxis_transform(), clip_on=False)
        lost = "" if len(finite) == len(values) else f", {len(values) - len(finite)} not finite"
        names.append(f"{shorten(name, 40, placeholder=' …')}{' · ' if name else ''}n = {len(values)}{lost}")
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8))
    ax.set_title(fill(panel.title, 34 if narrow else 60))


def curves(panels: Sequence[Curves], title: str) -> Figure:
    """One panel a record: the mean curve of each setting and the band of its 95% interval over seeds."""
    columns = min(2, len(panels))
    down = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    roles = dict(zip(names, STYLES, strict=False))
    seeds: dict[str, set[int]] = {name: set() for name in roles}
    figure, axes = canvas(down, columns, height=0.6 + 2.1 * down + 0.2 * -(-len(roles) // 2))
    for ax, panel in zip(axes, panels, strict=False):
        for name, role in roles.items():
            if line := panel.lines.get(name):
                _curve(ax, line, role)
                seeds[name] |= {len(values) for values in line.values()}
        ax.set_title(fill(panel.title, 44))
        positions = all(sorted(line) == list(range(len(line))) for line in panel.lines.values())
        if all(float(x).is_integer() for line in panel.lines.values() for x in line):
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        ax.set_xlabel(panel.x or ("position in the list, from 0" if positions else "key in the record"))
    for ax in axes[len(panels) :]:
        ax.remove()
    lines = [
        axes[0].plot([], [], color=role.color, linestyle=role.dash, marker=role.marker)[0] for role in roles.values()
    ]
    labels = [f"{shorten(f'{name}, ' if name else '', 50, placeholder=' …')} {_n(seeds[name])}" for name in roles]
    figure.legend(lines, labels, loc="outside lower left", ncols=2, frameon=False)
    figure.suptitle(fill(title, 80), x=0.01, ha="left")
    return figure


def _curve(ax: Axes, line: Mapping[float, Sequence[float]], role: Role) -> None:
    xs = sorted(line)[:: max(1, len(line) // POINTS)]
    means = [math.fsum(line[x]) / len(line[x]) if all(map(math.isfinite, line[x])) else math.nan for x in xs]
    ax.plot(xs, means, color=role.color, linestyle=role.dash, marker=role.marker if len(xs) <= FEW else "")
    bands = [spread(line[x]) for x in xs]
    low, high = ([getattr(band, end) if band else math.nan for band in bands] for end in ("low", "high"))
    ax.fill_between(xs, low, high, color=role.color, alpha=0.15, linewidth=0)


def _n(seeds: Collection[int]) -> str:
    return f"n = {min(seeds)}" + (f" to {max(seeds)}" if len(seeds) > 1 else "")


def png(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colours."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()
