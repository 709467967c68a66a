"""Checks: what an answer is asked, what it is worth, and the words in which it is judged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mamlkit.assignment import wire

Channel = Callable[[dict[str, Any]], dict[str, Any]]  # a request to a notebook's namespace → its answer


class LostError(Exception):
    """A check that is lost without being judged; the message says why."""


@dataclass(frozen=True)
class Asked:
    """A function or a value of a student's notebook, seen from the grader: it gives numbers, wherever it is."""

    name: str
    channel: Channel

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns for these arguments. Raises LostError where it does not return numbers."""
        given = {"args": list(map(wire.packed, args)), "kwargs": {n: wire.packed(value) for n, value in kwargs.items()}}
        return self._answer({"name": self.name, **given})

    def value(self) -> Any:
        """The value that the notebook has under this name."""
        found = self._answer({"name": self.name})
        if isinstance(found, wire.Other) and found == "ellipsis":
            raise LostError("not attempted")
        return found

    def _answer(self, request: dict[str, Any]) -> Any:
        answer = self.channel(request)
        if "missing" in answer:
            raise LostError(f"there is no {self.name}")
        if "value" in answer:
            return wire.unpacked(answer["value"])
        name, text = plain(answer.get("error")), plain(answer.get("text"))
        if name == "NotImplementedError":
            raise LostError("not attempted")
        raise LostError(f"{self.name} raised {name}" + f": {text}" * bool(text))


def plain(text: Any) -> str:
    """A student's text as a line that a terminal can be given."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= 200 else line[:199] + "…"


@dataclass(frozen=True)
class Check:
    """One check of a sheet.

    question  the question that it belongs to
    points    what it is worth
    text      what it looks at, in a student's words
    asks      the names of the notebook that it asks for; `draw` is a generator of secret inputs
    judge     from those → "" where the answer is right, else the reason why it is not
    """

    question: str
    points: int
    text: str
    asks: tuple[str, ...]
    judge: Callable[..., str]

    def judged(self, channel: Channel, seed: int) -> str:
        """Why the answer is not right; "" where it is. Never raises for what an answer is."""
        draw = torch.Generator().manual_seed(seed)
        try:
            found = self.judge(**{name: draw if name == "draw" else Asked(name, channel) for name in self.asks})
        except LostError as error:
            return str(error)
        except Exception as error:  # an answer of a form that the check did not think of
            return f"its answer cannot be judged ({type(error).__name__}: {plain(error)})"
        if not isinstance(found, str):
            raise TypeError(f"the check {self.text!r} returned {found!r}; it must return a text, empty for right")
        return found


def points(number: int, question: str) -> Callable[[Callable[..., str]], Check]:
    """Make a check of a function: its docstring says what it looks at, its parameters what it asks for."""

    def made(judge: Callable[..., str]) -> Check:
        text = " ".join((judge.__doc__ or "").split()).rstrip(".")
        return Check(question, number, text, tuple(inspect.signature(judge).parameters), judge)

    return made


def told(found: Any, right: Any, mistakes: Mapping[str, Any] | None = None, rtol: float = 1e-6) -> str:
    """ "" where an answer is right; else the mistake, or each, that leads to the same numbers, or how they differ.

    mistakes  what known mistakes come to, by the words that explain each
    """
    if not (words := wire.differs(found, right, rtol)):
        return ""
    return ", or ".join(why for why, wrong in (mistakes or {}).items() if not wire.differs(found, wrong, rtol)) or words


def normal(draw: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers of a shape, float64."""
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def drawn(draw: torch.Generator, low: float, high: float) -> float:
    """A number between two others, uniform."""
    return low + (high - low) * torch.rand((), generator=draw, dtype=torch.float64).item()


def solved(namespace: Mapping[str, Any]) -> None:
    """Judge the solution of a sheet by its own checks, in the notebook that holds both, and print the points.

    Raises AssertionError where a point is lost.
    """
    from mamlkit.assignment.kernel import answered

    checks = [check for check in namespace.values() if isinstance(check, Check)]
    lost = []
    for check in checks:
        why = check.judged(partial(answered, dict(namespace)), seed=0)
        print(f"{0 if why else check.points} of {check.points}  {check.question}. {check.text}")
        if why:
            print(f"        → {why}")
        lost += [check.text] if why else []
    assert not lost, f"the solution loses points: {'; '.join(lost)}"
