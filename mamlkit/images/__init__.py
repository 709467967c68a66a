"""Few-shot image tasks: N-way, K-shot episodes on Glyphs, which is here, and on Omniglot, one command away.

episodes.py draws the tasks, glyphs.py and omniglot.py hold the two sets, one_shot_exam.py Lake's exam on the
latter, fetch.py is `python -m mamlkit data`. Each loads when it is first touched.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
