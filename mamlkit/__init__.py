"""mamlkit: a study kit for Model-Agnostic Meta-Learning (Finn, Abbeel, Levine 2017).

tasks → inner → meta → train → evaluate; a module imports only from those before it. The images, the ledger and the
figures load when they are first touched.
"""

import lazy_loader

from mamlkit import models
from mamlkit.checkpoint import CheckpointError
from mamlkit.curves import Curve
from mamlkit.device import device
from mamlkit.evaluate import Difference, evaluate, paired_difference
from mamlkit.inner import InnerRule, adapt
from mamlkit.meta import MetaGradient, meta_gradient
from mamlkit.objective import Objective
from mamlkit.statistics import Interval, sample_size, t_interval, wilson_interval
from mamlkit.tasks import Batch, Quadratics, Sinusoids, TaskBatch, TaskDistribution
from mamlkit.train import Iteration, train

__getattr__, __dir__, _lazy = lazy_loader.attach(
    __name__,
    submodules=["figures"],
    submod_attrs={"images": ["Glyphs", "Omniglot"], "ledger": ["ClaimError", "claim", "record", "show"]},
)

__all__ = [
    "Batch",
    "CheckpointError",
    "ClaimError",
    "Curve",
    "Difference",
    "Glyphs",
    "InnerRule",
    "Interval",
    "Iteration",
    "MetaGradient",
    "Objective",
    "Omniglot",
    "Quadratics",
    "Sinusoids",
    "TaskBatch",
    "TaskDistribution",
    "adapt",
    "claim",
    "device",
    "evaluate",
    "figures",
    "meta_gradient",
    "models",
    "paired_difference",
    "record",
    "sample_size",
    "show",
    "t_interval",
    "train",
    "wilson_interval",
]
