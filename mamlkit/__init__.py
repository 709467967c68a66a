"""mamlkit: a study kit for Model-Agnostic Meta-Learning (Finn, Abbeel, Levine 2017).

tasks → inner → meta → train → evaluate → report; a module imports only from those before it.
"""

from mamlkit import report
from mamlkit.device import device
from mamlkit.report import ClaimError, claim, record, show
from mamlkit.tasks import Batch, Quadratics, Sinusoids, TaskBatch, TaskDistribution

__all__ = [
    "Batch",
    "ClaimError",
    "Quadratics",
    "Sinusoids",
    "TaskBatch",
    "TaskDistribution",
    "claim",
    "device",
    "record",
    "report",
    "show",
]
