"""The report of a sweep: pages that need no network, tables and figures, from what its runs left in their folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from html import escape
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, get_args
from urllib.parse import quote

from tqdm import tqdm

from mamlkit import files
from mamlkit.figures.theme import theme
from mamlkit.statistics import wilson_interval
from mamlkit.study import notebooks
from mamlkit.study.notebooks import RefusedError
from mamlkit.study.progress import clock
from mamlkit.study.result import Status
from mamlkit.sweeps import figures, results
from mamlkit.sweeps import html as pages
from mamlkit.sweeps.figures import Curves, Dots, Rate
from mamlkit.sweeps.results import Plan, Sidecar

AT_A_GLANCE, ON_A_PAGE = 25, 500  # rows of a table on the index, and on any page
CLAIMS = 300  # rows of the index's table of claims
PANELS = 8  # of each figure
FAILURES = 10  # runs that are named beside a claim that fails
LONG = 2000  # characters of a value that are shown
FEW = 24  # pages with notebooks that one process makes: starting others takes as long
MADE = "made-from"
STYLE = '<link rel="stylesheet" href="report.css">'


class Scalar(NamedTuple):
    """A number that runs put on record: the record's name, and the number's place in it."""

    record: str
    place: tuple[int | str, ...]

    def __str__(self) -> str:
        return " · ".join([self.record, *map(str, self.place)])


@dataclass(frozen=True)
class Setting:
    """Runs of one notebook that differ in their seed alone.

    name     what sets it apart from the notebook's other settings, in words; empty where there is one setting
    link     to the list of its runs, or to its only run
    scalars  each number on record with its values, one a run
    curves   {x: values} of each curve on record: a list of 3 numbers or more, or a dict of as many numbers by number
    """

    name: str
    link: str
    runs: list[Sidecar]
    scalars: dict[Scalar, list[float]] = field(default_factory=dict)
    curves: dict[Scalar, dict[float, list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Book:
    """One version of a notebook with its runs.

    name   as in the names of its pages; title: of its first heading, and the version where there are several
    fixed  what the sweep set alike in every run
    """

    name: str
    title: str
    fixed: dict[str, Any]
    settings: list[Setting]

    @property
    def runs(self) -> list[Sidecar]:
        return [run for setting in self.settings for run in setting.runs]

    @property
    def page(self) -> str:
        return quote(f"notebook-{self.name}.html")

    def listing(self, number: int = 0) -> str:
        return quote(_listing(self.name, number))


def report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of the sweep in `folder` into `out` (default: report/ in it) and return its index.

    Only what changed is made again. The index is written last, so that it never leads to a page that is not there.

    Raises RefusedError for a folder that holds no sweep, files in it that are not whole, and an `out` that cannot be
    written.
    """
    out = folder / "report" if out is None else out
    runs, plan = results.read(folder), results.plan(folder)
    try:
        pages.prepare(out)
        results.write(results.tables(runs), out)
        return _write(folder, out, runs, plan)
    except OSError as error:
        raise RefusedError(f"the report cannot be written into {out}: {error}; choose another --out") from error


def _write(folder: Path, out: Path, runs: Sequence[Sidecar], plan: Plan | None) -> Path:
    theme()
    site = Site(folder, out)
    css = (resources.files("mamlkit.study") / "templates" / "pages.css").read_text("utf-8") + (
        resources.files("mamlkit.sweeps") / "report.css"
    ).read_text("utf-8")
    files.write(out / "report.css", css)
    books = _books(runs)
    _run_pages(site, books)
    claims = [_rates(book) for book in books]
    sections = []
    for book, rates in zip(books, claims, strict=True):
        drawn = _figures(site, book)
        rows = _effects(book)
        _notebook_page(site, book, rates, drawn, rows)
        _lists(site, book)
        sections.append((book, drawn, rows))
    _not_well(site, books)
    _index(site, plan, sections, claims)
    site.clear()
    return out / "index.html"


