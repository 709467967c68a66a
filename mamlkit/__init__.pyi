# The public names and where they are: read by type checkers, by editors and, at run time, by lazy_loader.
from . import figures, models
from .check import Finding, Report, check
from .checkpoint import CheckpointError
from .cost import Cost, cost
from .curves import Curve
from .device import device, reference_numerics
from .evaluate import Difference, evaluate, paired_difference
from .images import Glyphs, Omniglot
from .inner import InnerRule, adapt
from .ledger import ClaimError, claim, record, show
from .meta import MetaGradient, meta_gradient
from .objective import Objective
from .statistics import Interval, sample_size, t_interval, wilson_interval
from .tasks import Batch, Quadratics, Sinusoids, TaskBatch, TaskDistribution
from .train import Iteration, train

__all__ = [
    "Batch",
    "CheckpointError",
    "ClaimError",
    "Cost",
    "Curve",
    "Difference",
    "Finding",
    "Glyphs",
    "InnerRule",
    "Interval",
    "Iteration",
    "MetaGradient",
    "Objective",
    "Omniglot",
    "Quadratics",
    "Report",
    "Sinusoids",
    "TaskBatch",
    "TaskDistribution",
    "adapt",
    "check",
    "claim",
    "cost",
    "device",
    "evaluate",
    "figures",
    "meta_gradient",
    "models",
    "paired_difference",
    "record",
    "reference_numerics",
    "sample_size",
    "show",
    "t_interval",
    "train",
    "wilson_interval",
]
