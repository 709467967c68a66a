"""What a notebook puts on record: claims that are checked, values that are kept, figures that can be read aloud."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

from mamlkit.extras import extra

with extra("ledger"):
    from IPython.display import display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

CLAIM = "application/vnd.mamlkit.claim+json"
RECORD = "application/vnd.mamlkit.record+json"
DPI = 120


class ClaimError(AssertionError):
    """A claim of a notebook that does not hold."""


def claim(text: str, ok: object) -> None:
    """Check a claim: put it on the notebook's ledger, and raise ClaimError if it is false.

    text  a sentence that could be false, the same on every run (no measured numbers in it)
    ok    anything with a truth value, a tensor or array of one element included; NaN counts as false

    Raises TypeError for a function, which would be true whatever it returns.
    """
    if callable(ok):
        raise TypeError(f"the claim {text!r} is given a {type(ok).__name__}, which is always true; call it")
    holds = bool(ok) and bool(ok == ok)  # NaN, which is true in Python, equals nothing, not even itself
    line = f"{'✓' if holds else '✗'} {text}"
    display({"text/plain": line, CLAIM: {"claim": text, "holds": holds}}, raw=True)
    if not holds:
        raise ClaimError(f"this claim does not hold: {text}")


def record(name: str, value: Any) -> None:
    """Put a value on record under a name: a number, a string, a truth value, or a list or dict of those.

    Tensors and arrays are stored as (nested) lists of numbers. The visible text rounds to four significant digits;
    the JSON keeps all of them. Raises TypeError for a value that JSON cannot hold.
    """

    def numbers(part: Any) -> Any:
        if hasattr(part, "tolist"):
            return part.tolist()
        raise TypeError(
            f"record {name!r} holds a {type(part).__name__}; use numbers, strings, or lists and dicts of them"
        )

    def read(text: str, digits: Callable[[str], float] = float) -> Any:  # JSON has no infinity and no NaN
        return json.loads(text, parse_float=digits, parse_constant=lambda word: str(float(word)))

    text = json.dumps(value, default=numbers)
    shown = read(text, lambda digits: float(f"{float(digits):.4g}"))
    display({"text/plain": f"{name} = {shown}", RECORD: {"name": name, "value": read(text)}}, raw=True)


def show(figure: Figure, alt: str) -> None:
    """Display a figure as a PNG, with `alt`, one sentence that says what it shows, as its text form.

    The sentence is what a screen reader reads and what the regression tests compare.
    """
    if not alt.strip():
        raise ValueError("the figure has no alt text; say in one sentence what it shows")
    drawn = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(drawn, format="png", dpi=DPI)
    display({"image/png": _small(drawn), "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)


def _small(picture: io.BytesIO) -> bytes:
    """The picture with 256 colours, which a figure hardly exceeds: a notebook is committed with its pictures."""
    small = io.BytesIO()  # Pillow leaves out the version of matplotlib, with which the bytes would change
    Image.open(picture).convert("RGB").quantize(256).save(small, "png", optimize=True)
    return small.getvalue()
