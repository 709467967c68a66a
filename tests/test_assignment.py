"""The assignment: copies without their answers, and a grader that gives each submission the points that it deserves.

For each sheet a right submission has all points, and more than twenty wrong ones have those of the answers that are
right in them, with the reason for the others. A submission is the solved copy, changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mamlkit.__main__ import main
from mamlkit.assignment import sheets, wire
from mamlkit.assignment.grade import Grade, grade, graded, table
from mamlkit.study import RefusedError, notebooks

HOME = Path(__file__).parents[1] / "notebooks" / "assignment"
SHEETS = sheets.sources(HOME)
ONE, SIX, STEPS, SIZES, HUNT, DESIGN = SHEETS
# What makes a sheet's own run quick; its answers stay.
QUICK: dict[str, dict[str, str]] = {
    ONE: {"iterations: int = 60": "iterations: int = 2", "range(50)": "range(2)"},
    SIX: {"iterations: int = 60": "iterations: int = 1", "(0, 60": "(0, 2", "mk.show(\n    figure,": "print("},
    STEPS: {"iterations: int = 120": "iterations: int = 1", "(0, 60": "(0, 2"},
    SIZES: {"iterations: int = 60": "iterations: int = 2", '"validation", 50)': '"validation", 2)'},
    HUNT: {"iterations: int = 50": "iterations: int = 1", "size=40": "size=4", "print(mk.check(": "print(dict("},
    DESIGN: {"size: int = 50": "size: int = 4"},
}
TOTAL = {ONE: 19, SIX: 15, STEPS: 16, SIZES: 15, HUNT: 13, DESIGN: 10}
# A function of each sheet on which no other answer rests, and the points of what does without it.
LEAF = {
    ONE: ("slope_by_hand", 17),
    SIX: ("accuracy_of_deals", 11),
    STEPS: ("one_step_like", 14),
    SIZES: ("learn", 11),
    HUNT: ("report", 11),
    DESIGN: ("step", 1),
}


class Wrong(NamedTuple):
    """A wrong submission: what is changed in the solved copy, or added to it, the points that it deserves, and why."""

    name: str
    points: int
    reason: str  # a regular expression that one of its reasons must match
    changes: dict[str, str] = {}  # noqa: RUF012  # never written
    added: str = ""
    first: str = ""  # a cell before all others
    solve: bool = True
    limit: float = 60


def submission(folder: Path, sheet: str, wrong: Wrong | None = None) -> Path:
    """The file of a submission."""
    solve = wrong is None or wrong.solve
    notebook = sheets.copy(notebooks.load(SHEETS[sheet]), sheet, solve=solve)
    for old, new in {**QUICK[sheet], **(wrong.changes if wrong else {})}.items():
        cells = [cell for cell in notebooks.code_cells(notebook) if old in cell.source]
        assert cells, f"{old!r} is not in {sheet}"
        for cell in cells:
            cell.source = cell.source.replace(old, new)
    if wrong and wrong.added:
        notebook.cells.append(new_code_cell(wrong.added))
    if wrong and wrong.first:
        notebook.cells.insert(0, new_code_cell(wrong.first))
    return save(folder / f"{sheet}.ipynb", notebook)


def save(path: Path, notebook: NotebookNode) -> Path:
    path.write_text(notebooks.dumps(notebook), encoding="utf-8")
    return path


def shared(sheet: str) -> list[Wrong]:
    """Wrong in ways that any sheet may be."""
    leaf, rest = LEAF[sheet]

    def broken(body: str) -> str:
        return f"def {leaf}(*given, **named):\n    {body}"

    forged = """
class Right(dict):
    def __eq__(self, other): return True
    def __len__(self): return 2
    def __getattr__(self, name): return Right()
    def __float__(self): return 1.0
"""
    patched = """
