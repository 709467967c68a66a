"""Tables and a figure from bench.json, which says itself (in bench.py) what it holds.

    python tests/benchmarks/bench_report.py runs/bench/bench.json            # prints the tables, draws bench.png
    python tests/benchmarks/bench_report.py runs/bench/bench.json --readme   # puts the first of them into README.md

A ratio is the median of the rounds' ratios, with their quartiles, where both were timed in turn; where they belong to
different cases, it is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamlkit.figures import charts
from mamlkit.figures.theme import FAILURE, FIRST_ORDER, MAML, QUERY, SUPPORT, THETA, TRUTH, Role, canvas, theme

README = Path(__file__).parents[2] / "README.md"
MARK = "What the bench last wrote:\n"
REFERENCE = "JAX"
LOOKS = {
    "mamlkit vmap": MAML,
    "mamlkit loop": Role(MAML.color, (0, (4, 2)), "o"),
    "mamlkit flat": SUPPORT,
    "mamlkit flat-loop": Role(SUPPORT.color, (0, (4, 2)), "s"),
    "mamlkit compiled": FAILURE,
    "mamlkit traced": Role(FAILURE.color, (0, (1, 1)), "P"),
    "torch.func": THETA,
    "higher": TRUTH,
    "TorchOpt": FIRST_ORDER,
    "learn2learn": Role(FIRST_ORDER.color, (0, (1, 1)), "^"),
    "JAX": QUERY,
}
Results = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a number stands: the row of a contender at a case."""

    group: str
    contender: str
    steps: int
    tasks: int | None = None  # any
    order: int = 2

    def rows(self, results: Results) -> Iterator[tuple[str, Row]]:
        """The row with its case's name, if there is one; of trainings the longest first."""
        for case in sorted(results["cases"], key=lambda case: -case["iterations"]):
            if (case["group"], case["steps"]) == (self.group, self.steps) and self.tasks in (None, case["tasks"]):
                for row in case["rows"]:
                    if (row["contender"], row["order"]) == (self.contender, self.order):
                        yield case["name"], row


@dataclass(frozen=True)
class Bound:
    """`of` is to be at most `most` times `against`, in time or in peak memory."""

    text: str
    most: float
    of: Place
    against: Place
    what: str = "seconds"

    def found(self, results: Results) -> tuple[float, float, float] | None:
        """The ratio with its quartiles, (low, median, high); None where it was not measured."""
        one, other = (next(place.rows(results), None) for place in (self.of, self.against))
        if one is None or other is None or not (one[1][self.what] and other[1][self.what]):
            return None
        return ratio(one[1][self.what], other[1][self.what], in_turn=one[0] == other[0])


def ratio(one: Any, other: Any, *, in_turn: bool) -> tuple[float, float, float]:
    """The quartiles of one over other, as (low, median, high)."""
    if in_turn and np.ndim(one):
        together = min(len(one), len(other))
        quotients = np.divide(one[:together], other[:together])
    else:
        quotients = np.divide(np.median(one), np.median(other))
    low, middle, high = np.percentile(quotients, [25, 50, 75]).tolist()
    return low, middle, high


