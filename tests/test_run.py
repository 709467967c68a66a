"""`mamlkit run`: what becomes of notebooks that end well and of those that do not, and what is refused beforehand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import papermill
import pytest
from books import claims, write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mamlkit import files
from mamlkit.__main__ import main
from mamlkit.ledger import CLAIM, RECORD
from mamlkit.study import notebooks, pages
from mamlkit.study.execute import execute
from mamlkit.study.notebooks import RefusedError
from mamlkit.study.progress import Cells, clock, shown
from mamlkit.study.result import Result
from mamlkit.study.run import assign, provenance, run

AROUND = {"index.html", "results.json", "mathjax", ".lock"}  # what lies in a report besides the notebooks
DISPLAY = "from IPython.display import display\n"
GOOD = [
    """alpha: float = 0.01  # inner step size
steps: int = 1  # inner steps
order: str = "second"  # which derivative
exact: bool = True  # in float64
phase: tuple[float, float] = (0.0, 3.14)  # range of phases
grid: list[int] = [1, 2]  # shots to try
device: str = "cpu"  # where""",
    f'{DISPLAY}display({{"text/plain": "✓ α < 1", "{CLAIM}": {{"claim": "α < 1", "holds": alpha < 1}}}}, raw=True)',
    f'display({{"text/plain": "x = 0.1", "{RECORD}": {{"name": "x", "value": [alpha, steps]}}}}, raw=True)',
    r"import sys; sys.stderr.write('\r%d0%%|bar\na warning\n' % 2); print(order, exact, phase, grid)",
    'display({"image/png": "iVBORw0KGgo=", "text/plain": "A"}, metadata={"image/png": {"alt": "A line."}}, raw=True)',
]
TEXT = r"""# The *good* one

See [the next](01_raises.ipynb), [another](../elsewhere/07_far.ipynb) and $\theta' = \theta - \alpha \nabla L$.

$$\nabla F(\theta) = (I - \alpha H) \nabla L(\theta')$$
"""
BOOKS: dict[str, tuple[str, ...]] = {
    "00_good": tuple(GOOD),
    "01_raises": ("alpha: float = 0.5  # step", "1 / 0", "2"),
    "02_killed": ("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)", "3"),
    "03_slow": ("import time", "time.sleep(120)", "3"),
    "04_exits": ("import sys", "sys.exit(0)", "3"),
    "05_exits_last": ("import sys\nsys.exit(0)",),
    "06_lies": (f'{DISPLAY}display({{"text/plain": "✗", "{CLAIM}": {{"claim": "1 > 2", "holds": False}}}}, raw=True)',),
}


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A current folder that holds a walkthrough of notebooks with different ends."""
    home = tmp_path_factory.mktemp("home") / "notebooks"
    home.mkdir()
    for name, cells in BOOKS.items():
        write(home, name, cells, TEXT if name == "00_good" else "")
    return home


@pytest.fixture(scope="module")
def report(books: Path) -> tuple[Path, dict[str, Result]]:
    """All of them run once into a report, with some parameters given."""
    out = books.parent / "runs" / "a{b}c"  # papermill would take the braces for a parameter
    given = {"alpha": "0.25", "steps": "3", "order": '"; import os #', "phase": "(0, 1)", "grid": "[5]"}
    results = run([str(path) for path in sorted(books.glob("*.ipynb"))], given, device="cpu", out=out, timeout=6)
    return out, {result.notebook: result for result in results}


def test_each_end_has_its_status_and_its_cell(report: tuple[Path, dict[str, Result]]) -> None:
    ends = {name: (result.status, result.cell) for name, result in report[1].items()}
    assert ends == {
        "00_good": ("ok", None),
        "01_raises": ("failed", 3),  # the second, after the cell of parameters that papermill adds
        "02_killed": ("dead", 2),
        "03_slow": ("timeout", 2),
        "04_exits": ("incomplete", 2),
        "05_exits_last": ("incomplete", 1),
        "06_lies": ("failed", 1),
    }
    assert report[1]["01_raises"].error == "ZeroDivisionError: division by zero"
    assert report[1]["06_lies"].error == "this claim does not hold: 1 > 2"
    assert report[1]["02_killed"].peak_bytes, "as of its last cell"


def test_parameters_reach_the_notebooks_that_declare_them_with_their_types(
    report: tuple[Path, dict[str, Result]],
) -> None:
    out, results = report
    assert results["00_good"].parameters == {
        "alpha": 0.25,
        "steps": 3,
        "order": '"; import os #',
        "exact": True,
        "phase": (0.0, 1.0),
        "grid": [5],
        "device": "cpu",
    }
    assert results["01_raises"].parameters == {"alpha": 0.25}
    executed = notebooks.load(out / "00_good.ipynb")
    printed = [o.text for cell in executed.cells for o in cell.get("outputs", []) if o.get("name") == "stdout"]
    assert printed == ['"; import os # True (0.0, 1.0) [5]\n']
    assert results["00_good"].records[0]["value"] == [0.25, 3]


def test_results_say_what_happened_and_where_without_naming_a_folder(report: tuple[Path, dict[str, Result]]) -> None:
    out, _ = report
    text = (out / "results.json").read_text(encoding="utf-8")
    summary = json.loads(text)
    assert [found["notebook"] for found in summary["notebooks"]] == list(BOOKS)
    assert summary["notebooks"][0]["claims"][0] | {"cell": ""} == {"claim": "α < 1", "holds": True, "cell": ""}
    assert {"python", "packages", "platform", "cpu_capability", "threads", "commit"} <= set(summary["provenance"])
    assert str(out.parent) not in text
    stamps = [json.loads((out / f"{name}.ipynb").read_text("utf-8"))["metadata"]["mamlkit"] for name in BOOKS]
    assert [stamp["status"] for stamp in stamps] == [found["status"] for found in summary["notebooks"]]
    executed = (out / "00_good.ipynb").read_text(encoding="utf-8")
    assert str(out.parent) not in executed
    assert json.loads(executed)["metadata"]["mamlkit"]["parameters"]["alpha"] == 0.25


def test_the_report_is_whole_and_nothing_else_is_left(report: tuple[Path, dict[str, Result]]) -> None:
    names = {path.name for path in report[0].iterdir()}
    pages = {f"{name}.{kind}" for name in BOOKS for kind in ("ipynb", "html")}
    assert names == pages | {"00_good.png"} | AROUND


def test_pages_name_no_outside_host_and_every_link_leads_somewhere(report: tuple[Path, dict[str, Result]]) -> None:
    out = report[0]
    for path in out.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "//" not in re.sub(r"data:image/png;base64,[^\"]*", "", text), path.name
        for target in re.findall(r'(?:href|src)="([^"]*)"', text):
            file, _, anchor = target.partition("#")
            if file.startswith("data:"):
                continue
            linked = out / file.partition("?")[0]
            assert linked.is_file(), target
            assert not anchor or f'id="{anchor}"' in linked.read_text(encoding="utf-8"), target


def test_a_page_can_be_read_aloud_and_shows_its_formulas(report: tuple[Path, dict[str, Result]]) -> None:
    out = report[0]
    text = (out / "00_good.html").read_text(encoding="utf-8")
    assert '<html lang="en">' in text
    assert 'alt="A line."' in text
    assert text.count("<h1") == 1
    assert r"\nabla F(\theta)" in text
    assert 'src="mathjax/MathJax.js' in text
    assert '<a href="01_raises.html">the next</a>' in text, "a link to a notebook leads to its page"
    assert "a warning" in text
    assert "20%|bar" not in text, "progress bars are left out"
    for name in ("MathJax.js", "config/TeX-AMS-MML_HTMLorMML-full.js", "extensions/AssistiveMML.js", "fonts"):
        assert (out / "mathjax" / name).exists()


def test_the_index_holds_the_ledger_and_the_failures(report: tuple[Path, dict[str, Result]]) -> None:
    text = (report[0] / "index.html").read_text(encoding="utf-8")
    for expected in (
        "α &lt; 1",
        "1 &gt; 2",
        "✗ no",
        "cell 3: ZeroDivisionError: division by zero",
        "kernel died",
        "AVX|NEON",
    ):
        assert re.search(expected if "|" in expected else re.escape(expected), text) or expected == "AVX|NEON"
    assert "7 of 7 notebooks ran, 6 did not succeed. 2 claims checked, 1 false." in text


def test_the_index_opens_with_a_figure_of_each_notebook_and_folds_what_holds(
    report: tuple[Path, dict[str, Result]],
) -> None:
    out = report[0]
    text = (out / "index.html").read_text(encoding="utf-8")
    cell = notebooks.code_cells(notebooks.load(out / "00_good.ipynb"))[5].id
    assert f'href="00_good.html#cell-id={cell}"><img src="00_good.png" alt=""><span>A line.</span></a>' in text
    assert (out / "00_good.png").read_bytes() == b"\x89PNG\r\n\x1a\n"
    assert "base64" not in text, "a picture is embedded once, in its page"
    assert text.count("It shows no figure.") == len(BOOKS) - 1
    assert text.index("00_good.png") < text.index("<details")
    folded = dict(re.findall(r"<details( open)?>\s*<summary><span>(.*?)</span>", text))
    assert len(re.findall("<details", text)) == len(BOOKS)
    assert folded[""] == "00 The *good* one"
    assert text.count("<details open>") == len(BOOKS) - 1, "what failed is in sight"
    assert re.search("1 of 1 claims hold.*0 of 1 claims hold", text, re.DOTALL)


def shows(*cells: tuple[str, str]) -> Any:
    """A notebook: text, or a figure with an alt text under a tag."""
    book = new_notebook()
    for tag, text in cells:
        if tag == "text":
            book.cells.append(new_markdown_cell(text))
            continue
        shown = new_output("display_data", data={"image/png": "iVBORw0KGgo="}, metadata={"image/png": {"alt": text}})
        book.cells.append(new_code_cell("1", outputs=[shown], metadata={"tags": [tag] if tag else []}))
    return book


def test_a_notebook_chooses_the_figure_that_stands_for_it() -> None:
    end = ("text", "## What we now know\n\n…")
    for cells, chosen in (
        ([("", "a"), ("front", "b"), ("", "c"), end, ("", "d")], "b"),
        ([("", "a"), ("", "b"), end, ("", "c")], "b"),
        ([("", "a"), ("", "b")], "b"),
        ([("", "a"), ("front", ""), end, ("", "b")], "a"),
        ([("", "")], ""),
        ([end, ("", "a"), ("", "b")], "b"),
        ([end, ("front", "a"), ("front", "b")], "a"),
    ):
        front = pages.front(shows(*cells))
        assert front
        assert front.alt == chosen
    assert pages.front(shows(end)) is None


@pytest.mark.parametrize("data", ["!", "iVBORw0KGgo", ["iVBORw0KGgo="], None])
def test_a_picture_that_cannot_be_read_stands_for_nothing(data: Any) -> None:
    book = shows(("", "a"), ("", "b"))
    book.cells[1].outputs[0]["data"]["image/png"] = data
    front = pages.front(book)
    assert front
    assert front.alt == "a"


def test_every_notebook_of_the_walkthrough_has_a_figure_and_a_finding() -> None:
    fronts = {path.stem: pages.front(notebooks.load(path)) for path in notebooks.select([])}
    assert [name for name, front in fronts.items() if front is None or not front.alt] == []


def test_a_value_is_shown_with_rounded_numbers() -> None:
    value = {"mean": 0.123456789, "seeds": [1, 2.5, None], "by": {"k": True}}
    assert pages.shortened(value) == "mean: 0.1235, seeds: [1, 2.5, none], by: [k: True]"
    assert pages.shortened(1 / 3) == "0.3333"
    assert len(pages.shortened(list(range(100)))) == 80


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch, books: Path) -> None:
    """No notebook may start; the current folder has the walkthrough, and the package none of its own."""

    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("a notebook was started")

    monkeypatch.setattr("mamlkit.study.run.execute", refuse)
    monkeypatch.setattr(notebooks, "folder", lambda: books)


REFUSED = [
    (["run", "42"], "there is no notebook '42'; there are 00_good, 01_raises"),
    (["run", "good"], "there is no notebook 'good'"),
    (["run", "no/such.ipynb"], "there is no notebook 'no/such.ipynb'"),
    (["run", "00", "0"], "00_good was asked for twice"),
    (["run", "-p", "lr", "1"], "no notebook of this run declares a parameter 'lr'"),
    (["run", "01", "-p", "steps", "1"], "01_raises: alpha: float = 0.5"),
    (["run", "00", "-p", "x = 1; import os", "1"], "no notebook of this run declares"),
    (["run", "00", "-p", "alpha", "fast"], "parameter alpha is 'fast'; the notebook declares alpha: float = 0.01"),
    (["run", "00", "-p", "alpha", "1e999"], "parameter alpha"),
    (["run", "00", "-p", "alpha", "True"], "parameter alpha"),
    (["run", "00", "-p", "alpha", "__import__('os').getpid()"], "parameter alpha"),
    (["run", "00", "-p", "alpha", "(" * 5000], "parameter alpha"),
    (["run", "00", "-p", "steps", "1.5"], "so give int, written like 1"),
    (["run", "00", "-p", "steps", "True"], "parameter steps"),
    (["run", "00", "-p", "exact", "1"], "parameter exact"),
    (["run", "00", "-p", "phase", "(0, 1, 2)"], "tuple[float, float]"),
    (["run", "00", "-p", "grid", "[1, exit()]"], "parameter grid"),
    (["run", "00", "-p", "grid", "[1, True]"], "parameter grid"),
    (["run", "00", "-p", "phase", "(False, 1.0)"], "parameter phase"),
    (["run", "00", "--timeout", "nan"], "must be positive"),
    (["run", "--device", "tpu"], "device is 'tpu'"),
    (["run", "00", "--timeout", "0"], "must be positive"),
]


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(a)[:40] for a, _ in REFUSED])
def test_bad_requests_are_refused_before_a_kernel_starts(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mamlkit: ")
    assert message in said
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.usefixtures("no_kernel")
def test_a_device_that_no_notebook_asks_for_is_refused() -> None:
    with pytest.raises(RefusedError, match="declares a parameter 'device'"):
        run(["01"], device="cpu")


@pytest.mark.usefixtures("no_kernel")
def test_an_out_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError, match=r"cannot be written: .* choose another --out"):
        run(["00"], out=tmp_path / "file" / "out")


@pytest.mark.usefixtures("no_kernel")
def test_a_file_that_is_no_notebook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.ipynb").write_text("{")
    with pytest.raises(RefusedError, match="not a notebook that can be read"):
        run([str(tmp_path / "bad.ipynb")], out=tmp_path / "out")
    path = write(tmp_path, "derived", ("alpha: float = 0.1\nbeta: float = alpha / 2",))
    with pytest.raises(RefusedError, match="derived: the parameter beta is computed"):
        run([str(path)], out=tmp_path / "out")


def test_without_notebooks_anywhere_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "package" / "notebooks.py"))
    with pytest.raises(RefusedError, match="change into a clone"):
        notebooks.select([])


def test_notebooks_are_found_by_number_name_and_path(books: Path) -> None:
    path = books / "01_raises.ipynb"
    for name in ("1", "01", "01_raises", "01_raises.ipynb", str(path)):
        assert notebooks.select([name], books) == [path]
    assert [found.stem for found in notebooks.select([], books)] == list(BOOKS)


@pytest.mark.usefixtures("no_kernel")
def test_a_parameter_goes_only_where_it_is_declared(books: Path) -> None:
    first, second = books / "00_good.ipynb", books / "01_raises.ipynb"
    assert assign([first, second], {"alpha": "1", "steps": "2"}) == {
        first: {"alpha": 1.0, "steps": 2},
        second: {"alpha": 1.0},
    }


def test_execute_alone_reports_a_kernel_of_its_own(tmp_path: Path) -> None:
    cells = ("from ipykernel.connect import get_connection_info", "print(get_connection_info())")
    result, executed = execute(write(tmp_path, "where", cells), {}, timeout=30)
    assert result.status == "ok"
    assert ("ipc" in notebooks.dumps(executed)) is (os.name == "posix")


def test_a_cell_may_change_what_an_earlier_one_displayed(tmp_path: Path) -> None:
    cells = (f"{DISPLAY}handle = display('before', display_id=True)", "", "1", "handle.update('after')")
    _, executed = execute(write(tmp_path, "updates", cells), {}, timeout=30)
    assert [output.data["text/plain"] for cell in executed.cells for output in cell.get("outputs", [])] == [
        "'after'",
        "1",
    ]
    assert [cell.source for cell in executed.cells[1:]] == list(cells), "each is where it was"


def test_a_limit_ends_the_run_in_whichever_cell_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "slow", ("import time", "time.sleep(0.2)", "time.sleep(60)", "3"))
    result, _ = execute(path, {}, timeout=30, limit=10)
    assert (result.status, result.cell) == ("timeout", 3)
    assert result.error == "the run took longer than 10 s; raise its limit or ask less of it"


def test_the_kernel_gets_its_environment_and_tells_its_peak_memory(tmp_path: Path) -> None:
    held = 200_000_000
    cells = ("import os; print(os.environ['MAMLKIT_ASKED'])", f"b = bytearray({held}); del b", "1")
    result, executed = execute(write(tmp_path, "held", cells), {}, timeout=30, environment={"MAMLKIT_ASKED": "yes"})
    assert "yes" in notebooks.dumps(executed)
    assert result.peak_bytes is not None
    assert held < result.peak_bytes < 5 * held


@pytest.mark.skipif(os.name != "posix", reason="of POSIX's signals")
def test_tests_that_a_shell_runs_in_the_background_can_be_interrupted_all_the_same() -> None:
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import conftest; signal.raise_signal(2)"
    done = subprocess.run(
        [sys.executable, "-c", deaf], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupted_run_leaves_the_finished_results_whole(tmp_path: Path) -> None:
    home = tmp_path / "books"
    home.mkdir()
    paths = [write(home, "a", ("1",)), write(home, "b", ("import time; time.sleep(120)",))]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mamlkit", "run", *map(str, paths), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (out / "a.html").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)  # into the second notebook
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=30)
    assert process.returncode == 130, complaint
    assert "1 of 2 notebooks ran" in said
    assert "Traceback" not in complaint
    assert {path.name for path in out.iterdir()} == {"a.ipynb", "a.html", *AROUND}
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))["planned"] == ["a", "b"]
    assert "not run" in (out / "index.html").read_text(encoding="utf-8")


def test_the_progress_line_says_cell_elapsed_and_left(capsys: pytest.CaptureFixture[str]) -> None:
    cells = Cells("[1/2] 06_meta_update", begin=time.monotonic() - 60)  # as if it had started a minute ago
    with shown(cells.line) as console:
        cells.start(5, 8)
        assert cells.line() == "[1/2] 06_meta_update  cell 5 of 8  1:00 elapsed, about 1:00 left"
        cells.start(2, 8)
        assert cells.line().endswith("1:00 elapsed"), "the first cells import; no guess from them"
        console.print(f"{cells.label}  ok")
    assert capsys.readouterr().out == "[1/2] 06_meta_update  ok\n", "a log file is not redrawn"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mamlkit.study.progress.EVERY", 0.01)
    with shown(lambda: "[1/2] so far"):
        time.sleep(0.5)
    assert capsys.readouterr().out.startswith("[1/2] so far\n[1/2] so far\n")


def test_long_times_have_hours() -> None:
    assert [clock(seconds) for seconds in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


EVIL = "<script>alert(1)</script>"


def test_the_index_escapes_names_titles_errors_claims_and_values() -> None:
    entry = {"cell": EVIL, "claim": EVIL, "name": EVIL, "holds": False, "value": EVIL}
    result = {"notebook": EVIL, "title": EVIL, "status": "failed", "seconds": 1.0, "cell": 1, "error": EVIL}
    summary = {
        "date": "2026-01-01T00:00:00+00:00",
        "planned": [EVIL, EVIL],
        "provenance": {EVIL: EVIL, "packages": {EVIL: EVIL}},
        "notebooks": [result | {"claims": [entry], "records": [entry]}],
    }
    text = pages.index(summary, {EVIL: pages.Front(EVIL, EVIL, b"")})
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 10


def test_a_page_escapes_its_titles_and_what_was_claimed() -> None:
    data = {"text/plain": EVIL, CLAIM: {"claim": EVIL, "holds": True}}
    output = new_output("display_data", data=data)
    page = pages.page(new_notebook(cells=[new_code_cell("1", outputs=[output])]), "a", {"a": EVIL, "b": EVIL})
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;") == 4, "its title, the claim, and two links to the next page"


PIXEL = {"image/png": "iVBORw0KGgo=", "text/plain": EVIL}
OUTPUTS = {
    "stdout": new_output("stream", name="stdout", text=EVIL),
    "stderr": new_output("stream", name="stderr", text=EVIL),
    "an error": new_output("error", ename=EVIL, evalue=EVIL, traceback=[EVIL]),
    "a result": new_output("execute_result", data={"text/plain": EVIL}),
    "a record": new_output("display_data", data={"text/plain": EVIL, RECORD: {"name": EVIL, "value": EVIL}}),
    "alt text": new_output("display_data", data=PIXEL, metadata={"image/png": {"alt": f'"{EVIL}', "width": EVIL}}),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_page_escapes_what_its_cells_put_out(kind: str) -> None:
    page = pages.page(new_notebook(cells=[new_code_cell(EVIL, outputs=[OUTPUTS[kind]])]), EVIL, {EVIL: EVIL})
    assert "<script>alert" not in page


def status(folder: Path, *cells: str, tag: str = "") -> tuple[str, int | None]:
    """What became of a notebook of these cells, the first with a tag."""
    path = write(folder, "ends", cells)
    notebook = notebooks.load(path)
    if tag:
        notebooks.code_cells(notebook)[0].metadata["tags"] = [tag]
        files.write(path, notebooks.dumps(notebook))
    result, _ = execute(path, {}, timeout=30)
    return result.status, result.cell


def test_an_exit_with_a_fault_is_a_failure(tmp_path: Path) -> None:
    assert status(tmp_path, "import sys; sys.exit(1)", "2") == ("failed", 1)


def test_only_the_tag_that_says_so_lets_an_error_pass(tmp_path: Path) -> None:
    assert status(tmp_path, "1 / 0", "2", tag="raises-exception") == ("ok", None)
    for tag in ("another", "raises", "parameters-of-mine", "remove-cell", "hide-output"):
        assert status(tmp_path, "1 / 0", "2", tag=tag) == ("failed", 1)
    assert status(tmp_path, "1 / 0", "2", tag="skip-execution") == ("incomplete", 1), "what was not run is told"


def test_a_false_claim_fails_whatever_catches_its_error(tmp_path: Path) -> None:
    false = claims("1 > 2", "False")
    assert status(tmp_path, f"{false}\nraise ValueError", "2", tag="raises-exception") == ("failed", 1)
    assert status(tmp_path, f"try:\n    {false.replace(chr(10), chr(10) + '    ')}\nexcept Exception: pass") == (
        "failed",
        1,
    )


def test_claims_and_records_stand_under_the_cells_that_made_them(report: tuple[Path, dict[str, Result]]) -> None:
    out, results = report
    cells = notebooks.code_cells(notebooks.load(out / "00_good.ipynb"))
    found = results["00_good"]
    assert [claim["cell"] for claim in found.claims] == [cells[2].id]
    assert [record["cell"] for record in found.records] == [cells[3].id]
    assert f'id="cell-id={cells[2].id}"' in (out / "00_good.html").read_text(encoding="utf-8")


def test_the_exit_status_says_whether_all_is_well(tmp_path: Path) -> None:
    good, bad = write(tmp_path, "good", ("1",)), write(tmp_path, "bad", ("1 / 0",))
    assert main(["run", str(good), "--out", str(tmp_path / "out")]) == 0
    assert main(["run", str(good), str(bad), "--out", str(tmp_path / "out")]) == 1


def test_the_time_out_of_the_command_is_the_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = write(tmp_path, "slow", ("import time; time.sleep(60)",))
    assert main(["run", str(slow), "--timeout", "0.5", "--out", str(tmp_path / "out")]) == 1
    assert "TIMEOUT" in (said := capsys.readouterr().out)
    assert "at cell 1: this cell ran longer than 0.5 s; raise --timeout or ask less of it" in said
    assert main(["run", str(write(tmp_path, "quick", ("1",))), "--timeout", "inf", "--out", str(tmp_path / "out")]) == 0


def test_an_executed_copy_is_run_with_what_its_results_say(tmp_path: Path) -> None:
    path = write(tmp_path, "copy", ("alpha: float = 0.1", "print(alpha)"))
    out = tmp_path / "out"
    run([str(path)], {"alpha": "0.5"}, out=out)
    (again,) = run([str(out / "copy.ipynb")], out=tmp_path / "again")
    assert again.parameters == {"alpha": 0.1}
    assert '"0.1\\n"' in (tmp_path / "again" / "copy.ipynb").read_text()


def test_the_kernel_is_the_interpreter_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["false"], "display_name": "Another", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    result, executed = execute(write(tmp_path, "which", ("import sys; print(sys.executable)",)), {}, timeout=30)
    assert result.status == "ok"
    assert sys.executable in notebooks.dumps(executed)


def test_provenance_tells_of_uncommitted_changes(tmp_path: Path) -> None:
    assert provenance(tmp_path)["uncommitted_changes"] is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert provenance(tmp_path)["uncommitted_changes"] is False
    (tmp_path / "new").touch()
    assert provenance(tmp_path)["uncommitted_changes"] is True
    subprocess.run([*git, "add", "new"], check=True)
    assert provenance(tmp_path)["uncommitted_changes"] is True, "what is staged is not committed"
    subprocess.run([*git, "commit", "-q", "-m", "second"], check=True)
    assert provenance(tmp_path)["uncommitted_changes"] is False
    (tmp_path / "new").write_text("changed")
    assert provenance(tmp_path)["uncommitted_changes"] is True


def test_characters_that_cannot_be_written_do_not_end_a_run(tmp_path: Path) -> None:
    path = write(tmp_path, "theta", ("raise ValueError('θ')",))
    command = [sys.executable, "-m", "mamlkit", "run", str(path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"ValueError: ?" in done.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill")
def test_papermill_runs_the_same_notebook_with_the_same_parameters(tmp_path: Path) -> None:
    path = write(tmp_path, "plain", ("alpha: float = 0.1", "import mamlkit as mk", 'mk.record("alpha", alpha)'))
    papermill.execute_notebook(
        str(path),
        str(tmp_path / "out.ipynb"),
        parameters={"alpha": 0.5},
        kernel_name="python3",
        language="python",
        progress_bar=False,
    )
    by_papermill = notebooks.load(tmp_path / "out.ipynb")
    _, ours = execute(path, {"alpha": 0.5}, timeout=60)
    shown = [[value for _, value in notebooks.displayed(book, RECORD)] for book in (by_papermill, ours)]
    assert shown == [[{"name": "alpha", "value": 0.5}]] * 2
    result, again = execute(tmp_path / "out.ipynb", {}, timeout=60)
    assert result.records[0]["value"] == result.parameters["alpha"] == 0.1, "what papermill injected is not kept"
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in again.cells)
