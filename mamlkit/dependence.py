"""What code depends on: all that its Python can reach from where it stands, walked once and watched from then on."""

from __future__ import annotations

import dis
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cache, partial
from itertools import chain
from operator import is_
from types import CellType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LIBRARIES = sys.stdlib_module_names | {"torch", "numpy", "mamlkit"}  # their code reads nothing of the user's
_VALUES = frozenset((bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device))
_DATA = Tensor, np.ndarray
_SERVICES = ("logging", "threading", "weakref", "_weakrefset")  # what they hold changes, and no number depends on it


class Dependence:
    """What can be reached from some things: their attributes and contents, their classes, what functions read.

    form  hashable, and equal where it would be reached again in the same way: numbers, texts and code by their value,
          tensors by what they are and not by what they hold, all else by itself
    """

    def __init__(self, *roots: Any) -> None:
        facts: list[Hashable] = []
        met: dict[int, int] = {}
        self.roots, self.views = roots, list[Iterable[Any]]()
        self.kept, self.found = list[Any](), list[Any]()  # things walked, and what the views showed
        ahead = deque(roots)
        while ahead:
            thing = ahead.popleft()
            kind = type(thing)
            if kind in _VALUES:
                facts.append((kind, thing))
            elif id(thing) in met:
                facts.append(met[id(thing)])
            else:
                met[id(thing)] = len(met)
                self.kept.append(thing)
                views = _views(thing)
                inside = [*chain.from_iterable(views)]
                facts.append((kind, len(inside), None if views and not isinstance(thing, _DATA) else _mark(thing)))
                self.views += views
                self.found += inside
                ahead.extend(inside)
        self.form = tuple(facts)
        self.hash = hash(self.form)
        self.data = [thing for thing in self.kept if isinstance(thing, _DATA)]
        self.marks = [*map(_mark, self.data)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dependence) and self.form == other.form

    def __hash__(self) -> int:
        return self.hash

    def holds(self, *roots: Any) -> bool:
        """Whether the same would be found from these."""
        now = [*chain.from_iterable(self.views)]
        same = len(now) == len(self.found) and all(map(is_, now, self.found)) and all(map(is_, roots, self.roots))
        return same and [*map(_mark, self.data)] == self.marks


def outline(tensor: Tensor) -> tuple[Any, ...]:
    """What of a tensor a recording depends on."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


def _mark(thing: Any) -> Hashable:
    """What tells a thing without parts from another."""
    if isinstance(thing, Tensor):
        return id(thing), *outline(thing)
    if isinstance(thing, np.ndarray):
        return thing.shape, thing.dtype, thing.tobytes()
    try:
        hash(thing)
    except (TypeError, ValueError):
        return id(thing)
    return thing  # type: ignore[no-any-return]


def _views(thing: Any) -> list[Iterable[Any]]:
    """The parts of a thing, as iterables that show those of any later time too."""
    kind = type(thing)
    if isinstance(thing, ModuleType) or kind.__module__ in _SERVICES:
        return []
    if isinstance(thing, type):
        return [] if _in_library(thing) else [vars(thing).keys(), vars(thing).values(), thing.__bases__]
    if isinstance(thing, FunctionType):
        return [] if _in_library(thing) and thing.__closure__ is None else [_Live(partial(_around, thing))]
    views: list[Iterable[Any]] = []
    if isinstance(thing, partial):
        views = [(thing.func, thing.args, thing.keywords)]
    elif isinstance(thing, property):
        views = [(thing.fget,)]
    elif isinstance(thing, MethodType | staticmethod | classmethod):
        views = [(thing.__func__, getattr(thing, "__self__", None))]
    elif isinstance(thing, dict):
        views = [thing.keys(), thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        views = [thing]
    own = not _in_library(kind)
    if own:
        views += [(kind,), _Live(partial(_slots, thing))]
    if hasattr(thing, "__dict__") and (own or not views):
        views += [vars(thing).keys(), vars(thing).values()]
    return views


class _Live:
    """What a function returns, each time that it is gone through."""

    def __init__(self, look: Callable[[], Iterable[Any]]) -> None:
        self.look = look

    def __iter__(self) -> Iterator[Any]:
        return iter(self.look())


def _slots(thing: Any) -> list[Any]:
    """What an object holds outside its dictionary."""
    members = [m for part in type(thing).__mro__ for m in vars(part).values() if isinstance(m, MemberDescriptorType)]
    return [getattr(thing, m.__name__, None) for m in members]


def _around(function: FunctionType) -> Iterable[Any]:
    """What a function has from around it: of its globals what it names, what it encloses, defaults, attributes."""
    names, attributes, imports = ((), (), ()) if _in_library(function) else _named(function.__code__)
    named = [*map(function.__globals__.get, names), *map(sys.modules.get, imports)]
    looked_into = set()
    for module in named:  # what is named of a module, and of a module in it; modules may name each other
        if isinstance(module, ModuleType) and module not in looked_into and not _in_library(module, "__name__"):
            looked_into.add(module)
            named += map(vars(module).get, attributes)
    enclosed = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    own = function.__code__, function.__defaults__, function.__kwdefaults__, *vars(function).values()
    return chain(named, enclosed, own)


@cache
def _named(code: CodeType) -> tuple[list[str], ...]:
    """The names of the globals that code reads, of the attributes, and of the modules; of functions inside it too.

    A text in it may be any of them, for `getattr`, `globals()` or `sys.modules`.
    """
    kinds = ("LOAD_GLOBAL LOAD_NAME", "LOAD_ATTR LOAD_METHOD IMPORT_FROM", "IMPORT_NAME")
    texts = {part for part in code.co_consts if isinstance(part, str) and part.isidentifier()}
    found = tuple(set(texts) for _ in kinds)
    for line in dis.get_instructions(code):
        for names, operations in zip(found, kinds, strict=True):
            if line.opname in operations.split():
                names.add(str(line.argval))
    for inner in [_named(part) for part in code.co_consts if isinstance(part, CodeType)]:
        for names, more in zip(found, inner, strict=True):
            names.update(more)
    return tuple(map(sorted, found))


def _in_library(thing: Any, where: str = "__module__") -> bool:
    return (getattr(thing, where, None) or "").partition(".")[0] in _LIBRARIES
