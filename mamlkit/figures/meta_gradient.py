"""Figures of notebook 05: Jacobians side by side, and a gradient held against finite differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.figures.charts import Tensors, label, line, ticks
from mamlkit.figures.theme import FIRST_ORDER, MAML, TRUTH, canvas, luminance

EVEN = 0.179  # the luminance on which black and white are read equally well, each at a contrast of 4.6


def heat_maps(matrices: Tensors, *, title: str, blocks: Mapping[str, int] | None = None) -> Figure:
    """Square matrices side by side on one diverging scale around zero; small ones with their numbers written in.

    matrices  title → [n, n]
    blocks    name of a parameter → how many of the n rows are its own, to draw lines between parameters
    """
    figure, axes = canvas(1, len(matrices), height=3.0, title=title)
    plain = {name: matrix.detach().cpu() for name, matrix in matrices.items()}
    bound = max(float(matrix.abs().max()) for matrix in plain.values())
    for ax, (name, matrix) in zip(axes, plain.items(), strict=True):
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound)
        ax.set_title(name)
        ax.spines[:].set_visible(False)
        of = "" if blocks else " coordinate"
        ax.set(xlabel=f"θ moved in{of}", ylabel=f"θ' moves in{of}")
        if blocks:
            _mark_blocks(ax, blocks)
        else:
            for axis in (ax.xaxis, ax.yaxis):
                ticks(axis, range(len(matrix)), lambda i: f"{i + 1}")
        for row, values in enumerate(matrix.tolist() if len(matrix) <= 6 else ()):
            for column, value in enumerate(values):
                shade = "white" if luminance(image.to_rgba(value)[:3]) < EVEN else "black"
                ax.text(column, row, f"{value:.2f}".replace("-", "−"), color=shade, ha="center", va="center")
    figure.colorbar(image, ax=axes, shrink=0.8, label="value of the entry")
    return figure


def _mark_blocks(ax: Axes, blocks: Mapping[str, int]) -> None:
    edges = [0, *accumulate(blocks.values())]
    for edge in edges[1:-1]:
        ax.axhline(edge - 0.5, color=TRUTH.color, linewidth=0.6)
        ax.axvline(edge - 0.5, color=TRUTH.color, linewidth=0.6)
    middles = [edge + (count - 1) / 2 for edge, count in zip(edges, blocks.values(), strict=False)]
    ax.set_xticks(middles, list(blocks))
    ax.set_yticks(middles, list(blocks))
    ax.tick_params(length=0)


def finite_difference_gap(widths: Tensor, gaps: Mapping[str, tuple[Tensor, str]], *, title: str) -> Figure:
    """Relative gap between a gradient and the central difference of the same loss, against the difference's width.

    gaps  name → ([widths], "first" or "second" order); a right gradient's gap falls with the width until rounding
    """
    figure, (ax,) = canvas(width=5.0, height=2.8, title=title)
    for name, (gap, order) in gaps.items():
        role = {"first": FIRST_ORDER, "second": MAML}[order]
        line(ax, widths, gap, role, marker=role.marker)
        label(ax, name, widths[-1], gap[-1], role.color, dx=6)
    ax.set(xscale="log", yscale="log", xlim=(float(widths.min()) / 1.5, float(widths.max()) * 2))
    ticks(ax.xaxis, [10.0**n for n in range(-10, 0, 2)], lambda h: f"$10^{{{round(math.log10(h))}}}$")
    ax.set(xlabel="width h of the finite difference")
    ax.set_ylabel("gap to the finite difference\n(relative; 1 = as large as itself)")
    return figure
