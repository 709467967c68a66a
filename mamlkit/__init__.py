"""mamlkit: a study kit for Model-Agnostic Meta-Learning (Finn, Abbeel, Levine 2017).

tasks → inner → meta → train → evaluate; a module imports only from those before it. Every name loads when it is first
touched: __init__.pyi says which module holds it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
