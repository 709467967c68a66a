"""Odd inputs, each for its kind: notebooks that were run before, of other formats and names, disks that fill."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urldefrag

import nbformat
import pytest
from books import claimed, claims, write
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sidecars import put, sidecar

from mamlkit import files
from mamlkit.__main__ import main
from mamlkit.ledger import CLAIM
from mamlkit.study import RefusedError, notebooks, pages
from mamlkit.study.execute import execute
from mamlkit.study.lock import lock
from mamlkit.study.regenerate import regenerate
from mamlkit.study.result import Result
from mamlkit.study.run import run
from mamlkit.sweeps import report as site
from mamlkit.sweeps.job import jobs, perform
from mamlkit.sweeps.results import read
from mamlkit.sweeps.spec import Run
from mamlkit.sweeps.store import Store

DECLARES = "alpha: float = 0.1  # step\nseed: int = 0"
SAYS = "print(alpha, seed)"


def saved(path: Path, *cells: NotebookNode) -> Path:
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def code(source: str, *tags: str) -> NotebookNode:
    cell: NotebookNode = new_code_cell(source, metadata={"tags": list(tags)})
    return cell


def printed(notebook: NotebookNode) -> str:
    outputs = [output for cell in notebooks.code_cells(notebook) for output in cell.outputs]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks end well at once, without a kernel; each code cell makes a claim."""

    def at_once(path: Path, parameters: Mapping[str, Any], **_: Any) -> tuple[Result, NotebookNode]:
        notebook = notebooks.source(path)
        for number, cell in enumerate(notebooks.code_cells(notebook), 1):
            cell.outputs, cell.execution_count = [claimed("<script>1 < 2</script>")], number
        held = [value | {"cell": cell.id} for cell, value in notebooks.displayed(notebook, CLAIM)]
        title = notebooks.title(notebook, path.stem)
        return Result(path.stem, title, "ok", 0.1, None, None, dict(parameters), held, [], None), notebook

    monkeypatch.setattr("mamlkit.study.run.execute", at_once)


# ---- notebooks that were run before