import sys, builtins, torch, json
import mamlkit.assignment.points, mamlkit.assignment.wire as wire
mamlkit.assignment.points.told = lambda *given, **named: ""
mamlkit.assignment.points.Check.judged = lambda *given: ""
wire.differs = lambda *given: ""
torch.allclose = torch.equal = lambda *given, **named: True
points = 100
"""
    channel = "import os\n    for file in range(3, 60):\n        try: os.write(file, b'\\0\\0\\0\\x02{}')\n        except OSError: pass"  # noqa: E501
    reads = f"""
import json
cells = json.load(open({str(SHEETS[sheet])!r}))["cells"]
for cell in cells:
    if cell["cell_type"] == "code": exec("".join(cell["source"]))
"""
    kills = "import os\n    os.kill(os.getppid(), 9)"
    return [
        Wrong("not attempted", 0, "not attempted" if sheet != HUNT else "still", solve=False),
        Wrong("prints a pass", 0, "", added=f"print('{TOTAL[sheet]} of {TOTAL[sheet]}')\npassed = True", solve=False),
        Wrong("ends itself in a loop", rest, "did not end within 3 s", added=broken("while True: pass"), limit=3),
        Wrong("exits when asked", rest, "ended its kernel", added=broken("import os; os._exit(0)")),
        Wrong(
            "crashes when asked", rest, "ended its kernel", added=broken("import faulthandler; faulthandler._sigsegv()")
        ),
        Wrong("exits in a cell", 0, "is not there|not attempted|still", added="import os; os._exit(0)", solve=False),
        Wrong("raises", rest, "raised ValueError: no idea", added=broken("raise ValueError('no idea')")),
        Wrong("exits by sys.exit", rest, "raised SystemExit", added=broken("raise SystemExit(0)")),
        Wrong("returns nothing", rest, "nothing|two", added=broken("return None")),
        Wrong("returns a text", rest, "text|two", added=broken("return '\\x1b[2J all points'")),
        Wrong("forges equality", rest, "dict|type|two|names", added=forged + broken("return Right()")),
        Wrong("not a number", rest, "not finite|values|two|a dict|shape|wanted", added=broken("return float('nan')")),
        Wrong(
            "wrong shape", rest, "shape|two|tensor|wanted", added=broken("return __import__('torch').zeros(7, 7, 7)")
        ),
        Wrong("renamed", rest, f"{leaf} is not there; was its cell deleted", added=f"{leaf}_2 = {leaf}\ndel {leaf}"),
        Wrong("patches the grader", 0, "", first=patched, solve=False),
        Wrong("reads the solution", 0, "", added=reads, solve=False),
        Wrong("writes to the grader", rest, "channel|ended its kernel|two", added=broken(channel)),
        Wrong("kills the grader", rest, "PermissionError: os.kill", added=broken(kills)),
        Wrong("hogs memory", rest, "MemoryError|memory", added=broken("return bytearray(50_000_000_000)")),
    ]


def adapted_to_the_query(points: int) -> Wrong:
    """The query in the support's place."""
    change = {"objective, theta, support, ": "objective, theta, query, "}
    return Wrong("adapted to the query", points, "adapted to the query", change)


def choice(letter: str, wrong: str, points: int, reason: str) -> Wrong:
    """A wrong letter for a question of choice."""
    return Wrong(f"chooses {wrong} for {letter[:16]}", points, reason, {letter: f'{letter.split(" =")[0]} = "{wrong}"'})


