"""The report of a sweep: a notebook over its results, printed as a page that needs no network, and a page a run.

The notebook is report.ipynb beside this file. What it shows is written in its cells; what they share is here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import chdir, suppress
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import quote

import itables
import pandas as pd
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML, display
from IPython.utils.capture import capture_output
from markupsafe import Markup
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbformat.v4 import new_output
from traitlets.config import Config

from mamlkit import files
from mamlkit.figures.theme import theme
from mamlkit.statistics import wilson_interval
from mamlkit.study import RefusedError, execute, notebooks, pages
from mamlkit.study.progress import shown
from mamlkit.sweeps import figures, results
from mamlkit.sweeps.results import Place, Sidecar

HERE = Path(__file__).parent
LONG = 2000  # characters of a value that are shown
FAILURES = 10  # runs that are named beside a claim that fails
FEW = 24  # pages with notebooks that one process makes: starting others takes as long
MADE = re.compile(r'name="made-from" content="(\w+)"')
FRONT = {"numbers": 4, "curves": 2}  # panels of the figure that stands for a notebook
NOT_DRAWN = (("ci95",), ("half_width",), ("tasks",))  # of a record: its interval


def report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of the sweep in `folder` into `out` (default: report/ in it) and return its index.

    Only what changed is made again. The index is written last, so that it never leads to a page that is not there.

    Raises RefusedError for a folder that holds no sweep, files in it that are not whole, and an `out` that cannot be
    written.
    """
    out = folder / "report" if out is None else out
    sweep = load(folder, out)
    try:
        pages.prepare(out)
        files.write(out / "report.css", pages.render("pages.css") + pages.render("report.css"))
        results.write(results.tables(list(sweep.runs.run)), out)
        _run_pages(sweep, out)
        notebook = notebooks.load(HERE / "report.ipynb")
        execute.set_parameters(notebook, {"folder": os.path.relpath(folder.resolve(), out.resolve())})
        with chdir(out):
            _execute(notebook)
        files.write(out / "report.ipynb", notebooks.dumps(notebook))
        index = _print(notebook, f"Sweep {sweep.name}")
        files.write(out / "index.html", index)
        _clear(out, {"index.html", *sweep.runs.page}, index)
    except OSError as error:
        raise RefusedError(f"the report cannot be written into {out}: {error}; choose another --out") from error
    return out / "index.html"


# What the notebook reads


@dataclass(frozen=True)
class Sweep:
    """The results of a sweep, as the report's notebook reads them.

    runs     a row a run, setting by setting: run (a Sidecar), title (of its notebook, with the version where there are
             several), setting (what it was given that sets it apart, in words, but for its seed), fixed (what every
             run of its notebook was given), along (the value of the one number that varies), seed, status, ok,
             held and checked (of its claims), seconds, page and executed (files; executed is "" where it is not there)
    claims   a row a run and claim: run (a place in `runs`), title, claim, holds
    numbers  a row a number on record: run, title, setting, along, record, place (in lists and dicts), x (where the
             number is part of a curve: a list of 3 numbers or more, or a dict of as many by number), value
    waiting  notebook and given of each run that is planned and not there
    """

    name: str
    runs: pd.DataFrame
    claims: pd.DataFrame
    numbers: pd.DataFrame
    waiting: list[dict[str, str]]