class Site:
    """The pages and pictures of a report as they are made, so that those of an earlier one can be cleared away."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out, self.home = folder, out, _relative(folder, out)
        self.made: set[str] = set()

    def executed(self, run: Sidecar) -> Path | None:
        """The executed notebook of a run; None where there is none in the folder."""
        path = self.folder / f"{run.notebook}-{run.key}.ipynb"
        return path if run.executed and path.is_file() else None

    def put(self, name: str, title: str, body: str) -> None:
        """Write a page."""
        self.made.add(name)
        files.write(self.out / name, _page(title, body, "site"))

    def picture(self, name: str, content: Any, draw: Callable[[], bytes]) -> str:
        """The name of a picture of this content, which is drawn only if it is not there yet."""
        file = f"{name}-{_digest(_code(), json.dumps(content, default=str))}.png"
        self.made.add(file)
        if not (self.out / file).is_file():
            picture = draw()
            files.write(self.out / file, picture)
        return file

    def clear(self) -> None:
        """Delete what an earlier report left here that this one has no use for; other files are left alone."""
        for path in [*self.out.glob("*.html"), *self.out.glob("*.png")]:
            ours = _made_from(path) if path.suffix == ".html" else re.fullmatch(r".+-[0-9a-f]{16}", path.stem)
            if path.name not in self.made and ours:
                path.unlink()


def _page(title: str, body: str, made_from: str, style: str = "") -> str:
    return pages.document(title, body, style, f'<meta name="{MADE}" content="{made_from}">\n{STYLE}')


def _made_from(path: Path) -> str | None:
    """What a page of a report says it was made from; None for a file that is no such page."""
    try:
        with path.open(encoding="utf-8") as file:
            found = re.search(rf'<meta name="{MADE}" content="(\w+)">', file.read(4000))
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None


def _digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return total.hexdigest()[:16]


@cache
def _code() -> str:
    """A digest of the code that makes pages: a page made by other code is made again."""
    here = [(resources.files("mamlkit.sweeps") / name).read_bytes() for name in ("report.py", "figures.py")]
    return _digest((resources.files("mamlkit.study") / "pages.py").read_bytes(), *here)


def _relative(folder: Path, out: Path) -> str:
    """The way from the report to the runs, as links write it."""
    return quote(Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix())


# Runs, ordered by notebook and setting


def _books(runs: Sequence[Sidecar]) -> list[Book]:
    found: dict[str, dict[str, list[Sidecar]]] = {}
    for run in runs:
        found.setdefault(run.notebook, {}).setdefault(json.dumps(run.identity, sort_keys=True), []).append(run)
    books = []
    for stem, versions in found.items():
        for identity, some in sorted(versions.items()):
            version = _digest(identity)[:8] if len(versions) > 1 else ""
            title = pages.numbered(asdict(some[0])) + (f", version {version}" if version else "")
            books.append(_book(f"{stem}-{version}" if version else stem, title, some))
    return books


def _book(name: str, title: str, runs: Sequence[Sidecar]) -> Book:
    groups: dict[str, list[Sidecar]] = {}
    for run in sorted(runs, key=lambda run: (results.order(_unseeded(run)), results.order(run.seed), run.key)):
        groups.setdefault(json.dumps(_unseeded(run), sort_keys=True), []).append(run)
    every = [_unseeded(group[0]) for group in groups.values()]
    fixed = {name: value for name, value in every[0].items() if all(given.get(name) == value for given in every)}
    settings, place = [], 0
    for given, group in zip(every, groups.values(), strict=True):
        words = ", ".join(_setting(name, given) for name in sorted({n for g in every for n in g} - fixed.keys()))
        anchor = f"{quote(_listing(name, place // ON_A_PAGE))}#{_anchor(words)}"
        link = anchor if len(group) > 1 else quote(_run_name(group[0]))
        settings.append(Setting(words, link, group, *_measures(group)))
        place += len(group)
    return Book(name, title, fixed, settings)


def _unseeded(run: Sidecar) -> dict[str, Any]:
    return {name: value for name, value in run.given.items() if name != "seed"}


def _setting(name: str, given: Mapping[str, Any]) -> str:
    return f"{name} {_text(given[name])}" if name in given else f"{name} as declared"


def _anchor(words: str) -> str:
    return f"s-{_digest(words)}"


def _listing(book: str, number: int) -> str:
    return f"runs-{book}{f'-{number + 1}' if number else ''}.html"


def _run_name(run: Sidecar) -> str:
    return f"run-{run.notebook}-{run.key}.html"


def _measures(
    runs: Sequence[Sidecar],
) -> tuple[dict[Scalar, list[float]], dict[Scalar, dict[float, list[float]]]]:
    scalars: dict[Scalar, list[float]] = {}
    curves: dict[Scalar, dict[float, list[float]]] = {}
    for run in runs:
        times: dict[str, int] = {}
        for record in run.records:
            name = record["name"]
            times[name] = times.get(name, 0) + 1
            named = name if times[name] == 1 else f"{name} ({times[name]})"
            for place, x, value in _parts(record["value"]):
                if x is None:
                    scalars.setdefault(Scalar(named, place), []).append(value)
                else:
                    curves.setdefault(Scalar(named, place), {}).setdefault(x, []).append(value)
    return scalars, curves


def _parts(
    value: Any, place: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], float | None, float]]:
    """The numbers of a record: place, x where they belong to a curve, value."""
    pairs = list(enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else [])
    along = [x for x, _ in pairs if _is_number(x)]
    if len(pairs) > 2 and len(along) == len(pairs):
        for x, item in pairs:
            for rest, leaf in results.leaves(item):
                if (number := results.number(leaf)) is not None:
                    yield (*place, *rest), float(x), number
    elif pairs:
        for step, item in pairs:
            yield from _parts(item, (*place, step))
    elif (number := results.number(None if isinstance(value, list | dict) else value)) is not None:
        yield place, None, number


def _is_number(x: int | str) -> bool:
    try:
        return math.isfinite(float(x))
    except ValueError:
        return False


def _rates(book: Book) -> dict[str, tuple[Rate, list[Sidecar]]]:
    """Each claim of a notebook with its rate and the runs in which it does not hold, in the order of the ledger."""
    checked: dict[str, dict[str, bool]] = {}
    for run in book.runs:
        for claim in run.claims:
            holds = checked.setdefault(claim["claim"], {})
            holds[run.key] = holds.get(run.key, True) and claim["holds"]
    by_key = {run.key: run for run in book.runs}
    return {
        claim: (
            Rate(claim, sum(holds.values()), len(holds)),
            [by_key[key] for key, held in holds.items() if not held],
        )
        for claim, holds in checked.items()
    }


# Pages of single runs


class Job(NamedTuple):
    """A run's page that is to be made; `executed` is the run's notebook, where it is there."""

    run: Sidecar
    executed: Path | None
    page: Path
    home: str
    heading: str
    links: str
    made_from: str


def _run_pages(site: Site, books: Sequence[Book]) -> None:
    """Write the page of each run that is not there yet; those with notebooks in several processes if they are many."""
    jobs = [_job(site, book, setting, run) for book in books for setting in book.settings for run in setting.runs]
    site.made |= {job.page.name for job in jobs}
    jobs = [job for job in jobs if _made_from(job.page) != job.made_from]
    heavy = [job for job in jobs if job.executed]
    processes = _processes()
    several = processes > 1 and len(heavy) > FEW
    with tqdm(desc="pages", unit="page", total=len(jobs), disable=None, leave=False) as progress:
        for job in jobs:
            if not (several and job.executed):
                _run_page(job)
                progress.update()
        if several:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
                try:
                    for done in as_completed([pool.submit(_run_page, job) for job in heavy]):
                        done.result()
                        progress.update()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise


def _processes() -> int:
    """How many may run at once here."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