KIT_ADAPT = """
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, weight in start(0).items():
            setattr(self, name, torch.nn.Parameter(weight))

    def forward(self, x):
        return predict(dict(self.named_parameters()), x)


def adapt(theta, support, alpha, steps):
    objective = mk.Objective(Model(), torch.nn.functional.mse_loss)
    return mk.adapt(objective, theta, mk.tasks.Batch(*support), alpha=alpha, steps=steps)
"""
KIT_AGAIN = """
import importlib, mamlkit.inner
try:
    importlib.reload(mamlkit.inner)
except PermissionError:
    pass
""" + KIT_ADAPT.replace("mk.adapt", "mamlkit.inner.adapt")
KIT_META = (
    "def gradients(theta, sizes, pairs, steps):\n    return mk.meta_gradient(objective, theta, pairs[0], alpha=sizes)"
)
KIT_CURVE = (
    "def curve(theta, support, query, alpha, steps):\n    return mk.evaluate(objective, theta, tasks, alpha=alpha, "
    "steps=steps, split='test', size=2).mean().tolist()"
)
MUSEUM = "from mamlkit.museum import plain\nadapt = plain.adapt"
PLAIN_STEP = "def step(theta, gradient, alpha, state):\n    return "
THETA = "{name: weight - %s * gradient[name] for name, weight in theta.items()}"
OUTSIDE = """
memory = {}


def init(theta):
    memory["v"] = 0
    return ()


def step(theta, gradient, alpha, state):
    memory["v"] = 0.2 * memory["v"] + gradient["weight"] / torch.tensor(SCALES, dtype=torch.float64) ** 2
    return {"weight": theta["weight"] - 0.45 * memory["v"]}, state
"""