def bounds() -> list[Bound]:
    """What is asked for."""
    vmap, flat, compiled, traced = (f"mamlkit {name}" for name in ("vmap", "flat", "compiled", "traced"))
    found = []
    for k in (1, 5):
        steps = f"{k} step{'s' if k > 1 else ''}"
        at = {who: Place("sinusoid", who, k) for who in (vmap, compiled, traced, "JAX", "higher")}
        found += [
            Bound(f"sinusoid, {steps}: compiled, of JAX", 1.2, at[compiled], at["JAX"]),
            Bound(f"sinusoid, {steps}: compiled, of higher", 1 / 60, at[compiled], at["higher"]),
            Bound(f"sinusoid, {steps}: traced, no compiler, of eager", 0.6, at[traced], at[vmap]),
        ]
        ours, theirs = Place("training", compiled, k), Place("training", "JAX", k)
        found.append(Bound(f"a whole training, {steps}: `mk.train`, compiled, of JAX's one scan", 1.6, ours, theirs))
    first = Place("sinusoid", vmap, 1, order=1)
    at_length = {(who, k): Place("memory", who, k) for who in (vmap, flat) for k in (1, 50)}
    few, many = Place("tasks", vmap, 1, tasks=8), Place("tasks", vmap, 1, tasks=256)
    return [
        *found,
        Bound("sinusoid, 1 step: second order, of first", 2, Place("sinusoid", vmap, 1), first),
        Bound("Conv4, 1 step: compiled, of JAX under vmap", 0.1, Place("conv4", compiled, 1), Place("conv4", "JAX", 1)),
        Bound(
            "Conv4, 1 step: compiled, of JAX under lax.map",
            0.1,
            Place("conv4", compiled, 1),
            Place("conv4", "JAX lax.map", 1),
        ),
        Bound("memory of flat: 50 steps, of 1 step", 1.2, at_length[flat, 50], at_length[flat, 1], "peak"),
        Bound("memory at 50 steps: flat, of vmap", 0.1, at_length[flat, 50], at_length[vmap, 50], "peak"),
        Bound("time at 50 steps: flat, of vmap", 1.4, at_length[flat, 50], at_length[vmap, 50]),
        Bound("vmap: time for 256 tasks, of 8; linear is 32", 1.1 * 256 / 8, many, few),
    ]


def number(value: float) -> str:
    """Three digits; of large numbers, all."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def bounds_table(results: Results) -> Iterator[str]:
    """A row a bound: what was asked, what was found, and whether that meets it."""
    yield "| median, and quartiles over rounds | at most | found | |"
    yield "| --- | --- | --- | --- |"
    for bound in bounds():
        ratio = bound.found(results)
        if ratio is None:
            yield f"| {bound.text} | {number(bound.most)} | not measured | |"
        else:
            low, middle, high = map(number, ratio)
            verdict = "met" if ratio[1] <= bound.most else "**missed**"
            yield f"| {bound.text} | {number(bound.most)} | {middle} ({low} to {high}) | {verdict} |"


def table(results: Results, group: str, heading: str) -> Iterator[str]:
    """A row a contender, a column a case and order: milliseconds, how many times the reference's, peak memory."""
    cases = [case for case in results["cases"] if case["group"] == group]
    columns = [(case, order) for case in cases for order in case["orders"]]
    varied = "tasks" if group == "tasks" else "steps"
    counts = [f"{case[varied]} {varied if case[varied] > 1 else varied[:-1]}" for case, _ in columns]
    names = [count + ", first order" * (order == 1) for count, (_, order) in zip(counts, columns, strict=True)]
    if group == "training":
        names = [f"{name}, {case['iterations']:,} iterations" for name, (case, _) in zip(names, columns, strict=True)]
    yield f"| {heading} | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    found = [{row["contender"]: row for row in case["rows"] if row["order"] == order} for case, order in columns]
    for contender in dict.fromkeys(name for rows in found for name in rows):
        share = [case["tasks"] if group == "conv4" else 1 for case, _ in columns]
        cells = (cell(rows.get(contender), rows.get(REFERENCE), n) for rows, n in zip(found, share, strict=True))
        yield f"| {contender} | {' | '.join(cells)} |"
    for case in cases:
        for name, why in case["left_out"].items():
            yield f"\nLeft out at {case['name']}: {name}. {why}"


def cell(row: Row | None, reference: Row | None, share: int = 1) -> str:
    """What is told of a row; its time is divided by `share`."""
    if row is None:
        return "–"
    parts = [f"{number(1e3 * np.median(row['seconds']) / share)} ms"]
    if reference:
        low, middle, high = map(number, ratio(row["seconds"], reference["seconds"], in_turn=True))
        parts.append(f"× {middle} ({low} to {high})" if row is not reference else "× 1")
    if row["peak"] is not None:
        parts.append(f"{number(row['peak'] / 1e6)} MB")
    return ", ".join(parts)


