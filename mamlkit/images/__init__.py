"""Few-shot image tasks: N-way, K-shot episodes on Glyphs, which is here, and on Omniglot, one command away.

episodes.py draws the tasks, glyphs.py and omniglot.py hold the two sets, fetch.py is `python -m mamlkit data`.
"""

from mamlkit.images.episodes import Drawings, Episodes
from mamlkit.images.glyphs import Glyphs
from mamlkit.images.omniglot import Omniglot

__all__ = ["Drawings", "Episodes", "Glyphs", "Omniglot"]
