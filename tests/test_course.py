"""What must hold of the walkthrough as a course: its boxes, its numbers in prose, its names, its links, its figures.

Each rule is a function from a notebook to the list of its breaches, and each is seen here to find one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from books import claimed, output, recorded
from conftest import STARTUP
from contrast import faint
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mamlkit.figures.theme import SUPPORT, ink
from mamlkit.ledger import CLAIM, RECORD, show
from mamlkit.study import notebooks

WALKTHROUGH = sorted((Path(__file__).parents[1] / "notebooks").glob(notebooks.WALKTHROUGH))
BOX = "**Predict first.**"
CHOICE = re.compile(r"(?<![\w(])\(([a-e])\)")

# One name, one meaning: how the comment of a parameter begins, in whichever notebook declares it.
GLOSSARY = {
    "alpha": "inner step size α",
    "alphas": "inner step sizes to choose from",
    "beta": "outer step size β of Adam",
    "dataset": '"glyphs"',
    "device": '"cpu"',
    "iterations": "outer iterations of each training",
    "n": "tasks drawn for each measurement",
    "order": "order of the meta-gradient",
    "noise": "standard deviation σ of the labels' noise",
    "queries": "query examples K' a class",
    "seed": "seed",
    "shots": "support examples K",
    "steps": "inner steps k",
    "tasks_per_iteration": "tasks n in one outer iteration",
    "test_size": "unseen tasks in an exam",
    "test_steps": "inner steps k in an exam",
    "ways": "classes N a task",
}

Rule = Callable[[NotebookNode], list[str]]


class Box(NamedTuple):
    """A prediction box: its cell, its choices, the letters that are right, what they rest on, and the text after it."""

    cell: NotebookNode
    choices: list[str]
    answer: str
    rests_on: list[str]
    after: str


def boxes(notebook: NotebookNode) -> Iterator[Box]:
    """The boxes of a notebook, in order."""
    cells = notebook.cells
    for place, cell in enumerate(cells):
        if cell.cell_type != "markdown" or BOX not in cell.source:
            continue
        text, after = cell.source.partition(BOX)[2], []
        for later in cells[place + 1 :]:
            if later.cell_type == "markdown":
                after.append(later.source.partition(BOX)[0])
                if BOX in later.source:
                    break
        said = cell.metadata.get("box", {})
        yield Box(cell, CHOICE.findall(text), said.get("answer", ""), said.get("rests_on", []), "\n".join(after))


def shown(notebook: NotebookNode) -> tuple[set[str], set[str]]:
    """The texts of the claims that hold and the names of the records that a notebook's outputs carry."""
    claims = {value["claim"] for _, value in notebooks.displayed(notebook, CLAIM) if value["holds"]}
    return claims, {value["name"] for _, value in notebooks.displayed(notebook, RECORD)}


def every_box_says_its_answer_and_what_it_rests_on(notebook: NotebookNode) -> list[str]:
    """Choices in order; an answer that is one of them, not all; a claim or a record that the notebook displays."""
    claims, records = shown(notebook)
    found = []
    for box in boxes(notebook):
        if not 2 <= len(box.choices) <= 5 or "".join(box.choices) != "abcde"[: len(box.choices)]:
            found.append(f"{box.cell.id}: choices {box.choices}; wanted: (a), (b), … once each, in order")
        if not box.answer or not set(box.answer) < set(box.choices):
            found.append(f"{box.cell.id}: the answer is {box.answer!r}; wanted: some of {box.choices}, in its metadata")
        if not box.rests_on:
            found.append(f"{box.cell.id}: its answer rests on nothing; name a claim or a record in its metadata")
        found += [
            f"{box.cell.id}: it rests on {text!r}, which is neither a claim nor a record of the notebook"
            for text in box.rests_on
            if text not in claims | records
        ]
    return found


