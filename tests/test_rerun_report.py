"""The report of a sweep: its tables keep what runs computed, and its pages show all of it and lead to every run."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
from browser import check_site
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pandas.testing import assert_frame_equal

from mamlkit import files
from mamlkit.ledger import CLAIM
from mamlkit.study import notebooks
from mamlkit.study.notebooks import RefusedError
from mamlkit.sweeps import figures, results
from mamlkit.sweeps import report as site
from mamlkit.sweeps.report import report

EVIL = "<script>alert('θ')</script>"
ALPHA = "α < 1"


def sidecar(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A run that went well, with these changes."""
    given = {"seed": seed} | changes.pop("given", {})
    notebook = changes.get("notebook", "06_update")
    key = changes.pop("key", sha256(json.dumps([notebook, given]).encode()).hexdigest()[:16])
    return {
        "format": 1,
        "key": key,
        "notebook": notebook,
        "title": "06 · Update",
        "executed": None,
        "status": "ok",
        "cell": None,
        "error": None,
        "given": given,
        "parameters": {"alpha": 0.01, "phase": [0.0, 3.14], "order": "second"} | given,
        "claims": [{"claim": ALPHA, "holds": True, "cell": "cell-12"}],
        "records": [
            {"name": "loss", "value": 0.5 + 0.1 * seed, "cell": "cell-14"},
            {"name": "loss by step", "value": [3.0 + seed, 2.0, 1.0], "cell": "cell-15"},
        ],
        "identity": {"notebook": "n" * 64, "kit": "0.1.0+abc", "data": "d" * 64},
        "provenance": {"python": "3.11.7", "packages": {"torch": "2.13.0"}, "threads": 1, "device": None},
        "started": "2026-11-24T05:10:22+00:00",
        "seconds": 65.0,
        "peak_bytes": None,
        "attempts": 1,
    } | changes


def put(folder: Path, *runs: dict[str, Any]) -> list[Path]:
    """Write sidecars into a folder as a sweep does."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{run['notebook']}-{run['key']}.json" for run in runs]
    for path, run in zip(paths, runs, strict=True):
        path.write_text(json.dumps(run, allow_nan=False), encoding="utf-8")
    return paths


def executed(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """The run with an executed notebook in the folder."""
    claim = {"output_type": "display_data", "metadata": {}}
    claim["data"] = {"text/plain": f"✓ {EVIL}", CLAIM: {"claim": EVIL, "holds": True}}
    cells = [
        new_markdown_cell("# 06 · Update\n\n## A part\n\nSee [the next](07_next.ipynb), $\\theta'$."),
        new_code_cell("claim()", execution_count=1, outputs=[nbformat.from_dict(claim)]),
        new_code_cell("print(1)", execution_count=2, outputs=[new_output("stream", text="1\n")]),
    ]
    folder.mkdir(exist_ok=True)
    name = f"{run['notebook']}-{run['key']}.ipynb"
    nbformat.write(new_notebook(cells=cells), folder / name)
    return run | {"executed": name}


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def words(path: Path) -> str:
    """What a page says, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text(path)))


def links(path: Path) -> list[tuple[Path, str]]:
    """The files that a page leads to or draws, with the place in them."""
    found = (unquote(link).partition("#") for link in re.findall(r'(?:href|src)="([^"]*)"', text(path)))
    return [((path.parent / file.partition("?")[0]) if file else path, anchor) for file, _, anchor in found]


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


