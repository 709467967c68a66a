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

    seen      the mean query loss that the run reports, over what the right run reports
    gradient  the meta-gradient's distance from the right one
    true      query loss of the trained start in a right exam, over that of the right run
    reported  the mean query loss that the run reports, over that of a right exam
    interval  the same for the half-width of its interval
    """

    seen: float
    gradient: float
    true: float
    reported: float
    interval: float


def damage(
    found: Mapping[str, Damage], wings: Mapping[str, int], *, hidden: float, tolerance: float, title: str
) -> Figure:
    """A row for each bug: the loss that is seen, the meta-gradient, what the start is worth, whether the run says so.

    hidden     how many times the right run's loss may be reported, and count as no worse
    wings      name → number of its bugs, in the order of `found`
    tolerance  the error from which on the check calls a gradient wrong
    """
    height = 1.5 + 0.19 * len(found)
    figure, axes = canvas(1, 4, height=height, width=WIDE, sharey=True, title=title)
    seen, gradient, true, own = axes
    rows(seen, found, above=1.4)
    for row, bug in enumerate(found.values()):
        _dot(seen, bug.seen, row, FAILURE if bug.seen > hidden else THETA, 0.35, 10)
        hurt = bug.gradient > tolerance
        _dot(gradient, bug.gradient, row, FAILURE if hurt else THETA, 0, MOST)
        _dot(true, bug.true, row, FAILURE if bug.true > 1.1 else THETA, 0.5, 10)
        _dot(own, bug.interval, row, QUERY, 0.1, 20, fillstyle="none", markersize=6.5)
        _dot(own, bug.reported, row, FAILURE if abs(bug.reported - 1) > 0.02 else THETA, 0.1, 20)
    _errors(gradient, tolerance, (0, 1e-4, 1, 100))
    seen.set(title="what we see", xlim=(0.31, 11), xlabel="loss reported,\n÷ the right run's")
    gradient.set(title="meta-gradient", xlabel="distance from the\nright one, ÷ its size")
    true.set(title="trained start", xlim=(0.45, 11), xlabel="loss, right exam,\n÷ the right run's")
    own.set(title="is the report true?", xlim=(0.09, 22), xlabel="mean (filled), interval\n(open), ÷ right exam's")
    for ax, at in ((seen, (0.5, 1, 2, 5)), (true, (0.5, 1, 2, 5)), (own, (0.1, 0.5, 1, 2, 10))):
        ax.set_xscale("log")
        ticks(ax.xaxis, at)
        ax.axvline(1, **LEVEL)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    last = -0.5
    for number, (wing, count) in enumerate(wings.items()):
        for ax in axes:
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
    _errors(ax, tolerance, (0, 1e-4, 1e-2, 1, 100))
    ax.set_xlabel("distance of the meta-gradient from the right one, as a share of its size")
    return figure


def _dot(ax: Axes, value: float, row: int, role: Role, low: float, high: float, **style: object) -> None:
    """A marker at a value, or an arrowhead at the edge beyond which it lies."""
    beyond = not low <= value <= high
    shown = {**role.dots, "markersize": 5, **style}
    if beyond:
        shown["marker"] = "<" if value < low else ">"
    ax.plot(min(max(value, low), high), row, **shown)


def _errors(ax: Axes, tolerance: float, at: tuple[float, ...]) -> None:
    """An axis of errors from none to many times the size, with the check's tolerance."""
    ax.set_xscale("symlog", linthresh=LEAST, linscale=0.5)
    ax.set_xlim(-LEAST / 2, 2 * MOST)
    ticks(ax.xaxis, at, lambda size: "$10^{-4}$" if size == 1e-4 else f"{size:g}")
    ax.axvline(0, **LEVEL)
    ax.axvline(tolerance, color=QUERY.color, linewidth=1)
    label(ax, "tolerance", tolerance, ax.get_ylim()[1], dx=3, dy=-7, **{**NOTE, "color": QUERY.color})
