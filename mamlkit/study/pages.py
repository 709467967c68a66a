"""The report as pages that need no network: one for each notebook, and an index with its figures and its claims."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache, lru_cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters import clean_html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from mamlkit import files
from mamlkit.ledger import CLAIM, RECORD
from mamlkit.study import notebooks
from mamlkit.study.result import Status

# MathJax as files, less what the pages do not use: its other output formats, its menus in 60 languages, speech.
MATHJAX = ("MathJax.js", "LICENSE", "config", "extensions/TeX", "extensions/AssistiveMML.js", "fonts", "jax/element",
           "jax/input", "jax/output/HTML-CSS")  # fmt: skip
WORDS: dict[Status, str] = {"ok": "ran", "failed": "failed", "dead": "kernel died", "timeout": "ran out of time",
                            "incomplete": "ended early"}  # fmt: skip
TEMPLATES = Path(__file__).parent / "templates"
PNG = b"\x89PNG"
FRONT = "front"  # the tag of the cell whose figure stands for its notebook on the index
END = re.compile(r"^#+ What we now know", re.MULTILINE)  # after it come exercises
NOTEBOOK = re.compile(r"(?!\w+:)([^#]*)\.ipynb(#.*)?")  # a link to a notebook's file, in no other place than a folder


class Front(NamedTuple):
    """The figure that stands for a notebook: the id of its cell, its finding, which is its alt text, and the PNG."""

    cell: str
    alt: str
    png: bytes


def prepare(out: Path) -> None:
    """Put MathJax's files into the report's folder, where they are missing. Raises OSError where it cannot be."""
    home = Path(str(resources("jupyter_server_mathjax"))) / "static"
    for name in MATHJAX:
        for source in [home / name, *(home / name).rglob("*")]:
            target = out / "mathjax" / source.relative_to(home)
            if source.is_file() and not (target.is_file() and target.stat().st_size == source.stat().st_size):
                target.parent.mkdir(parents=True, exist_ok=True)
                # What a power cut leaves empty has another size, so that the next report brings it again.
                files.write(target, source.read_bytes(), synced=False)


def render(template: str, **values: Any) -> str:
    """A page from a template of the wings' folders; every value is escaped unless it is Markup.

    Raises jinja2.UndefinedError for a value that the template needs and does not get.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    folders = [TEMPLATES, *(TEMPLATES.parents[1] / wing / "templates" for wing in ("assignment", "sweeps"))]
    found = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["words"] = WORDS
    found.filters |= {"page": address, "numbered": numbered, "shortened": shortened, "picture": picture}
    return found


def page(notebook: NotebookNode, name: str, titles: Mapping[str, str]) -> str:
    """The page of an executed notebook, which is changed; `titles` names the notebooks that have a page, in order."""
    names = [None, *titles, None]
    before, after = (names[names.index(name) + step] for step in (-1, 1))
    body, css = article(notebook, titles)
    return render("page.html", name=name, titles=titles, before=before, after=after, article=body, css=css)


def article(notebook: NotebookNode, titles: Mapping[str, str]) -> tuple[Markup, Markup]:
    """An executed notebook, which is changed, as HTML, and the CSS that it needs; `titles` as for `page`."""
    for cell in notebooks.code_cells(notebook):
        cell.outputs = [output for output in cell.outputs if not _only_bars(output)]
    body, resources = _exporter().from_notebook_node(notebook, resources={"titles": titles})
    return Markup(body), Markup(" ".join(resources["inlining"]["css"]))


@cache
def _exporter() -> HTMLExporter:
    exporter = HTMLExporter(template_name="notebook", extra_template_basedirs=[str(TEMPLATES)])
    exporter.exclude_anchor_links = exporter.exclude_output_prompt = True
    exporter.environment.globals |= {"CLAIM": CLAIM, "RECORD": RECORD}
    exporter.register_filter("markdown2html", _markdown)
    # Runs of one notebook differ in a few cells; cleaning the others' HTML again would take half of the time.
    exporter.register_filter("clean_html", lru_cache(4096)(clean_html))
    return exporter


