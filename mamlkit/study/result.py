"""What a run of a notebook came to: the one form that is written, read back and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Self, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

Status = Literal["ok", "failed", "dead", "timeout", "incomplete"]


class Claim(TypedDict):
    """A claim that was checked, and the id of its cell."""

    claim: str
    holds: bool
    cell: str


class Record(TypedDict):
    """A value that was put on record, and the id of its cell; non-finite numbers are texts."""

    name: str
    value: Any
    cell: str


@dataclass(frozen=True)
class Result:
    """What one run of a notebook showed.

    status      "ok"; "failed": a cell raised; "dead": its kernel died; "timeout": a cell took too long;
                "incomplete": the notebook ended before its last cell
    seconds     of wall-clock time
    cell        the number of the code cell that ended it, as its prompt shows it; None where all is well
    parameters  every declared parameter, with the value it had; tuples are lists where it was read from a file
    peak_bytes  the most memory that its kernel held, as of the last cell that ended; None where nothing tells
    """

    notebook: str
    title: str
    status: Status
    seconds: float
    cell: int | None
    error: str | None
    parameters: dict[str, Any]
    claims: list[Claim]
    records: list[Record]
    peak_bytes: int | None

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Self:
        """From what a JSON file holds, names that are not of it left out. Raises ValueError that names the fault."""
        kinds = _hints(cls)  # type: ignore[arg-type]  # a class is hashable, whatever mypy says of Self
        for name, kind in kinds.items():
            if name not in found:
                raise ValueError(f"it has no {name!r}")
            if not _is(found[name], kind):
                raise ValueError(_fault(name, found[name], kind))
        return cls(**{name: found[name] for name in kinds})

    def dumps(self) -> str:
        """The text of its file."""
        return dumps(asdict(self))


def dumps(content: Mapping[str, Any]) -> str:
    """JSON as it is written: readable, and no NaN or infinity, which JSON has not. Raises ValueError for those."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


_hints = cache(get_type_hints)


def _is(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of the annotated type; True is no number, and an int is a float."""
    if kind is Any:
        return True
    if is_typeddict(kind):
        return isinstance(value, dict) and all(n in value and _is(value[n], k) for n, k in _hints(kind).items())
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_is(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _fault(name: str, value: Any, kind: Any) -> str:
    if get_origin(kind) is list and isinstance(value, list):
        item = next(item for item in value if not _is(item, get_args(kind)[0]))
        return f"a {name.removesuffix('s')} of it is {item!r:.60}"
    return f"its status is {value!r:.60}" if name == "status" else f"its {name!r} is {value!r:.60}"
