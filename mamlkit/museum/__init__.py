"""The bug museum: right runs in plain PyTorch, and bugs that can be planted in them, by name, one line each."""

from mamlkit.museum import parts, plain
from mamlkit.museum.catalogue import CATALOGUE, Exhibit, gap, lines, plant, planted, words

__all__ = ["CATALOGUE", "Exhibit", "gap", "lines", "parts", "plain", "plant", "planted", "words"]
