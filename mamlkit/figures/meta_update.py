"""The learning curve of notebook 06 and its place among seeds; its other figures are in `charts`."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from mamlkit.figures.charts import Numbers, flat, label, levels, line, name_lines
from mamlkit.figures.theme import MAML, THETA, canvas
from mamlkit.train import Iteration


def learning_curve(
    records: Sequence[Iteration], *, steps: int, tasks: int, oracles: Numbers, title: str, windows: int = 60
) -> Figure:
    """The outer loop's query loss on its training tasks, before and after adaptation, averaged over windows.

    The band spans the 10th to the 90th percentile of the iterations in a window, each a mean over `tasks` tasks.
    No records, as from a checkpoint that was complete, give an empty figure that says so.
    """
    figure, (ax,) = canvas(height=2.8, title=title)
    ax.set(xlabel="meta-iteration", ylabel="query MSE")
    if records:
        width = max(1, len(records) // windows)
        whole = records[: len(records) // width * width]
        middle = flat([r.iteration for r in whole]).unflatten(0, (-1, width)).mean(1)
        before, after = [r.loss_before for r in whole], [r.loss_after for r in whole]
        for name, losses, role in (("before\nadaptation", before, THETA), (f"after k = {steps}", after, MAML)):
            values = flat(losses).unflatten(0, (-1, width))
            low, high = values.quantile(0.1, 1), values.quantile(0.9, 1)
            ax.fill_between(middle, low, high, color=role.color, alpha=0.18, linewidth=0)
            line(ax, middle, values.mean(1), role, label=name)
        ax.set_ylabel(f"query MSE (band: 10 to 90% of\n{width} iterations of {tasks} tasks)")
        ax.set_xlim(records[0].iteration, records[-1].iteration + 1)
    else:
        text = "no iteration was run here: the checkpoint was complete"
        ax.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center")
    levels(ax, oracles)
    ax.set_ylim(bottom=0)
    name_lines(ax)
    return figure


def place_among_seeds(others: Sequence[float], ours: float, half_width: float, *, seed: int, title: str) -> Figure:
    """The share of the error that one step removes: a dot for each other training, ours with its interval."""
    figure, (ax,) = canvas(height=1.3, title=title)
    ax.plot(others, [0] * len(others), **THETA.dots, markersize=6, alpha=0.6)
    label(ax, f"{len(others)} other seeds", min(others), 0, THETA.color, dx=0, dy=-12, ha="left")
    ax.errorbar([ours], [0], xerr=[half_width], **MAML.joined, markersize=7)
    label(ax, f"seed {seed}, bar: 95% over tasks", ours, 0, MAML.color, dx=0, dy=12, ha="center")
    ax.set(xlabel="share of the error that one step removes", yticks=[], ylim=(-1, 1))
    ax.margins(x=0.2)
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.spines["left"].set_visible(False)
    return figure