def every_choice_is_taken_up_afterwards(notebook: NotebookNode) -> list[str]:
    """Between a box and the next one, the text speaks of each choice by its letter."""
    return [
        f"{box.cell.id}: choice ({letter}) is not taken up afterwards"
        for box in boxes(notebook)
        for letter in box.choices
        if letter not in CHOICE.findall(box.after)
    ]


def right_answers_are_spread(notebook: NotebookNode) -> list[str]:
    """In one notebook no letter is right in more than half of the boxes."""
    answers = Counter(letter for box in boxes(notebook) for letter in box.answer)
    count = sum(1 for _ in boxes(notebook))
    return [f"({a}) is right in {times} of {count} boxes" for a, times in answers.items() if times > (count + 1) // 2]


NUMBER = re.compile(r"(?<![\w.,/])[-−]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?:\s?%)?(?![\w./]*\w)")
CARRIED = re.compile(r"(?<![\w.])[-−+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?(?:\s?%)?")


def _value(text: str) -> tuple[float, float]:
    """A number as written, and half of its last digit; per cent is a hundredth."""
    digits = text.replace("−", "-").replace(",", "").strip()
    scale = 0.01 if digits.endswith("%") else 1.0
    digits = digits.rstrip("% ")
    places = len(digits.partition("e")[0].partition(".")[2])
    power = int(digits.partition("e")[2] or 0)
    return float(digits) * scale, 0.5 * 10.0 ** (power - places) * scale


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def _prose(cell: NotebookNode) -> str:
    """The text of a cell without formulas, code, tables, links' targets and headings."""
    text = re.sub(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)", " ", cell.source, flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("|", "#")))


def numbers_in_prose_are_carried_by_outputs(notebook: NotebookNode) -> list[str]:
    """A decimal or a percentage in the text stands in an output, among the parameters, or says where it is from."""
    carried = [v for _, kept in notebooks.displayed(notebook, RECORD) for v in _numbers(kept["value"])]
    for cell in notebooks.code_cells(notebook):
        for made in cell.outputs:
            text = made.get("text") or made.get("data", {}).get("text/plain", "")
            carried += [_value(number)[0] for number in CARRIED.findall(text)]
    for parameter in notebooks.parameters(notebook).values():
        default = parameter.default
        carried += _numbers(list(default) if isinstance(default, tuple) else default)
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            said = cell.metadata.get("numbers", {})
            for number in NUMBER.findall(_prose(cell)):
                if ("." not in number and "%" not in number) or number.strip() in said:
                    continue
                value, half = _value(number)
                # A share may be printed as a number and said in per cent; a fall may be printed without its sign.
                if not any(abs(abs(other) - abs(value)) <= half * 1.001 for other in carried):
                    found.append(f"{cell.id}: {number} is in no output of the notebook, and says no other source")
    return found


def parameters_mean_what_they_mean_elsewhere(notebook: NotebookNode) -> list[str]:
    """The comment of a parameter that several notebooks declare begins with the words of the glossary."""
    return [
        f"{name}: its comment is {found.help!r}; wanted: {GLOSSARY[name]!r} first"
        for name, found in notebooks.parameters(notebook).items()
        if name in GLOSSARY and not found.help.startswith(GLOSSARY[name])
    ]


def no_result_is_a_raw_dictionary(notebook: NotebookNode) -> list[str]:
    """Nothing that is printed or returned begins as a Python dictionary does."""
    return [
        f"{cell.id} prints a dictionary: {text[:40]!r}"
        for cell in notebooks.code_cells(notebook)
        for made in cell.outputs
        for text in [made.get("text") or made.get("data", {}).get("text/plain", "")]
        if RECORD not in made.get("data", {}) and re.search(r"^\{['\"]\w", text, re.MULTILINE)
    ]


def the_rows_of_a_table_have_as_many_cells(notebook: NotebookNode) -> list[str]:
    """A bar within a formula, as of |θ|, ends a cell on the report's pages, and the table there is none: \\lvert."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for table in re.findall(r"(?:^\|.*\n?)+", cell.source, re.MULTILINE):
                bars = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
                found += [f"{cell.id}: {row}" for row, n in zip(table.splitlines(), bars, strict=True) if n != bars[0]]
    return found


RULES: list[Rule] = [
    every_box_says_its_answer_and_what_it_rests_on,
    every_choice_is_taken_up_afterwards,
    right_answers_are_spread,
    numbers_in_prose_are_carried_by_outputs,
    parameters_mean_what_they_mean_elsewhere,
    no_result_is_a_raw_dictionary,
    the_rows_of_a_table_have_as_many_cells,
]


def _name(value: Any) -> str:
    return str(value.stem) if isinstance(value, Path) else str(value.__name__)


@pytest.mark.parametrize("rule", RULES, ids=_name)
@pytest.mark.parametrize("path", WALKTHROUGH, ids=_name)
def test_every_notebook_keeps_the_rule(path: Path, rule: Rule) -> None:
    assert rule(notebooks.load(path)) == []


def test_over_the_walkthrough_right_answers_are_spread_over_the_letters_and_the_letters_over_the_boxes() -> None:
    every = [box for path in WALKTHROUGH for box in boxes(notebooks.load(path))]
    answers = Counter(letter for box in every for letter in box.answer)
    assert len(every) > 60
    assert max(answers.values()) <= 0.4 * answers.total(), answers
    assert min(answers[letter] for letter in "abc") >= 0.2 * answers.total(), answers
    assert len(Counter(len(box.choices) for box in every)) > 1
    repeats = sum(one.answer == next_.answer for one, next_ in pairwise(every))
    assert repeats < 0.5 * len(every), "the answer before is too often the answer again"


def test_each_notebook_leads_to_the_next_and_the_last_to_the_first() -> None:
    for path, next_ in zip(WALKTHROUGH, [*WALKTHROUGH[1:], WALKTHROUGH[0]], strict=True):
        assert f"]({next_.name})" in notebooks.load(path).cells[-1].source, f"{path.stem} does not lead to {next_.stem}"


def test_the_map_lists_every_notebook_with_its_question() -> None:
    text = "\n".join(cell.source for cell in notebooks.load(WALKTHROUGH[0]).cells)
    assert [path.name for path in WALKTHROUGH[1:] if f"]({path.name})" not in text] == []


def test_a_parameter_of_several_notebooks_is_in_the_glossary() -> None:
    declared = Counter(name for path in WALKTHROUGH for name in notebooks.parameters(notebooks.load(path)))
    assert {name for name, count in declared.items() if count > 1} - set(GLOSSARY) == set()
    assert set(GLOSSARY) - set(declared) == set()


@pytest.fixture
def good() -> NotebookNode:
    """A notebook that keeps every rule."""
    box = new_markdown_cell(f"Text.\n\n> {BOX} Which?\n>\n> (a) More. (b) Less.", id="box")
    box.metadata["box"] = {"answer": "b", "rests_on": ["it falls"]}
    book: NotebookNode = new_notebook(
        cells=[
            new_markdown_cell("# Title"),
            new_code_cell("alpha: float = 0.01  # inner step size α", metadata={"tags": ["parameters"]}),
            box,
            new_code_cell("mk.claim()", id="code", outputs=[claimed(), recorded(0.1234)]),
            new_markdown_cell("(a) is refuted: it falls, (b), by 12% or 0.123. At 0.01 and $0.77$ `0.78`.", id="text"),
        ]
    )
    return book


@pytest.mark.parametrize("rule", RULES, ids=_name)
def test_a_good_notebook_keeps_every_rule(good: NotebookNode, rule: Rule) -> None:
    assert rule(good) == []


def _without_answer(book: NotebookNode) -> None:
    del book.cells[2].metadata["box"]


def _all_right(book: NotebookNode) -> None:
    book.cells[2].metadata["box"]["answer"] = "ab"


def _resting_elsewhere(book: NotebookNode) -> None:
    book.cells[2].metadata["box"]["rests_on"] = ["it rises"]


def _resting_on_a_claim_that_fails(book: NotebookNode) -> None:
    book.cells[3].outputs[0] = claimed(holds=False)


def _with_a_letter_twice(book: NotebookNode) -> None:
    book.cells[2].source += " (b) Alike."


def _without_a_word_on_a_choice(book: NotebookNode) -> None:
    book.cells[4].source = "(b) holds: it falls."


def _always_the_same_letter(book: NotebookNode) -> None:
    book.cells[2:5] = book.cells[2:5] * 3


def _with_a_number_from_nowhere(book: NotebookNode) -> None:
    book.cells[4].source += " The other way it is 13%."


def _with_a_decimal_of_too_many_digits(book: NotebookNode) -> None:
    book.cells[4].source += " More exactly 0.1239."


def _with_another_meaning(book: NotebookNode) -> None:
    book.cells[1].source = "alpha: float = 0.01  # significance level"


def _with_a_dictionary(book: NotebookNode) -> None:
    book.cells[3].outputs.append(output("stream", name="stdout", text="{'loss': 1.0}\n"))


def _with_a_bar_in_a_table(book: NotebookNode) -> None:
    book.cells[4].source += "\n\n| symbol | meaning |\n| --- | --- |\n| $|x|$ | size |"


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        (every_box_says_its_answer_and_what_it_rests_on, _without_answer),
        (every_box_says_its_answer_and_what_it_rests_on, _all_right),
        (every_box_says_its_answer_and_what_it_rests_on, _resting_elsewhere),
        (every_box_says_its_answer_and_what_it_rests_on, _resting_on_a_claim_that_fails),
        (every_box_says_its_answer_and_what_it_rests_on, _with_a_letter_twice),
        (every_choice_is_taken_up_afterwards, _without_a_word_on_a_choice),
        (right_answers_are_spread, _always_the_same_letter),
        (numbers_in_prose_are_carried_by_outputs, _with_a_number_from_nowhere),
        (numbers_in_prose_are_carried_by_outputs, _with_a_decimal_of_too_many_digits),
        (parameters_mean_what_they_mean_elsewhere, _with_another_meaning),
        (no_result_is_a_raw_dictionary, _with_a_dictionary),
        (the_rows_of_a_table_have_as_many_cells, _with_a_bar_in_a_table),
    ],
    ids=_name,
)
def test_a_rule_finds_its_breach(good: NotebookNode, rule: Rule, spoil: Callable[[NotebookNode], None]) -> None:
    spoil(good)
    assert rule(good) != []


def test_a_number_of_another_source_says_so(good: NotebookNode) -> None:
    _with_a_number_from_nowhere(good)
    good.cells[4].metadata["numbers"] = {"13%": "the paper's table"}
    assert numbers_in_prose_are_carried_by_outputs(good) == []


def written(color: Any, ground: str = "white") -> Figure:
    """A figure with one text in a colour, on a ground."""
    figure = Figure(facecolor=ground)
    figure.text(0.5, 0.5, "a text to read", color=color)
    return figure


def drawn(figure: Figure) -> Any:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def test_a_text_that_is_hard_to_read_is_found_by_its_contrast_with_what_it_stands_on() -> None:
    assert "contrast of 2.2" in faint(drawn(written(SUPPORT.color)))[0]
    assert faint(drawn(written(ink(SUPPORT.color)))) == []
    assert faint(drawn(written("white", "black"))) == []
    assert faint(drawn(written("black", "#404040"))) != []
    assert faint(drawn(written((0, 0, 0, 0.2)))) != []


def test_every_figure_of_the_notebooks_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernels of the notebook tests run first refuses a figure with a faint text."""
    monkeypatch.setattr(FigureCanvasAgg, "print_png", FigureCanvasAgg.print_png)  # put back afterwards
    exec(STARTUP, {})
    show(written("black"), alt="A text.")
    with pytest.raises(AssertionError, match="contrast of"):
        show(written(SUPPORT.color), alt="A text.")
