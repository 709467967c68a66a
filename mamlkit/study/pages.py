"""The report as pages that need no network: one for each notebook, and an index with the ledger of claims."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter
from nbconvert.filters import clean_html
from nbformat import NotebookNode

from mamlkit.ledger import CLAIM, RECORD
from mamlkit.study import notebooks

# MathJax as files, less what the pages do not use: its other output formats, its menus in 60 languages, speech.
MATHJAX = (
    "MathJax.js",
    "LICENSE",
    "config",
    "extensions/TeX",
    "extensions/AssistiveMML.js",
    "fonts",
    "jax/element",
    "jax/input",
    "jax/output/HTML-CSS",
)
MATHJAX_SCRIPTS = """
<script>
MathJax = {
  jax: ["input/TeX", "output/HTML-CSS"],
  extensions: ["tex2jax.js", "AssistiveMML.js"],
  TeX: {extensions: ["AMSmath.js", "AMSsymbols.js", "noErrors.js", "noUndefined.js"]},
  tex2jax: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], processEscapes: true},
  "HTML-CSS": {availableFonts: [], preferredFont: null, webFont: "STIX-Web", imageFont: null},
  "fast-preview": {disabled: true}, showMathMenu: false, messageStyle: "none"
};
</script>
<script src="mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full"></script>
"""
WORDS = {
    "ok": "ran",
    "failed": "failed",
    "dead": "kernel died",
    "timeout": "ran out of time",
    "incomplete": "ended early",
}


def prepare(out: Path) -> None:
    """Make the report's folder, with MathJax's files in it. Raises OSError where it cannot be written."""
    out.mkdir(parents=True, exist_ok=True)
    source = Path(str(files("jupyter_server_mathjax"))) / "static"
    for name in MATHJAX:
        target = out / "mathjax" / name
        if (source / name).is_dir():
            shutil.copytree(source / name, target, dirs_exist_ok=True)
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, target)


def page(notebook: NotebookNode, name: str, titles: Mapping[str, str]) -> str:
    """The page of an executed notebook, which is changed; `titles` names the notebooks that have a page, in order."""
    body, style = article(notebook, titles)
    links = _neighbours(name, titles)
    above, below = (f'<nav aria-label="{place} the text">{links}</nav>' for place in ("Above", "Below"))
    text = f"{above}\n<main>{body}</main>\n{below}"
    return document(notebooks.title(notebook, name), text, style + MATHJAX_SCRIPTS)


def article(notebook: NotebookNode, titles: Mapping[str, str]) -> tuple[str, str]:
    """An executed notebook, which is changed, as HTML, and the style that it needs; `titles` as for `page`."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [shown for output in cell.outputs if (shown := _shown(output))]
    body, resources = _exporter().from_notebook_node(notebook)
    return _relinked(body, titles), f"<style>{' '.join(resources['inlining']['css'])}</style>"


@cache
def _exporter() -> HTMLExporter:
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True, exclude_output_prompt=True)
    # Runs of one notebook differ in a few cells; cleaning the others' HTML again would take half of the time.
    exporter.register_filter("clean_html", lru_cache(4096)(clean_html))
    return exporter


def _shown(output: NotebookNode) -> NotebookNode | None:
    """An output as the page shows it: claims and records as sentences, stderr without progress bars."""
    data = output.get("data", {})
    if CLAIM in data:
        kind = "holds" if data[CLAIM]["holds"] else "false"
        output["data"] = {"text/html": f'<p class="claim {kind}">{escape(data["text/plain"])}</p>'}
    elif RECORD in data:
        output["data"] = {"text/html": f'<p class="record">{escape(data["text/plain"])}</p>'}
    elif output.output_type == "stream" and output.name == "stderr":
        # A progress bar redraws its line after a carriage return; a warning does not.
        output["text"] = "\n".join(line for line in output.text.split("\n") if "\r" not in line).strip()
        return output if output.text else None
    return output


def _relinked(body: str, titles: Mapping[str, str]) -> str:
    """Links to notebooks lead to their pages; a link to one that has none becomes its text."""

    def link(found: re.Match[str]) -> str:
        name, anchor, text = found.groups()
        return f'<a href="{name}.html{anchor or ""}">{text}</a>' if name in titles else text

    return re.sub(
        r'<a href="(?!\w+:)([^"#]*)\.ipynb(#[^"]*)?">(.*?)</a>', lambda found: link(found), body, flags=re.DOTALL
    )