ENDS = [
    sidecar(0),
    sidecar(1),
    sidecar(
        2, status="failed", cell=7, error=f"ValueError: {EVIL}", claims=[{"claim": EVIL, "holds": False, "cell": "c"}]
    ),
    sidecar(3, status="dead", cell=4, error="its kernel died", claims=[], records=[]),
    sidecar(4, status="timeout", cell=9, error="this cell ran longer than 60 s"),
    sidecar(5, status="incomplete", cell=2, error="this cell ended the notebook with sys.exit()"),
    sidecar(0, given={"order": EVIL}, records=[{"name": "α", "value": {"a": ["nan", "inf", -1]}, "cell": "c"}]),
    sidecar(0, notebook="07 näch%ste's", title="Nächste & letzte", given={"alpha": 0.5}),
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with runs of every end, one of which left a notebook, and one that is still to come."""
    folder = tmp_path_factory.mktemp("sweeps") / "a sweep"
    put(folder, *ENDS[1:], executed(folder, ENDS[0]))
    waiting = {"key": "f" * 16, "notebook": "06_update", "given": {"seed": 9, "order": EVIL}}
    planned = [{name: run[name] for name in ("key", "notebook", "given")} for run in ENDS]
    plan = {"format": 1, "name": f"ends {EVIL}", "planned": [*planned, waiting]}
    (folder / results.PLAN).write_text(json.dumps(plan), encoding="utf-8")
    (folder / ".half.json").write_text("{", encoding="utf-8")
    report(folder)
    return folder


def test_runs_are_read_in_the_order_of_their_notebook_and_given_numbers(tmp_path: Path) -> None:
    put(tmp_path, *[sidecar(seed) for seed in (10, 9, 2)], sidecar(0, notebook="01_first"))
    assert [(run.notebook, run.seed) for run in results.read(tmp_path)] == [
        ("01_first", 0),
        ("06_update", 2),
        ("06_update", 9),
        ("06_update", 10),
    ]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('{"format": 1, "key": ', "Expecting value"),
        ("[]", "does not begin with format 1"),
        (json.dumps(sidecar() | {"format": 2}), "format 1"),
        (json.dumps(sidecar(seconds=math.nan)), "NaN is not JSON"),
        (json.dumps(sidecar(status="fine")), "status is 'fine'"),
        (json.dumps(sidecar(seconds="65")), "'seconds' is '65'"),
        (json.dumps(sidecar(attempts=True)), "'attempts' is True"),
        (json.dumps(sidecar(claims=[{"claim": "x"}])), "a claim of it is"),
        (json.dumps(sidecar(records=[7])), "a record of it is 7"),
        (json.dumps(sidecar(executed="../../x.ipynb")), "executed notebook is '../../x.ipynb'"),
        (json.dumps(sidecar(key="other")), "inside it is run 'other'"),
        (json.dumps({name: value for name, value in sidecar().items() if name != "error"}), "no 'error'"),
    ],
)
def test_a_file_that_is_not_a_whole_sidecar_is_refused_with_its_name(tmp_path: Path, broken: str, said: str) -> None:
    (path,) = put(tmp_path, sidecar())
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(RefusedError, match=re.escape(said)) as refused:
        report(tmp_path)
    assert str(path) in str(refused.value)
    assert "start the sweep again" in str(refused.value)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("plan", ["{", '{"format": 1}', '{"format": 1, "name": "x", "planned": [{"key": 1}]}'])
def test_a_broken_plan_is_refused(tmp_path: Path, plan: str) -> None:
    put(tmp_path, sidecar())
    (tmp_path / results.PLAN).write_text(plan)
    with pytest.raises(RefusedError, match=r"sweep\.json is not a whole plan"):
        report(tmp_path)


def test_of_a_folder_the_runs_of_its_last_sweep_are_read(tmp_path: Path) -> None:
    put(tmp_path, *[sidecar(seed) for seed in range(3)])
    assert [run.seed for run in results.last_sweep(tmp_path)] == [0, 1, 2], "all, where nothing was planned"
    planned = [{name: sidecar(seed)[name] for name in ("key", "notebook", "given")} for seed in (1, 7)]
    text = {"format": 1, "name": "x", "planned": planned}
    (tmp_path / results.PLAN).write_text(json.dumps(text))
    assert [run.seed for run in results.last_sweep(tmp_path)] == [1]
    (tmp_path / results.PLAN).write_text(json.dumps(text | {"planned": planned[1:]}))
    with pytest.raises(RefusedError, match="none of the 1 runs planned"):
        results.last_sweep(tmp_path)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no finished run"):
        report(tmp_path)
    with pytest.raises(RefusedError, match="no folder"):
        report(tmp_path / "missing")


def test_a_report_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    put(tmp_path, sidecar())
    (tmp_path / "report").write_text("a file")
    with pytest.raises(RefusedError, match="choose another --out"):
        report(tmp_path)


def test_records_become_long_rows_with_their_place_and_non_finite_floats_numbers() -> None:
    value = {"a": [1, "inf"], "b": {"c": "text", "d": True}, "e": None}
    run = results.Sidecar(**{name: item for name, item in sidecar().items() if name != "format"})
    run.records[:] = [{"name": "x", "value": 2.5, "cell": "c"}, {"name": "y", "value": value, "cell": "c"}]
    table = results.tables([run]).records
    assert table["index"].tolist() == ["", "a.0", "a.1", "b.c", "b.d", "e"]
    assert table["value"].tolist()[:3] == [2.5, 1, math.inf]
    assert table["value"].isna().tolist() == [False, False, False, True, False, True]
    assert table["text"].fillna("-").tolist() == ["-", "-", "-", "text", "-", "-"]
    assert table["seed"].tolist() == [0] * 6


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, 2], "Int64", [1, 2]),
        ([1, 2.5], "float64", [1, 2.5]),
        ([True, False], "boolean", [True, False]),
        (["a", "b"], "string", ["a", "b"]),
        ([[0.0, 3.14], [1, 2]], "string", ["[0.0, 3.14]", "[1, 2]"]),
        (["a", 1], "string", ['"a"', "1"]),
        ([True, 1], "string", ["true", "1"]),
        ([2**70, 1], "string", [str(2**70), "1"]),
    ],
)
def test_a_parameter_keeps_its_type_or_becomes_json(
    tmp_path: Path, values: list[Any], kind: str, stored: list[Any]
) -> None:
    put(tmp_path, *[sidecar(seed, given={"p": value}) for seed, value in enumerate(values)], sidecar(7))
    runs = results.tables(results.read(tmp_path)).runs.sort_values("parameters.seed")
    assert str(runs["parameters.p"].dtype) == kind
    assert runs["parameters.p"].tolist()[:2] == stored
    assert runs["parameters.p"].isna().tolist() == [False, False, True]


def test_tables_come_back_equal_from_parquet_and_csv(swept: Path) -> None:
    tables = results.tables(results.read(swept))
    assert [len(table) for table in tables] == [8, 7, 27, 8]
    for name, table in tables._asdict().items():
        assert_frame_equal(pd.read_parquet(swept / "report" / f"{name}.parquet"), table)
        kinds = {column: str(kind) for column, kind in table.dtypes.items()}
        read = pd.read_csv(swept / "report" / f"{name}.csv", dtype=kinds)
        # A CSV file has one way to write no text and an empty one.
        empty = dict.fromkeys(read.columns.intersection(["index"]), "")
        assert_frame_equal(read.fillna(empty), table)


def test_tables_but_for_times_are_the_same_bytes_when_the_same_was_computed(tmp_path: Path) -> None:
    for name, other in (("a", {}), ("b", {"started": "2027-01-01T00:00:00+00:00", "seconds": 1.5, "attempts": 2})):
        runs = [sidecar(seed, provenance={"platform": name}, **other) for seed in range(3)]
        put(tmp_path / name, *(runs if name == "a" else reversed(runs)))
        report(tmp_path / name)
    for table in results.Tables._fields:
        for kind in ("csv", "parquet"):
            a, b = ((tmp_path / name / "report" / f"{table}.{kind}").read_bytes() for name in "ab")
            assert (a == b) == (table != "times"), f"{table}.{kind}"


def test_the_index_says_how_the_sweep_went_and_what_is_still_to_come(swept: Path) -> None:
    said = words(swept / "report" / "index.html")
    assert "4 of 8 runs went well; 1 failed; 1 kernel died; 1 ran out of time; 1 ended early; 1 planned" in said
    assert "cell 9: this cell ran longer than 60 s" in said
    assert "06_update seed 9" in said
    assert said.index("What did not go well") < said.index("Notebooks Notebook")


def test_what_a_run_says_is_shown_and_never_obeyed(swept: Path) -> None:
    for page in (swept / "report").glob("*.html"):
        scripts = re.findall(r"<script.*?>", text(page), re.DOTALL)
        assert not [script for script in scripts if "mathjax" not in script and script != "<script>"], page.name
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
        shown = text(page).replace("&lt;", "<").replace("&gt;", ">").replace("&#x27;", "'").replace("&quot;", '"')
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
    assert ".ipynb" not in "".join(text(page) for page in out.glob("*.html"))


def test_claims_that_fail_stand_first_with_their_rate_and_interval(tmp_path: Path) -> None:
    claims = [{"claim": "always", "holds": True, "cell": "a"}, {"claim": "mostly", "holds": True, "cell": "b"}]
    bad = [claims[0], claims[1] | {"holds": False}]
    runs = [sidecar(seed, claims=bad if seed == 3 else claims) for seed in range(10)]
    put(tmp_path, *runs, sidecar(10, claims=claims[:1], status="dead", cell=4))
    out = report(tmp_path).parent
    said = words(out / "index.html")
    assert re.search(r"mostly 06 · Update 9 of 10 60% to 98%", said), "the run that ended before it is not counted"
    assert said.index("mostly 06 · Update") < said.index("always 06 · Update")
    assert "always 06 · Update 11 of 11" in said
    assert re.search(rf'run-06_update-{runs[3]["key"]}.html">seed 3</a>', text(out / "notebook-06_update.html"))


def test_effects_have_students_interval_over_the_seeds_of_each_setting(tmp_path: Path) -> None:
    put(tmp_path, *[sidecar(seed, given={"alpha": alpha}) for seed in range(3) for alpha in (0.1, 0.2)])
    said = words(report(tmp_path))
    # 0.5, 0.6, 0.7: mean 0.6, s = 0.1, t = 4.3027 for 2 degrees of freedom.
    assert "alpha 0.1 0.6 0.3516 to 0.8484 3" in said
    assert "alpha 0.2 0.6 0.3516 to 0.8484 3" in said


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
    assert len(list(out.glob("notebook-*.html"))) == 2
    assert words(out / "index.html").count("06 · Update, version") >= 2
    assert "2 of 2" in words(out / "index.html")


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


def test_long_lists_are_spread_over_pages_and_settings_keep_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "ON_A_PAGE", 4)
    runs = [sidecar(seed, given={"alpha": alpha}) for alpha in (0.1, 0.2, 0.3) for seed in range(3)]
    put(tmp_path, *[run | {"status": "dead", "cell": 1, "error": "gone"} for run in runs])
    out = report(tmp_path).parent
    assert {"runs-06_update.html", "runs-06_update-2.html", "runs-06_update-3.html"} <= names(out)
    assert {"not-well-1.html", "not-well-3.html"} <= names(out)
    assert "alpha 0.2, continued" in words(out / "runs-06_update-2.html")
    for page in out.glob("*.html"):
        for file, anchor in links(page):
            assert not anchor or f'id="{anchor}"' in text(file), (page.name, file.name, anchor)


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
    assert "Line and band" in drawn[0]
    assert f"(the first {figures.ROWS}" not in drawn[0], "none is left out"
    put(tmp_path, sidecar(0, given={"alpha": "large"}))
    drawn = re.findall(r'alt="([^"]*)"', text(report(tmp_path)))
    assert "Seeds as dots" in drawn[0]
    assert f"(the first {figures.ROWS} of {many + 1} rows)" in drawn[0]


def test_of_two_values_the_first_is_drawn_and_said_to_be(tmp_path: Path) -> None:
    put(tmp_path, *[sidecar(seed, records=[{"name": "a pair", "value": [seed, 9], "cell": "c"}]) for seed in (1, 2)])
    (book,) = site._books(results.read(tmp_path))
    assert site._dots(book) == [figures.Dots("a pair", {"1st": [1.0, 2.0]})]


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    path.write_text("before")

    def fail() -> None:
        with files.replacing(path) as part:
            part.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail()
    assert path.read_text() == "before"
    assert names(tmp_path) == {"runs.parquet"}
