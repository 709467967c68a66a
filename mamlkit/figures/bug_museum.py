"""Figures of notebook 11: what each planted bug does to a run, and to a derivative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamlkit.figures.charts import Numbers, label, rows, ticks
from mamlkit.figures.theme import FAILURE, LEVEL, NOTE, QUERY, THETA, WIDE, Role, canvas

LEAST, MOST = 1e-6, 100.0  # of an error that is drawn on a logarithmic axis; below, it counts as none


class Damage(NamedTuple):
    """What a bug does to a run, each in units of what is right.

    gradient  the meta-gradient's distance from the right one
    true      query loss of the trained start in a right exam, over that of the right run
    reported  the mean query loss that the run reports, over that of a right exam
    interval  the same for the half-width of its interval
    """

    gradient: float
    true: float
    reported: float
    interval: float


def damage(found: Mapping[str, Damage], wings: Mapping[str, int], *, tolerance: float, title: str) -> Figure:
    """A row for each bug: its meta-gradient, what the trained start is worth, and what the run says that it is worth.

    wings      name → number of its bugs, in the order of `found`
    tolerance  the error from which on the check calls a gradient wrong
    """
    height = 1.5 + 0.19 * len(found)
    figure, (gradient, true, own) = canvas(1, 3, height=height, width=WIDE, sharey=True, title=title)
    rows(gradient, found, above=1.4)
    for row, bug in enumerate(found.values()):
        hurt = bug.gradient > tolerance
        _dot(gradient, bug.gradient, row, FAILURE if hurt else THETA, 0, MOST)
        _dot(true, bug.true, row, FAILURE if bug.true > 1.1 else THETA, 0.5, 10)
        _dot(own, bug.interval, row, QUERY, 0.1, 20, fillstyle="none", markersize=6.5)
        _dot(own, bug.reported, row, FAILURE if abs(bug.reported - 1) > 0.02 else THETA, 0.1, 20)
    _errors(gradient, tolerance)
    gradient.set(title="meta-gradient", xlabel="distance from the right one,\nas a share of its size")
    true.set(title="trained start", xscale="log", xlim=(0.45, 11), xlabel="query loss, right exam,\n÷ the right run's")
    own.set(
        title="its own report",
        xscale="log",
        xlim=(0.09, 22),
        xlabel="mean (filled), interval (open),\n÷ a right exam's",
    )
    ticks(true.xaxis, (0.5, 1, 2, 5, 10))
    ticks(own.xaxis, (0.1, 0.5, 1, 2, 10))
    for ax in (true, own):
        ax.axvline(1, **LEVEL)
    for ax in (gradient, true, own):
        ax.tick_params(axis="y", length=0)
    last = -0.5
    for number, (wing, count) in enumerate(wings.items()):
        for ax in (gradient, true, own):
            ax.axhspan(last, last + count, color=THETA.color, alpha=0.08 * (number % 2), linewidth=0)
        if count:
            label(own, wing, 22, last + count / 2, dx=4, rotation=270, **NOTE)
        last += count
    return figure


def wrong_derivatives(errors: Numbers, *, tolerance: float, title: str) -> Figure:
    """The meta-gradient's error of each part, as a share of its size; `tolerance` is the check's."""
    figure, (ax,) = canvas(height=0.9 + 0.24 * len(errors), title=title)
    rows(ax, errors, above=1.2)
    for row, error in enumerate(errors.values()):
        _dot(ax, error, row, FAILURE if error > tolerance else THETA, 0, MOST)
    _errors(ax, tolerance)
    ax.set_xlabel("distance of the meta-gradient from the right one, as a share of its size")
    return figure


def _dot(ax: Axes, value: float, row: int, role: Role, low: float, high: float, **style: object) -> None:
    """A marker at a value, or an arrowhead at the edge beyond which it lies."""
    beyond = not low <= value <= high
    shown = {**role.dots, "markersize": 5, **style}
    if beyond:
        shown["marker"] = "<" if value < low else ">"
    ax.plot(min(max(value, low), high), row, **shown)


def _errors(ax: Axes, tolerance: float) -> None:
    """An axis of errors from none to many times the size, with the check's tolerance."""
    ax.set_xscale("symlog", linthresh=LEAST, linscale=0.5)
    ax.set_xlim(-LEAST / 2, 2 * MOST)
    ticks(ax.xaxis, (0, 1e-4, 1e-2, 1, 100), lambda size: "$10^{-4}$" if size == 1e-4 else f"{size:g}")
    ax.axvline(0, **LEVEL)
    ax.axvline(tolerance, color=QUERY.color, linewidth=1)
    label(ax, "tolerance", tolerance, ax.get_ylim()[1], dx=3, dy=-7, **{**NOTE, "color": QUERY.color})