SPECIFIC: dict[str, list[Wrong]] = {
    ONE: [
        Wrong("up the loss", 5, "goes up the loss", {"weight - alpha * slope": "weight + alpha * slope"}),
        Wrong("first order", 11, "it is first order", {"create_graph=True": "create_graph=False"}),
        Wrong(
            "detached",
            9,
            "raised RuntimeError|it is zero",
            {"weight - alpha * slope": "(weight - alpha * slope).detach().requires_grad_()"},
        ),
        Wrong("sum over tasks", 12, "sum over tasks", {"torch.stack(losses).mean()": "torch.stack(losses).sum()"}),
        Wrong("judged on support", 9, "judged on the support", {"steps), query)": "steps), support)"}),
        Wrong(
            "not adapted", 9, "not adapted", {"loss(adapt(theta, support, alpha, steps), query)": "loss(theta, query)"}
        ),
        Wrong(
            "gradients of the start",
            9,
            "every step takes the gradient of θ",
            {"loss(theta_prime, support), list(theta_prime.values())": "loss(theta, support), list(theta.values())"},
        ),
        Wrong("one step always", 8, "one step is taken where three", {"range(steps)": "range(1)"}),
        Wrong("wrong α", 5, "off by", {"weight - alpha * slope": "weight - 0.05 * slope"}),
        Wrong("no α", 5, "the step has no α", {"weight - alpha * slope": "weight - slope"}),
        Wrong("α for β", 16, "moves by α where β", {"- beta * gradient": "- alpha * gradient"}),
        Wrong("linear", 15, "a power", {"(1 - alpha * h) ** steps * (theta": "(1 - steps * alpha * h) * (theta"}),
        Wrong("first order by hand", 17, "first order", {"(1 - alpha * h) ** steps * h": "h"}),
        Wrong("calls the kit", 4, "closed in this sheet", added=KIT_ADAPT),
        Wrong("torch overwritten", 4, "", added="torch.autograd.grad = lambda *given, **named: [torch.zeros(1)]"),
        Wrong("loads the kit again", 4, "closed in this sheet", added=KIT_AGAIN),
    ],
    SIX: [
        Wrong("query before", 9, "before adapting", {"accuracy(theta_prime, query)": "accuracy(theta, query)"}),
        Wrong(
            "support for query",
            9,
            "which θ′ has seen",
            {"accuracy(theta_prime, query)": "accuracy(theta_prime, support)"},
        ),
        adapted_to_the_query(7),
        Wrong(
            "after for before",
            10,
            "it is after adapting",
            {"accuracy(theta, support)": "accuracy(theta_prime, support)"},
        ),
        Wrong("sum over tasks", 11, "sum over tasks", {"each.mean(0)": "each.sum(0)"}),
        Wrong(
            "exchanged",
            11,
            "exchanged",
            {
                '("training", training), ("validation", ': '("training", validation), ("validation", ',
                'validation), ("validation", validation)': 'validation), ("validation", training)',
            },
        ),
        Wrong(
            "deals guesses",
            11,
            "deals out the guesses",
            {"deals[:, classes] == guesses": "deals[:, guesses] == classes"},
        ),
        Wrong("number right", 11, "give the share", {").double().mean(1)": ").double().sum(1)"}),
        Wrong("mean over deals", 11, "give each of them", {").double().mean(1)": ").double().mean(1).mean()"}),
        Wrong("chance for each", 11, "only their mean", {").double().mean(1)": ").double().mean(1) * 0 + 1 / ways"}),
        choice('before_is_chance = "b"', "a", 14, "longer training"),
        choice('without_dealing = "c"', "b", 14, "raises what it can"),
        Wrong("no answer", 14, "not attempted", {'without_dealing = "c"': "without_dealing = ..."}),
    ],
    STEPS: [
        Wrong(
            "judged on support",
            7,
            "loss on the support",
            {"objective(theta_prime, *query)": "objective(theta_prime, *support)"},
        ),
        adapted_to_the_query(9),
        Wrong("lacks the first", 11, "before the first step", {"range(steps + 1)": "range(1, steps + 1)"}),
        Wrong("not adapted", 9, "does not adapt", {"steps=k, ": "steps=0, "}),
        Wrong("sum over tasks", 12, "sum over tasks", {"sum(ends) / len(ends)": "sum(ends)"}),
        Wrong("one step always", 12, "whatever is asked", {"alpha, steps)[-1] for": "alpha, 1)[-1] for"}),
        Wrong("first task alone", 12, "only the first task", {"for i in range(batch.size)]": "for i in range(1)]"}),
        Wrong("linear", 12, "a power", {"return (1 - alpha * h) ** steps": "return 1 - steps * alpha * h"}),
        Wrong("half the limit", 14, "up to 2/λ", {"return 2 / torch": "return 1 / torch"}),
        Wrong("smallest curvature", 14, "largest curvature limits", {".max().item()": ".min().item()"}),
        Wrong(
            "share for size",
            14,
            "share of the distance",
            {"(1 - distance_left(h, alpha, steps)) / h": "1 - distance_left(h, alpha, steps)"},
        ),
        choice('five_small_steps = "c"', "a", 15, "less slope"),
        Wrong("calls the kit", 7, "closed in this sheet", added=KIT_CURVE),
    ],
    SIZES: [
        Wrong("first order", 6, "it is first order", {"create_graph=True": "create_graph=False"}),
        Wrong("judged on support", 4, "judged on the support", {"steps), *query) for": "steps), *support) for"}),
        Wrong("up the loss", 1, "goes up the loss", {"- sizes[name] * slope": "+ sizes[name] * slope"}),
        Wrong(
            "one size for all", 1, "step size of the first", {"- sizes[name] * slope": '- sizes["0.weight"] * slope'}
        ),
        Wrong("sizes cut off", 4, "raised RuntimeError", {"- sizes[name] * slope": "- sizes[name].item() * slope"}),
        Wrong("one step always", 7, "one step is taken", {"range(steps)": "range(1)"}),
        Wrong(
            "sizes not learned", 11, "not learned", {"[*theta.values(), *sizes.values()], lr": "[*theta.values()], lr"}
        ),
        Wrong(
            "Adam anew",
            11,
            "made anew",
            {
                "    for pairs in batches:": "    for pairs in batches:\n        optimizer = "
                "torch.optim.Adam([*theta.values(), *sizes.values()], lr=beta)"
            },
        ),
        Wrong("plain descent", 11, "plain gradient descent", {"torch.optim.Adam(": "torch.optim.SGD("}),
        Wrong("first batch alone", 11, "only the first batch", {"for pairs in batches:": "for pairs in batches[:1]:"}),
        Wrong("wrong sign", 4, "its sign is wrong", {"torch.stack(losses).mean()": "-torch.stack(losses).mean()"}),
        choice('agreeing = "b"', "a", 14, "minus that product"),
        Wrong("calls the kit", 4, "closed in this sheet", added=KIT_META),
    ],
    HUNT: [
        Wrong(
            "tasks unmended",
            9,
            "still share points",
            {"slice(SHOTS), slice(SHOTS, None)": "slice(SHOTS), slice(QUERIES)"},
        ),
        Wrong("order unmended", 10, "still first order", {", create_graph=create_graph)": ")"}),
        Wrong(
            "steps unmended",
            6,
            "still takes the gradient of θ",
            {"slope(theta_prime, support)": "slope(theta, support)"},
        ),
        Wrong("sum unmended", 8, "still the sum", {"torch.stack(losses).mean()": "torch.stack(losses).sum()"}),
        Wrong(
            "exam unmended", 11, "still judges θ", {"loss(theta_prime, query).detach()": "loss(theta, query).detach()"}
        ),
        Wrong("report unmended", 11, "√n below", {" / len(last) ** 0.5": ""}),
        Wrong(
            "mended amiss",
            11,
            "their examples are not",
            {"last.std() / len(last)": "last.std() / (QUERIES * len(last))"},
        ),
        Wrong(
            "detached",
            10,
            "it is zero",
            {"name: w - ALPHA * slopes[name] for": "name: (w - ALPHA * slopes[name]).detach().requires_grad_() for"},
        ),
        Wrong(
            "judged on support",
            8,
            "judged on the support",
            {"append(loss(theta_prime, query))": "append(loss(theta_prime, support))"},
        ),
        Wrong("not adapted", 8, "not adapted", {"append(loss(theta_prime, query))": "append(loss(theta, query))"}),
        Wrong("steps cut", 11, "cut short", {"range(steps + 1)": "range(min(steps, STEPS) + 1)"}),
        Wrong("calls the museum", 4, "closed in this sheet", added=MUSEUM),
    ],
    DESIGN: [
        Wrong("plain descent", 4, "gradient descent at the α", added=f"{PLAIN_STEP}{THETA % 'alpha[name]'}, state"),
        Wrong("up the loss", 4, "goes up the loss", added=f"{PLAIN_STEP}{THETA % '-alpha[name]'}, state"),
        Wrong("stays", 1, "does not move", added=f"{PLAIN_STEP}theta, state"),
        Wrong("half way", 7, "a hundredth is asked for", {"0.2 * state": "0.0 * state", "4.5 * alpha": "1.8 * alpha"}),
        Wrong("too far", 4, "of descent's loss|diverges", {"4.5 * alpha": "45 * alpha"}),
        Wrong("memory outside", 7, "outside of its state", added=OUTSIDE),
        Wrong("no state", 1, "two things", added=f"{PLAIN_STEP}{THETA % 'alpha[name]'}"),
        Wrong("another name", 1, 'a dict with a "weight"', added=f'{PLAIN_STEP}{{"w": theta["weight"]}}, state'),
        Wrong("a row short", 1, "of shape", added=f'{PLAIN_STEP}{{"weight": theta["weight"][0]}}, state'),
        choice('held_back = "b"', "a", 9, "diverges along"),
    ],
}
EVERY = [(sheet, wrong) for sheet in SHEETS for wrong in (*shared(sheet), *SPECIFIC[sheet])]


