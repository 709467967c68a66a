from . import glyphs, omniglot
from .episodes import Drawings, Episodes
from .glyphs import Glyphs
from .omniglot import Omniglot

__all__ = ["Drawings", "Episodes", "Glyphs", "Omniglot", "glyphs", "omniglot"]