def load(folder: Path | str, out: Path | None = None) -> Sweep:
    """The sweep in a folder, seen from the report's folder `out` (default: the current one). Raises RefusedError."""
    folder = Path(folder)
    found, plan = results.read(folder), results.plan(folder)
    home = Path(os.path.relpath(folder.resolve(), (out or Path()).resolve())).as_posix()
    runs = pd.DataFrame({"run": found, "stem": [run.notebook for run in found]})
    runs["version"] = [_digest(json.dumps(run.identity, sort_keys=True))[:8] for run in found]
    several = runs.groupby("stem").version.transform("nunique") > 1
    runs["title"] = [pages.numbered(vars(run)) for run in found] + (", version " + runs.version).where(several, "")
    runs["seed"] = ["" if run.seed is None else f"seed {text(run.seed)}" for run in found]
    runs["status"] = [run.status for run in found]
    runs["ok"] = runs.status == "ok"
    runs["held"] = [sum(claim["holds"] for claim in run.claims) for run in found]
    runs["checked"] = [len(run.claims) for run in found]
    runs["seconds"] = [run.seconds for run in found]
    runs["page"] = [f"run-{run.notebook}-{run.key}.html" for run in found]
    runs["executed"] = [f"{home}/{run.executed}" if run.executed and (folder / run.executed).is_file() else ""
                        for run in found]  # fmt: skip
    runs = pd.concat([_settings(group) for _, group in runs.groupby(["stem", "version"])], ignore_index=True)
    held = [(i, claim["claim"], claim["holds"]) for i, run in enumerate(runs.run) for claim in run.claims]
    claims = pd.DataFrame(held, columns=["run", "claim", "holds"]).groupby(["run", "claim"], sort=False).holds.all()
    numbers = pd.DataFrame(
        [(i, *row) for i, run in enumerate(runs.run) for row in _numbers(run)],
        columns=["run", "record", "place", "x", "value"],
    )
    done = {run.key for run in found}
    waiting = [
        {"Notebook": str(run["notebook"]), "Given": ", ".join(f"{n} {text(v)}" for n, v in run["given"].items())}
        for run in (plan.planned if plan else [])
        if run["key"] not in done
    ]
    name = plan.name if plan else folder.resolve().name
    return Sweep(name, runs, claims.reset_index().join(runs.title, on="run"),
                 numbers.join(runs[["title", "setting", "along"]], on="run"), waiting)  # fmt: skip