def judged(folder: Path, sheet: str, wrong: Wrong | None = None) -> Grade:
    return graded(submission(folder, sheet, wrong), SHEETS, limit=wrong.limit if wrong else 60)


@pytest.mark.parametrize("sheet", SHEETS)
def test_a_right_submission_has_all_points(sheet: str, tmp_path: Path) -> None:
    found = judged(tmp_path, sheet)
    assert (found.points, found.out_of, found.error) == (TOTAL[sheet], TOTAL[sheet], None), table(found)


@pytest.mark.parametrize(("sheet", "wrong"), EVERY, ids=[f"{sheet[:2]}-{wrong.name}" for sheet, wrong in EVERY])
def test_a_wrong_submission_has_the_points_of_what_is_right_in_it(sheet: str, wrong: Wrong, tmp_path: Path) -> None:
    found = judged(tmp_path, sheet, wrong)
    assert found.points == wrong.points, table(found)
    reasons = [mark.reason for mark in found.marks if mark.reason]
    assert any(re.search(wrong.reason, reason) for reason in reasons) or wrong.points == TOTAL[sheet], table(found)
    assert all(bool(mark.reason) == (mark.points == 0) for mark in found.marks)


def test_there_are_twenty_wrong_ones_of_each_sheet() -> None:
    for sheet in SHEETS:
        lost = [wrong for one, wrong in EVERY if one == sheet and wrong.points < TOTAL[sheet]]
        assert len(lost) >= 20, sheet