TABLES = {
    "sinusoid": "sinusoid, 25 tasks, 10 + 10 points",
    "conv4": "Conv4, 64 filters, 5-way 1-shot, 25 queries, time a task",
    "training": "a whole training, an iteration",
    "memory": "sinusoid, 25 tasks, 2,000 + 2,000 points",
    "inner steps": "sinusoid, 25 tasks, 10 + 10 points",
    "tasks": "sinusoid, 10 + 10 points",
}


def report(results: Results, groups: Sequence[str] = tuple(TABLES)) -> str:
    """The machine, the bounds and the tables of some groups, in Markdown."""
    machine, versions = results["machine"], ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    lines = [
        f"{machine['processor']} ({machine['instructions']}), one core, load {machine['load']:.1f}; {versions}.",
        f"An iteration with Adam's step: median, how many times {REFERENCE}'s (quartiles over rounds), peak memory.",
        "",
        *bounds_table(results),
    ]
    present = {case["group"] for case in results["cases"]}
    for group in groups:
        if group in present:
            lines += ["", *table(results, group, TABLES[group])]
    return "\n".join(lines) + "\n"


def into(page: str, text: str) -> str:
    """The page with the text between MARK and the next heading."""
    before, rest = page.split(MARK)
    return f"{before}{MARK}\n{text}\n## {rest.partition(chr(10) + '## ')[2]}"


def figure(results: Results) -> Figure:
    """Time and peak memory against inner steps and against tasks, second order; both axes logarithmic."""
    theme()
    drawn, axes = canvas(2, 2, height=6.4, title="One meta-gradient, second order, one core")
    for ax, group, varied, what in zip(
        axes,
        ("inner steps", "memory", "tasks", "tasks"),
        ("steps", "steps", "tasks", "tasks"),
        ("seconds", "peak", "seconds", "peak"),
        strict=True,
    ):
        series(ax, [case for case in results["cases"] if case["group"] == group], varied, what)
    named = {
        str(line.get_label()): line for ax in axes for line in ax.lines if not str(line.get_label()).startswith("_")
    }
    drawn.legend(named.values(), named.keys(), loc="outside right center", handlelength=4)
    return drawn


def series(ax: Axes, cases: Sequence[dict[str, Any]], varied: str, what: str) -> None:
    """A line a contender; over times, bars between the quartiles."""
    unit, name = (1e-3, "milliseconds") if what == "seconds" else (1e6, "peak memory, megabytes")
    points: dict[str, list[tuple[float, ...]]] = {}
    for case in cases:
        for row in case["rows"]:
            if row["order"] == 2 and row[what]:
                quartiles = (np.percentile(row[what], [25, 50, 75]) / unit).tolist()
                points.setdefault(row["contender"], []).append((case[varied], *quartiles))
    for contender, found in points.items():
        x, low, middle, high = np.transpose(sorted(found))
        look = LOOKS.get(contender, THETA)
        ax.errorbar(x, middle, [middle - low, high - middle], color=look.color, linestyle="")
        ax.plot(x, middle, label=contender, **look.joined)
    ax.set(xscale="log", yscale="log", xlabel="inner steps" if varied == "steps" else varied, ylabel=name)
    if points:
        charts.ticks(ax.xaxis, sorted({case[varied] for case in cases}))
        ax.set_title("10 + 10 points a task" if cases[0]["points"] == 10 else "2,000 + 2,000 points a task")


def write(results: Results, file: Path) -> None:
    """Print the tables, and write them and the figure beside the file of the results."""
    text = report(results)
    print(text)
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    figure(results).savefig(file.with_suffix(".png"), dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--readme", action="store_true", help="put bounds, sinusoid and Conv4 into README.md")
    chosen = parser.parse_args()
    results = json.loads(chosen.file.read_text(encoding="utf-8"))
    write(results, chosen.file)
    if chosen.readme:
        page = into(README.read_text(encoding="utf-8"), report(results, ("sinusoid", "conv4", "training", "memory")))
        README.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