def _job(site: Site, book: Book, setting: Setting, run: Sidecar) -> Job:
    executed = site.executed(run)
    listed = setting.link if len(setting.runs) > 1 else book.listing()
    links, heading = _nav((book.page, book.title), (listed, "Its runs")), _full_name(book, setting, run)
    content = executed.read_bytes() if executed else b""
    made_from = _digest(_code(), json.dumps(asdict(run)), content, site.home, heading, links)
    return Job(run, executed, site.out / _run_name(run), site.home, heading, links, made_from)


def _run_page(job: Job) -> None:
    run = job.run
    body = [f"<h1>{escape(job.heading)}</h1>", f'<p class="lead">{_status(run)}</p>', "<h2>Run it again</h2>"]
    body.append(f'<pre class="command"><code>{escape(command(run))}</code></pre>')
    if job.executed:
        body.append(f'<p><a href="{_href(run, job.home)}">The executed notebook</a>, to open in JupyterLab</p>')
    elif run.executed:
        body.append("<p>Its executed notebook is not in this folder; the command above makes it again.</p>")
    else:
        body.append("<p>It left no executed notebook.</p>")
    rows = [
        (escape(name), _code_text(value), "the sweep" if name in run.given else "the notebook")
        for name, value in sorted(run.parameters.items())
    ]
    body.append(f"<h2>Parameters</h2>{pages.table(('Parameter', 'Value', 'From'), rows) or '<p>It declares none.</p>'}")
    facts = {
        "started (UTC)": run.started,
        "seconds": run.seconds,
        "peak memory, bytes": run.peak_bytes,
        "attempts": run.attempts,
        "key": run.key,
        **{f"version of the {name}": value for name, value in run.identity.items()},
        **dict(_flat(run.provenance)),
    }
    where = f'<h2>Where and when</h2><div class="facts">{_facts(facts)}</div>'
    style = ""
    if job.executed:
        text, style = pages.article(notebooks.load(job.executed), {})
        # The notebook's headings stand below the page's own.
        text = re.sub(r"<(/?)h([1-5])(?=[\s>])", lambda found: f"<{found[1]}h{int(found[2]) + 1}", text)
        style += pages.MATHJAX_SCRIPTS
        body += [f'<article aria-label="The executed notebook">{text}</article>', where]
    else:
        body += [_ledger(run), where]
    main = f'{job.links}<main class="sweep">{"".join(body)}</main>'
    files.write(job.page, _page(job.heading, main, job.made_from, style))


