"""One look for every figure: a colour, a dash and a marker for each role."""

from __future__ import annotations

from typing import Any, NamedTuple

import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

WIDE = 7.0  # inches: two columns of a page


class Role(NamedTuple):
    """How a role is drawn. Colours are those of Wong (2011), told apart by colour-blind readers; dashes repeat them."""

    color: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Its style as matplotlib takes it, for a line."""
        return {"color": self.color, "linestyle": self.dash}

    @property
    def dots(self) -> dict[str, Any]:
        """Its style for markers that no line joins."""
        return {"color": self.color, "linestyle": "", "marker": self.marker}

    @property
    def joined(self) -> dict[str, Any]:
        """Its style for markers on a line."""
        return {**self.line, "marker": self.marker}


THETA = Role("#7f7f7f", (0, (4, 2)), "o")
SUPPORT = Role("#E69F00", (0, (1, 1)), "o")
QUERY = Role("#0072B2", "-", "s")
MAML = Role("#009E73", "-", "D")
FIRST_ORDER = Role("#8A5A9E", (0, (5, 1, 1, 1)), "v")
TRUTH = Role("#000000", "-", "x")
FAILURE = Role("#D55E00", (0, (3, 1, 1, 1, 1, 1)), "X")

# What is known beforehand and no training moves: chance, a floor, a limit. The style of its line.
LEVEL: dict[str, Any] = {"color": TRUTH.color, "linestyle": (0, (2, 2)), "linewidth": 0.9, "zorder": 1}
NOTE: dict[str, Any] = {"color": TRUTH.color, "fontsize": 8, "fontweight": "normal"}  # a text that names no line
CLEAR: dict[str, Any] = {"facecolor": "white", "linewidth": 0, "pad": 1}  # behind a text on a line


CONTRAST = 4.5  # of text against what it stands on, at least (WCAG 2, success criterion 1.4.3)


def luminance(color: Any) -> float:
    """The relative luminance of a colour, from 0 for black to 1 for white (WCAG 2)."""
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ink(color: Any) -> tuple[float, float, float]:
    """The colour for text on white: the same hue, darkened until it can be read."""
    red, green, blue = to_rgb(color)
    while 1.05 / (luminance((red, green, blue)) + 0.05) < CONTRAST:
        red, green, blue = 0.95 * red, 0.95 * green, 0.95 * blue
    return red, green, blue


LOOK = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "errorbar.capsize": 3,
    "font.size": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "figure.titlesize": 9.5,
    "figure.titleweight": "bold",
}


def theme() -> None:
    """Set the kit's look for this process: seaborn's paper context and ticks style, type that is legible in print."""
    seaborn.set_theme(context="paper", style="ticks", rc=LOOK)


def canvas(
    rows: int = 1, columns: int = 1, *, title: str = "", width: float = WIDE, height: float = 2.6, **grid: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` × `columns` axes, as a flat list, under a title.

    width, height  of the figure in inches
    grid           how the axes stand, as `Figure.subplots` takes it: `sharey=True`, `height_ratios=…`
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **grid).flat)