@pytest.mark.parametrize("sheet", SHEETS)
def test_a_copy_holds_neither_answers_nor_checks(sheet: str) -> None:
    source = notebooks.load(SHEETS[sheet])
    copy = sheets.copy(source, sheet)
    text = "\n".join(cell.source for cell in copy.cells)
    answers = re.findall(r"# --- solution\n(.*?)# --- end", "\n".join(cell.source for cell in source.cells), re.DOTALL)
    lines = {line.strip() for answer in answers for line in answer.splitlines() if len(line.strip()) > 30}
    assert lines or sheet == HUNT
    assert not any(line in text for line in lines)
    assert not any(mark in text for mark in ("# ---", "# solution", "# planted", "@points", "CLOSED"))
    for cell in notebooks.code_cells(copy):
        compile(cell.source, sheet, "exec")
        assert not cell.outputs
    assert copy.metadata.mamlkit.sheet == sheet
    assert text.count("raise NotImplementedError") >= 1 or sheet == HUNT


@pytest.mark.parametrize("sheet", SHEETS)
def test_the_headings_say_the_points_of_the_checks(sheet: str) -> None:
    text = "\n".join(cell.source for cell in notebooks.load(SHEETS[sheet]).cells)
    said = {number: int(points) for number, points in re.findall(r"^## (\d)\..*\((\d+) points?\)", text, re.MULTILINE)}
    known: dict[str, int] = {}
    for check in sheets.load(SHEETS[sheet]).checks:
        known[check.question] = known.get(check.question, 0) + check.points
        assert check.text, "a check says what it looks at"
    assert said == known
    assert sum(known.values()) == TOTAL[sheet]


def test_a_copy_that_was_worked_on_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    paths = sheets.write(tmp_path, ["1", HUNT], HOME)
    assert [path.stem for path in paths] == [ONE, HUNT]
    assert sheets.write(tmp_path, ["1"], HOME) == paths[:1], "an untouched copy may be written again"
    paths[0].write_text(paths[0].read_text().replace("NotImplementedError", "ValueError"))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RefusedError, match=f"already has {ONE}.ipynb, and somebody may have worked on it"):
        sheets.write(tmp_path, (), HOME)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before, "nothing else is written either"


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError, match="there is no sheet '12'; there are 01_inner_loop, "):
        sheets.write(tmp_path / "out", ["12"], HOME)
    with pytest.raises(RefusedError, match="cannot be written"):
        sheets.write(tmp_path / "file", (), HOME)
    with pytest.raises(RefusedError, match="there are no sheets"):
        sheets.sources(tmp_path)


@pytest.mark.parametrize("source", ["# --- solution\nx = 1", "# --- end", "# --- solution\n# --- solution\n# --- end"])
def test_marks_that_do_not_pair_are_an_error(source: str) -> None:
    with pytest.raises(ValueError, match="a solution"):
        sheets.stub(source)