def _neighbours(name: str, titles: Mapping[str, str]) -> str:
    names = list(titles)
    place = names.index(name)
    before = f'<a rel="prev" href="{names[place - 1]}.html">← {escape(titles[names[place - 1]])}</a>' if place else ""
    after = (
        f'<a rel="next" href="{names[place + 1]}.html">{escape(titles[names[place + 1]])} →</a>'
        if place + 1 < len(names)
        else ""
    )
    return f'<span>{before}</span><a href="index.html">Report</a><span>{after}</span>'


def index(summary: Mapping[str, Any]) -> str:
    """The index of a report: which notebooks ran, the ledger of claims, the values on record, where it was computed."""
    results = summary["notebooks"]
    claims = [(result, claim) for result in results for claim in result["claims"]]
    broken = sum(not claim["holds"] for _, claim in claims)
    bad = sum(result["status"] != "ok" for result in results)
    ran = f"{len(results)} of {len(summary['planned'])} notebooks ran" + (f", {bad} did not succeed" if bad else "")
    held = f"{len(claims)} claims checked, {f'{broken} false' if broken else 'all hold'}"
    rows = {
        "Notebooks": table(
            ("Notebook", "Result", "Claims", "Seconds"),
            [_notebook_row(result) for result in results]
            + [(escape(name), "not run", "", "") for name in summary["planned"][len(results) :]],
        ),
        "Ledger of claims": table(
            ("Claim", "Holds"),
            [
                row
                for result in results
                for row in _group(
                    result, [(_at(result, c, c["claim"]), mark(c["holds"], "yes", "no")) for c in result["claims"]]
                )
            ],
        ),
        "Values on record": table(
            ("Name", "Value"),
            [
                row
                for result in results
                for row in _group(result, [(_at(result, v, v["name"]), _value(v["value"])) for v in result["records"]])
            ],
        ),
        "Where this was computed": table(("", ""), [(escape(k), _value(v)) for k, v in _flat(summary["provenance"])]),
    }
    sections = "\n".join(f"<section><h2>{name}</h2>{table}</section>" for name, table in rows.items() if table)
    kind = "false" if bad or broken else "holds"
    text = f'<main class="index"><h1>The study, run and checked</h1><p class="lead {kind}">{ran}. {held}.</p>'
    return document(
        "mamlkit report", f"{text}<p>{datetime.fromisoformat(summary['date']):%d %B %Y, %H:%M} UTC</p>{sections}</main>"
    )


def _notebook_row(result: Mapping[str, Any]) -> tuple[str, ...]:
    name, cell = result["notebook"], result["cell"]
    status = mark(result["status"] == "ok", WORDS["ok"], WORDS[result["status"]])
    if result["error"]:
        status += f'<p class="error">{f"cell {cell}: " if cell else ""}{escape(result["error"])}</p>'
    held = sum(claim["holds"] for claim in result["claims"])
    title = f'<a href="{name}.html">{escape(numbered(result))}</a>'
    return title, status, f"{held} of {len(result['claims'])}", f"{result['seconds']:.1f}"


def numbered(result: Mapping[str, Any]) -> str:
    """The title, after the number that the notebook's name has, unless the title begins with it."""
    number, title = result["notebook"][:2], str(result["title"])
    return f"{number} {title}" if number.isdecimal() and not title.startswith(number) else title


def mark(good: bool, yes: str, no: str) -> str:
    """A tick or a cross, with the word that goes with it."""
    return f'<span class="holds">✓ {yes}</span>' if good else f'<span class="false">✗ {no}</span>'


def _at(result: Mapping[str, Any], entry: Mapping[str, Any], text: str) -> str:
    """A text that leads to the cell of a claim or a record."""
    return f'<a href="{result["notebook"]}.html#cell-id={entry["cell"]}">{escape(text)}</a>'


def _group(result: Mapping[str, Any], rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows of one notebook, after a row with its title alone; nothing where there are none."""
    return [(escape(numbered(result)),), *rows] if rows else []


def _value(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
    return f"<code>{escape(text if len(text) <= 80 else text[:79] + '…')}</code>"


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        pair
        for key, value in values.items()
        for pair in (value.items() if isinstance(value, Mapping) else [(key.replace("_", " "), value)])
    ]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells; a row of one cell heads the rows after it. Nothing where there are no rows."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="rowgroup" colspan="{len(heads)}">{row[0]}</th></tr>'
        if len(row) == 1
        else "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if any(heads) else ''}<tbody>{body}</tbody></table>"


def document(title: str, body: str, head: str = "", style: str | None = None) -> str:
    """A whole page: its title as text, its body as HTML, and `style` in place of the pages' own, which it holds."""
    style = style or f"<style>{(files('mamlkit.study') / 'pages.css').read_text('utf-8')}</style>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
{style}
{head}
</head>
<body>
{body}
</body>
</html>
"""
