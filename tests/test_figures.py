"""Figures: each serves a notebook, loads when it is asked for, takes any tensor, and keeps its names apart."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

import mamlkit as mk
from mamlkit import figures
from mamlkit.figures.charts import label, line, name_lines, rows, strip, ticks
from mamlkit.figures.theme import MAML, QUERY, THETA, canvas, ink
from mamlkit.study import notebooks

ROOT = Path(__file__).parents[1]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def used() -> Counter[str]:
    """How many notebooks use each name of `figures`."""
    return Counter(
        name
        for path in BOOKS
        for name in {
            found
            for cell in notebooks.code_cells(notebooks.load(path))
            for found in re.findall(r"\bfigures\.(\w+)\(", cell.source)
        }
    )


def test_every_figure_that_a_notebook_asks_for_is_there_and_every_other_is_gone() -> None:
    assert set(used()) == set(figures.__all__)
    assert all(callable(getattr(figures, name)) for name in figures.__all__)


def test_a_figure_that_two_notebooks_share_stands_in_charts_and_no_other_does() -> None:
    for name, count in used().items():
        module = getattr(figures, name).__module__.removeprefix("mamlkit.figures.")
        if name != "theme":
            assert (module == "charts") == (count > 1), f"{name} serves {count} notebooks and stands in {module}"


def test_a_figure_stands_in_the_file_that_is_named_for_its_notebook() -> None:
    stems = {path.stem.partition("_")[2].removeprefix("the_") for path in BOOKS}
    modules = {path.stem for path in (ROOT / "mamlkit" / "figures").glob("*.py")} - {"__init__", "charts", "theme"}
    assert modules == stems


def test_a_module_loads_when_one_of_its_figures_is_touched() -> None:
    code = "import sys; from mamlkit import figures; assert 'matplotlib' not in sys.modules; figures.slopes"
    code += "; assert 'mamlkit.figures.map' in sys.modules; assert 'mamlkit.figures.stress' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    for name in ("slopes", "theme"):
        assert getattr(figures, name) is getattr(importlib.import_module(getattr(figures, name).__module__), name)


def test_an_unknown_figure_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="figures"):
        figures.no_such_figure  # noqa: B018


def heights(figure: Figure) -> list[float]:
    """Where the texts of the first axes stand, in points from below."""
    return [text.get_window_extent().y0 / figure.dpi * 72 for text in figure.axes[0].texts]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_names_of_lines_that_end_together_are_pushed_apart(scale: str) -> None:
    figure, (ax,) = canvas()
    for number, role in enumerate((THETA, QUERY, MAML)):
        line(ax, [0, 1], [1, 1 + number / 1000], role, label=f"line {number}")
    ax.set(yscale=scale, xlim=(0, 1), ylim=(0.5, 2))
    name_lines(ax)
    low, middle, high = sorted(heights(figure))
    assert middle - low > 10
    assert high - middle > 10
    assert {text.get_color() for text in ax.texts} == {ink(role.color) for role in (THETA, QUERY, MAML)}


def test_a_line_without_a_label_gets_no_name() -> None:
    _, (ax,) = canvas()
    line(ax, [0, 1], [0, 1], MAML)
    ax.axhline(0.5)
    name_lines(ax)
    assert len(ax.texts) == 0


def test_parts_take_tensors_that_carry_a_graph() -> None:
    figure, (ax,) = canvas(title="A title")
    values = torch.linspace(0, 1, 5, requires_grad=True)
    line(ax, range(5), values, MAML, values / 10)
    strip(ax, 2, values, QUERY, torch.mean, width=0.5)
    label(ax, "here", values[0], values[1], "black")
    ticks(ax.xaxis, (0, 2, 4))
    rows(ax, ["above", "below"])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["above", "below"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first row is the uppermost"
    assert figure.get_suptitle() == "A title"


def test_a_diverged_curve_leaves_through_the_top_and_the_others_stay_in_sight() -> None:
    good = mk.Curve(torch.tensor([[4.0, 2.0, 1.0], [4.4, 2.2, 1.1]]))
    lost = mk.Curve(torch.tensor([[4.0, 1e30, float("nan")], [4.4, 1e30, float("inf")]]))
    figure = figures.adaptation_curves({"": {"MAML": good, "random": lost}}, title="t", oracles={"floor": 3.0})
    [ax] = figure.axes
    assert 4.2 < ax.get_ylim()[1] < 10
    assert {text.get_text() for text in ax.texts} == {"MAML", "random", "floor"}


def test_a_learning_curve_without_iterations_says_so() -> None:
    options = {"steps": 1, "tasks": 25, "oracles": {"floor": 3.0}, "title": "t"}
    [ax] = figures.learning_curve([], **options).axes
    assert any("no iteration was run here" in text.get_text() for text in ax.texts)
    records = [SimpleNamespace(iteration=i, loss_before=4.0, loss_after=3.0 - i / 100) for i in range(100)]
    [ax] = figures.learning_curve(records, **options).axes
    assert {text.get_text() for text in ax.texts} == {"before\nadaptation", "after k = 1", "floor"}


def test_the_shown_seed_has_a_ring_at_its_own_value_where_an_effect_has_it() -> None:
    panels = {"share": {"one": {0: 0.1, 3: 0.7, 5: 0.4}, "another": {0: 0.2, 5: 0.9}}}
    intervals = {name: mk.t_interval(values.values()) for name, values in panels["share"].items()}
    (ax,) = figures.effects(panels, intervals, shown=3, title="").axes
    rings = [line.get_xydata().tolist() for line in ax.lines if line.get_fillstyle() == "none"]
    assert rings == [[[0.7, 0.0]]]
    assert "ring: seed 3" in ax.get_xlabel()
