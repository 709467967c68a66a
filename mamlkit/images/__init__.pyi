from . import glyphs, omniglot, one_shot_exam
from .episodes import Drawings, Episodes
from .glyphs import Glyphs
from .omniglot import Omniglot
from .one_shot_exam import OneShotExam

__all__ = ["Drawings", "Episodes", "Glyphs", "Omniglot", "OneShotExam", "glyphs", "omniglot", "one_shot_exam"]