LAYOUTS = {
    "behind the parameters": (code(DECLARES, "parameters"), code("alpha = 7.0", "injected-parameters"), code(SAYS)),
    "before them": (code("alpha = 7.0", "injected-parameters"), code(DECLARES, "parameters"), code(SAYS)),
    "far behind": (code(DECLARES, "parameters"), code("1"), code("seed = 7", "injected-parameters"), code(SAYS)),
    "several": (
        code(DECLARES, "parameters"),
        code("alpha = 7.0", "injected-parameters", "mine"),
        code("1"),
        code("seed = 7", "mine", "injected-parameters"),
        code(SAYS),
    ),
    "the parameters themselves": (code(DECLARES, "injected-parameters", "parameters"), code(SAYS)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("given", [{}, {"seed": "3"}], ids=["as declared", "with a seed"])
def test_what_the_cells_used_is_what_the_results_say(tmp_path: Path, layout: str, given: dict[str, str]) -> None:
    path = saved(tmp_path / "copy.ipynb", *LAYOUTS[layout])
    run([str(path)], given, out=tmp_path / "out")
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())["notebooks"]
    assert found["parameters"] == {"alpha": 0.1, "seed": int(given.get("seed", 0))}
    assert printed(notebooks.load(tmp_path / "out" / "copy.ipynb")) == f"0.1 {found['parameters']['seed']}\n"


def test_a_copy_of_a_copy_is_the_notebook_again(tmp_path: Path) -> None:
    path = write(tmp_path, "copy", (DECLARES, SAYS))
    run([str(path)], {"seed": "1"}, out=tmp_path / "1")
    run([str(tmp_path / "1" / "copy.ipynb")], {"seed": "2"}, out=tmp_path / "2")
    assert printed(notebooks.load(tmp_path / "2" / "copy.ipynb")) == "0.1 2\n"
    assert [c.source for c in notebooks.source(tmp_path / "2" / "copy.ipynb").cells] == [
        c.source for c in notebooks.load(path).cells
    ]
    assert regenerate([str(tmp_path / "2" / "copy.ipynb")]) == []
    assert printed(notebooks.load(tmp_path / "2" / "copy.ipynb")) == "0.1 0\n"
    assert "injected" not in (tmp_path / "2" / "copy.ipynb").read_text(), "nothing of a run is committed"


@pytest.mark.parametrize("layout", list(LAYOUTS)[:4])
def test_a_sweep_over_a_copy_is_one_over_its_notebook(tmp_path: Path, layout: str) -> None:
    cells = [cell for cell in LAYOUTS[layout] if "injected-parameters" not in cell.metadata.tags]
    path, before = tmp_path / "copy.ipynb", []
    for version in (cells, LAYOUTS[layout]):
        saved(path, *version)
        before += [job.key for job in jobs((Run(path, {"seed": 4}),), "", 60, 1)]
    assert before[0] == before[1]
    (tmp_path / "out").mkdir()
    (job,) = jobs((Run(path, {"seed": 4}),), str(tmp_path / "out"), 60, 1)
    found = perform(job)
    assert found["parameters"] == {"alpha": 0.1, "seed": 4}
    assert printed(notebooks.load(tmp_path / "out" / found["executed"])) == "0.1 4\n"


def test_a_copy_may_not_replace_its_own_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "here", ("1",))
    before = path.read_bytes()
    assert main(["run", str(path), "--out", str(tmp_path / "x" / "..")]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert path.read_bytes() == before


# ---- the kernel

SPECS = [
    {"name": "python3", "display_name": "Another", "language": "python"},
    {"name": "other", "display_name": "Other", "language": "python"},
    {"name": "julia-1.9", "display_name": "Julia", "language": "julia"},
    {},
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.get("name", "none"))
def test_whatever_kernels_there_are_the_interpreter_of_the_command_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: dict[str, str]
) -> None:
    for name in ("python3", "other"):  # of an interpreter that has no ipykernel
        (tmp_path / "kernels" / name).mkdir(parents=True)
        content = {"argv": ["false", "-m", "ipykernel_launcher"], "display_name": name, "language": "python"}
        (tmp_path / "kernels" / name / "kernel.json").write_text(json.dumps(content))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    asks = (
        "import json, platform, sys, importlib.metadata as m\n"
        "print(json.dumps([sys.executable, platform.python_version(), m.version('torch'), m.version('mamlkit')]))"
    )
    notebook = new_notebook(cells=[code(asks)], metadata={"kernelspec": spec} if spec else {})
    nbformat.write(notebook, tmp_path / "asks.ipynb")
    (result,) = run([str(tmp_path / "asks.ipynb")], out=tmp_path / "out")
    assert result.status == "ok", result.error
    said = json.loads(printed(notebooks.load(tmp_path / "out" / "asks.ipynb")))
    origin = json.loads((tmp_path / "out" / "results.json").read_text())["provenance"]
    packages = origin["packages"]
    assert said == [sys.executable, origin["python"], packages["torch"], packages["mamlkit"]]
    assert said[1:3] == [platform.python_version(), importlib.metadata.version("torch")]


# ---- formats, and ids that are missing, equal or no ids


def bare(identity: Any = None, **more: Any) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": "code",
        "source": claims("2 > 1"),
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }
    return cell | ({} if identity is None else {"id": identity}) | more


def book(*cells: Any, major: int = 4, minor: int = 5) -> str:
    content: dict[str, Any] = {"metadata": {}, "nbformat": major, "nbformat_minor": minor}
    return json.dumps(content | ({"worksheets": [{"cells": cells}]} if major < 4 else {"cells": cells}))


