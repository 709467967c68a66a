"""mamlkit: a study kit for Model-Agnostic Meta-Learning (Finn, Abbeel, Levine 2017).

tasks → inner → meta → train → evaluate → report; a module imports only from those before it.
"""

from mamlkit import models, report
from mamlkit.checkpoint import CheckpointError
from mamlkit.device import device
from mamlkit.evaluate import Curve, Interval, evaluate, needed, over_rate, over_seeds, paired
from mamlkit.images import Glyphs, Omniglot
from mamlkit.inner import Objective, adapt
from mamlkit.meta import MetaGradient, meta_gradient
from mamlkit.report import ClaimError, claim, record, show
from mamlkit.tasks import Batch, Quadratics, Sinusoids, TaskBatch, TaskDistribution
from mamlkit.train import Record, train

__all__ = [
    "Batch",
    "CheckpointError",
    "ClaimError",
    "Curve",
    "Glyphs",
    "Interval",
    "MetaGradient",
    "Objective",
    "Omniglot",
    "Quadratics",
    "Record",
    "Sinusoids",
    "TaskBatch",
    "TaskDistribution",
    "adapt",
    "claim",
    "device",
    "evaluate",
    "meta_gradient",
    "models",
    "needed",
    "over_rate",
    "over_seeds",
    "paired",
    "record",
    "report",
    "show",
    "train",
]
