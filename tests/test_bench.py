"""The bookkeeping of `make bench`: who is left out, what is kept, which bounds are met. No rival is needed."""

from __future__ import annotations

import json
import mmap
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mamlkit.meta import ROUTES

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench
import bench_report
import rivals

CASE = bench.Case("sinusoid", 1, tasks=3, points=4)


def right(problem: rivals.Problem) -> rivals.Ready:
    return rivals.kit(problem, "vmap")


def holds(problem: rivals.Problem) -> rivals.Ready:
    """Forty megabytes for a moment."""
    return rivals.Ready(right(problem).gradient, lambda: np.ones(5_000_000).sum())


def first_order(problem: rivals.Problem) -> rivals.Ready:
    """Another meta-gradient than the one that was asked for."""
    return rivals.plain(replace(problem, order=1))


def missing(problem: rivals.Problem) -> rivals.Ready:
    raise ImportError("there is none", name="rival")


def dies(problem: rivals.Problem) -> rivals.Ready:
    raise SystemExit


def row(contender: str, seconds: list[float], *, order: int = 2, peak: int | None = 10**6) -> dict[str, Any]:
    return {"contender": contender, "order": order, "seconds": seconds, "peak": peak, "error": 1e-7, "ready": 1.0}


def results(*cases: dict[str, Any]) -> dict[str, Any]:
    machine = {"processor": "P", "instructions": "AVX2", "cores": 2, "memory_gb": 8, "system": "S", "load": 0.0}
    return {"machine": machine, "versions": {"torch": "2"}, "golden": [], "cases": [*cases]}


