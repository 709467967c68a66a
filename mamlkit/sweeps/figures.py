"""Figures of a sweep: how often claims hold, what settings do to the records, and curves, all over seeds."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from textwrap import fill, shorten

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mamlkit.figures.theme import FAILURE, FIRST_ORDER, MAML, QUERY, SUPPORT, THETA, TRUTH, Role, canvas
from mamlkit.statistics import Interval, t_interval, wilson_interval
from mamlkit.sweeps import results

DPI = 144
RATES, PANELS, ROWS, LINES = 24, 8, 16, 6  # the most claims and panels in a figure, rows and curves in a panel
POINTS, FEW = 200, 12  # of a curve that are drawn, and that are marked each
SHORT = 14  # characters of a row, if two panels are to stand side by side
STYLES = (MAML, QUERY, FIRST_ORDER, SUPPORT, FAILURE, TRUTH)


def spread(values: Iterable[float]) -> Interval | None:
    """Mean and 95% interval over seeds; None for a single seed and where a value is not finite."""
    values = list(values)
    return t_interval(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def pass_rates(rates: pd.DataFrame, title: str) -> Figure:
    """The share of runs in which each claim holds, with its Wilson 95% interval. Columns: claim, held, runs."""
    figure, (ax,) = canvas(height=1.1 + 0.27 * len(rates), title=fill(title, 80))
    for place, rate in enumerate(results.rows(rates)):
        interval, role = wilson_interval(rate.held, rate.runs), MAML if rate.held == rate.runs else FAILURE
        ax.plot([interval.low, interval.high], [place, place], color=role.color, solid_capstyle="butt")
        ax.plot(interval.mean, place, **role.dots)
        ax.annotate(f"{rate.held} of {rate.runs}", (1.03, place), va="center", annotation_clip=False)
    ax.set_yticks(range(len(rates)), [shorten(claim, 68, placeholder=" …") for claim in rates.claim])
    ax.set(xlim=(-0.02, 1.02), ylim=(len(rates) - 0.4, -0.6), xlabel="share of runs in which it holds, 95% interval")
    return figure


def dots(values: pd.DataFrame, title: str) -> Figure:
    """One panel a record, one row a setting: each seed as a dot, their mean and its 95% interval over seeds.

    Columns: panel, line, value; a row for each seed.
    """
    panels = [
        (name, list(rows.groupby("line", sort=False).value)[:ROWS])
        for name, rows in values.groupby("panel", sort=False)
    ]
    columns = min(2 if values.line.str.len().max() < SHORT else 1, len(panels))
    sizes = [len(rows) for _, rows in panels]
    heights = [0.6 + 0.2 * max(sizes[place : place + columns]) for place in range(0, len(panels), columns)]
    figure, axes = canvas(
        len(heights), columns, height=sum(heights) + 0.45, height_ratios=heights, title=fill(title, 80)
    )
    for ax, (name, rows) in zip(axes, panels, strict=False):
        ax.set_yticks(range(len(rows)), [_row(ax, y, str(line), values) for y, (line, values) in enumerate(rows)])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.xaxis.set_major_locator(MaxNLocator(4 if columns > 1 else 8))
        ax.set_title(fill(str(name), 34 if columns > 1 else 60))
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure


def _row(ax: Axes, y: int, name: str, values: pd.Series[float]) -> str:
    """Draw a row; its label."""
    finite = values[values.map(math.isfinite)]
    ax.plot(finite, [y] * len(finite), "o", color=THETA.color, alpha=0.7, markersize=3, markeredgewidth=0, zorder=3)
    if interval := spread(values):
        ax.plot([interval.low, interval.high], [y, y], color=MAML.color, linewidth=1.2)
        ax.plot(interval.mean, y, **MAML.dots, markersize=4.5, zorder=4)
    lost = len(values) - len(finite)
    if lost:
        ax.plot(1, y, **FAILURE.dots, transform=ax.get_yaxis_transform(), clip_on=False)
    label = f"{shorten(name, 40, placeholder=' …')}{' · ' if name else ''}n = {len(values)}"
    return label + (f", {lost} not finite" if lost else "")


def curves(values: pd.DataFrame, title: str, x: str = "") -> Figure:
    """One panel a record: the mean curve of each setting and the band of its 95% interval over seeds.

    Columns: panel, line, x, value; a row for each seed. `x` names the horizontal axis, where it has a name.
    """
    panels = list(values.groupby("panel", sort=False))
    roles = dict(zip(values.line.unique(), STYLES, strict=False))
    columns = min(2, len(panels))
    down = -(-len(panels) // columns)
    figure, axes = canvas(down, columns, height=0.6 + 2.1 * down + 0.2 * -(-len(roles) // 2), title=fill(title, 80))
    for ax, (name, panel) in zip(axes, panels, strict=False):
        for line, points in panel[panel.line.isin(roles)].groupby("line", sort=False):
            _curve(ax, points, roles[line])
        whole = (panel.x % 1 == 0).all()
        if whole:
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        listed = whole and panel.x.min() == 0 and panel.x.nunique() == panel.x.max() + 1
        ax.set_xlabel(x or ("position in the list, from 0" if listed else "key in the record"))
        ax.set_title(fill(str(name), 44))
    for ax in axes[len(panels) :]:
        ax.remove()
    seeds = values.groupby(["line", "panel", "x"]).size().groupby("line").agg(["min", "max"]).astype(str)
    named = {line: shorten(f"{line}, " if line else "", 50, placeholder=" …") for line in roles}
    labels = [f"{name} n = {' to '.join(dict.fromkeys(seeds.loc[line]))}" for line, name in named.items()]
    handles = [axes[0].plot([], [], **role.joined)[0] for role in roles.values()]
    figure.legend(handles, labels, loc="outside lower left", ncols=2)
    return figure


def _curve(ax: Axes, points: pd.DataFrame, role: Role) -> None:
    seeds = points.groupby("x").value.agg(list)
    seeds = seeds.iloc[:: max(1, len(seeds) // POINTS)]
    means = [math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan for values in seeds]
    ax.plot(seeds.index, means, **(role.joined if len(seeds) <= FEW else role.line))
    bands = [spread(values) for values in seeds]
    low, high = ([getattr(band, end) if band else math.nan for band in bands] for end in ("low", "high"))
    ax.fill_between(seeds.index, low, high, color=role.color, alpha=0.15, linewidth=0)


def png(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colours."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()