def command(run: Sidecar) -> str:
    """The one command that computes a run again."""
    parts = ["python", "-m", "mamlkit", "run", run.notebook]
    for name, value in run.given.items():
        parts += ["-p", name, value if isinstance(value, str) else repr(value)]
    threads = run.provenance.get("threads")
    return (f"OMP_NUM_THREADS={threads} " if isinstance(threads, int) else "") + shlex.join(parts)


def _ledger(run: Sidecar) -> str:
    claims = [(escape(claim["claim"]), pages.mark(claim["holds"], "yes", "no")) for claim in run.claims]
    records = [(escape(record["name"]), _code_text(record["value"])) for record in run.records]
    return "".join(
        f"<h2>{head}</h2>{pages.table(columns, rows) or '<p>It came to none.</p>'}"
        for head, columns, rows in (
            ("Claims", ("Claim", "Holds"), claims),
            ("Values on record", ("Name", "Value"), records),
        )
    )


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        yield from _flat(value) if isinstance(value, dict) else [(name.replace("_", " "), value)]


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_code_text(value)}</td></tr>' for name, value in facts.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


# Pages of notebooks and lists of runs


def _notebook_page(
    site: Site, book: Book, rates: Mapping[str, tuple[Rate, list[Sidecar]]], drawn: str, effects: list[tuple[str, ...]]
) -> None:
    runs = book.runs
    well = sum(run.status == "ok" for run in runs)
    seeds = {json.dumps(run.seed) for run in runs}
    lead = (
        f"{well} of {len(runs)} runs went well: {_count(len(book.settings), 'setting')}, {_count(len(seeds), 'seed')}"
    )
    fixed = (
        f"<p>In every run: {escape(', '.join(_setting(n, book.fixed) for n in book.fixed))}.</p>" if book.fixed else ""
    )
    body = (
        f'<h1>{escape(book.title)}</h1><p class="lead">{lead}</p>{fixed}<p><a href="{book.listing()}">All runs</a></p>'
    )
    which = {run.key: _which(setting, run) for setting in book.settings for run in setting.runs}
    rows = []
    for number, (rate, failing) in enumerate(rates.values()):
        named = "; ".join(
            f'<a href="{quote(_run_name(run))}">{escape(which[run.key] or run.key)}</a>' for run in failing[:FAILURES]
        )
        more = f" and {len(failing) - FAILURES} more" if len(failing) > FAILURES else ""
        claim = f'<span id="c-{number}">{escape(rate.claim)}</span>'
        rows.append((claim, named + more or "–", f'<a href="{book.listing()}">{_held(rate)}</a>', _rate_interval(rate)))
    table = _numbers(("Claim", "Fails in", "Held", "95% interval"), rows, 2) or "<p>No run checked a claim.</p>"
    body += f"<section><h2>Claims</h2>{table}</section>"
    body += f"<section><h2>Records</h2>{drawn}{_effects_table(effects, ON_A_PAGE, '')}</section>"
    settings = [
        (
            f'<a href="{setting.link}">{escape(setting.name or "as declared")}</a>',
            str(len(setting.runs)),
            _well(setting.runs),
            clock(median(run.seconds for run in setting.runs)),
        )
        for setting in book.settings[:ON_A_PAGE]
    ]
    heads = ("Setting", "Runs", "Went well", "Median time")
    more = _more(len(book.settings), ON_A_PAGE, "settings", book.listing(), "in the list of runs")
    body += f"<section><h2>Settings</h2>{_numbers(heads, settings, 3)}{more}</section>"
    site.put(f"notebook-{book.name}.html", book.title, f'{_nav()}<main class="sweep">{body}</main>')


def _lists(site: Site, book: Book) -> None:
    """The runs of a notebook, setting by setting, on as many pages as they need."""
    rows: list[list[tuple[str, ...]]] = []
    for setting in book.settings:
        head = (f'<span id="{_anchor(setting.name)}">{escape(setting.name or "as declared")}</span>',)
        for number, run in enumerate(setting.runs):
            again = len(rows) % ON_A_PAGE == 0 and number > 0
            repeated = (f"{escape(setting.name or 'as declared')}, continued",)
            rows.append([*([head] if number == 0 else [repeated] if again else []), _listed(site, run)])
    parts = [rows[start : start + ON_A_PAGE] for start in range(0, len(rows), ON_A_PAGE)]
    for number, part in enumerate(parts):
        table = f'<div class="runs">{_listing_table([row for block in part for row in block])}</div>'
        title = f"Runs of {book.title}" + (f", page {number + 1} of {len(parts)}" if len(parts) > 1 else "")
        others = [
            (book.listing(other), word)
            for other, word in ((number - 1, "Page before"), (number + 1, "Next page"))
            if 0 <= other < len(parts)
        ]
        body = f'{_nav((book.page, book.title), *others)}<main class="sweep"><h1>{escape(title)}</h1>{table}</main>'
        site.put(_listing(book.name, number), title, body)


