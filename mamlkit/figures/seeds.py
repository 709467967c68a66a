"""Figures of notebook 13: claims and effects over the seeds of a sweep, and what the two kinds of interval cover.

Titles are the caller's: they state what was found there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from mamlkit.figures.theme import FAILURE, FIRST_ORDER, MAML, QUERY, THETA, TRUTH, Role, canvas, label
from mamlkit.figures.training import name_lines
from mamlkit.statistics import Interval, wilson_interval

CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps a text on a line legible
LEVEL = (0, (2, 2))  # the dash of a level that nothing computed here can move


def claims_by_seed(held: Mapping[str, Mapping[int, int]], total: Mapping[str, int], *, title: str) -> Figure:
    """How many claims of each notebook held on each seed: a grid of numbers.

    held   notebook to {seed: claims that held}; a seed that was not run is left white
    total  notebook to its number of claims. Where some did not hold, the square is marked and says how many of them did
    """
    seeds = sorted({seed for by_seed in held.values() for seed in by_seed})
    figure, (ax,) = canvas(height=0.9 + 0.27 * len(held))
    for row, (name, by_seed) in enumerate(held.items()):
        for column, seed in enumerate(seeds):
            if seed not in by_seed:
                continue
            whole = by_seed[seed] == total[name]
            role = QUERY if whole else FAILURE
            ax.barh(row, 0.9, left=column - 0.45, height=0.84, color=role.color, alpha=0.22 if whole else 1)
            text = str(by_seed[seed]) if whole else f"{by_seed[seed]} of {total[name]}"
            weight = "normal" if whole else "bold"
            ax.annotate(text, (column, row), ha="center", va="center", fontweight=weight, fontsize=8)
    ax.set_xticks(range(len(seeds)), [str(seed) for seed in seeds])
    ax.set_yticks(range(len(held)), list(held))
    ax.set(xlabel="seed (numbers: claims that held; dark: not all of them)", ylim=(len(held) - 0.4, -0.6))
    ax.set_xlim(-0.6, len(seeds) - 0.4)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def two_intervals(
    means: Mapping[int, float], halves: Mapping[int, float], overall: Interval, *, tasks: int, title: str
) -> Figure:
    """Each seed's mean error with its 95% interval over tasks, and the interval over seeds as a band.

    means, halves  seed to mean and half-width over its `tasks` test tasks. An interval that misses the mean over seeds
                   is drawn in another colour and dash
    """
    figure, (ax,) = canvas(height=2.7)
    ax.axhspan(overall.low, overall.high, color=MAML.color, alpha=0.2, linewidth=0)
    ax.axhline(overall.mean, color=MAML.color)
    ends: list[tuple[str, float, Role]] = [(f"mean over {overall.n} seeds\nand its interval", overall.mean, MAML)]
    for place, (seed, mean) in enumerate(means.items()):
        role = QUERY if abs(mean - overall.mean) <= halves[seed] else FAILURE
        _, _, bars = ax.errorbar(place, mean, halves[seed], color=role.color, marker=role.marker, capsize=3)
        bars[0].set_linestyle("-" if role is QUERY else (0, (3, 1, 1, 1, 1, 1)))
    last = len(means) - 1
    ax.set_xticks(range(len(means)), [str(seed) for seed in means])
    ax.set(xlim=(-0.5, last + 0.5), ylabel="query MSE after one step")
    ax.set_xlabel(f"seed (bar: 95% interval over its {tasks} tasks; cross: it misses the mean over seeds)")
    name_lines(ax, ends, last + 0.5)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def coverage(hits: Mapping[str, int], *, repeats: int, title: str) -> Figure:
    """The share of simulated sweeps in which each kind of interval held the truth, beside the promised 95%."""
    figure, (ax,) = canvas(height=0.9 + 0.3 * len(hits))
    ax.axvline(0.95, color=TRUTH.color, linewidth=0.9, linestyle=LEVEL, zorder=1)
    for row, (_, count) in enumerate(hits.items()):
        share, low, high, _ = wilson_interval(count, repeats)
        role = MAML if low <= 0.95 <= high else FAILURE
        _interval(ax, row, Interval(share, low, high, repeats), role)
        ax.annotate(f"{share:.0%}", (low, row), xytext=(-6, -3), textcoords="offset points", ha="right", fontsize=8)
    ax.annotate("promised", (0.95, -0.75), xytext=(3, 0), textcoords="offset points", fontsize=8, va="center")
    ax.set_yticks(range(len(hits)), list(hits))
    ax.set(xlim=(0, 1.02), ylim=(len(hits) - 0.5, -1))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    ax.set_xlabel(f"share of {repeats:,} simulated sweeps in which the interval held the truth")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def paired_seeds(
    first: Mapping[int, float], second: Mapping[int, float], intervals: Mapping[str, Interval], *, title: str
) -> Figure:
    """Errors of both orders seed by seed, joined, and 95% intervals of their mean difference by name."""
    figure, (left, right) = canvas(1, 2, height=2.6)
    for seed, value in first.items():
        falls = second[seed] < value
        left.plot((0, 1), (value, second[seed]), color=THETA.color if falls else FAILURE.color, linewidth=1, zorder=1)
        left.plot(0, value, FIRST_ORDER.marker, color=FIRST_ORDER.color, markersize=5)
        left.plot(1, second[seed], MAML.marker, color=MAML.color, markersize=5)
    left.set_xticks((0, 1), ["first order", "second order"])
    left.set(xlim=(-0.4, 1.4), ylabel="query MSE after one step", title=f"One line a seed, n = {len(first)}")
    for row, (name, interval) in enumerate(intervals.items()):
        _interval(right, row, interval, QUERY)
        label(right, name, interval.mean, row, QUERY, dx=0, dy=11)
        right.texts[-1].set_horizontalalignment("center")
    right.axvline(0, color=TRUTH.color, linewidth=0.9, linestyle=LEVEL)
    right.set_yticks([])
    right.spines["left"].set_visible(False)
    right.set(ylim=(len(intervals) - 0.6, -0.7), title="Their mean difference", xlabel="first minus second order (MSE)")
    right.margins(x=0.15)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def effects(
    panels: Mapping[str, Mapping[str, Sequence[float]]], intervals: Mapping[str, Interval], *, title: str
) -> Figure:
    """Effects with their 95% intervals over seeds, one panel a unit; grey dots are the single seeds.

    panels     unit to {effect: its value on each seed}
    intervals  effect to its interval over seeds
    """
    rows = [len(found) for found in panels.values()]
    figure = canvas(height=0.75 * len(panels) + 0.235 * sum(rows))[0]
    figure.clear()
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[count + 1.2 for count in rows])[:, 0]
    for ax, (unit, found) in zip(axes, panels.items(), strict=True):
        for row, (name, values) in enumerate(found.items()):
            interval = intervals[name]
            ax.plot(values, [row] * len(values), "o", color=THETA.color, markersize=2.5, alpha=0.6, zorder=1)
            _interval(ax, row, interval, QUERY if interval.low <= 0 <= interval.high else MAML)
            text = f"{interval.mean:.3g}, n = {interval.n}"
            ax.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        ax.axvline(0, color=TRUTH.color, linewidth=0.9, linestyle=LEVEL, zorder=0)
        ax.set_yticks(range(len(found)), list(found))
        ax.set(xlabel=unit, ylim=(len(found) - 0.4, -0.6))
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def numbers_needed(
    differences: Sequence[float],
    curves: Mapping[str, Sequence[int]],
    marks: Mapping[str, tuple[float, int]],
    *,
    unit: str,
    title: str,
) -> Figure:
    """How many tasks or seeds an arm needs to find a difference, both axes logarithmic.

    curves  name to the number needed for each difference
    marks   text to the point (difference, number) that it names
    """
    figure, (ax,) = canvas(height=2.9)
    roles, ends = (QUERY, FAILURE, MAML, THETA), []
    for role, (name, numbers) in zip(roles, curves.items(), strict=False):
        ax.plot(differences, numbers, color=role.color, linestyle=role.dash)
        ends.append((name, numbers[-1], role))
    for text, (difference, number) in marks.items():
        ax.plot(difference, number, marker=TRUTH.marker, color=TRUTH.color, markersize=7, markeredgewidth=2)
        ax.annotate(
            text, (difference, number), xytext=(-7, -3), textcoords="offset points", ha="right", fontsize=8, bbox=CLEAR
        )
    ax.set(xscale="log", yscale="log", xlabel=f"difference to be found ({unit})", ylabel="needed in each arm")
    ax.xaxis.set_minor_locator(NullLocator())
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if differences[0] <= tick <= differences[-1]]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    for name, number, role in ends:
        label(ax, name, differences[-1], number, role, dx=5)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _interval(ax: Axes, row: float, interval: Interval, role: Role) -> None:
    """A horizontal 95% interval with its mean."""
    ends = [[interval.mean - interval.low], [interval.high - interval.mean]]
    ax.errorbar(interval.mean, row, xerr=ends, color=role.color, marker=role.marker, capsize=3, markersize=5, zorder=3)
