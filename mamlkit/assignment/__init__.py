"""An assignment: students' copies made from solved sheets, and a grader that believes numbers only."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"points": ["Check", "drawn", "normal", "points", "solved", "told"]}
)