def _listing_table(rows: Sequence[tuple[str, ...]]) -> str:
    return f'<div class="listed">{pages.table(("Run", "Result", "Claims", "Time", "Executed notebook"), rows)}</div>'


def _listed(site: Site, run: Sidecar, name: str = "") -> tuple[str, ...]:
    held = sum(claim["holds"] for claim in run.claims)
    executed = f'<a href="{_href(run, site.home)}">notebook</a>' if site.executed(run) else "not here"
    link = f'<a href="{quote(_run_name(run))}">{escape(name or _seed(run) or run.key)}</a>'
    return link, _status(run), f"{held} of {len(run.claims)}", clock(run.seconds), executed


def _not_well(site: Site, books: Sequence[Book]) -> None:
    """Every run that did not go well, on as many pages as they need; none where all did."""
    rows = _bad(site, books)
    parts = [rows[start : start + ON_A_PAGE] for start in range(0, len(rows), ON_A_PAGE)]
    for number, part in enumerate(parts):
        title = "Runs that did not go well" + (f", page {number + 1} of {len(parts)}" if len(parts) > 1 else "")
        others = [
            (f"not-well-{other + 1}.html", word)
            for other, word in ((number - 1, "Page before"), (number + 1, "Next page"))
            if 0 <= other < len(parts)
        ]
        table = _listing_table(part)
        body = f'{_nav(*others)}<main class="sweep"><h1>{title}</h1>{table}</main>'
        site.put(f"not-well-{number + 1}.html", title, body)


def _bad(site: Site, books: Sequence[Book]) -> list[tuple[str, ...]]:
    return [
        _listed(site, run, _full_name(book, setting, run))
        for book in books
        for setting in book.settings
        for run in setting.runs
        if run.status != "ok"
    ]


# The index


def _index(
    site: Site,
    plan: Plan | None,
    sections: Sequence[tuple[Book, str, list[tuple[str, ...]]]],
    claims: Sequence[Mapping[str, tuple[Rate, list[Sidecar]]]],
) -> None:
    books = [book for book, *_ in sections]
    runs = [run for book in books for run in book.runs]
    done = {run.key for run in runs}
    waiting = [run for run in (plan.planned if plan else []) if run["key"] not in done]
    name = plan.name if plan else site.folder.resolve().name
    counts = {status: sum(run.status == status for run in runs) for status in get_args(Status)}
    said = [f"{counts['ok']} of {_count(len(runs), 'run')} went well"]
    said += [f"{number} {pages.WORDS[status]}" for status, number in counts.items() if number and status != "ok"]
    said += [f"{len(waiting)} planned and not run yet"] if waiting else []
    every = [rate for rates in claims for rate, _ in rates.values()]
    broken = sum(rate.held < rate.runs for rate in every)
    held = f"{_count(len(every), 'claim')} checked: " + (
        f"{broken} did not hold in every run" if broken else "all held in every run"
    )
    kind = "holds" if counts["ok"] == len(runs) and not broken else "false"
    tables = ", ".join(
        f'{table} (<a href="{table}.csv">CSV</a>, <a href="{table}.parquet">Parquet</a>)'
        for table in results.Tables._fields
    )
    parts = [
        _bad_section(_bad(site, books)),
        _waiting_section(waiting),
        _notebooks_section(books),
        _claims_section(site, books, claims),
        _effects_section(sections),
    ]
    body = f'<h1>Sweep {escape(name)}</h1><p class="lead {kind}">{"; ".join(said)}.</p><p>{held}. Tables: {tables}.</p>'
    found = re.findall(r'<section id="([\w-]+)"><h2>([^<]+)', "".join(parts))
    contents = " · ".join(f'<a href="#{anchor}">{words}</a>' for anchor, words in found)
    body += f'<nav class="contents" aria-label="On this page">{contents}</nav>{"".join(parts)}'
    title = f"Sweep {name}"
    site.put("index.html", title, f'<main class="sweep">{body}</main>')


