"""Figures, claims and records: what a notebook shows. Nothing here trains."""

from mamlkit.report.figures_gradients import (
    cosines,
    cosines_after_training,
    finite_difference_gap,
    heat_maps,
    limit_of_alpha,
    loss_map,
    random_start,
    share_left,
    two_orders,
    work,
)
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
    "cosines",
    "cosines_after_training",
    "finite_difference_gap",
    "fitting",
    "gallery",
    "heat_maps",
    "limit_of_alpha",
    "loss_map",
    "one_way_through",
    "pooled_average",
    "random_start",
    "record",
    "share_left",
    "shares",
    "show",
    "slopes",
    "support_against_query",
    "theme",
    "two_orders",
    "work",
]
