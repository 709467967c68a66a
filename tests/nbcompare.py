"""How the committed notebooks are compared with what they compute now.

nbval runs every cell and compares its outputs as strings. Here it learns what counts as the same: floating-point
numbers within a tolerance, all else exactly; and that a stored picture must be drawn again.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.image import imread
from nbformat import NotebookNode
from nbval.plugin import IPyNbCell

from mamlkit.ledger import CLAIM, RECORD

NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w.]*\w)|(?<!\w)[-+]?(?:nan|inf)(?!\w)", re.IGNORECASE
)
RECORD_TOLERANCE = {"rtol": 1e-3}  # a record's text rounds to four digits
BLANK = 0.01  # standard deviation of a picture's grey levels, 0 to 1; a thin line on white has several times that

_compare_exactly = IPyNbCell.compare_outputs


class Near(str):
    """A text that equals another if the numbers in it are close, integers the same, and all between them the same."""

    rtol: float = 0.0
    atol: float = 0.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        return str.__eq__(self, other) or (
            NUMBER.split(self) == NUMBER.split(other)
            and all(self._close(*pair) for pair in zip(NUMBER.findall(self), NUMBER.findall(other), strict=True))
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def _close(self, one: str, other: str) -> bool:
        if one.lstrip("+-").isdecimal() and other.lstrip("+-").isdecimal():
            return int(one) == int(other)
        return one.lower() == other.lower() or math.isclose(
            float(one), float(other), rel_tol=self.rtol, abs_tol=self.atol
        )


def near(text: str, tolerance: Mapping[str, float]) -> Near:
    """A text with a tolerance: {"rtol": …, "atol": …}, each 0 if not given."""
    found = Near(text)
    found.rtol, found.atol = tolerance.get("rtol", 0.0), tolerance.get("atol", 0.0)
    return found


def blank(png: str) -> bool:
    """Whether a picture, PNG in base64, shows nothing but one colour."""
    pixels = np.asarray(imread(io.BytesIO(base64.b64decode(png)), format="png"), dtype=float)
    grey = pixels[..., :3].mean(axis=-1) if pixels.ndim == 3 else pixels
    return bool(grey.std() < BLANK)


def pictures(outputs: Sequence[NotebookNode]) -> list[str]:
    """The PNGs among a cell's outputs."""
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def comparable(output: NotebookNode, tolerance: Mapping[str, float] | None) -> NotebookNode:
    """An output with its texts made tolerant, and without the JSON of claims and records, whose text says the same."""
    shown = NotebookNode(output)
    data = dict(output.get("data", {}))
    if RECORD in data and tolerance is None:
        tolerance = RECORD_TOLERANCE
    for mime in (RECORD, CLAIM):
        data.pop(mime, None)
    if tolerance is not None:
        data = {mime: near(value, tolerance) if isinstance(value, str) else value for mime, value in data.items()}
        if "text" in output:
            shown["text"] = near(output.text, tolerance)
    if "data" in output:
        shown["data"] = data
    return shown


def compare(self: Any, test: list[NotebookNode], ref: list[NotebookNode], skip_compare: Any = None) -> bool:
    """Compare a cell's new outputs with its stored ones; where they differ, leave why in `comparison_traceback`."""
    drawn, stored = pictures(test), pictures(ref)
    if len(drawn) != len(stored) or any(map(blank, drawn)):
        state = "one of them blank" if any(map(blank, drawn)) else "none of them blank"
        self.comparison_traceback = [f"stored pictures: {len(stored)}; drawn now: {len(drawn)}, {state}"]
        return False
    tolerance = self.cell.metadata.get("nbval_tolerance")
    kept = [
        [comparable(output, tolerance) for output in outputs if output.get("name") != "stderr"]  # progress bars
        for outputs in (test, ref)
    ]
    return bool(_compare_exactly(self, *kept, skip_compare))
