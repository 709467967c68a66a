"""Can the text of a figure be read? Its contrast with what it stands on, as drawn (WCAG 2, success criterion 1.4.3).

`conftest.py` has each kernel of the notebook tests load this file, so that every figure of the course is measured.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from mamlkit.figures.theme import CONTRAST, luminance


def faint(canvas: Any) -> list[str]:
    """The texts of what a FigureCanvasAgg has drawn that cannot be read well, each with its contrast."""
    eighths = np.asarray(canvas.buffer_rgba())[..., :3].astype(int) // 8
    colors = eighths @ (32 * 32, 32, 1)
    height, width = colors.shape
    found = []
    for text in canvas.figure.findobj(Text):
        assert isinstance(text, Text)
        box = text.get_window_extent(canvas.get_renderer())
        left, right = (int(np.clip(x, 0, width)) for x in (box.x0, box.x1 + 1))
        top, bottom = (int(np.clip(height - y, 0, height)) for y in (box.y1 + 1, box.y0))
        around = colors[top:bottom, left:right].ravel()
        if text.get_visible() and text.get_text().strip() and len(around):
            most = np.bincount(around).argmax()  # what most of its box shows is what it stands on
            ground = (np.array(np.unravel_index(most, (32, 32, 32))) * 8 + 4) / 255
            *color, opacity = to_rgba(text.get_color(), text.get_alpha())
            written = opacity * np.array(color) + (1 - opacity) * ground
            dark, light = sorted((luminance(ground), luminance(written)))
            if (contrast := (light + 0.05) / (dark + 0.05)) < CONTRAST - 0.1:  # colours were rounded to eighths
                found.append(f"{text.get_text()!r} has a contrast of {contrast:.1f}; wanted: {CONTRAST}")
    return found


def watch() -> None:
    """From here on, a figure with a faint text is refused when it is printed."""
    canvas: Any = FigureCanvasAgg
    print_png = canvas.print_png

    @functools.wraps(print_png)  # matplotlib reads its signature
    def checked(canvas: FigureCanvasAgg, *arguments: Any, **options: Any) -> Any:
        printed = print_png(canvas, *arguments, **options)  # which draws it
        if found := faint(canvas):
            raise AssertionError("; ".join(found))
        return printed

    canvas.print_png = checked
