"""The account of one run of a sweep: its result, and what it was computed from, where and when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mamlkit.study import RefusedError
from mamlkit.study.result import Result

FORMAT = 1
PLAN = "sweep.json"


@dataclass(frozen=True)
class Sidecar(Result):
    """One run: its result, what it was given, and where it was computed.

    given       the parameters that the sweep set; tuples are lists where it was read from a file
    identity    what its key is made of besides the parameters: see mamlkit.sweeps.key
    started     UTC, ISO 8601
    executed    the name of the executed notebook beside it; None where there is none
    """

    key: str
    given: dict[str, Any]
    identity: dict[str, Any]
    started: str
    executed: str | None
    provenance: dict[str, Any]
    attempts: int
    format: int = FORMAT

    @property
    def seed(self) -> Any:
        """The seed that the run had; None where its notebook declares none."""
        return self.parameters.get("seed")


def read_sidecar(path: Path) -> Sidecar:
    """One file. Raises RefusedError, naming it and its fault, for one that is not the whole account of a run."""
    try:
        found = Sidecar.read(read_json(path))
    except ValueError as error:
        refuse(path, str(error))
    if path.name != f"{found.notebook}-{found.key}.json":
        refuse(path, f"inside it is run {found.key!r:.60} of {found.notebook!r:.60}")
    if found.executed not in (None, f"{path.stem}.ipynb"):
        refuse(path, f"its executed notebook is {found.executed!r:.60}")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """What a sweep's file holds. Raises RefusedError unless it is JSON of this format."""

    def constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=constant)
    except (OSError, ValueError, RecursionError) as error:
        refuse(path, str(error))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        refuse(path, f"it does not begin with format {FORMAT}")
    return found


def refuse(path: Path, why: str) -> NoReturn:
    """Raise RefusedError for a file of a sweep."""
    what = "plan of a sweep" if path.name == PLAN else "account of a run"
    raise RefusedError(
        f"{path} is not a whole {what}: {why}; move it away, or delete it and start the sweep again"
    ) from None
