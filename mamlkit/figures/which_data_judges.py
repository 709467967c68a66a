"""Figures of notebook 08: the data that the outer loss is taken on, and what each choice makes of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mamlkit.figures.charts import (
    Numbers,
    Tensors,
    Values,
    flat,
    label,
    levels,
    line,
    name_lines,
    over_tasks,
    rows,
    strip,
    ticks,
)
from mamlkit.figures.theme import FAILURE, MAML, NOTE, QUERY, SUPPORT, THETA, TRUTH, canvas

WINDOW = 50  # iterations over which a reported loss is averaged
# The three readings of "other data" in the outer loss, each in the colour of its data.
READINGS = {"same support": SUPPORT, "fresh query": QUERY, "other task": FAILURE}


def outer_loss_by_reading(
    alphas: Tensor, paper: Tensors, drawn: Mapping[str, Mapping[float, float]], best: Numbers, *, title: str
) -> Figure:
    """The outer loss against the step size α for each reading, with the α at which it is lowest.

    alphas, paper  α and the closed form there, [points]
    drawn          reading to {α: loss over drawn tasks}
    best           reading to α*
    """
    figure, (ax,) = canvas(height=2.9, title=title)
    deepest = min(float(losses.min()) for losses in paper.values())
    for name, losses in paper.items():
        role, lowest = READINGS[name], float(losses.min())
        line(ax, alphas, losses, role, label=name)
        ax.plot([*drawn[name]], [*drawn[name].values()], **role.dots, fillstyle="none", markersize=6, clip_on=False)
        ax.plot(best[name], lowest, marker="v", color=role.color, markersize=9)
        ha, dx = ("center", 0) if best[name] > 0.2 else ("left", 12)
        dy = 9 if lowest > deepest else -13
        label(ax, f"α* = {best[name]:.2f}", best[name], lowest, role.color, ha=ha, dx=dx, dy=dy)
    low, high = ax.get_ylim()
    ax.set(xlim=(float(alphas[0]) - 0.02, float(alphas[-1])), ylim=(low - 0.12 * (high - low), high))
    ax.set(xlabel="inner step size α", ylabel="outer loss F(α)\n(lines: on paper; marks: drawn tasks)")
    name_lines(ax)
    return figure


def reported_against_examined(
    own: Mapping[str, Values], exams: Mapping[str, Mapping[int, float]], known: Mapping[str, Numbers], *, title: str
) -> Figure:
    """What each training reports, its own outer loss, beside what the exam finds: fresh query data of unseen tasks.

    own    reading to the outer loss of each iteration; the left panel averages it over WINDOW iterations
    exams  reading to {iteration: mean query MSE after adaptation}
    known  heading of the left and of the right panel to its horizontal lines, name to error
    """
    figure, axes = canvas(1, 2, height=2.9, sharex=True, sharey=True, title=title)
    averaged: dict[str, dict[int, float]] = {name: {} for name in own}
    for name, losses in own.items():
        for end in sorted({*range(WINDOW, len(losses), WINDOW), len(losses)}):
            averaged[name][end] = fmean(losses[max(0, end - WINDOW) : end])
    errors = [error for curve in exams.values() for error in curve.values()]
    top = 1.12 * max(*errors, *(error for lines in known.values() for error in lines.values()), 0.0)
    for ax, (heading, lines), curves in zip(axes, known.items(), (averaged, exams), strict=True):
        levels(ax, lines)
        for name, curve in curves.items():
            ax.plot([*curve], [*curve.values()], **READINGS[name].line, label=name)
        ax.set(title=heading, xlabel="outer iteration", ylim=(0, top), xlim=(0, max(map(len, own.values()))))
        name_lines(ax)
    axes[0].set_ylabel("mean MSE after one inner step")
    axes[1].tick_params(labelleft=True)
    return figure


def function_moves(
    x: Tensor, before: Tensors, after: Tensors, support: Sequence[Tensor], truth: Tensor, moved: Tensors, *, title: str
) -> Figure:
    """How far one inner step moves the learned function: on one unseen task for each reading, and over many tasks.

    x, truth, before, after  [points, 1]
    support                  that task's x and y, [K, 1]
    moved                    reading to the root mean square over x of the movement, [tasks]
    """
    ratios = [*[1] * len(before), 1.3]
    figure, axes = canvas(1, len(ratios), height=2.6, title=title, width_ratios=ratios)
    reach = 1.25 * max(float(values.abs().max()) for values in (truth, support[1], *before.values(), *after.values()))
    for ax, name in zip(axes, before, strict=False):
        line(ax, x, before[name], THETA, label="θ")
        line(ax, x, after[name], MAML, label="θ'")
        line(ax, x, truth, TRUTH, linewidth=0.9, label="truth")
        ax.plot(*map(flat, support), **SUPPORT.dots, markersize=5, zorder=4)
        ax.set(xlabel="x", xlim=(float(x.min()), float(x.max())), ylim=(-reach, reach))
        ax.set_title(name)
        ax.tick_params(labelleft=ax is axes[0])
        name_lines(ax)
    axes[0].set_ylabel("y")
    at, top = map(flat, support)
    label(axes[0], "support", at[top.argmax()], top.max(), SUPPORT.color, dx=0, dy=8, ha="center")
    strips = axes[-1]
    for place, values in enumerate(moved.values()):
        strip(strips, place, values, MAML, torch.mean, width=0.5)
    strips.set_xticks(range(len(moved)), [name.replace(" ", "\n") for name in moved])
    strips.set(ylim=(0, None), ylabel=f"RMS movement over x\n({len(values)} tasks, bar: mean)")
    return figure


def trained_longer(
    lengths: Sequence[int],
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    known: Mapping[str, Numbers],
    *,
    title: str,
) -> Figure:
    """The exam's error against the length of training: a line through the means over seeds, a dot a seed.

    panels  condition to reading to [seeds][lengths]
    known   condition to its horizontal lines, name to error
    """
    figure, axes = canvas(1, len(panels), height=2.6, title=title)
    for ax, (heading, by_reading) in zip(axes, panels.items(), strict=True):
        levels(ax, known[heading])
        for name, by_seed in by_reading.items():
            line(ax, lengths, [fmean(found) for found in zip(*by_seed, strict=True)], READINGS[name], label=name)
            for found in by_seed:
                ax.plot(lengths, found, **READINGS[name].dots, markersize=3.5, clip_on=False)
        seeds = len(next(iter(by_reading.values())))
        count = f"{seeds} seed{'s' if seeds > 1 else ''}"
        ax.set(title=f"{heading}, {count}", xscale="log", xlim=(lengths[0], lengths[-1]), ylim=(0, None))
        ax.set_xlabel("outer iterations")
        ticks(ax.xaxis, lengths, "{:,}".format)
        name_lines(ax)
    axes[0].set_ylabel("exam: query MSE after one step\n(line: mean; dot: a seed)")
    return figure


def gains(panels: Mapping[str, Tensors], *, title: str) -> Figure:
    """What one inner step takes off the query error, a row for each reading, a panel for each condition.

    panels  condition to reading to error before the step minus error after it, [tasks]
    """
    figure, axes = canvas(1, len(panels), height=2.1, sharex=True, sharey=True, title=title)
    for ax, (heading, by_reading) in zip(axes, panels.items(), strict=True):
        rows(ax, by_reading)
        for row, (name, gain) in enumerate(by_reading.items()):
            role, (mean, half) = READINGS[name], over_tasks(gain)
            ax.plot([0.0, float(mean)], [row, row], **role.line, linewidth=2)
            ax.errorbar(mean, row, xerr=half, **role.dots, markersize=6)
        ax.axvline(0, color=TRUTH.color, linewidth=0.8)
        label(ax, "no gain", 0, len(by_reading) - 0.45, dx=-3, ha="right", va="bottom", **NOTE)
        ax.set(title=heading, xlabel=f"gain of one step in query MSE\n(mean of {len(gain)} tasks, bar: 95% interval)")
    low, high = axes[0].get_xlim()
    axes[0].set_xlim(min(low, -0.2 * high), high)
    return figure