@pass_context
def _markdown(context: Context, source: str) -> str:
    renderer = _Renderer(escape=False, exclude_anchor_links=True, attachments=context["cell"].get("attachments", {}))
    renderer.titles = context["resources"]["titles"]
    return MarkdownWithMath(renderer=renderer).render(source)


class _Renderer(IPythonRenderer):
    """nbconvert's own, whose links to notebooks lead to their pages; a link to one without a page is its text."""

    titles: Mapping[str, str]

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if not (found := NOTEBOOK.fullmatch(url)):
            return str(super().link(text, url, title))
        name, anchor = unquote(found[1]).removeprefix("./"), found[2] or ""
        return str(super().link(text, address(name) + anchor, title)) if name in self.titles else text


def _only_bars(output: NotebookNode) -> bool:
    """Take the progress bars, which redraw a line after a carriage return, out of stderr; whether nothing is left."""
    if output.output_type != "stream" or output.name != "stderr":
        return False
    output.text = "\n".join(line for line in output.text.split("\n") if "\r" not in line).strip()
    return not output.text


def front(notebook: NotebookNode) -> Front | None:
    """The figure that stands for an executed notebook: its own choice, or else the last before "What we now know".

    A notebook chooses by the tag `front` on the cell that shows the figure. One without alt text, which has no finding,
    stands back behind the others. None where no figure is shown.
    """
    every = list(_figures(notebook))
    shown = [(place, figure) for place, figure in every if figure.alt] or every
    for place, figure in shown:
        if notebooks.tagged(notebook.cells[place], FRONT):
            return figure
    ends = (n for n, cell in enumerate(notebook.cells) if cell.cell_type == "markdown" and END.search(cell.source))
    end = next(ends, len(notebook.cells))
    figures = [figure for place, figure in shown if place < end] or [figure for _, figure in shown]
    return figures[-1] if figures else None


def _figures(notebook: NotebookNode) -> Iterator[tuple[int, Front]]:
    """The PNGs that cells display, each with the place of its cell; one that cannot be read is passed over."""
    for place, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            told = output.get("metadata", {}).get("image/png", {})
            alt = told.get("alt") if isinstance(told, dict) else None
            with suppress(KeyError, TypeError, ValueError):
                if (png := b64decode(output["data"]["image/png"])).startswith(PNG):
                    yield place, Front(cell.id, alt if isinstance(alt, str) else "", png)


def index(summary: Mapping[str, Any], fronts: Mapping[str, Front]) -> str:
    """The index of a report: what each notebook shows, its claims and values on record, where it was computed.

    `fronts` are the figures that stand for notebooks, by the notebook's name; `picture` names the file of each.
    """
    results = summary["notebooks"]
    holds = [claim["holds"] for result in results for claim in result["claims"]]
    return render(
        "index.html",
        results=results,
        fronts=fronts,
        waiting=summary["planned"][len(results) :],
        bad=sum(result["status"] != "ok" for result in results),
        checked=len(holds),
        broken=holds.count(False),
        date=f"{datetime.fromisoformat(summary['date']):%d %B %Y, %H:%M}",
        provenance=summary["provenance"],
    )


def file_name(notebook: str) -> str:
    """The name of a notebook's page. One called `index` may not take the index's, nor that of `index-notebook`."""
    return f"{notebook}-notebook.html" if notebook.lower().startswith("index") else f"{notebook}.html"


def address(notebook: str) -> str:
    """The page of a notebook as a link names it."""
    return quote(file_name(notebook))


def picture(notebook: str) -> str:
    """The file of the figure that stands for a notebook, as the index names it."""
    return quote(f"{notebook}.png")


def numbered(result: Mapping[str, Any]) -> str:
    """The title, after the number that the notebook's name has, unless the title begins with it."""
    number, title = result["notebook"][:2], str(result["title"])
    return f"{number} {title}" if number.isdecimal() and not title.startswith(number) else title


def shortened(value: Any) -> str:
    """A value as a page shows it: four significant digits, 80 characters."""
    text = _text(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _text(value: Any) -> str:
    """A value with its numbers rounded; lists and dicts within others are in brackets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_inner(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_inner, value))
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def _inner(value: Any) -> str:
    return f"[{_text(value)}]" if isinstance(value, Mapping | list | tuple) else _text(value)
