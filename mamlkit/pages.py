"""The report as pages that need no network: one for each notebook, and an index with the ledger of claims."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter
from nbformat import NotebookNode

from mamlkit import notebooks
from mamlkit.report.ledger import CLAIM, RECORD

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
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [shown for output in cell.outputs if (shown := _shown(output))]
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True, exclude_output_prompt=True)
    body, resources = exporter.from_notebook_node(notebook)
    links = _neighbours(name, titles)
    style = f"<style>{' '.join(resources['inlining']['css'])}</style>"
    text = f"{links}\n<main>{_relinked(body, titles)}</main>\n{links}"
    return _document(notebooks.title(notebook, name), text, style + MATHJAX_SCRIPTS)


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
    return f'<nav><span>{before}</span><a href="index.html">Report</a><span>{after}</span></nav>'


def index(summary: Mapping[str, Any]) -> str:
    """The index of a report: which notebooks ran, the ledger of claims, the values on record, where it was computed."""
    results = summary["notebooks"]
    claims = [(result, claim) for result in results for claim in result["claims"]]
    broken = sum(not claim["holds"] for _, claim in claims)
    bad = sum(result["status"] != "ok" for result in results)
    ran = f"{len(results)} of {len(summary['planned'])} notebooks ran" + (f", {bad} did not succeed" if bad else "")
    held = f"{len(claims)} claims checked, {f'{broken} false' if broken else 'all hold'}"
    rows = {
        "Notebooks": _table(
            ("Notebook", "Result", "Claims", "Seconds"),
            [_notebook_row(result) for result in results]
            + [(escape(name), "not run", "", "") for name in summary["planned"][len(results) :]],
        ),
        "Ledger of claims": _table(
            ("Claim", "Holds", "Notebook"),
            [(escape(c["claim"]), _mark(c["holds"], "yes", "no"), _cell_link(r, c)) for r, c in claims],
        ),
        "Values on record": _table(
            ("Name", "Value", "Notebook"),
            [(escape(v["name"]), _value(v["value"]), _cell_link(r, v)) for r in results for v in r["records"]],
        ),
        "Where this was computed": _table(("", ""), [(escape(k), _value(v)) for k, v in _flat(summary["provenance"])]),
    }
    sections = "\n".join(f"<section><h2>{name}</h2>{table}</section>" for name, table in rows.items() if table)
    kind = "false" if bad or broken else "holds"
    text = f'<main class="index"><h1>The study, run and checked</h1><p class="lead {kind}">{ran}. {held}.</p>'
    return _document(
        "mamlkit report", f"{text}<p>{datetime.fromisoformat(summary['date']):%d %B %Y, %H:%M} UTC</p>{sections}</main>"
    )


def _notebook_row(result: Mapping[str, Any]) -> tuple[str, ...]:
    name, cell = result["notebook"], result["cell"]
    status = _mark(result["status"] == "ok", WORDS["ok"], WORDS[result["status"]])
    if result["error"]:
        status += f'<p class="error">{f"cell {cell}: " if cell else ""}{escape(result["error"])}</p>'
    held = sum(claim["holds"] for claim in result["claims"])
    title = f'<a href="{name}.html">{escape(_numbered(result))}</a>'
    return title, status, f"{held} of {len(result['claims'])}", f"{result['seconds']:.1f}"


def _numbered(result: Mapping[str, Any]) -> str:
    """The title, after the number that the notebook's name has, unless the title begins with it."""
    number, title = result["notebook"][:2], str(result["title"])
    return f"{number} {title}" if number.isdecimal() and not title.startswith(number) else title


def _mark(good: bool, yes: str, no: str) -> str:
    return f'<span class="holds">✓ {yes}</span>' if good else f'<span class="false">✗ {no}</span>'


def _cell_link(result: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    return f'<a href="{result["notebook"]}.html#cell-id={entry["cell"]}">{escape(result["notebook"])}</a>'


def _value(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
    return f"<code>{escape(text if len(text) <= 80 else text[:79] + '…')}</code>"


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        pair
        for key, value in values.items()
        for pair in (value.items() if isinstance(value, Mapping) else [(key.replace("_", " "), value)])
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells; nothing where there are no rows."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if any(heads) else ''}<tbody>{body}</tbody></table>"


def _document(title: str, body: str, head: str = "") -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{(files("mamlkit") / "pages.css").read_text("utf-8")}</style>
{head}
</head>
<body>
{body}
</body>
</html>
"""
