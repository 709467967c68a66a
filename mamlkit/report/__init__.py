"""Figures, claims and records: what a notebook shows. Nothing here trains."""

from mamlkit.report.ledger import ClaimError, claim, record, show
from mamlkit.report.theme import theme

__all__ = ["ClaimError", "claim", "record", "show", "theme"]