def case(group: str, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    made = bench.Case(group, **({"steps": 1} | settings))
    return {"name": made.name, **asdict(made), "rows": rows, "left_out": {}}


def test_a_contender_that_is_wrong_missing_or_dead_is_left_out_by_name_and_the_others_are_timed() -> None:
    who = {made.__name__: bench.Contender(made) for made in (right, first_order, missing, dies)}
    said: list[str] = []
    found = bench.measure(CASE, who, rounds=3, seconds=1, patience=300, say=said.append)
    (only,) = found["rows"]
    assert only["contender"] == "right"
    assert only["error"] < 1e-5
    assert len(only["seconds"]) == 3
    assert min(only["seconds"]) > 0
    assert found["left_out"].keys() == {"first_order", "missing", "dies"}
    assert "off by" in found["left_out"]["first_order"]
    assert found["left_out"]["missing"] == "ImportError: there is none"
    assert found["left_out"]["dies"] == bench.DIED
    assert all(any(name in sentence for sentence in said) for name in found["left_out"])
    json.dumps(found)


def test_a_contender_that_takes_too_long_is_left_out() -> None:
    found = bench.measure(CASE, {"right": bench.Contender(right)}, rounds=3, seconds=1, patience=0.01)
    assert found["rows"] == []
    assert "not ready" in found["left_out"]["right"]


@pytest.mark.parametrize("steps", [1, 5])
def test_the_tolerance_tells_the_orders_apart(steps: int) -> None:
    sinusoid = bench.Case("sinusoid", steps)
    assert bench.off(bench.reference(sinusoid, 1), bench.reference(sinusoid, 2)) > 10 * bench.TOLERANCE


@pytest.mark.parametrize("wrong", [[np.nan, 1.0], [1.0], [1.0, np.inf]])
def test_what_is_no_gradient_is_infinitely_off(wrong: list[float]) -> None:
    assert bench.off(np.array(wrong), np.array([1.0, 1.0])) == np.inf


def test_the_peak_of_a_contender_is_that_of_a_process_of_its_own() -> None:
    case = replace(CASE, group="memory")
    found = bench.measure(case, {"holds": bench.Contender(holds)}, rounds=3, seconds=1, patience=60)
    [only] = found["rows"]
    if only["peak"] is None:
        pytest.skip("the system does not tell")
    assert only["peak"] == pytest.approx(40_000_000, rel=0.1)


def test_the_peak_is_what_a_call_holds_beyond_what_was_there() -> None:
    def hold() -> None:
        with mmap.mmap(-1, 20_000_000) as pages:  # from the system: what was freed before stays malloc's own
            for page in range(0, len(pages), mmap.PAGESIZE):
                pages[page] = 1

    before = b"1" * 32_000_000
    found = bench.peak(hold)
    if found is None:
        pytest.skip("the system does not tell")
    assert found == pytest.approx(20_000_000, rel=0.1)
    del before


def test_every_route_of_the_kit_joins_by_itself() -> None:
    assert {f"mamlkit {route}" for route in ROUTES} <= set(bench.CONTENDERS)


def test_the_cases_are_those_that_are_asked_for() -> None:
    full = bench.cases(True, 70000)
    assert {made.group for made in full} == set(bench.GROUPS) == set(bench_report.TABLES)
    assert {made.steps for made in full if made.group == "inner steps"} >= {1, 100}
    assert {made.tasks for made in full if made.group == "tasks"} >= {1, 256}
    assert {made.iterations for made in full if made.group == "training"} == {70000}
    assert len({made.name for made in full}) == len(full)


def test_a_ratio_is_that_of_each_round_where_both_took_turns() -> None:
    """A machine that slows down for a round slows both."""
    slow = [1.0, 10.0, 1.0]
    assert bench_report.ratio([2 * time for time in slow], slow, in_turn=True) == (2, 2, 2)
    assert bench_report.ratio([3.0, 4.0, 5.0], [2.0, 2.0, 9.0], in_turn=False)[1] == 2


def test_each_bound_is_met_missed_or_not_measured() -> None:
    compiled = [row("mamlkit compiled", [1.1e-3] * 3), row("JAX", [1e-3] * 3), row("higher", [60e-3] * 3)]
    orders = [row("mamlkit vmap", [3e-3] * 3), row("mamlkit vmap", [1e-3] * 3, order=1)]
    found = results(case("sinusoid", compiled + orders, orders=(2, 1)))
    lines = {line.split(" | ")[0].strip("| "): line for line in bench_report.bounds_table(found)}
    assert "1.1 (1.1 to 1.1) | met" in lines["sinusoid, 1 step: compiled, of JAX"]
    assert "**missed**" in lines["sinusoid, 1 step: compiled, of higher"]
    assert "3 (3 to 3) | **missed**" in lines["sinusoid, 1 step: second order, of first"]
    assert "not measured" in lines["sinusoid, 5 steps: compiled, of JAX"]


def test_of_trainings_the_longest_is_judged_and_each_has_its_column() -> None:
    times = {2000: 3e-3, 70_000: 1.5e-3}
    made = [bench.Case("training", 1, iterations=length) for length in times]
    cases = [
        asdict(one)
        | {"name": one.name, "left_out": {}}
        | {"rows": [row("mamlkit compiled", [times[one.iterations]] * 3, peak=None), row("JAX", [1e-3] * 3, peak=None)]}
        for one in made
    ]
    text = bench_report.report(results(*cases))
    assert "JAX's one scan | 1.6 | 1.5 (1.5 to 1.5) | met |" in text
    assert "| 1 step, 2,000 iterations | 1 step, 70,000 iterations |" in text
    assert "| mamlkit compiled | 3 ms, × 3 (3 to 3) | 1.5 ms, × 1.5 (1.5 to 1.5) |" in text


def test_the_tables_name_who_was_left_out_and_go_into_the_page(tmp_path: Path) -> None:
    measured = case("sinusoid", [row("mamlkit vmap", [4e-3] * 3), row("JAX", [1e-3] * 3, peak=None)])
    measured["left_out"] = {"higher": "ImportError: no higher"}
    text = bench_report.report(results(measured))
    assert "| mamlkit vmap | 4 ms, × 4 (4 to 4), 1 MB |" in text
    assert "| JAX | 1 ms, × 1 |" in text
    assert "higher. ImportError: no higher" in text
    page = bench_report.README.read_text(encoding="utf-8")
    once = bench_report.into(page, text)
    assert text in once
    assert bench_report.into(once, text) == once
    after = page.split(bench_report.MARK)[1].split("\n## ", 1)[1]
    assert once.endswith(after)
    bench_report.write(results(measured, case("tasks", [row("JAX", [1e-3] * 3)])), tmp_path / "bench.json")
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".png"}


def test_what_the_page_says_of_what_is_missed_is_in_its_tables() -> None:
    before, tables = bench_report.README.read_text(encoding="utf-8").split(bench_report.MARK)
    said = before.split("What is missed, and what stops it:")[1]

    def first(title: str, contender: str) -> float:
        table = tables.split(f"| {title}")[1].split("\n\n")[0]
        return float(re.search(rf"^\| {contender} \| ([\d.]+) ms", table, re.MULTILINE)[1])  # type: ignore[index]

    call, scanned = first("sinusoid, 25 tasks, 10 + 10 points", "JAX"), first("a whole training, an iteration", "JAX")
    assert f"takes {call / scanned:.1f} times an iteration of its `lax.scan`" in " ".join(said.split())
    ours = [
        first("Conv4, 64 filters", name)
        for name in ("mamlkit compiled", "torch.func", "higher", "TorchOpt", "learn2learn")
    ]
    assert min(ours) > 0.9 * ours[0]  # none on PyTorch is much below ours
    missed = re.findall(r"^\| (.*?) \|.*\*\*missed\*\*", tables, re.MULTILINE)
    topics = {"**A whole training": "whole training", "**Conv4": "Conv4"}
    assert all(bullet in said for bullet in topics)
    assert {next(topic for topic in topics.values() if topic in row) for row in missed} == {*topics.values()}