def _bad_section(rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    table = _listing_table(rows[:AT_A_GLANCE])
    more = _more(len(rows), AT_A_GLANCE, "runs", "not-well-1.html", "in the list of all of them")
    return f'<section id="not-well"><h2>What did not go well</h2>{table}{more}</section>'


def _waiting_section(waiting: Sequence[Mapping[str, Any]]) -> str:
    if not waiting:
        return ""
    rows = [
        (escape(str(run["notebook"])), escape(", ".join(_setting(name, run["given"]) for name in run["given"])))
        for run in waiting[:ON_A_PAGE]
    ]
    more = f"<p>And {len(waiting) - ON_A_PAGE} more.</p>" if len(waiting) > ON_A_PAGE else ""
    table = f"{pages.table(('Notebook', 'Given'), rows)}{more}"
    summary = f"<summary>{_count(len(waiting), 'run')}: start the sweep again, and it goes on with them</summary>"
    body = f"<details>{summary}{table}</details>"
    return f'<section id="planned"><h2>Planned and not run yet</h2>{body}</section>'


def _notebooks_section(books: Sequence[Book]) -> str:
    rows = []
    for book in books:
        held = sum(claim["holds"] for run in book.runs for claim in run.claims)
        checked = sum(len(run.claims) for run in book.runs)
        link = book.listing()
        rows.append(
            (
                f'<a href="{book.page}">{escape(book.title)}</a>',
                f'<a href="{book.page}">{len(book.settings)}</a>',
                f'<a href="{link}">{_well(book.runs)}</a>',
                f'<a href="{link}">{held:,} of {checked:,}</a>',
                f'<a href="{link}">{clock(median(run.seconds for run in book.runs))}</a>',
            )
        )
    heads = ("Notebook", "Settings", "Runs that went well", "Checks of claims that held", "Median time")
    return f'<section id="notebooks"><h2>Notebooks</h2>{_numbers(heads, rows, 4)}</section>'


def _claims_section(
    site: Site, books: Sequence[Book], claims: Sequence[Mapping[str, tuple[Rate, list[Sidecar]]]]
) -> str:
    every = [
        (book, number, rate)
        for book, rates in zip(books, claims, strict=True)
        for number, (rate, _) in enumerate(rates.values())
    ]
    every.sort(key=lambda entry: entry[2].held / entry[2].runs)
    broken = [rate for _, _, rate in every if rate.held < rate.runs]
    picture = ""
    if broken:
        lowest = broken[: figures.RATES]
        title = f"{len(broken)} of {_count(len(every), 'claim')} did not hold in every run"
        title += f"; the {len(lowest)} that held least" if len(lowest) < len(broken) else ""
        file = site.picture("claims", [title, lowest], lambda: figures.png(figures.pass_rates(lowest, title)))
        said = "; ".join(f"{rate.claim}: {rate.held} of {rate.runs}" for rate in lowest)
        picture = _figure(file, f"{title}, with 95% intervals. {said}.")
    rows = [
        (
            escape(rate.claim),
            escape(book.title),
            f'<a href="{book.page}#c-{number}">{_held(rate)}</a>',
            _rate_interval(rate),
        )
        for book, number, rate in every[:CLAIMS]
    ]
    note = (
        "Of the runs that came to the claim; those that ended before it are not counted. Wilson's interval, "
        "which says what more seeds may still show."
    )
    heads = ("Claim", "Notebook", "Held", "95% interval")
    first = _numbers(heads, rows[: len(broken)], 2)
    rest = _numbers(heads, rows[len(broken) :], 2)
    if rest:
        held = f"{_count(len(every) - len(broken), 'claim')} held in every run that came to it"
        rest = f"<details><summary>{held}</summary>{rest}</details>"
    more = _more(len(every), CLAIMS, "claims, which held most", "", "on the notebooks' pages")
    found = f"{picture}{first}{rest}{more}" if every else "<p>No run checked a claim.</p>"
    return f'<section id="claims"><h2>Claims</h2><p class="note">{note}</p>{found}</section>'


def _effects_section(sections: Sequence[tuple[Book, str, list[tuple[str, ...]]]]) -> str:
    note = (
        "Mean over seeds of what the notebooks put on record, with Student's 95% interval for that mean. A run that "
        "ended early counts for the records it came to. Each mean leads to its runs."
    )
    parts = [
        f"<h3>{escape(book.title)}</h3>{drawn}{_effects_table(rows, AT_A_GLANCE, book.page)}"
        for book, drawn, rows in sections
        if rows or drawn
    ]
    if not parts:
        return ""
    return f'<section id="records"><h2>Records</h2><p class="note">{note}</p>{"".join(parts)}</section>'


def _effects(book: Book) -> list[tuple[str, ...]]:
    """A row for each number on record and setting, under a row for each record."""
    keys = list(dict.fromkeys(key for setting in book.settings for key in setting.scalars))
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(key.record for key in keys):
        found = [
            (" · ".join(filter(None, [*map(str, key.place), setting.name])), *_mean(values, setting.link))
            for key in keys
            for setting in book.settings
            if key.record == name and (values := setting.scalars.get(key))
        ]
        alone = len(found) == 1
        rows += [] if alone else [(escape(name),)]
        rows += [(escape(f"{name} · {words}".removesuffix(" · ") if alone else words), *rest) for words, *rest in found]
    return rows


def _mean(values: Sequence[float], link: str) -> tuple[str, str, str]:
    mean = sum(values) / len(values)
    if interval := figures.spread(values):
        between = f"{interval.low:.4g} to {interval.high:.4g}"
    elif len(values) == 1:
        between = "one seed"
    else:
        between = f"{sum(not math.isfinite(value) for value in values)} not finite"
    return f'<a href="{link}">{mean:.4g}</a>', between, str(len(values))


def _effects_table(rows: list[tuple[str, ...]], limit: int, page: str) -> str:
    if not rows:
        return "<p>No single number was put on record.</p>"
    table = _numbers(("Record, by setting", "Mean", "95% interval", "n"), rows[:limit], 3)
    if len(rows) <= limit:
        more = ""
    elif page:
        more = _more(len(rows), limit, "rows", page, "on the notebook's page")
    else:
        more = _more(len(rows), limit, "rows", "records.csv", "in the table of records, run by run")
    return f"{table}{more}"


# Figures


def _figures(site: Site, book: Book) -> str:
    """The figures of a notebook's records as HTML: numbers by setting, then curves."""
    seeds = len({json.dumps(run.seed) for run in book.runs})
    over = f"mean and 95% interval over {_count(seeds, 'seed')}" if seeds > 1 else "one seed, so no interval"
    cause = "settings do" if len(book.settings) > 1 else "seed does" if seeds > 1 else ""
    drawn = []

    def words(what: str, drawn_as: str) -> str:
        asked = f"What the {cause} to the {what} of {book.title}? {drawn_as}, " if cause else ""
        return f"{asked or f'The {what} of {book.title}: '}{over}"

    if along := _along(book):
        scanned = _scanned(book, along)
        title = words("numbers", "Line and band") + _first(PANELS, len(scanned), "records")
        file = site.picture(
            f"numbers-{book.name}",
            [title, scanned[:PANELS]],
            lambda: figures.png(figures.curves(scanned[:PANELS], title)),
        )
        drawn.append(_figure(quote(file), f"{title}. {'; '.join(_ends(panel) for panel in scanned[:PANELS])}."))
    elif (panels := _dots(book)) and cause:
        shown, rows = panels[:PANELS], max(len(panel.rows) for panel in panels[:PANELS])
        title = words("numbers", "Seeds as dots")
        title += _first(len(shown), len(panels), "records") + _first(figures.ROWS, rows, "rows")
        file = site.picture(f"numbers-{book.name}", [title, shown], lambda: figures.png(figures.dots(shown, title)))
        said = "; ".join(f"{panel.title}: {_range(panel)}" for panel in shown)
        drawn.append(_figure(quote(file), f"{title}. {said}."))
    if lines := _curves(book):
        few, text = lines[:PANELS], words("curves", "Line and band")
        text += _first(len(few), len(lines), "records") + _first(figures.LINES, len(book.settings), "settings")
        file = site.picture(f"curves-{book.name}", [text, few], lambda: figures.png(figures.curves(few, text)))
        drawn.append(_figure(quote(file), f"{text}. {'; '.join(_ends(panel) for panel in few)}."))
    return "".join(drawn)


def _first(shown: int, there: int, noun: str) -> str:
    return f" (the first {shown} of {there} {noun})" if shown < there else ""


def _dots(book: Book) -> list[Dots]:
    """A panel for each record of single numbers; of a list of two the first, and its row says so."""
    panels: dict[str, dict[str, Sequence[float]]] = {}
    for key in dict.fromkeys(key for setting in book.settings for key in setting.scalars):
        if not _is_drawn(key):
            continue
        for setting in book.settings:
            if values := setting.scalars.get(key):
                names = [step if isinstance(step, str) else "1st" for step in key.place]
                panels.setdefault(key.record, {})[" · ".join(filter(None, [*names, setting.name]))] = values
    return [Dots(name, rows) for name, rows in panels.items()]


def _along(book: Book) -> str:
    """The one parameter that varies, if it is a number with more values than dots have rows; else nothing."""
    varied = {name for setting in book.settings for name in _unseeded(setting.runs[0])} - book.fixed.keys()
    values = [setting.runs[0].given.get(name) for name in varied for setting in book.settings]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return "".join(varied) if len(varied) == 1 and numbers and len(book.settings) > figures.ROWS else ""


def _scanned(book: Book, along: str) -> list[Curves]:
    """A panel for each number on record, drawn along a parameter."""
    panels: dict[str, dict[float, Sequence[float]]] = {}
    for setting in book.settings:
        for key, values in setting.scalars.items():
            if _is_drawn(key):
                panels.setdefault(str(key), {})[setting.runs[0].given[along]] = values
    return [Curves(name, along, {"": line}) for name, line in panels.items()]


def _curves(book: Book) -> list[Curves]:
    panels: dict[Scalar, dict[str, Mapping[float, Sequence[float]]]] = {}
    for key in dict.fromkeys(key for setting in book.settings for key in setting.curves):
        if not _is_drawn(key):
            continue
        for setting in book.settings:
            if line := setting.curves.get(key):
                panels.setdefault(key, {})[setting.name] = line
    return [
        Curves(" · ".join([key.record, *(step for step in key.place if isinstance(step, str))]), "", lines)
        for key, lines in panels.items()
    ]


def _is_drawn(key: Scalar) -> bool:
    """Whether a number is the value itself: a second of a pair, or `half_width`, is its interval."""
    return key.place[-1:] not in (("ci95",), ("half_width",), ("tasks",)) and all(
        step == 0 for step in key.place if type(step) is int
    )


def _range(panel: Dots) -> str:
    means = [sum(values) / len(values) for values in panel.rows.values()]
    low, high = min(means), max(means)
    return f"{low:.3g}" if low == high else f"means from {low:.3g} to {high:.3g}"


def _ends(panel: Curves) -> str:
    name, line = next(iter(panel.lines.items()))
    first, last = (sum(line[x]) / len(line[x]) for x in (min(line), max(line)))
    return f"{panel.title}{f', {name}' if name else ''}: from {first:.3g} to {last:.3g}"


def _figure(file: str, alt: str) -> str:
    return f'<figure><img src="{file}" alt="{escape(alt)}"></figure>'


# Words


def _nav(*links: tuple[str, str]) -> str:
    parts = [("index.html", "Sweep"), *links]
    anchors = "".join(f'<span><a href="{target}">{escape(text)}</a></span>' for target, text in parts)
    return f'<nav class="sweep-nav" aria-label="Report">{anchors}</nav>'


def _status(run: Sidecar) -> str:
    status = pages.mark(run.status == "ok", pages.WORDS["ok"], pages.WORDS[run.status])
    if not run.error:
        return status
    place = f"cell {run.cell}: " if run.cell else ""
    return f'{status} <span class="error">{place}{escape(_cut(run.error))}</span>'


def _href(run: Sidecar, home: str) -> str:
    return f"{home}/{quote(f'{run.notebook}-{run.key}.ipynb')}"


def _seed(run: Sidecar) -> str:
    return "" if run.seed is None else f"seed {_text(run.seed)}"


def _full_name(book: Book, setting: Setting, run: Sidecar) -> str:
    which = _which(setting, run)
    return f"{book.title}: {which}" if which else book.title


def _which(setting: Setting, run: Sidecar) -> str:
    return ", ".join(filter(None, [_seed(run), setting.name]))


def _held(rate: Rate) -> str:
    text = f"{rate.held:,} of {rate.runs:,}"
    return text if rate.held == rate.runs else f'<span class="false">{text}</span>'


def _rate_interval(rate: Rate) -> str:
    interval = wilson_interval(rate.held, rate.runs)
    digits = 0 if rate.runs < 100 else 1
    return f"{interval.low:.{digits}%} to {interval.high:.{digits}%}"


def _well(runs: Sequence[Sidecar]) -> str:
    return f"{sum(run.status == 'ok' for run in runs):,} of {len(runs):,}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _numbers(heads: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> str:
    """A table whose last columns hold numbers; nothing where there are no rows."""
    table = pages.table(heads, rows)
    return f'<div class="numbers last-{columns}">{table}</div>' if table else ""


def _more(there: int, shown: int, noun: str, link: str, place: str) -> str:
    if there <= shown:
        return ""
    where = f'<a href="{link}">{place}</a>' if link else place
    return f"<p>{there - shown:,} more {noun} are {where}.</p>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _code_text(value: Any) -> str:
    return f"<code>{escape(_cut('none' if value is None else _text(value)))}</code>"


def _cut(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG]} … ({len(text) - LONG:,} characters more)"
