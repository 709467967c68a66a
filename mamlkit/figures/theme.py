"""One look for every figure: two widths, a colour and a dash for each role, labels on the lines themselves."""

from __future__ import annotations

from typing import NamedTuple

import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NARROW, WIDE = 3.4, 7.0  # inches: one column and two columns of a page


class Role(NamedTuple):
    """How a role is drawn. Colours are those of Wong (2011), told apart by colour-blind readers; dashes repeat them."""

    color: str
    dash: str | tuple[int, tuple[int, ...]]
    marker: str


THETA = Role("#7f7f7f", (0, (4, 2)), "o")
SUPPORT = Role("#E69F00", (0, (1, 1)), "o")
QUERY = Role("#0072B2", "-", "s")
MAML = Role("#009E73", "-", "D")
FIRST_ORDER = Role("#8A5A9E", (0, (5, 1, 1, 1)), "v")
TRUTH = Role("#000000", "-", "x")
FAILURE = Role("#D55E00", (0, (3, 1, 1, 1, 1, 1)), "X")


def theme() -> None:
    """Set the kit's look for this process: seaborn's paper context and ticks style, type that is legible in print."""
    seaborn.set_theme(
        context="paper",
        style="ticks",
        rc={
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 8.5,
            "font.size": 8.5,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "lines.linewidth": 1.4,
            "lines.markersize": 4,
            "figure.titlesize": 9.5,
            "figure.titleweight": "bold",
        },
    )


def canvas(
    rows: int = 1, columns: int = 1, *, width: float = WIDE, height: float = 2.6, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` × `columns` axes (as a flat list), `width` and `height` in inches, axes shared if asked."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)
    return figure, list(axes.flat)


def label(axes: Axes, text: str, x: float, y: float, role: Role, *, dx: float = 4, dy: float = 0) -> None:
    """Write a line's name beside it, at data position (x, y) moved by (dx, dy) points, in the line's colour."""
    axes.annotate(
        text,
        (x, y),
        xytext=(dx, dy),
        textcoords="offset points",
        color=role.color,
        va="center",
        fontweight="bold",
        annotation_clip=False,
    )
