"""Can the text of a figure be read? Its contrast with what it stands on, as drawn (WCAG 2, success criterion 1.4.3).

`conftest.py` has each kernel of the notebook tests load this file, so that every figure of the course is measured.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from mamlkit.figures.theme import CONTRAST, luminance


def faint(figure: Figure) -> list[str]:
    """The texts of a figure that cannot be read well, each with its contrast."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    height, width, _ = pixels.shape
    found = []
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        box = text.get_window_extent(canvas.get_renderer())
        left, right = (int(np.clip(x, 0, width)) for x in (box.x0, box.x1 + 1))
        top, bottom = (int(np.clip(height - y, 0, height)) for y in (box.y1 + 1, box.y0))
        around = pixels[top:bottom, left:right].reshape(-1, 3)
        if text.get_visible() and text.get_text().strip() and len(around):
            eighths, counts = np.unique(around // 8, axis=0, return_counts=True)
            ground = (eighths[counts.argmax()] * 8 + 4) / 255  # what most of its box shows is what it stands on
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
        if found := faint(canvas.figure):
            raise AssertionError("; ".join(found))
        return print_png(canvas, *arguments, **options)

    canvas.print_png = checked
