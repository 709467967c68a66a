"""The kit's central promise: what a notebook claims was checked, what it keeps is exact, what it draws can be read."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
from decimal import Decimal
from typing import Any

import books
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from PIL import Image

import mamlkit as mk
from mamlkit import ledger

NAN = float("nan")


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What the ledger displays: pairs of data and metadata, by MIME type."""
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def display(data: dict[str, Any], *, metadata: dict[str, Any] | None = None, raw: bool) -> None:
        assert raw, "the data stand as they are"
        found.append((data, metadata or {}))

    monkeypatch.setattr(ledger, "display", display)
    return found


def drawing(height: float = 1.0) -> Figure:
    figure = Figure(figsize=(2, height))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


FALSE: list[object] = [
    False,
    0,
    0.0,
    None,
    [],
    "",
    np.False_,
    np.array(False),
    np.zeros(1),
    np.zeros((1, 1), dtype=int),
    0j,
    {},
    Decimal(0),
    torch.tensor(False),
    torch.zeros(1, 1),
]
NOT_A_NUMBER: list[object] = [
    NAN,
    complex(NAN),
    Decimal("NaN"),
    np.float32(NAN),
    np.float64(NAN),
    np.array([NAN]),
    torch.tensor(NAN),
    torch.tensor([[NAN]]),
]
TRUE: list[object] = [True, 1, 0.5, -math.inf, "yes", np.True_, np.array([True]), torch.tensor(True), torch.ones(1, 1)]


@pytest.mark.parametrize("ok", FALSE + NOT_A_NUMBER, ids=repr)
def test_a_false_claim_raises_and_is_displayed_as_false(displayed: list[Any], ok: object) -> None:
    with pytest.raises(mk.ClaimError, match="this claim does not hold: 1 > 2"):
        mk.claim("1 > 2", ok)
    [(data, _)] = displayed
    assert data == {"text/plain": "✗ 1 > 2", ledger.CLAIM: {"claim": "1 > 2", "holds": False}}


@pytest.mark.parametrize("ok", TRUE, ids=repr)
def test_a_claim_that_holds_is_displayed_as_true(displayed: list[Any], ok: object) -> None:
    mk.claim("2 > 1", ok)
    [(data, _)] = displayed
    assert data == {"text/plain": "✓ 2 > 1", ledger.CLAIM: {"claim": "2 > 1", "holds": True}}
    assert data[ledger.CLAIM]["holds"] is True, "a truth value, not what was handed over"


SEVERAL = [torch.tensor([True, False]), torch.zeros(1, 2), np.array([True, True]), np.array([NAN, 1.0])]


@pytest.mark.parametrize("ok", SEVERAL, ids=repr)
def test_a_claim_about_several_elements_is_no_claim(displayed: list[Any], ok: object) -> None:
    with pytest.raises((RuntimeError, ValueError), match="ambiguous"):
        mk.claim("all of them", ok)
    assert displayed == []


@pytest.mark.parametrize(
    "ok", [torch.tensor([False]).all, np.zeros(1).any, lambda: False, bool], ids=["tensor", "array", "lambda", "type"]
)
def test_a_function_is_no_claim_since_it_is_always_true(displayed: list[Any], ok: object) -> None:
    with pytest.raises(TypeError, match="which is always true; call it"):
        mk.claim("1 > 2", ok)
    assert displayed == []


def test_a_claim_error_is_an_assertion_error() -> None:
    assert issubclass(mk.ClaimError, AssertionError)


RECORDS: list[tuple[Any, Any, str]] = [
    (1 / 3, 1 / 3, "0.3333"),
    (123456.789, 123456.789, "123500.0"),
    (12345678, 12345678, "12345678"),
    (True, True, "True"),
    (None, None, "None"),
    ("α < 1", "α < 1", "α < 1"),
    (torch.tensor(0.1), 0.10000000149011612, "0.1"),
    (torch.tensor([[1.5, 2.0]], requires_grad=True), [[1.5, 2.0]], "[[1.5, 2.0]]"),
    (np.array([1, 2]), [1, 2], "[1, 2]"),
    (np.float64(0.1), 0.1, "0.1"),
    (np.int64(7), 7, "7"),
    ((1, [2.0, {"a": torch.tensor(3)}]), [1, [2.0, {"a": 3}]], "[1, [2.0, {'a': 3}]]"),
    ({0: 1 / 3, 0.01: [2 / 3]}, {"0": 1 / 3, "0.01": [2 / 3]}, "{'0': 0.3333, '0.01': [0.6667]}"),
    (NAN, "nan", "nan"),
    (math.inf, "inf", "inf"),
    (torch.tensor([-math.inf, 1.0, NAN]), ["-inf", 1.0, "nan"], "['-inf', 1.0, 'nan']"),
    ({"error": np.array([math.inf])}, {"error": ["inf"]}, "{'error': ['inf']}"),
]