def _settings(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of one version of a notebook, in the order of their settings."""
    given = [{name: value for name, value in run.given.items() if name != "seed"} for run in runs.run]
    names = sorted({name for values in given for name in values})
    varied = [name for name in names if len({text(values.get(name)) for values in given}) > 1]
    words = [
        ", ".join(f"{name} {text(values[name]) if name in values else 'as declared'}" for name in varied)
        for values in given
    ]
    order = list(dict.fromkeys(words))
    along = [values.get(varied[0]) if len(varied) == 1 else None for values in given]
    scanned = len(order) > figures.ROWS and all(type(value) in (int, float) for value in along)
    marks = {w: f"§{place:0{len(str(len(order)))}} {w}" if w else "" for place, w in enumerate(order, 1)}
    return runs.assign(
        setting=[marks[w] for w in words],
        fixed=", ".join(f"{name} {text(given[0][name])}" for name in names if name not in varied),
        along=pd.Series(along if scanned else math.nan, index=runs.index),
        scanned="".join(varied) if scanned else "",
    ).sort_values("setting", kind="stable")


def _numbers(run: Sidecar) -> Iterator[tuple[str, Place, float | None, float]]:
    """The numbers of a run's records: record, place, x where they belong to a curve, value."""
    times: Counter[str] = Counter()
    for record in run.records:
        name = record["name"]
        times[name] += 1
        for part in _parts(record["value"]):
            yield name if times[name] == 1 else f"{name} ({times[name]})", *part


def _parts(value: Any, place: Place = ()) -> Iterator[tuple[Place, float | None, float]]:
    if not isinstance(value, list | dict):
        if (number := results.number(value)) is not None:
            yield place, None, number
        return
    items = dict(enumerate(value)) if isinstance(value, list) else value
    if len(items) > 2 and all(map(_is_number, items)):
        for x, item in items.items():
            for rest, leaf in results.leaves(item):
                if (number := results.number(leaf)) is not None:
                    yield (*place, *rest), float(x), number
    else:
        for step, item in items.items():
            yield from _parts(item, (*place, step))


def _is_number(x: int | str) -> bool:
    try:
        return math.isfinite(float(x))
    except ValueError:
        return False


# What the notebook shows


@dataclass(frozen=True)
class Cell:
    """A cell of a table with more than its text: where it leads, what it is sorted by, whether all is well with it."""

    text: str
    href: str = ""
    order: Any = None
    good: bool = True


def start() -> None:
    """Load what the tables need to sort, filter and turn pages without a network, and the figures' look."""
    theme()
    itables.options.display_logo_when_loading = False  # it is a link to a host
    itables.init_notebook_mode(all_interactive=False, connected=False)
    display(HTML(pages.render("start.html")))


def summary(sweep: Sweep) -> HTML:
    """How the sweep went, in words."""
    held = sweep.claims.groupby(["title", "claim"]).holds.all()
    return HTML(pages.render("summary.html", sweep=sweep, counts=Counter(sweep.runs.status), checked=len(held),
                             broken=(~held).sum(), tables=results.Tables._fields))  # fmt: skip


def table(name: str, rows: Sequence[Mapping[str, Any]], *, title: str = "", empty: str = "") -> HTML:
    """Rows as a table that a browser sorts, filters and pages; it is whole where no script runs.

    A value is text, a number, a Cell, several of them, or a Sidecar, which is shown as what came of it.
    Columns without a value are left out. `title` heads the table; `empty` is said where there are no rows.
    """
    return HTML(pages.render("table.html", name=name, heads=_heads(rows), rows=rows, title=title, empty=empty))


def _heads(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [head for head in (rows[0] if rows else []) if any(row[head] not in ("", []) for row in rows)]


def folded(name: str, parts: Mapping[str, tuple[Cell, Sequence[Mapping[str, Any]]]], *, empty: str = "") -> HTML:
    """Tables as `table` makes them, each folded under its heading with a cell beside that; what is not good is open."""
    folds = [(heading, cell, rows, _heads(rows)) for heading, (cell, rows) in parts.items()]
    return HTML(pages.render("folded.html", name=name, folds=folds, empty=empty))


def rates(sweep: Sweep) -> pd.DataFrame:
    """How often each claim held: columns title, claim, held and runs, those that came to it."""
    found = sweep.claims.groupby(["title", "claim"], sort=False).agg(held=("holds", "sum"), runs=("holds", "size"))
    return found.reset_index()


def tally(rates: pd.DataFrame, runs: int) -> Cell:
    """What became of a notebook's claims, in words. Columns of `rates`: claim, held, runs; `runs` there are of it."""
    broken = int((rates.held < rates.runs).sum())
    if broken:
        return Cell(f"{broken} of {count(len(rates), 'claim')} did not hold in every run", good=False)
    everywhere = "its one run" if runs == 1 else f"each of {runs:,} runs"
    where = everywhere if (rates.runs == runs).all() else "every run that got that far"
    return Cell(f"{count(len(rates), 'claim')} held in {where}")


def listed(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Runs as rows of a table, each with a link to its page and to its executed notebook."""
    return [
        {
            "Run": Cell(run.title, quote(run.page)),
            "Seed": Cell(run.seed or run.run.key, quote(run.page), run.run.seed),
            "Setting": run.setting,
            "Result": run.run,
            "Claims": Cell(
                f"{run.held} of {run.checked}", order=run.held / max(run.checked, 1), good=run.held == run.checked
            ),
            "Seconds": round(run.seconds, 1),
            "Executed notebook": Cell("notebook", quote(run.executed)) if run.executed else "not here",
        }
        for run in results.rows(runs)
    ]


def link(words: Any, runs: pd.DataFrame, order: float | None = None, good: bool = True) -> Cell:
    """Words that lead to runs of a notebook: to the page of the only one, or to the table of runs, filtered."""
    if len(runs) == 1:
        return Cell(str(words), quote(runs.page.iloc[0]), order, good)
    setting = f" {runs.setting.iloc[0].split()[0]}" if runs.setting.iloc[0] and runs.setting.nunique() == 1 else ""
    find = f'"{runs.title.iloc[0]}"{setting}'
    return Cell(str(words), f"index.html?find={quote(find)}#runs", order, good)


def share(part: int, whole: int, runs: pd.DataFrame) -> Cell:
    """So many of so many, which lead to the runs and are sorted by their ratio."""
    return link(f"{part:,} of {whole:,}", runs, part / max(whole, 1), good=part == whole)


def rate_interval(held: int, runs: int) -> str:
    """Wilson's 95% interval of a rate, as percentages."""
    interval = wilson_interval(held, runs)
    digits = 0 if runs < 100 else 1
    return f"{interval.low:.{digits}%} to {interval.high:.{digits}%}"


def mean_interval(values: Sequence[float]) -> str:
    """Student's 95% interval of a mean over seeds, or why there is none."""
    if interval := figures.spread(values):
        return f"{interval.low:.4g} to {interval.high:.4g}"
    return "one seed" if len(values) == 1 else f"{sum(not math.isfinite(value) for value in values)} not finite"


def command(run: Sidecar) -> str:
    """The one command that computes a run again."""
    parts = ["python", "-m", "mamlkit", "run", run.notebook]
    for name, value in run.given.items():
        parts += ["-p", name, value if isinstance(value, str) else repr(value)]
    threads = run.provenance.get("threads")
    return (f"OMP_NUM_THREADS={threads} " if isinstance(threads, int) else "") + shlex.join(parts)


def text(value: Any) -> str:
    """A parameter's value, cut where it is long."""
    whole = "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return whole if len(whole) <= LONG else f"{whole[:LONG]} … ({len(whole) - LONG:,} characters more)"


def some(runs: pd.DataFrame) -> list[Cell | str]:
    """Links to runs, the first ten of them."""
    first: list[Cell | str] = [Cell(which(run), quote(run.page)) for run in results.rows(runs.head(FAILURES))]
    return first + ([f"and {len(runs) - FAILURES:,} more"] if len(runs) > FAILURES else [])


def which(run: Any) -> str:
    """What tells a row of `runs` from the others of its notebook."""
    return ", ".join(filter(None, [run.seed, run.setting.partition(" ")[2]])) or run.run.key


# The notebook's figures


def pass_rates(rates: pd.DataFrame) -> HTML | None:
    """The figure of claims that did not hold in every run, those that held least first; None where there are none.

    Columns: claim, held, runs.
    """
    broken = rates[rates.held < rates.runs]
    lowest = broken.head(figures.RATES)
    title = f"{len(broken)} of {count(len(rates), 'claim')} did not hold in every run"
    title += f"; the {len(lowest)} that held least" if len(lowest) < len(broken) else ""
    said = "; ".join(f"{rate.claim}: {rate.held} of {rate.runs}" for rate in results.rows(lowest))
    draw = partial(figures.pass_rates, lowest, title)
    return None if broken.empty else _picture("claims", f"{title}, with 95% intervals. {said}.", lowest, draw)


def fronts(sweep: Sweep) -> HTML:
    """One figure for each notebook, drawn over its seeds, with how often its claims held and what the figure shows.

    It has the first curves on record, or else the first numbers; those that no seed changes stand back.
    """
    cards, every = [], rates(sweep)
    for title in sweep.runs.title.unique():
        runs, mine = (frame[frame.title == title] for frame in (sweep.runs, every))
        broken = [f"{rate.claim}: {rate.held} of {rate.runs}" for rate in results.rows(mine[mine.held < mine.runs])]
        claims = tally(mine, len(runs)) if len(mine) else Cell("No run checked a claim.")
        card = {"title": title, "href": link("", runs).href, "to": f"#{_place(sweep, title)}", "src": "", "said": ""}
        if kinds := _kinds(sweep, title):
            what, values, draw, *_ = kinds[-1]
            values, words = values[values.panel.isin(_first_moving(values, FRONT[what]))], _over(runs)
            words = words[0].upper() + words[1:]
            card["src"] = quote(_drawn(f"front-{runs.stem.iloc[0]}", words, values, partial(draw, values, words)))
            card["said"] = _said(values)
        cards.append(card | {"claims": claims, "broken": broken})
    return HTML(pages.render("fronts.html", cards=cards))


def _first_moving(values: pd.DataFrame, most: int) -> list[str]:
    """The first panels in which a seed changes something, or of all where none does, of few enough lines for a card."""
    keys = [name for name in ("panel", "line", "x") if name in values]
    moves = values.groupby(keys, sort=False).value.nunique().gt(1).groupby("panel", sort=False).any()
    lines = values.groupby("panel", sort=False).line.nunique()
    lines = (lines[moves] if moves.any() else lines).head(most).cumsum()
    return list(lines.index[(lines <= 2 * most) | (lines == lines.iloc[0])])


class Kind(NamedTuple):
    """Records of one kind, as figures draw them: columns as `figures.dots` and `figures.curves` take them."""

    what: str
    values: pd.DataFrame
    draw: Callable[[pd.DataFrame, str], Figure]
    limit: int
    lines: str


def _kinds(sweep: Sweep, title: str) -> list[Kind]:
    """What there is to draw of a notebook's records: its numbers, where something may change them, then its curves."""
    runs, numbers = (frame[frame.title == title] for frame in (sweep.runs, sweep.numbers))
    along = runs.scanned.iloc[0]
    numbers = numbers[numbers.place.map(_is_drawn).astype(bool)]
    names = [[step for step in place if isinstance(step, str)] for place in numbers.place]
    panels = [" · ".join([record, *steps]) for record, steps in zip(numbers.record, names, strict=True)]
    numbers = numbers.assign(panel=panels, line=numbers.setting)
    single, curves = numbers[numbers.x.isna()], numbers[numbers.x.notna()]
    if along:
        single = single.assign(line="", x=single.along)
    else:  # a record of several numbers is one panel; of a list of two the first is drawn, as its row says
        places = [" · ".join("1st" if isinstance(step, int) else step for step in place) for place in single.place]
        rows = [" · ".join(filter(None, pair)) for pair in zip(places, single.setting, strict=True)]
        single = single.assign(panel=single.record, line=rows).drop(columns="x")
    found = [
        Kind("numbers", single, partial(figures.curves, x=along) if along else figures.dots, figures.ROWS, "rows"),
        Kind("curves", curves, figures.curves, figures.LINES, "settings"),
    ]
    return [kind for kind in found if not kind.values.empty and (kind.what == "curves" or _cause(runs))]


def _over(runs: pd.DataFrame) -> str:
    seeds = runs.seed.nunique()
    return f"mean and 95% interval over {count(seeds, 'seed')}" if seeds > 1 else "one seed, so no interval"


def _cause(runs: pd.DataFrame) -> str:
    return "settings do" if runs.setting.nunique() > 1 else "seed does" if runs.seed.nunique() > 1 else ""


def _place(sweep: Sweep, title: str) -> str:
    """Where a notebook's figures stand on the page."""
    return f"records-{list(sweep.runs.title.unique()).index(title) + 1}"


def pictures(sweep: Sweep, title: str) -> list[HTML]:
    """The figures of a notebook's records: numbers by setting, or along the one number that varies; then curves."""
    runs = sweep.runs[sweep.runs.title == title]
    over, cause = _over(runs), _cause(runs)
    found = []
    for what, values, draw, limit, lines in _kinds(sweep, title):
        records, shape = values.panel.unique(), "Line and band" if "x" in values else "Seeds as dots"
        shown = values[values.panel.isin(records[: figures.PANELS])]
        words = f"What the {cause} to the {what} of {title}? {shape}, " if cause else f"The {what} of {title}: "
        words += over + _first(figures.PANELS, len(records), "records")
        words += _first(limit, shown.groupby("panel").line.nunique().max(), lines)
        said = _said(shown)
        name = f"{what}-{runs.stem.iloc[0]}"
        found.append(_picture(name, f"{words}. {said}.", shown, partial(draw, shown, words)))
    heading = HTML(pages.render("heading.html", name=_place(sweep, title), title=title))
    return [heading, *found] if found else []


def _picture(name: str, alt: str, content: pd.DataFrame, draw: Callable[[], Figure]) -> HTML:
    return HTML(pages.render("figure.html", src=quote(_drawn(name, alt, content, draw)), alt=alt))


def _drawn(name: str, words: str, content: pd.DataFrame, draw: Callable[[], Figure]) -> str:
    """The file of a figure, which is drawn only if one of the same content is not in the current folder yet."""
    file = Path(f"{name}-{_digest(_code(), words, content.to_json(default_handler=str))}.png")
    if not file.is_file():
        files.write(file, figures.png(draw()))
    return file.name


def _is_drawn(place: Place) -> bool:
    """Whether a number is the value itself: a second of a pair, or `half_width`, is its interval."""
    return place[-1:] not in NOT_DRAWN and all(step == 0 for step in place if isinstance(step, int))


def _first(shown: int, there: int, noun: str) -> str:
    return f" (the first {shown} of {there} {noun})" if shown < there else ""


def _said(values: pd.DataFrame) -> str:
    return "; ".join(f"{panel}: {_range(rows)}" for panel, rows in values.groupby("panel", sort=False))


def _range(values: pd.DataFrame) -> str:
    """What a panel shows, in words: all means of dots, the ends of the first curve."""
    if "x" not in values:
        means = values.groupby("line").value.mean()
        low, high = means.min(), means.max()
        return f"{low:.3g}" if low == high else f"means from {low:.3g} to {high:.3g}"
    line = values.line.iloc[0]
    means = values[values.line == line].groupby("x").value.mean()
    return f"{line}{', ' if line else ''}from {means.iloc[0]:.3g} to {means.iloc[-1]:.3g}"


def count(number: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# Pages


def _execute(notebook: NotebookNode) -> None:
    """Run the cells in this process, which has loaded all that they import. Raises what they raise."""
    mine = not InteractiveShell.initialized()
    quiet = Config(HistoryManager={"enabled": False})
    shell = InteractiveShell.instance(config=quiet, user_module=ModuleType("report"))
    shell.display_trap.hook = lambda value: None if value is None else display(value)  # of a cell's last line
    try:
        for number, cell in enumerate(notebooks.code_cells(notebook), 1):
            with capture_output() as captured:
                ran = shell.run_cell(cell.source)
            ran.raise_error()
            cell.outputs = [new_output("display_data", o.data, metadata=o.metadata or {}) for o in captured.outputs]
            cell.execution_count = number
    finally:
        if mine:
            InteractiveShell.clear_instance()


def _print(notebook: NotebookNode, title: str) -> str:
    """The executed notebook, which is changed, as a page without its code."""
    for cell in notebooks.code_cells(notebook):
        cell.metadata["transient"] = {"remove_source": True}
    article, _ = pages.article(notebook, {})
    return pages.render("report.html", title=title, article=article, made_from="sweep")


def _run_pages(sweep: Sweep, out: Path) -> None:
    """Write the page of each run that is not there yet; those with notebooks in several processes if they are many."""
    jobs, listed = [], {title: link("", runs).href for title, runs in sweep.runs.groupby("title")}
    for row in results.rows(sweep.runs):
        executed = out / row.executed if row.executed else None
        values = {
            "run": row.run,
            "heading": f"{row.title}: {which(row)}",
            "executed": quote(row.executed),
            "command": command(row.run),
            "listed": listed[row.title],
        }
        made_from = _digest(_code(), repr(values), executed.read_bytes() if executed else b"")
        if _made_from(out / row.page) != made_from:
            jobs.append((out / row.page, executed, values | {"made_from": made_from}))
    several = _processes() > 1 and sum(executed is not None for _, executed, _ in jobs) > FEW
    done = 0
    with (
        shown(lambda: f"{done} of {len(jobs)} pages"),
        ProcessPoolExecutor(_processes(), get_context("spawn")) if several else ThreadPoolExecutor(1) as pool,
    ):
        try:
            for ended in as_completed([pool.submit(_run_page, *job) for job in jobs]):
                ended.result()
                done += 1
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _processes() -> int:
    """How many may run at once here."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


def _run_page(page: Path, executed: Path | None, values: Mapping[str, Any]) -> None:
    article, css = pages.article(notebooks.load(executed), {}) if executed else (Markup(), Markup())
    # The notebook's headings stand below the page's own.
    lower = re.sub(r"(?<=<h|/h)[1-5](?=[\s>])", lambda level: str(int(level[0]) + 1), article)
    files.write(page, pages.render("run.html", **values, article=Markup(lower), css=css, text=text))


def _made_from(page: Path) -> str | None:
    """What a page of a report says it was made from; None for a file that is no such page."""
    with suppress(OSError, UnicodeDecodeError), page.open(encoding="utf-8") as file:
        if found := MADE.search(file.read(4000)):
            return found[1]
    return None


def _clear(out: Path, made: set[str], index: str) -> None:
    """Delete what an earlier report left here that this one has no use for; other files are left alone."""
    for path in out.glob("*.html"):
        if path.name not in made and _made_from(path):
            path.unlink()
    for path in out.glob("*.png"):
        if re.fullmatch(r".+-[0-9a-f]{16}", path.stem) and quote(path.name) not in index:
            path.unlink()


def _digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return total.hexdigest()[:16]


@cache
def _code() -> str:
    """A digest of what makes pages and figures: those made by other code are made again."""
    made_by = [HERE / "report.py", HERE / "figures.py", HERE / "templates", pages.TEMPLATES, Path(pages.__file__)]
    found = [file for path in made_by for file in ([path] if path.is_file() else sorted(path.rglob("*.*")))]
    return _digest(*(file.read_bytes() for file in found))
