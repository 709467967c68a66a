"""What a sweep asks for: a short YAML file, read and checked against the notebooks before anything starts."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mamlkit.study import notebooks
from mamlkit.study.notebooks import Parameter, RefusedError

LIMIT = 3600.0  # seconds that a run may take where the sweep does not say
MOST = 1_000_000  # runs; more is a slip of the pen
TOP = ("name", "limit", "runs")
ENTRY = ("notebooks", "seeds", "set", "grid", "zip", "list")


@dataclass(frozen=True)
class Run:
    """One notebook with the parameters that the sweep gives it, of the declared types."""

    path: Path
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A name, the seconds that a run may take, and the runs in the order of the file."""

    name: str
    limit: float
    runs: tuple[Run, ...]


class _Loader(yaml.SafeLoader):
    """YAML's plain values alone, and no key twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands here twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Sweep:
    """Read a sweep. Raises RefusedError for a file that is not one, and for runs that the notebooks could not do.

    A file has `runs`, a list whose entries each name `notebooks` and how their parameters vary:

        set    one value for each parameter: {iterations: 500}
        grid   every combination: {order: [1, 2], alpha: [0.01, 0.1]}
        zip    first with first, second with second: {steps: [1, 5], alpha: [0.1, 0.02]}
        list   the combinations themselves: [{shots: 5}, {shots: 10, noise: 1.0}]
        seeds  a range ("0-9", both ends included) or a list, for the parameter `seed`

    and may have a `name` (the file's, if not) and a `limit`, the seconds that one run may take.
    """
    content = read(path)
    try:
        return _sweep(content, path)
    except RefusedError as error:
        raise RefusedError(f"{path.name}: {error}") from error


def read(path: Path) -> Any:
    """What a YAML file holds. Raises RefusedError for one that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.load(text, _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"{path} cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        raise RefusedError(f"{path.name} is not YAML that can be read: {' '.join(str(error).split())}") from error


def _sweep(content: Any, path: Path) -> Sweep:
    content = mapping(content, "the file", TOP)
    name, limit, entries = content.get("name", path.stem), content.get("limit", LIMIT), content.get("runs")
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w .-]*", name):
        raise RefusedError(f"name is {name!r}; it must be a text that can be a folder's name")
    if type(limit) not in (int, float) or not 0 < limit < math.inf:
        raise RefusedError(f"limit is {limit!r}; it must be a positive number of seconds")
    if not isinstance(entries, list) or not entries:
        raise RefusedError("runs must be a list of at least one entry, each with its notebooks")
    runs = [run for number, entry in enumerate(entries, 1) for run in _entry(entry, f"runs, entry {number}", path)]
    if len(runs) > MOST:
        raise RefusedError(f"these are {len(runs):,} runs; the limit is {MOST:,}")
    return Sweep(name, float(limit), tuple(runs))


def _entry(content: Any, where: str, path: Path) -> Iterator[Run]:
    entry = mapping(content, where, ENTRY)
    chosen, settings = _notebooks(entry.get("notebooks"), where, path), _settings(entry, where)
    for notebook in chosen:
        declared = notebooks.declared(notebook)
        for setting in settings:
            yield Run(notebook, {name: _value(name, value, declared, notebook) for name, value in setting.items()})


def _notebooks(content: Any, where: str, path: Path) -> list[Path]:
    names = [content] if isinstance(content, str | int) else content
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise RefusedError(f'{where}: notebooks is {content!r}; give numbers, names or paths, like ["06", "07"]')
    # YAML reads 06 as the number 6. A path is meant from the sweep's folder.
    texts = [str(path.parent / name) if str(name).endswith(".ipynb") else f"{name:0>2}" for name in names]
    return [found.resolve() for found in notebooks.select(texts)]


def _settings(entry: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Every combination of parameters that an entry asks for."""
    fixed = mapping(entry.get("set", {}), f"{where}, set")
    grid, zipped = (
        {name: _values(value, name, where) for name, value in mapping(entry.get(way, {}), f"{where}, {way}").items()}
        for way in ("grid", "zip")
    )
    listed = [mapping(item, f"{where}, list") for item in _values(entry.get("list", [{}]), "list", where)]
    seeds = {"seed": _seeds(entry["seeds"], where)} if "seeds" in entry else {}
    names = [*fixed, *grid, *zipped, *seeds, *{name for item in listed for name in item}]
    for name in names:
        if names.count(name) > 1:
            raise RefusedError(f"{where}: the parameter {name} is set in two ways; keep one")
    if len({len(values) for values in zipped.values()}) > 1:
        sizes = ", ".join(f"{name} has {len(values)}" for name, values in zipped.items())
        raise RefusedError(f"{where}: zip pairs values one to one, but {sizes}")
    pairs = [dict(zip(zipped, values, strict=True)) for values in zip(*zipped.values(), strict=True)] or [{}]
    axes = [listed, pairs, *([{name: value} for value in values] for name, values in (grid | seeds).items())]
    if (size := math.prod(map(len, axes))) > MOST:
        raise RefusedError(f"{where}: these are {size:,} runs a notebook; the limit is {MOST:,}")
    return [{name: part[name] for part in (fixed, *point) for name in part} for point in itertools.product(*axes)]


def _seeds(content: Any, where: str) -> list[Any]:
    if isinstance(content, str) and (found := re.fullmatch(r"(\d+)\s*-\s*(\d+)", content)):
        first, last = int(found[1]), int(found[2])
        if first <= last < first + MOST:
            return list(range(first, last + 1))
    elif isinstance(content, list) and content and all(type(seed) is int for seed in content):
        return content
    raise RefusedError(f'{where}: seeds is {content!r}; write a range like "0-9" or a list like [0, 3, 7]')


def _values(content: Any, name: str, where: str) -> list[Any]:
    if not isinstance(content, list) or not content:
        raise RefusedError(f"{where}: {name} is {content!r}; give a list of at least one value")
    return content


def mapping(content: Any, where: str, known: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise RefusedError(f"{where} holds {content!r}; it must be `name: value` lines")
    for key in content:
        if known and key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise RefusedError(f"{where} holds the unknown key {key!r}{hint}")
    return content


def _value(name: str, value: Any, declared: Mapping[str, Parameter], notebook: Path) -> Any:
    """A value as the declared type. YAML reads 1e-3 as a text, which is then read as `mamlkit run -p` reads one."""
    if name not in declared:
        lines = ", ".join(declared) or "none"
        raise RefusedError(f"{notebook.stem} declares no parameter {name!r}; there are {lines}")
    parameter = declared[name]
    if isinstance(value, str):
        return notebooks.parse(value, parameter)
    try:
        return notebooks.coerce(value, parameter.type)
    except TypeError as error:
        raise RefusedError(
            f"{notebook.stem}: parameter {name} is {value!r}; the notebook declares {parameter}"
        ) from error
