"""The report of a sweep: its pages show all that its runs computed and lead to every run, and it is a notebook."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from browser import browser, check_site
from matplotlib.figure import Figure
from sidecars import ENDS, ends, executed, put, sidecar

from mamlkit.study import RefusedError, notebooks
from mamlkit.study.execute import execute
from mamlkit.sweeps import figures, results
from mamlkit.sweeps import report as site
from mamlkit.sweeps.report import report


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with runs of every end, and its report."""
    folder = ends(tmp_path_factory.mktemp("sweeps") / "a sweep")
    report(folder)
    return folder


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def words(path: Path) -> str:
    """What a page says, without its tags and scripts."""
    said = re.sub(r"<script.*?</script>", " ", text(path), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", said))


def rows(path: Path, table: str) -> list[str]:
    """What each row of a table of a page says."""
    found = re.search(rf'id="{table}">.*?<tbody>(.*?)</tbody>', text(path), re.DOTALL)
    parts = re.findall(r"<tr>(.*?)</tr>", found[1] if found else "", re.DOTALL)
    return [re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", part))).strip() for part in parts]


def links(path: Path) -> list[tuple[Path, str]]:
    """The files that a page leads to or draws, with the place in them."""
    found = (unquote(link).partition("#") for link in re.findall(r'(?:href|src)="([^"]*)"', text(path)))
    return [((path.parent / file.partition("?")[0]) if file else path, anchor) for file, _, anchor in found]


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


def test_a_report_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    put(tmp_path, sidecar())
    (tmp_path / "report").write_text("a file")
    with pytest.raises(RefusedError, match="choose another --out"):
        report(tmp_path)


def test_the_index_says_how_the_sweep_went_and_what_is_still_to_come(swept: Path) -> None:
    said = words(swept / "report" / "index.html")
    assert "4 of 8 runs went well; 1 failed; 1 kernel died; 1 ran out of time; 1 ended early; 1 planned" in said
    assert "cell 9: this cell ran longer than 60 s" in said
    assert "06_update seed 9" in said
    assert said.index("What did not go well") < said.index("Notebooks Notebook")


def test_what_a_run_says_is_shown_and_never_obeyed(swept: Path) -> None:
    for page in (swept / "report").glob("*.html"):
        scripts = re.findall(r"<script.*?>", text(page), re.DOTALL)
        ours = ("<script>", '<script type="module">')  # the second is DataTables' start
        assert not [script for script in scripts if "mathjax" not in script and script not in ours], page.name
        assert "<script>alert" not in text(page), page.name
    assert "&lt;script&gt;alert" in text(swept / "report" / "index.html")


def test_every_link_leads_somewhere_and_no_page_names_a_host(swept: Path) -> None:
    out = swept / "report"
    for page in out.glob("*.html"):
        assert "://" not in text(page), page.name
        for file, anchor in links(page):
            assert file.is_file(), (page.name, file)
            assert not anchor or f'id="{anchor}"' in text(file), (page.name, anchor)


def test_each_run_is_two_links_from_the_index_with_its_command(swept: Path) -> None:
    out = swept / "report"
    reached = {file for page, _ in links(out / "index.html") if page.suffix == ".html" for file, _ in links(page)}
    for run in results.read(swept):
        page = out / f"run-{run.notebook}-{run.key}.html"
        assert page.resolve() in {file.resolve() for file in reached}
        given = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in run.given.items())
        shown = unescape(text(page))
        assert f"OMP_NUM_THREADS=1 python -m mamlkit run {shlex.quote(run.notebook)} {given}" in shown
    notebook = swept / f"06_update-{ENDS[0]['key']}.ipynb"
    assert notebook.resolve() in {file.resolve() for file in reached}


def test_a_command_writes_values_as_the_command_line_reads_them(tmp_path: Path) -> None:
    given: dict[str, Any] = {"phase": [0.0, 3.14], "exact": True, "order": "a b; rm", "alpha": 1e-05, "beta": -0.5}
    put(tmp_path, sidecar(3, given=given))
    (run,) = results.read(tmp_path)
    said = shlex.split(site.command(run))
    found = dict(zip(said[said.index("-p") + 1 :: 3], said[said.index("-p") + 2 :: 3], strict=True))
    declared = {"phase": "tuple[float, float]", "exact": "bool", "order": "str", "alpha": "float", "beta": "float"}
    for name, kind in declared.items():
        parameter = notebooks.Parameter(name, kind, None, "")
        wanted = tuple(given["phase"]) if name == "phase" else given[name]
        assert notebooks.parse(found[name], parameter) == wanted


def test_a_page_with_its_notebook_holds_it_under_one_first_heading(swept: Path) -> None:
    page = swept / "report" / f"run-06_update-{ENDS[0]['key']}.html"
    assert text(page).count("<h1") == 1
    assert "<h3" in text(page), "the notebook's second level is the page's third"
    assert 'src="mathjax/MathJax.js' in text(page)
    assert "07_next" not in text(page), "a link to a notebook that has no page is its text"


def test_missing_notebooks_are_said_in_words(tmp_path: Path) -> None:
    run = executed(tmp_path, sidecar(0))
    put(tmp_path, run)
    (tmp_path / run["executed"]).unlink()
    out = report(tmp_path).parent
    assert "Its executed notebook is not in this folder" in text(out / f"run-06_update-{run['key']}.html")
    assert ".ipynb" not in "".join(text(page) for page in out.glob("*.html")).replace("report.ipynb", "")


def test_claims_that_fail_stand_first_with_their_rate_and_interval(tmp_path: Path) -> None:
    claims = [{"claim": "always", "holds": True, "cell": "a"}, {"claim": "mostly", "holds": True, "cell": "b"}]
    bad = [claims[0], claims[1] | {"holds": False}]
    runs = [sidecar(seed, claims=bad if seed == 3 else claims) for seed in range(10)]
    put(tmp_path, *runs, sidecar(10, claims=claims[:1], status="dead", cell=4))
    out = report(tmp_path).parent
    said = words(out / "index.html")
    assert "mostly 9 of 10 60% to 98%" in said, "the run that ended before it is not counted"
    assert said.index("mostly 9 of 10") < said.index("always 11 of 11")
    assert re.search(rf'run-06_update-{runs[3]["key"]}.html">seed 3</a>', text(out / "index.html"))
    assert [row.endswith("seed 3") for row in rows(out / "index.html", "claims")] == [True, False]


def test_the_index_opens_with_a_figure_of_each_notebook_and_what_became_of_its_claims(tmp_path: Path) -> None:
    good, bad = ({"claim": "it falls", "holds": holds, "cell": "a"} for holds in (True, False))
    more = {"claim": "and more", "holds": True, "cell": "b"}
    runs = [sidecar(seed, claims=[good, more]) for seed in range(3)]
    runs += [sidecar(seed, notebook="07_b", title="07 · B", claims=[bad if seed else good, more]) for seed in range(3)]
    runs += [sidecar(0, notebook="08_c", title="08 · C", claims=[], records=[])]
    put(tmp_path, *runs, sidecar(1, notebook="08_c", title="08 · C", claims=[good], records=[]))
    index = report(tmp_path)
    cards = re.findall(r"<li>\n(.*?)</li>", text(index).partition('id="shows">')[2].partition("</ul>")[0], re.DOTALL)
    said = [re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", card))).strip() for card in cards]
    assert said == [
        "06 · Update ✓ 2 claims held in each of 3 runs loss by step: from 4 to 1",
        "07 · B ✗ 1 of 2 claims did not hold in every run : it falls: 1 of 3 loss by step: from 4 to 1",
        "08 · C ✓ 1 claim held in every run that got that far It has no number for a figure over seeds.",
    ]
    assert [re.findall('href="#(.*?)"><img', card) for card in cards] == [["records-1"], ["records-2"], []]
    folds = re.findall(r"<details( open=\"\")?>\s*<summary><span>(.*?)</span>", text(index))
    assert folds == [("", "06 · Update"), (' open=""', "07 · B"), ("", "08 · C")]
    assert words(index).index("What each notebook shows") < words(index).index("Every run that is here went well")


def test_the_figure_of_a_notebook_has_the_first_records_that_a_seed_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(seed: int) -> dict[str, Any]:
        values = {"known": 1.0, "a": seed, "b": {f"part {i}": seed for i in range(9)}, "c": seed}
        return sidecar(seed, records=[{"name": name, "value": value, "cell": "c"} for name, value in values.items()])

    drawn = []

    def dots(values: pd.DataFrame, title: str, draw: Callable[..., Figure] = figures.dots) -> Figure:
        drawn.append(list(values.panel.unique()))
        return draw(values, title)

    monkeypatch.setattr(figures, "dots", dots)
    put(tmp_path, run(0), run(1))
    report(tmp_path)
    assert drawn == [["a"], ["known", "a", "b", "c"]], "a card ends before a panel of more rows than it holds"


def test_effects_have_students_interval_over_the_seeds_of_each_setting(tmp_path: Path) -> None:
    put(tmp_path, *[sidecar(seed, given={"alpha": alpha}) for seed in range(3) for alpha in (0.1, 0.2)])
    said = words(report(tmp_path))
    # 0.5, 0.6, 0.7: mean 0.6, s = 0.1, t = 4.3027 for 2 degrees of freedom.
    assert "alpha 0.1 0.6 0.3516 to 0.8484 3" in said
    assert "alpha 0.2 0.6 0.3516 to 0.8484 3" in said


def test_a_sweep_without_records_or_claims_has_a_report(tmp_path: Path) -> None:
    put(tmp_path, sidecar(0, records=[], claims=[]))
    assert len(rows(report(tmp_path), "runs")) == 1
    put(tmp_path, sidecar(0, notebook="07_other", title="07 · Other"))
    assert len(rows(report(tmp_path), "runs")) == 2, "and beside a notebook with records"


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    put(tmp_path, sidecar(0))
    said = words(report(tmp_path))
    assert "loss 0.5 one seed 1" in said
    assert "one seed, so no interval" in text(tmp_path / "report" / "index.html")


def test_values_that_are_not_finite_are_counted_and_not_averaged_away(tmp_path: Path) -> None:
    records = [[{"name": "x", "value": value, "cell": "c"}] for value in (1.0, "inf", 2.0)]
    runs = [sidecar(seed, records=found) for seed, found in enumerate(records)]
    put(tmp_path, *runs)
    assert "x inf 1 not finite 3" in words(report(tmp_path))


def test_versions_of_a_notebook_are_not_pooled(tmp_path: Path) -> None:
    old = [sidecar(seed, identity={"notebook": "old"}, key=f"{seed:016d}") for seed in range(2)]
    put(tmp_path, *old, *[sidecar(seed) for seed in range(2)])
    out = report(tmp_path).parent
    assert len(rows(out / "index.html", "notebooks")) == 2
    assert words(out / "index.html").count("06 · Update, version") >= 2
    assert all("2 of 2" in row for row in rows(out / "index.html", "notebooks"))


def test_a_second_report_redoes_only_what_changed(tmp_path: Path) -> None:
    runs = [executed(tmp_path, sidecar(seed)) for seed in range(3)]
    put(tmp_path, *runs)
    out = report(tmp_path).parent
    pages = [out / f"run-06_update-{run['key']}.html" for run in runs]
    pictures = {path.name: path.stat().st_ino for path in out.glob("*.png")}
    before = [page.stat().st_ino for page in pages]
    put(tmp_path, runs[1] | {"seconds": 99.0})
    report(tmp_path)
    assert [page.stat().st_ino == was for page, was in zip(pages, before, strict=True)] == [True, False, True]
    assert {path.name: path.stat().st_ino for path in out.glob("*.png")} == pictures
    assert "99" in words(pages[1])


def test_what_is_gone_from_the_sweep_goes_from_the_report_and_a_readers_files_stay(tmp_path: Path) -> None:
    paths = put(tmp_path, *[sidecar(seed) for seed in range(3)])
    out = report(tmp_path).parent
    for mine in ("mine.html", "mine.png", "notes.txt"):
        (out / mine).write_text("mine")
    before = names(out)
    paths[0].unlink()
    report(tmp_path)
    gone = before - names(out)
    assert f"run-{paths[0].stem}.html" in gone
    assert not {"mine.html", "mine.png", "notes.txt"} & gone
    assert not [name for name in names(out) if name.endswith(".part")]


def test_an_interrupted_report_leaves_no_index_and_no_half_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *[sidecar(seed) for seed in range(3)])

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report(tmp_path)
    assert "index.html" not in names(tmp_path / "report")
    assert not [name for name in names(tmp_path / "report") if name.endswith(".part")]
    monkeypatch.undo()
    assert report(tmp_path).is_file()


def test_a_moved_sweep_keeps_a_working_report(swept: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(swept, tmp_path / "moved")
    for page in (moved / "report").glob("*.html"):
        assert not re.search(r'(?:href|src)="/', text(page)), page.name
        assert all(file.is_file() for file, _ in links(page)), page.name


def test_every_run_and_number_is_in_the_page_before_a_script_runs(tmp_path: Path) -> None:
    runs = [sidecar(seed, given={"alpha": alpha}) for alpha in (0.1, 0.2, 0.3) for seed in range(20)]
    put(tmp_path, *[run | {"status": "dead", "cell": 1, "error": "gone"} for run in runs])
    index = report(tmp_path)
    assert len(rows(index, "runs")) == len(rows(index, "not-well")) == 60
    places = [row.index("alpha") and float(re.findall(r"alpha ([\d.]+)", row)[0]) for row in rows(index, "runs")]
    assert places == sorted(places), "the runs of a setting stand together"
    assert [row.split(" alpha ")[1][:3] for row in rows(index, "settings")] == ["0.1", "0.2", "0.3"]


def test_a_number_leads_to_its_runs_in_a_table_that_sorts_filters_and_turns_pages(tmp_path: Path) -> None:
    runs = [sidecar(seed, given={"alpha": alpha}) for alpha in (0.1, 0.15, *range(1, 10)) for seed in range(12)]
    put(tmp_path, *runs, sidecar(0, notebook="07_other", title="07 · Other"))
    index = report(tmp_path)
    shown = "return [...document.querySelectorAll('#runs tbody tr')].map(row => row.innerText.replaceAll('\\t', ' '))"
    settled = "setTimeout(() => arguments[0]"
    click = "document.querySelector(arguments[0]).click()"
    with browser(tmp_path, offline=True) as chrome:
        chrome.get(index.as_uri())
        assert len(chrome.execute_script(shown)) == 25
        chrome.execute_script(click, "#runs .dt-paging-button.next")
        assert len(set(chrome.execute_script(shown))) == 25
        chrome.execute_script(click, "#runs th:nth-child(2) .dt-column-order")  # by seed, upwards
        assert {re.findall(r"seed (\d+)", row)[0] for row in chrome.execute_script(shown)} == {"0", "1", "2"}
        mean = next(row for row in rows(index, "records") if "alpha 0.1 " in row)
        place = rows(index, "records").index(mean) + 1
        chrome.execute_script(click, f"#records tbody tr:nth-child({place}) a")
        found = chrome.execute_async_script(
            "setTimeout(() => arguments[0](document.querySelector('#runs input').value), 500)"
        )
        assert re.fullmatch(r'"06 · Update" §\d\d', found)
        assert len(chrome.execute_script(shown)) == 12
        assert all("alpha 0.1 " in row for row in chrome.execute_script(shown))
        link = chrome.execute_script(f"return document.querySelector('#records tbody tr:nth-child({place}) a').href")
        chrome.get("about:blank")
        chrome.get(link)
        assert len(chrome.execute_async_script(f"{settled}((() => {{{shown}}})()), 500)")) == 12


def test_the_report_is_a_notebook_that_runs_where_it_lies_and_where_it_is_moved_to(swept: Path, tmp_path: Path) -> None:
    path = shutil.copytree(swept, tmp_path / "moved") / "report" / "report.ipynb"
    result, again = execute(path, {}, timeout=120)
    assert result.status == "ok", result.error

    def tables(notebook: Any) -> list[str]:
        found = [output.data.get("text/html", "") for cell in notebook.cells for output in cell.get("outputs", [])]
        return [html for html in found if 'class="table"' in html]

    assert tables(again) == tables(notebooks.load(path))
    assert len(tables(again)) == 7


def test_pages_of_many_notebooks_are_made_in_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "FEW", 1)
    monkeypatch.setattr(site, "_processes", lambda: 2)
    runs = [executed(tmp_path, sidecar(seed)) for seed in range(3)]
    put(tmp_path, *runs)
    out = report(tmp_path).parent
    assert all("print" in text(out / f"run-06_update-{run['key']}.html") for run in runs)


def test_a_browser_finds_the_report_sound_and_accessible(swept: Path, tmp_path: Path) -> None:
    formulas = check_site(swept / "report", tmp_path)
    assert formulas[f"run-06_update-{ENDS[0]['key']}.html"] == 1


def test_many_values_of_one_number_are_drawn_along_it(tmp_path: Path) -> None:
    many = figures.ROWS + 1
    put(tmp_path, *[sidecar(seed, given={"alpha": i / 8}) for seed in range(2) for i in range(many)])
    drawn = re.findall(r'alt="([^"]*)"', text(report(tmp_path)))
    assert drawn[0] == "", "of the card, whose words stand beside it"
    assert "Line and band" in drawn[1]
    assert f"(the first {figures.ROWS}" not in drawn[1], "none is left out"
    put(tmp_path, sidecar(0, given={"alpha": "large"}))
    drawn = re.findall(r'alt="([^"]*)"', text(report(tmp_path)))
    assert "Seeds as dots" in drawn[1]
    assert f"(the first {figures.ROWS} of {many + 1} rows)" in drawn[1]


def test_of_two_values_the_first_is_drawn_and_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *[sidecar(seed, records=[{"name": "a pair", "value": [seed, 9], "cell": "c"}]) for seed in (1, 2)])
    drawn = []

    def dots(values: pd.DataFrame, title: str, draw: Callable[..., Figure] = figures.dots) -> Figure:
        drawn.append(values[["panel", "line", "value"]].values.tolist())
        return draw(values, title)

    monkeypatch.setattr(figures, "dots", dots)
    report(tmp_path)
    assert drawn == 2 * [[["a pair", "1st", 1.0], ["a pair", "1st", 2.0]]], "on its card and below"
