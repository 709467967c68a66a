"""HTML that the sweep's report still writes by hand; it goes when the report's pages are templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from nbformat import NotebookNode

from mamlkit.study import pages
from mamlkit.study.pages import WORDS as WORDS
from mamlkit.study.pages import numbered as numbered
from mamlkit.study.pages import prepare as prepare

MATHJAX_SCRIPTS = (files("mamlkit.study") / "templates" / "mathjax.html").read_text("utf-8")


def article(notebook: NotebookNode, titles: Mapping[str, str]) -> tuple[str, str]:
    """As in mamlkit.study.pages, the style as an element."""
    body, css = pages.article(notebook, titles)
    return str(body), f"<style>{css}</style>"


def mark(good: bool, yes: str, no: str) -> str:
    """A tick or a cross, with the word that goes with it."""
    return f'<span class="holds">✓ {yes}</span>' if good else f'<span class="false">✗ {no}</span>'


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
    style = style or f"<style>{(files('mamlkit.study') / 'templates' / 'pages.css').read_text('utf-8')}</style>"
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
