"""What passes between the grader and a student's kernel: numbers and texts as JSON, and never an object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mamlkit.tasks import Batch, TaskBatch

DEEPEST, LONGEST = 12, 300  # levels of an answer that are read; characters of a text
TUPLES: dict[str, Any] = {"Batch": Batch, "TaskBatch": TaskBatch}


def packed(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it: numbers, texts, tensors and arrays, and dicts and lists of those.

    Anything else is named by its type alone, so that a judge can say what it got.
    """
    if value is None or isinstance(value, bool | int):
        return value if value is None or abs(value) < 2**63 else str(value)[:LONGEST]
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return value[:LONGEST]
    if isinstance(value, Tensor):
        kept = value.detach().cpu()
        kind = str(kept.dtype).removeprefix("torch.")
        content = {"tensor": kept.flatten().tolist(), "shape": list(kept.shape), "dtype": kind}
        return {**content, "grad": value.requires_grad}
    if isinstance(value, np.ndarray | np.generic):
        return packed(torch.as_tensor(value), depth)
    if depth < DEEPEST and isinstance(value, Mapping):
        return {"dict": {str(name)[:LONGEST]: packed(part, depth + 1) for name, part in value.items()}}
    if depth < DEEPEST and isinstance(value, tuple | list):
        kind = type(value).__name__ if type(value) in TUPLES.values() else type(value).__bases__[0].__name__
        name = kind if kind in TUPLES else "list" if isinstance(value, list) else "tuple"
        return {name: [packed(part, depth + 1) for part in value]}
    return {"other": type(value).__name__[:LONGEST]}


class Other(str):
    """The name of a type that an answer held and that is no number."""


def unpacked(value: Any) -> Any:
    """What `packed` was given, built anew from numbers. Raises ValueError for JSON that it never makes."""
    if not isinstance(value, dict):
        return value
    try:
        if "tensor" in value:
            dtype = getattr(torch, value["dtype"])
            made = torch.tensor(value["tensor"], dtype=dtype).reshape(value["shape"])
            return made.requires_grad_() if value["grad"] else made
        ((kind, content),) = value.items()
        if kind == "dict":
            return {str(name): unpacked(part) for name, part in content.items()}
        if kind == "other":
            return Other(content)
        parts = [unpacked(part) for part in content]
        return parts if kind == "list" else tuple(parts) if kind == "tuple" else TUPLES[kind](*parts)
    except (AttributeError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"no answer looks like this: {error}") from error


def differs(found: Any, wanted: Any, rtol: float = 1e-6) -> str:
    """How an answer differs from the one wanted, in words; "" where it does not.

    Numbers agree within `rtol` of the largest number of their tensor, of any float type; a number serves for a tensor
    of no dimension, a list for a tuple. NaN agrees with nothing.
    """
    if isinstance(found, Other):
        return f"it is of type {found}; wanted {kind(wanted)}"
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            return f"it is {kind(found)}; wanted {kind(wanted)}"
        if set(found) != set(wanted):
            return f"its names are {', '.join(found) or 'none'}; wanted {', '.join(wanted)}"
        return _first((f"of {name!r}, ", differs(found[name], part, rtol)) for name, part in wanted.items())
    if isinstance(wanted, tuple | list) and not isinstance(found, Tensor):
        if not isinstance(found, tuple | list) or len(found) != len(wanted):
            return f"it is {kind(found)}; wanted {kind(wanted)}"
        pairs = enumerate(zip(found, wanted, strict=True))
        return _first((f"of part {i}, ", differs(*pair, rtol)) for i, pair in pairs)
    if isinstance(wanted, str):
        return "" if isinstance(found, str) and found == wanted else "it is another answer"
    if found is None or isinstance(found, str | Mapping) or (isinstance(found, bool) and not isinstance(wanted, bool)):
        return f"it is {kind(found)}; wanted {kind(wanted)}"
    try:
        one, other = (torch.as_tensor(value).detach().to(torch.float64) for value in (found, wanted))
    except (TypeError, ValueError, RuntimeError):
        return f"it is {kind(found)}; wanted {kind(wanted)}"
    if one.shape != other.shape:
        return f"its shape is {list(one.shape)}; wanted {list(other.shape)}"
    if not one.isfinite().all():
        return "it holds numbers that are not finite"
    gap, scale = (part.abs().max().item() if part.numel() else 0.0 for part in (one - other, other))
    if gap <= rtol * scale + 1e-12:
        return ""
    return f"it is off by {gap / scale:.2g} of its size" if scale else f"it is off by {gap:.2g}"


def _first(parts: Any) -> str:
    return next((place + words for place, words in parts if words), "")


def kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"[:LONGEST]
    if isinstance(value, tuple | list):
        return f"{len(value)} values in a {'list' if isinstance(value, list) else 'tuple'}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return {bool: "a truth value", int: "a number", float: "a number", str: "a text"}.get(type(value), "nothing (None)")