OLD = {"cell_type": "code", "input": claims("2 > 1"), "outputs": [], "language": "python", "metadata": {}}
FORMATS = {
    "4.5 without ids": book(bare(), bare()),
    "4.5 with one id": book(bare("a"), bare()),
    "4.5 with equal ids": book(bare("a"), bare("a"), bare("b")),
    "4.5 with ids that are none": book(bare("a b"), bare("<script>"), bare(7)),
    "4.4": book(bare(), bare(), minor=4),
    "4.4 with ids": book(bare("a"), bare("b"), minor=4),
    "4.0": book(bare(), minor=0),
    "3.0": book(OLD, OLD, major=3, minor=0),
    "a format to come": book(bare("a", news=1), bare("b"), minor=9),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_notebook_reads_the_same_each_time_and_a_sweep_over_it_resumes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "old.ipynb"
    path.write_text(FORMATS[kind])
    first, second = notebooks.load(path), notebooks.load(path)
    assert first == second
    assert len({cell.id for cell in first.cells}) == len(first.cells)
    (tmp_path / "out").mkdir()
    store = Store(str(tmp_path / "out"))
    (job,) = jobs((Run(path, {}),), store.where, 60, 1)
    found = perform(job)
    planned = jobs((Run(path, {}),), store.where, 60, 1)
    assert planned == [job]
    sidecar = json.loads(store.read(f"{planned[0].name}.json"))
    assert sidecar["key"] == planned[0].key
    assert [claim["cell"] for claim in found["claims"]] == [cell.id for cell in first.cells]
    copy = notebooks.load(tmp_path / "out" / found["executed"])
    page = pages.page(copy, "old", {"old": "Old"})
    assert all(f'id="cell-id={claim["cell"]}"' in page for claim in found["claims"])


NONE = {
    "nothing": "",
    "a list": "[]",
    "a number": "3",
    "no cells": '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "cells of nothing": book({}),
    "cells that are numbers": book(1, 2),
    "tags that are a text": book(bare("a", metadata={"tags": "parameters"})),
    "no outputs": book({"cell_type": "code", "source": "", "metadata": {}, "id": "a"}),
    "a format of tomorrow": book(major=9),
    "half a character": book(bare("a", source="'\ud800'")),
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("kind", NONE)
def test_a_file_that_is_no_notebook_is_refused_in_a_sentence(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.ipynb"
    path.write_text(NONE[kind])
    (tmp_path / "sweep.yml").write_text("runs: [{notebooks: none.ipynb}]")
    commands = [["run", str(path)], ["rerun", str(tmp_path / "sweep.yml")], ["regenerate", str(path)]]
    assert [main(command) for command in commands] == [2, 2, 1]
    said = capsys.readouterr().err.splitlines()
    assert sum("is not a notebook that can be read: " in line for line in said) == 3


# ---- a terminal that knows few characters


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
def test_no_command_ends_over_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    home = tmp_path / "θ ✓"
    home.mkdir()
    path = write(home, "thέta", ("raise ValueError('θ ≤ ✓')",), "# θ′")
    (home / "σ.yml").write_text(f"runs: [{{notebooks: {path.name}}}]")
    put(home, sidecar(0, status="failed", cell=1, error="θ"))
    commands = {
        ("run", str(path), "--out", str(home / "ö→")): 1,
        ("run", "θ.ipynb"): 2,
        ("run", str(path), "-p", "θ", "✓"): 2,
        ("rerun", str(home / "σ.yml"), "--dry-run", "--out", str(home / "s")): 0,
        ("report", str(home)): 0,
        ("report", str(home / "✗")): 2,
        ("regenerate", str(path)): 1,
        ("data", "verify", "--in", str(home)): 0,
        ("data", "fetch", "omniglot", "--from", str(home / "✗")): 2,
    }
    said = [io.BytesIO(), io.BytesIO()]
    for name, stream in zip(("stdout", "stderr"), said, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding, write_through=True))
    ends = {command: main(command) for command in commands}
    assert ends == commands
    assert all(b"?" in stream.getvalue() for stream in said)


# ---- values that begin with a minus


def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What `mamlkit run` is asked for, names and parameters, each time; nothing runs."""
    found: list[tuple[list[str], dict[str, str]]] = []

    def run(names: list[str], given: dict[str, str], **_: Any) -> list[Result]:
        found.append((names, given))
        return []

    monkeypatch.setattr("mamlkit.study.run.run", run)
    return found


VALUES: list[tuple[list[str], dict[str, str]]] = [
    (["-p", "alpha", "-1e-3"], {"alpha": "-1e-3"}),
    (["-p", "alpha", "-.5", "--parameter", "seed", "-7"], {"alpha": "-.5", "seed": "-7"}),
    (["--parameter", "alpha", "-inf"], {"alpha": "-inf"}),
    (["-p", "name", "--text"], {"name": "--text"}),
    (["-p", "name", "--out"], {"name": "--out"}),
    (["-p", "name", "-p", "-p", "seed", "-1"], {"name": "-p", "seed": "-1"}),
    (["-p", "name", "--"], {"name": "--"}),
    (["-p", "name", "-"], {"name": "-"}),
    (["-p", "name", "a=b=-c"], {"name": "a=b=-c"}),
    (["-p", "name", ""], {"name": ""}),
    (["-p", "phase", "(-1, 1)", "-p", "phase", "-2"], {"phase": "-2"}),
]


@pytest.mark.parametrize(("words", "given"), VALUES, ids=[" ".join(words) for words, _ in VALUES])
def test_a_value_may_begin_with_a_minus(
    monkeypatch: pytest.MonkeyPatch, words: list[str], given: dict[str, str]
) -> None:
    found = asked(monkeypatch)
    for line in (["run", "06", *words], ["run", *words, "06"]):
        assert main(line) == 0
    assert found == [(["06"], given)] * 2


@pytest.mark.parametrize("words", [["-p"], ["-p", "alpha"], ["06", "--parameter", "alpha"]])
def test_a_name_without_a_value_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", *words])
    assert ended.value.code == 2
    assert "it takes a name and a value" in capsys.readouterr().err


def test_negative_numbers_reach_the_notebook(tmp_path: Path) -> None:
    path = write(tmp_path, "minus", ('alpha: float = 0.1\nseed: int = 0\nname: str = ""', "print(alpha, seed, name)"))
    out = tmp_path / "out"
    given = ["-p", "alpha", "-1e-3", "-p", "seed", "-2", "-p", "name", "--text"]
    assert main(["run", str(path), *given, "--out", str(out)]) == 0
    assert printed(notebooks.load(out / "minus.ipynb")) == "-0.001 -2 --text\n"
    assert main(["run", str(path), "-p", "alpha", "-inf", "--out", str(out)]) == 2


def test_the_command_of_a_run_of_a_sweep_is_taken_as_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"alpha": -0.001, "name": "--text", "phase": [-1.5, 2], "exact": False, "other": "a 'b'"}
    put(tmp_path, sidecar(0, given=given))
    (account,) = read(tmp_path)
    found = asked(monkeypatch)
    words = shlex.split(site.command(account))
    assert main(words[words.index("run") :]) == 0
    wanted = {name: value if isinstance(value, str) else repr(value) for name, value in account.given.items()}
    assert found == [([account.notebook], wanted)]


# ---- disks that fill, and folders that cannot be written


def earlier_results_are_whole(out: Path) -> None:
    """The report of `a`, of two notebooks, is there with nothing of the second in it and no part of a file."""
    summary = json.loads((out / "results.json").read_text())
    assert [found["notebook"] for found in summary["notebooks"]] == ["a"]
    assert summary["planned"] == ["a", "b"]
    assert "not run" in (out / "index.html").read_text()
    notebooks.load(out / "a.ipynb")
    assert (out / "a.html").read_text().endswith("</html>")
    assert not dead_links(out)
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("full", ["b.ipynb", "b.html", "a.html", "results.json"])
def test_a_disk_that_fills_leaves_what_is_finished_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: int, full: str
) -> None:
    instead(monkeypatch)
    paths = [str(write(tmp_path, name, ("1",))) for name in ("a", "b")]
    out, native = tmp_path / "out", files.write

    def writes(path: Path, content: str | bytes, **how: Any) -> None:
        late = full == "b.ipynb" or (out / "b.ipynb").exists()
        if path.name == full and late:
            raise OSError(fault, os.strerror(fault))
        native(path, content, **how)

    monkeypatch.setattr(files, "write", writes)
    assert main(["run", *paths, "--out", str(out)]) == 2
    told = capsys.readouterr()
    assert "1 of 2 notebooks ran" in told.out
    (said,) = told.err.splitlines()
    assert said.startswith(f"mamlkit: the report cannot be written into {out}: ")
    assert os.strerror(fault) in said
    assert said.endswith("make room, or choose another --out: what is finished is kept")
    earlier_results_are_whole(out)


@pytest.mark.skipif(os.name != "posix", reason="limits the size of a file")
def test_a_file_that_cannot_grow_ends_a_run_in_a_sentence(tmp_path: Path) -> None:
    paths = [write(tmp_path, "a", ("1",)), write(tmp_path, "b", ("print('x' * 3_000_000)",))]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "from mamlkit.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", limited, "run", *map(str, paths), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "File too large" in done.stderr
    earlier_results_are_whole(tmp_path / "out")


@pytest.mark.parametrize("place", ["out", "out/within", "out/results.json", "out/mathjax", "out/.lock"])
def test_a_folder_that_will_not_do_is_refused_before_a_notebook_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    monkeypatch.setattr("mamlkit.study.run.execute", lambda *_, **__: pytest.fail("a notebook started"))
    out = tmp_path / "out"
    if place in ("out", "out/within"):  # a file stands where the folder should
        out.write_text("")
    elif place == "out/mathjax":
        out.mkdir()
        (tmp_path / place).write_text("")
    else:  # a folder stands where a file should
        (tmp_path / place).mkdir(parents=True)
    asked = tmp_path / place if place == "out/within" else out
    assert main(["run", str(write(tmp_path, "a", ("1",))), "--out", str(asked)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "cannot be written" in said
    assert "choose another --out" in said


def test_a_disk_that_fills_with_mathjax_leaves_no_half_of_it_and_the_next_run_brings_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    instead(monkeypatch)
    path, out, native = str(write(tmp_path, "a", ("1",))), tmp_path / "out", files.write
    room = iter(range(100))

    def writes(place: Path, content: str | bytes, **how: Any) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        native(place, content, **how)

    with monkeypatch.context() as full:
        full.setattr(files, "write", writes)
        assert main(["run", path, "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("No space left on device; make room") == 1
    brought = {place: place.stat().st_mtime_ns for place in out.rglob("*") if place.is_file()}
    assert len(brought) == 100 + 1, "and the lock"
    next(place for place in brought if place.suffix == ".js").write_text("cut")
    assert main(["run", path, "--out", str(out)]) == 0
    pages.prepare(tmp_path / "whole")
    sizes = [
        {place.relative_to(home): place.stat().st_size for place in (home / "mathjax").rglob("*")}
        for home in (out, tmp_path / "whole")
    ]
    assert sizes[0] == sizes[1]
    assert sum(place.stat().st_mtime_ns != before for place, before in brought.items()) <= 2, "the rest stayed"


def test_a_scratch_folder_that_is_full_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "scratch")

    path = str(write(tmp_path, "a", ("1",)))
    monkeypatch.setattr("mamlkit.study.execute.tempfile.TemporaryDirectory", full)
    assert main(["run", path, "--out", str(tmp_path / "out")]) == 2
    assert main(["regenerate", path]) == 2
    assert "mamlkit: [Errno 28] No space left on device: 'scratch'" in capsys.readouterr().err


# ---- two at once


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_second_run_is_kept_out_until_the_first_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = write(tmp_path, "slow", ("import time; time.sleep(60)",))
    quick = str(write(tmp_path, "quick", ("1",)))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mamlkit", "run", str(slow), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as first:
        deadline = time.monotonic() + 60
        while not (out / "index.html").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        before = (out / "results.json").read_bytes()
        assert main(["run", quick, "--out", str(out)]) == 2
        assert "another run or another sweep is writing into" in capsys.readouterr().err
        assert (out / "results.json").read_bytes() == before
        os.killpg(first.pid, signal.SIGKILL)
    assert main(["run", quick, "--out", str(out)]) == 0
    assert main(["run", quick, "--out", str(out)]) == 0, "nor does a run that ended well leave its lock"


def test_a_run_and_a_sweep_keep_each_other_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch)
    path, out = str(write(tmp_path, "a", ("1",))), tmp_path / "out"
    with Store(str(out)).lock():
        with pytest.raises(RefusedError, match="another run or another sweep"):
            run([path], out=out)
        run([path], out=tmp_path / "elsewhere")
    with lock(out), pytest.raises(RefusedError, match="another run or another sweep"), Store(str(out)).lock():
        pass
    run([path], out=out)


# ---- names

NAMES = (
    "index", "index-notebook", "indexed", "mathjax", "results", "a#b", "a?b", "100%", "a%20b", "two words",
    '"quoted"', "it's", "müßig", "日本", "<script>alert(1)<", "a&amp;b", ".hidden", "a.b", "-p", "a=b",
)  # fmt: skip


class Links(HTMLParser):
    """Where a page leads, and the places in it that can be led to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str | None] = {""}
        self.scripts: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places.add(found.get("id"))
        self.links += [value for name in ("href", "src") if (value := found.get(name))]
        self.scripts += [found.get("src") or "inline"] if tag == "script" else []


def dead_links(out: Path) -> list[tuple[str, str]]:
    """Links of a report's pages to files, or to places in them, that are not there."""
    read = {page.name: Links(page) for page in out.iterdir() if page.suffix == ".html"}

    def dead(name: str, link: str) -> bool:
        address, place = urldefrag(link)
        target = unquote(address.partition("?")[0]) or name
        return not (out / target).is_file() or (target in read and place not in read[target].places)

    return [(name, link) for name, page in read.items() for link in page.links if dead(name, link)]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A report of notebooks with odd names, each of which links to all."""
    home = tmp_path_factory.mktemp("odd")
    text = " ".join(f"[{number}](<{quote(name)}.ipynb>)" for number, name in enumerate(NAMES))
    for name in NAMES:
        cells = [new_markdown_cell(f"{text} [here](./index.ipynb) [gone](gone.ipynb)"), new_code_cell("1")]
        saved(home / f"{name}.ipynb", *cells)
    with pytest.MonkeyPatch.context() as monkeypatch:
        instead(monkeypatch)
        run([str(home / f"{name}.ipynb") for name in NAMES], out=home / "out")
        yield home / "out"


@pytest.mark.skipif(os.name != "posix", reason="the names are none elsewhere")
def test_whatever_a_notebook_is_called_it_has_a_page_and_every_link_leads_there(named: Path) -> None:
    assert not dead_links(named)
    names = [pages.file_name(name).lower() for name in NAMES]
    assert len({*names, "index.html"}) == len(names) + 1, "no page takes another's place"
    assert pages.file_name("INDEX").lower() != "index.html", "for where names do not know capitals"
    for name in NAMES:
        found = Links(named / pages.file_name(name))
        wanted = {pages.address(other) for other in NAMES} | {"index.html"}
        assert {link for link in found.links if "mathjax/" not in link} == wanted, name
        assert len(found.scripts) == 2, "MathJax alone"
        assert ">here</a>" in (named / pages.file_name(name)).read_text()
    index = Links(named / "index.html")
    assert {urldefrag(link)[0] for link in index.links} == {pages.address(name) for name in NAMES}
    assert not index.scripts


def test_two_notebooks_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mamlkit.study.run.execute", lambda *_, **__: pytest.fail("a notebook started"))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    paths = [str(write(tmp_path / folder, "same", ("1",))) for folder in ("one", "two")]
    with pytest.raises(RefusedError, match="same was asked for twice"):
        run(paths, out=tmp_path / "out")


# ---- ends that nothing shows

ENDS: dict[str, tuple[str, str]] = {
    "import sys; sys.exit('no')": ("failed", "SystemExit: no"),
    "raise SystemExit(3)": ("failed", "SystemExit: 3"),
    "raise SystemExit": ("incomplete", "this cell ended the notebook with sys.exit() or exit()"),
    "import sys; sys.exit(False)": ("incomplete", "this cell ended the notebook with sys.exit() or exit()"),
    "exit()": ("incomplete", "this cell ended the notebook with sys.exit() or exit()"),
    "quit(keep_kernel=True)": ("incomplete", "this cell ended the notebook with sys.exit() or exit()"),
    "raise KeyboardInterrupt": ("failed", "KeyboardInterrupt: "),
    "raise ValueError('\\ud800')": ("failed", "UnicodeEncodeError: "),
    "get_ipython().showtraceback = lambda *_, **__: None\n1 / 0": ("failed", "ZeroDivisionError: division by zero"),
    "from IPython.display import clear_output\nclear_output(wait=True)\n1 / 0": ("failed", "ZeroDivisionError: "),
    "def broken(:": ("failed", "SyntaxError: "),
    "%no_such_magic": ("failed", "UsageError: "),
}


@pytest.mark.parametrize("source", ENDS)
def test_a_last_cell_that_does_not_end_well_is_told(tmp_path: Path, source: str) -> None:
    result, _ = execute(write(tmp_path, "ends", ("1", source)), {}, timeout=30)
    status, error = ENDS[source]
    assert (result.status, result.cell) == (status, 2)
    assert (result.error or "").startswith(error)


def test_nothing_runs_after_an_exit(tmp_path: Path) -> None:
    """The kernel would take a moment to end, in which short cells run and long ones die."""
    result, notebook = execute(write(tmp_path, "ends", ("exit()", "print('on')", claims())), {}, timeout=30)
    assert (result.status, result.cell, result.claims) == ("incomplete", 1, [])
    assert printed(notebook) == ""