def test_stubs_say_where_to_write() -> None:
    source = (
        'def f(x):\n    """What f is."""\n    # --- solution\n    return x\n    # --- end\n\n\nkey = "a"  # solution'
    )
    hidden = 'def f(x):\n    """What f is."""\n    raise NotImplementedError  # your code\n\n\nkey = ...  # your answer'
    assert sheets.stub(source) == hidden
    assert sheets.stub(source, solve=True) == 'def f(x):\n    """What f is."""\n    return x\n\n\nkey = "a"'
    assert sheets.stub("value = torch.stack(losses).mean()  # planted: sum over tasks").endswith(".sum()")
    with pytest.raises(ValueError, match="does not stand in"):
        sheets.stub("value = 1  # planted: sum over tasks")


def test_each_submission_gets_its_grade_whatever_the_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [submission(tmp_path, ONE), tmp_path / "text.ipynb", tmp_path / "other.ipynb"]
    paths[1].write_text("{not a notebook")
    hostile = "# <script>alert(1)</script>"
    save(paths[2], new_notebook(cells=[new_markdown_cell(hostile), new_code_cell(hostile)]))
    ends = "import os; os._exit(3)"
    (tmp_path / "b").mkdir()
    paths.append(submission(tmp_path / "b", ONE, Wrong("", 0, "", first=ends)))
    out = tmp_path / "out"
    assert main(["grade", *map(str, paths[1:]), str(paths[0]), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "is not a notebook that can be read" in printed
    assert "does not say which sheet it answers; there are 01_inner_loop" in printed
    kept = json.loads((out / "grades.json").read_text())["grades"]
    assert [one["points"] for one in kept] == [0, 0, TOTAL[ONE], TOTAL[ONE]]
    assert kept[2]["notes"] == ["cell 1 ended its kernel"]
    pages = sorted(path.name for path in out.glob("*.html"))
    assert pages == ["index.html", *(f"submission-00{number}.html" for number in range(1, 5))]
    assert "<script>" not in (out / "submission-002.html").read_text()


def only(sheet: str, keep: Callable[[str], bool], added: Sequence[str] = ()) -> NotebookNode:
    """The solved copy with some of its code cells, and others behind them."""
    notebook = sheets.copy(notebooks.load(SHEETS[sheet]), sheet, solve=True)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code" and keep(cell.source)]
    notebook.cells += map(new_code_cell, added)
    return notebook


def test_a_deleted_cell_and_one_that_fails_are_told_apart(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ipynb", only(ONE, lambda text: "by_hand" in text and "def" in text, ["def adapt(:"]))
    found = graded(path, SHEETS, limit=60)
    reasons = {mark.text: mark.reason for mark in found.marks}
    assert found.points == 4
    assert reasons["One inner step"].startswith(
        "adapt is not there: cell 2, which should define it, raised SyntaxError"
    )
    assert reasons["One outer step"] == "outer_step is not there; was its cell deleted, or the name changed?"


def test_a_cell_that_does_not_end_costs_what_it_defines(tmp_path: Path) -> None:
    looping = "def adapt(theta, support, alpha, steps):\n    return theta\nwhile True: pass"
    path = save(tmp_path / "a.ipynb", only(ONE, lambda text: "by_hand" in text and "def" in text, [looping]))
    found = graded(path, SHEETS, limit=2)
    assert found.points == 4
    assert "adapt is not there: cell 2, which should define it, did not end within 2 s" in found.marks[0].reason


def test_a_notebook_is_given_up_after_three_cells_that_end_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ipynb", only(ONE, lambda text: False, ["import os; os._exit(0)"] * 4))
    assert graded(path, SHEETS, limit=60).marks[0].reason.startswith("3 cells ended their kernel")


FENCED = """
import subprocess, socket, os, pathlib, shutil
tried = []
def attempt(action):
    try: action()
    except PermissionError: tried.append("refused")
    except BaseException as error: tried.append(type(error).__name__)
    else: tried.append("done")
attempt(lambda: open({source!r}).read())
attempt(lambda: open({outside!r}, "w"))
attempt(lambda: os.remove({existing!r}))
attempt(lambda: shutil.rmtree({folder!r}))
attempt(lambda: subprocess.run(["true"]))
attempt(os.fork)
attempt(lambda: os.kill(os.getppid(), 0))
attempt(lambda: socket.create_connection(("127.0.0.1", 9)))
attempt(lambda: open(f"/proc/{{os.getppid()}}/environ").read())
attempt(lambda: open("/proc/meminfo", "w"))
attempt(lambda: open("/proc/meminfo").read())  # as a training does
attempt(lambda: open("mine.txt", "w").write("a note"))
held_back = ",".join(tried)
"""


def test_a_fence_stands_between_a_notebook_and_the_rest_of_the_machine(tmp_path: Path) -> None:
    from mamlkit.assignment.student import Student

    (tmp_path / "kept").write_text("")
    places = {"source": SHEETS[ONE], "outside": tmp_path / "new", "existing": tmp_path / "kept", "folder": tmp_path}
    with Student(()) as student:
        student.ask({"cell": FENCED.format(**{name: str(place) for name, place in places.items()})}, 60)
        tried = student.ask({"name": "held_back"}, 60)["value"].split(",")
    assert tried == ["refused"] * 10 + ["done"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_cannot_be_graded_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = submission(tmp_path, ONE)
    for given, words in (
        ([str(tmp_path / "none.ipynb")], "there is no file"),
        ([str(path), "--limit", "0"], "the limit is 0 s; it must be positive"),
        ([str(path), "--sheet", "99"], "there is no sheet '99'"),
        ([str(path), "--out", str(path)], "cannot be written"),
    ):
        assert main(["grade", *given]) == 2
        assert words in capsys.readouterr().err


def values() -> Iterator[tuple[Any, Any, str]]:
    """An answer, what is wanted, and words of the difference; none where they agree."""
    import torch

    one = torch.tensor([1.0, 2.0], dtype=torch.float64)
    yield one, one, ""
    yield one.float(), one, ""
    yield 1, torch.tensor(1.0), ""
    yield [1.0, one], (1.0, one), ""
    yield {"a": one}, {"a": one}, ""
    yield one + 1e-3, one, "off by"
    yield one[:1], one, r"its shape is \[1\]; wanted \[2\]"
    yield one * torch.nan, one, "not finite"
    yield None, one, "nothing"
    yield "1", 1, "a text"
    yield True, 1.0, "a truth value"
    yield object(), one, "of type object"
    yield {"b": one}, {"a": one}, "its names are b; wanted a"
    yield one, {"a": one}, "a tensor of shape"
    yield (one,), (one, one), "1 values in a tuple"
    yield "b", "c", "another answer"
    yield 0.1, 0.0, "off by 0.1"


@pytest.mark.parametrize(("found", "wanted", "words"), list(values()))
def test_answers_are_compared_after_they_have_crossed(found: Any, wanted: Any, words: str) -> None:
    crossed = wire.unpacked(json.loads(json.dumps(wire.packed(found))))
    assert re.search(words, wire.differs(crossed, wanted)) if words else wire.differs(crossed, wanted) == ""


@pytest.mark.parametrize(
    "forged",
    [
        {"tensor": [1], "shape": [9], "dtype": "float64", "grad": False},
        {"Batch": [1]},
        {"x": 1},
        {},
        {"a": 1, "b": 2},
        {"tensor": [1], "shape": [1], "dtype": "load", "grad": False},
    ],
)
def test_json_of_another_form_is_refused(forged: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no answer|values to unpack"):
        wire.unpacked(forged)


def test_grades_come_one_by_one_without_a_folder(tmp_path: Path) -> None:
    found = list(grade([submission(tmp_path, DESIGN)], sheet="6"))
    assert [one.points for one in found] == [TOTAL[DESIGN]]