@pytest.mark.parametrize(("value", "stored", "text"), RECORDS, ids=[repr(value) for value, *_ in RECORDS])
def test_a_record_keeps_every_digit_and_shows_four(displayed: list[Any], value: Any, stored: Any, text: str) -> None:
    mk.record("x", value)
    [(data, _)] = displayed
    assert data == {"text/plain": f"x = {text}", ledger.RECORD: {"name": "x", "value": stored}}
    assert json.loads(json.dumps(data, allow_nan=False)) == data, "JSON holds it, without NaN and infinity"


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), [1j], {"a": drawing}, b"x"], ids=["set", "object", "complex", "function", "bytes"]
)
def test_a_record_that_json_cannot_hold_is_refused(displayed: list[Any], value: Any) -> None:
    with pytest.raises(TypeError, match=r"record 'x' holds a \w+; use numbers, strings, or lists and dicts of them"):
        mk.record("x", value)
    assert displayed == []


@pytest.mark.parametrize("alt", ["", " ", "\n\t"])
def test_a_figure_without_alt_text_is_refused(displayed: list[Any], alt: str) -> None:
    with pytest.raises(ValueError, match="the figure has no alt text; say in one sentence what it shows"):
        mk.show(drawing(), alt)
    assert displayed == []


def test_a_figure_is_displayed_as_a_small_png_with_its_alt_text(displayed: list[Any]) -> None:
    mk.show(drawing(height=1.5), "A line falls.")
    [(data, metadata)] = displayed
    assert set(data) == {"image/png", "text/plain"}
    assert data["text/plain"] == "A line falls."
    assert metadata == {"image/png": {"alt": "A line falls."}}
    picture = Image.open(io.BytesIO(data["image/png"]))
    assert (picture.format, picture.mode) == ("PNG", "P"), "256 colours"
    assert picture.size == (2 * ledger.DPI, 1.5 * ledger.DPI)
    assert picture.info.get("Software") is None, "the version that drew it would change its bytes"
    assert len(set(picture.convert("L").tobytes())) > 1, "it is not blank"


def test_a_figure_has_the_same_bytes_each_time(displayed: list[Any]) -> None:
    mk.show(drawing(), "A line falls.")
    mk.show(drawing(), "A line falls.")
    assert displayed[0] == displayed[1]


def test_a_figure_is_a_png_of_256_colours_that_cannot_be_packed_tighter_whatever_matplotlib_would_save(
    displayed: list[Any],
) -> None:
    figure = Figure(figsize=(2, 2))
    figure.add_axes((0, 0, 1, 1)).imshow(np.linspace(0, 1, 120 * 120 * 3).reshape(120, 120, 3)[:, ::-1], alpha=0.8)
    with matplotlib.rc_context({"savefig.format": "svg"}):
        mk.show(figure, "Colours pass into each other.")
    data = displayed[0][0]["image/png"]
    picture, again = Image.open(io.BytesIO(data)), io.BytesIO()
    assert picture.format == "PNG"
    assert len(set(picture.tobytes())) == 256
    picture.save(again, "png", optimize=True)
    assert len(again.getvalue()) >= len(data)


def test_whatever_canvas_a_figure_has_the_same_pixels_are_drawn(displayed: list[Any]) -> None:
    class Other(FigureCanvasBase):
        def print_png(self, *_: object, **__: object) -> None:
            raise AssertionError("another backend would draw other pixels")

    figures = drawing(), drawing()
    Other(figures[1])
    for figure in figures:
        mk.show(figure, "A line falls.")
    assert displayed[0] == displayed[1]


@pytest.mark.parametrize("holds", [True, False])
def test_the_builders_for_other_tests_make_what_the_ledger_makes(
    displayed: list[Any], monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    monkeypatch.setattr("IPython.display.display", vars(ledger)["display"])
    exec(books.claims("2 > 1", f"not {not holds}"))
    with contextlib.nullcontext() if holds else pytest.raises(mk.ClaimError):
        mk.claim("2 > 1", holds)
    assert displayed[0] == displayed[1]
    assert books.claimed("2 > 1", holds=holds).data == displayed[1][0]

    exec(books.records("[1, 2 / 3][holds]", "x"), {"holds": holds})
    mk.record("x", [1, 2 / 3][holds])
    assert displayed[2] == displayed[3]
    assert books.recorded([1, 2 / 3][holds]).data == displayed[3][0]

    mk.show(drawing(), "A line falls.")
    picture = base64.b64encode(displayed[4][0]["image/png"]).decode()
    made = books.shown(picture, "A line falls.")
    assert (made.data, made.metadata) == (displayed[4][0] | {"image/png": picture}, displayed[4][1])
    exec(books.draws(picture))
    assert displayed[5][0] == {"image/png": picture}
