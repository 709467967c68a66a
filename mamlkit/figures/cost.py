"""Figures of notebook 12: what a meta-gradient takes, counted and predicted."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from mamlkit.figures.charts import label, line, name_lines, rows, ticks
from mamlkit.figures.theme import FIRST_ORDER, MAML, QUERY, THETA, canvas

# The ways to compute a meta-gradient that have a role of their own; any other is drawn as a query curve.
WAYS = {"second order": MAML, "all at once": MAML, "first order": FIRST_ORDER, "one at a time": THETA}


def peak_memory(
    counted: Mapping[str, Mapping[int, int]], predicted: Mapping[str, Mapping[int, int]], *, xlabel: str, title: str
) -> Figure:
    """Peak bytes of a few ways against what they depend on, way → {x: bytes}: markers counted, lines predicted."""
    figure, (ax,) = canvas(height=2.7, title=title)
    for way, by_x in predicted.items():
        role = WAYS.get(way, QUERY)
        line(ax, list(by_x), [size / 1e6 for size in by_x.values()], role, label=way)
        ax.plot(list(counted[way]), [size / 1e6 for size in counted[way].values()], **role.dots, markersize=6)
    ticks(ax.xaxis, next(iter(counted.values())))
    ax.set(xlabel=xlabel, ylabel="megabytes at the peak\n(marker: counted, line: predicted)", ylim=(0, None))
    ax.set_xlim(0, max(next(iter(counted.values()))) * 1.02)
    name_lines(ax)
    return figure


def work_and_calls(
    work: Mapping[str, float], calls: Mapping[str, int], *, steps: int, tasks: int, title: str
) -> Figure:
    """A row for each way: the work for a task, in gradients (left), and the operations started for all (right)."""
    figure, (left, right) = canvas(1, 2, height=2.2, title=title, sharey=True)
    for row, way in enumerate(work):
        role = WAYS.get(way, QUERY)
        for ax, value, text in ((left, work[way], f"{work[way]:.1f}"), (right, calls[way], f"{calls[way]:,}")):
            ax.plot([0, value], [row, row], color=role.color, linewidth=1)
            ax.plot([value], [row], **role.dots, markersize=6)
            label(ax, text, value, row, role.color, dx=7)
            ax.set_xlim(0, 1.25 * max(work.values() if ax is left else calls.values()))
    rows(left, work)
    left.set_xlabel(f"gradients of work for a task,\nk = {steps} inner steps")
    right.set_xlabel(f"operations started\nfor {tasks} tasks")
    return figure
