"""data/golden.json: what its generator makes, what the kit and others compute, and what tells right from wrong."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

import mamlkit as mk
from mamlkit.meta import ROUTES

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "data"), str(ROOT / "tests" / "benchmarks")]
import build_golden  # noqa: E402
import golden  # noqa: E402
import golden_libraries as libraries  # noqa: E402

Gradient = Callable[[golden.Case], Any]
KIT = libraries.kit("loop")


def leaves(tree: Any) -> Iterator[Any]:
    """The entries of dicts and lists in each other."""
    if isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(part)
    else:
        yield tree


def test_the_file_is_what_its_generator_makes() -> None:
    """To the last digit, by exact arithmetic and by autograd. About 7 s."""
    assert build_golden.FILE.read_text(encoding="utf-8") == build_golden.built()


def test_what_is_given_is_the_same_number_in_every_format() -> None:
    for case in golden.cases():
        given = [*leaves([case[name] for name in ("theta", "support", "query", "alpha")])]
        assert all(float(32 * number).is_integer() and abs(number) < 64 for number in given)


def test_the_cases_are_of_every_kind() -> None:
    cases = [*golden.cases()]
    assert {case["steps"] for case in cases} == {1, 2, 5}
    assert {case["activation"] for case in cases} == {"none", "relu", "tanh"}
    assert {case["loss"] for case in cases} == {"squared_error", "cross_entropy"}
    assert {type(case["alpha"]) for case in cases} == {float, dict}
    assert all(golden.errors(case["first_order"], case)[golden.SECOND] > build_golden.LEAST for case in cases)


def test_fractions_are_the_numbers_before_they_are_rounded() -> None:
    exact = [case for case in golden.cases() if "exact" in case]
    assert len(exact) == 6
    for case in exact:
        for name, fractions in case["exact"].items():
            assert [float(Fraction(text)) for text in leaves(fractions)] == [*leaves(case[name])]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("route", ROUTES)
def test_the_kit_agrees_to_twelve_digits(route: str, order: int) -> None:
    for case in golden.cases():
        what = golden.SECOND if order == 2 else golden.FIRST
        assert golden.errors(libraries.kit(route)(case, order), case)[what] <= 1e-12


@pytest.mark.parametrize("route", ROUTES)
def test_the_kits_losses_agree_to_twelve_digits(route: str) -> None:
    for case in golden.cases():
        objective = mk.Objective(libraries.module(case), libraries.LOSSES[case["loss"]])
        theta = objective.theta()
        alpha = dict(zip(theta, libraries.step_sizes(case).values(), strict=True))
        settings: dict[str, Any] = {"alpha": alpha, "steps": case["steps"], "route": route}
        found = mk.meta_gradient(objective, theta, libraries.tasks(case), **settings).loss
        assert found.tolist() == pytest.approx(case["losses"], rel=1e-12, abs=0)


@pytest.mark.parametrize("name", [name for name in libraries.LIBRARIES if not name.startswith("mamlkit")])
def test_other_libraries_agree_where_they_are_installed(name: str) -> None:
    for case in golden.cases():
        for order, what in ((2, golden.SECOND), (1, golden.FIRST)):
            try:
                found = libraries.LIBRARIES[name][1](case, order)
            except ImportError as error:
                pytest.skip(f"{error}; see tests/benchmarks/golden_libraries.py")
            assert found is None or golden.errors(found, case)[what] <= 1e-12


def test_a_library_that_is_not_installed_has_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "higher", None)
    monkeypatch.setattr(libraries, "LIBRARIES", {"higher": libraries.LIBRARIES["higher, innerloop_ctx"]})
    assert [*libraries.table()][2:] == ["| higher | not installed | | | |"]


def summed(case: golden.Case) -> Any:
    return {name: len(case["losses"]) * part for name, part in KIT(case, 2).items()}


def biases_twice(case: golden.Case) -> Any:
    alpha = {name: size * (1 + name.startswith("b")) for name, size in libraries.step_sizes(case).items()}
    return KIT(case | {"alpha": alpha}, 2)


WRONG: dict[str, tuple[Gradient, str]] = {
    "first order in the place of second": (lambda case: KIT(case, 1), golden.FIRST),
    "the sum over tasks": (summed, golden.SECOND + golden.SUM),
    "alpha twice on the biases": (biases_twice, "wrong"),
    "judged on the support": (lambda case: KIT(case | {"query": case["support"]}, 2), "wrong"),
    "a step too many": (lambda case: KIT(case | {"steps": case["steps"] + 1}, 2), "wrong"),
    "the first task alone": (
        lambda case: KIT(case | {part: {k: v[:1] for k, v in case[part].items()} for part in ("support", "query")}, 2),
        "wrong",
    ),
    "NaN": (lambda case: {name: math.nan * part for name, part in KIT(case, 2).items()}, "wrong"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_implementation_is_named(mistake: str) -> None:
    gradient, verdict = WRONG[mistake]
    assert golden.compare(gradient) == [verdict] * 24


def test_float32_is_second_order_within_its_own_tolerance() -> None:
    def gradient(case: golden.Case) -> Any:
        return {name: part.to(torch.float32) for name, part in KIT(case, 2).items()}

    assert set(golden.compare(gradient, tolerance=1e-6)) == {golden.SECOND}
    assert set(golden.compare(gradient)) == {"wrong"}


def test_lists_serve_and_a_case_may_be_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    def gradient(case: golden.Case) -> Any:
        return None if case["steps"] > 1 else {name: part.tolist() for name, part in KIT(case, 2).items()}

    assert golden.compare(gradient) == [golden.SECOND] * 8
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 8
    assert all(row.endswith("second order") for row in rows)


@pytest.mark.parametrize(("body", "status"), [("case['second_order']", 0), ("case['first_order']", 1), ("None", 1)])
def test_the_command_says_by_its_status_whether_all_is_second_order(tmp_path: Path, body: str, status: int) -> None:
    """Without a package but Python's own."""
    (tmp_path / "mine.py").write_text(f"def gradient(case):\n    return {body}\n")
    command = [sys.executable, "-I", "-S", str(ROOT / "data" / "golden.py"), "mine.py:gradient"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout.count("\n") == (0 if body == "None" else 24)


def test_the_example_of_the_data_card_is_second_order() -> None:
    section = (ROOT / "data" / "README.md").read_text(encoding="utf-8").split("\n# Golden meta-gradients\n")[1]
    defined: dict[str, Any] = {}
    exec(section.split("```python\n")[1].split("```")[0], defined)
    assert golden.compare(defined["gradient"], tolerance=1e-12) == [golden.SECOND] * 24


def test_nothing_is_written_where_the_two_ways_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(build_golden.cases())
    right = build_golden.by_autograd(case)
    off = right["second_order"] | {"b1": right["second_order"]["b1"] * (1 + 1e-10)}
    monkeypatch.setattr(build_golden, "by_autograd", lambda case: right | {"second_order": off})
    with pytest.raises(ValueError, match="the two ways differ by"):
        build_golden.solved(case)


def test_a_relu_at_its_kink_is_refused() -> None:
    with pytest.raises(ValueError, match="from its kink"):
        build_golden.rectified(Fraction(1, 10**6))


def test_the_readme_has_a_row_for_every_library() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`data/golden.json`: {len([*golden.cases()])} cases" in readme
    assert [name for name in libraries.LIBRARIES if f"| {name} |" not in readme] == []
