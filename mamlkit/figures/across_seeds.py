"""Figures of notebook 13: claims and effects over the seeds of a sweep, and what the two kinds of interval cover.

Titles are the caller's: they state what was found there.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from mamlkit.figures.charts import Values, label, line, name_lines, rows, ticks
from mamlkit.figures.theme import FAILURE, LEVEL, MAML, NOTE, QUERY, THETA, TRUTH, Role, canvas
from mamlkit.statistics import Interval, wilson_interval


def claims_by_seed(held: Mapping[str, Mapping[int, int]], total: Mapping[str, int], *, title: str) -> Figure:
    """How many claims of each notebook held on each seed: a grid of numbers.

    held   notebook to {seed: claims that held}; a seed that was not run is left white
    total  notebook to its number of claims. Where some did not hold, the square is marked and says how many of them did
    """
    seeds = sorted({seed for by_seed in held.values() for seed in by_seed})
    figure, (ax,) = canvas(height=0.9 + 0.27 * len(held), title=title)
    for row, (name, by_seed) in enumerate(held.items()):
        for seed, count in by_seed.items():
            whole, column = count == total[name], seeds.index(seed)
            fill = {"color": QUERY.color, "alpha": 0.22} if whole else {"color": FAILURE.color}
            ax.barh(row, 0.9, left=column - 0.45, height=0.84, **fill)
            weight, text = ("normal", str(count)) if whole else ("bold", f"{count} of {total[name]}")
            ax.text(column, row, text, ha="center", va="center", fontweight=weight, fontsize=8)
    ax.set_xticks(range(len(seeds)), [str(seed) for seed in seeds])
    rows(ax, held)
    ax.set_xlabel("seed (numbers: claims that held; dark: the others failed or were not reached)")
    ax.set_xlim(-0.6, len(seeds) - 0.4)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def two_intervals(
    means: Mapping[int, float], halves: Mapping[int, float], overall: Interval, *, test_size: int, title: str
) -> Figure:
    """Each seed's mean error with its 95% interval over tasks, and the interval over seeds as a band.

    means, halves  seed to mean and half-width over its test tasks. An interval that misses the mean over seeds
                   is drawn in another colour and dash
    """
    figure, (ax,) = canvas(height=2.7, title=title)
    ax.axhspan(overall.low, overall.high, color=MAML.color, alpha=0.2, linewidth=0)
    ax.axhline(overall.mean, color=MAML.color, label=f"mean over {overall.n} seeds\nand its interval")
    for place, (seed, mean) in enumerate(means.items()):
        role = QUERY if abs(mean - overall.mean) <= halves[seed] else FAILURE
        _, _, drawn = ax.errorbar(place, mean, halves[seed], **role.dots)
        drawn[0].set_linestyle(role.dash)
    ax.set_xticks(range(len(means)), [str(seed) for seed in means])
    ax.set(xlim=(-0.5, len(means) - 0.5), ylabel="query MSE after one step")
    ax.set_xlabel(f"seed (bar: 95% interval over its {test_size} tasks; cross: it misses the mean over seeds)")
    name_lines(ax)
    return figure


def coverage(hits: Mapping[str, int], *, repeats: int, title: str) -> Figure:
    """The share of simulated sweeps in which each kind of interval held the truth, beside the promised 95%."""
    figure, (ax,) = canvas(height=0.9 + 0.3 * len(hits), title=title)
    rows(ax, hits, above=1)
    ax.axvline(0.95, **LEVEL)
    for row, count in enumerate(hits.values()):
        rate = wilson_interval(count, repeats)
        _interval(ax, row, rate, MAML if rate.low <= 0.95 <= rate.high else FAILURE)
        label(ax, f"{rate.mean:.0%}", rate.low, row, dx=-6, ha="right", **NOTE)
    label(ax, "promised", 0.95, -0.75, dx=3, **NOTE)
    ax.set_xlim(0, 1.02)
    ax.set_xlabel(
        f"share of {repeats:,} simulated sweeps in which the interval held the truth\n"
        "bar: 95% interval of that share; cross: it misses 95%"
    )
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def paired_seeds(
    methods: Mapping[str, Mapping[int, float]], intervals: Mapping[str, Interval], *, title: str
) -> Figure:
    """Errors of two methods seed by seed, joined, and 95% intervals of their mean difference by name.

    methods  two names, the one that is expected to lose first, each to {seed: error}
    """
    figure, (left, right) = canvas(1, 2, height=2.6, title=title)
    names, (first, second) = list(methods), methods.values()
    for seed, value in first.items():
        color = THETA.color if second[seed] < value else FAILURE.color
        left.plot((0, 1), (value, second[seed]), color=color, linewidth=1, zorder=1)
    for place, (errors, role) in enumerate(((first, THETA), (second, MAML))):
        left.plot([place] * len(errors), list(errors.values()), **role.dots, markersize=5)
    left.set_xticks((0, 1), names)
    left.set(xlim=(-0.4, 1.4), ylabel="query MSE after one step", title=f"One line a seed, m = {len(first)}")
    for row, (name, interval) in enumerate(intervals.items()):
        _interval(right, row, interval, QUERY)
        label(right, name, interval.mean, row, QUERY.color, dx=0, dy=11, ha="center")
    right.axvline(0, **LEVEL)
    right.set_yticks([])
    right.spines["left"].set_visible(False)
    right.set(ylim=(len(intervals) - 0.6, -0.7), title="Their mean difference")
    right.set_xlabel(f"{names[0]} minus {names[1]} (MSE)\nbar: 95% interval over seeds")
    right.margins(x=0.15)
    return figure


def effects(
    panels: Mapping[str, Mapping[str, Mapping[int, float]]],
    intervals: Mapping[str, Interval],
    *,
    shown: int,
    title: str,
) -> Figure:
    """Effects with their 95% intervals over seeds, one panel a unit; grey dots are the single seeds.

    panels     unit to {effect: {seed: its value}}
    intervals  effect to its interval over seeds
    shown      the seed that is marked by a ring, where an effect has it
    """
    counts = [len(found) for found in panels.values()]
    height = 0.75 * len(panels) + 0.235 * sum(counts)
    figure, axes = canvas(len(panels), title=title, height=height, height_ratios=[count + 1.2 for count in counts])
    for ax, (unit, found) in zip(axes, panels.items(), strict=True):
        rows(ax, found)
        for row, (name, values) in enumerate(found.items()):
            interval = intervals[name]
            ax.plot(list(values.values()), [row] * len(values), **THETA.dots, markersize=2.5, alpha=0.6, zorder=1)
            if shown in values:
                ax.plot(values[shown], row, "o", markersize=6, fillstyle="none", color=TRUTH.color, zorder=4)
            _interval(ax, row, interval, QUERY if interval.low <= 0 <= interval.high else MAML)
            label(ax, f"{interval.mean:.3g}, m = {interval.n}", 1, row, xycoords=ax.get_yaxis_transform(), **NOTE)
        ax.axvline(0, **LEVEL)
        ax.set_xlabel(f"{unit} (grey dot: a seed; ring: seed {shown}; diamond and bar: mean, 95% interval)")
    return figure


def numbers_needed(
    differences: Values, curves: Mapping[str, Values], marks: Mapping[str, tuple[float, int]], *, unit: str, title: str
) -> Figure:
    """How many tasks or seeds an arm needs to find a difference, both axes logarithmic.

    curves  name to the number needed for each difference
    marks   text to the point (difference, number) that it names: one text stands below the lines, one above
    """
    figure, (ax,) = canvas(height=2.9, title=title)
    for role, (name, numbers) in zip((QUERY, FAILURE, MAML, THETA), curves.items(), strict=False):
        line(ax, differences, numbers, role, label=name)
    corners = ((0.03, 0.07), (0.42, 0.93))  # of the axes: all lines fall, so that these two are empty
    for (text, point), corner in zip(marks.items(), corners, strict=False):
        ax.plot(*point, **TRUTH.dots, markersize=7, markeredgewidth=2)
        pointer = {"arrowstyle": "-", "linewidth": 0.6, "color": TRUTH.color, "shrinkB": 5}
        ax.annotate(text, point, corner, textcoords="axes fraction", va="center", arrowprops=pointer, **NOTE)
    ax.set(xscale="log", yscale="log", xlabel=f"difference to be found ({unit})")
    ax.set_ylabel("tasks an arm, or pairs, for 80%")
    grid = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
    ticks(ax.xaxis, (tick for tick in grid if min(differences) <= tick <= max(differences)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    name_lines(ax)
    return figure


def _interval(ax: Axes, row: float, interval: Interval, role: Role) -> None:
    """A horizontal 95% interval with its mean."""
    ends = [[interval.mean - interval.low], [interval.high - interval.mean]]
    ax.errorbar(interval.mean, row, xerr=ends, **role.dots, markersize=5, zorder=3)
