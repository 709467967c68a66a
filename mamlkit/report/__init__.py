"""Figures, claims and records: what a notebook shows. Nothing here trains."""

from mamlkit.report.figures_tasks import (
    fitting,
    gallery,
    one_way_through,
    pooled_average,
    shares,
    slopes,
    support_against_query,
)
from mamlkit.report.ledger import ClaimError, claim, record, show
from mamlkit.report.theme import theme

__all__ = [
    "ClaimError",
    "claim",
    "fitting",
    "gallery",
    "one_way_through",
    "pooled_average",
    "record",
    "shares",
    "show",
    "slopes",
    "support_against_query",
    "theme",
]
