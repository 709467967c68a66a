"""What the runs of a sweep left in its folder: read back, checked, and laid out as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from mamlkit.extras import extra
from mamlkit.files import replacing
from mamlkit.study import RefusedError
from mamlkit.sweeps.sidecar import PLAN as PLAN
from mamlkit.sweeps.sidecar import Sidecar as Sidecar
from mamlkit.sweeps.sidecar import read_json, read_sidecar, refuse

with extra("sweeps"):
    import pandas as pd

INTEGERS = range(-(2**63), 2**63)  # what a column of integers can hold
NUMBER = (int, float)
# Columns that are taken from a run as they are, and the types of those that do not follow from their values.
RUN = ("key", "notebook", "seed")
RUNS = ("key", "notebook", "title", "status", "cell", "error")
TIMES = ("key", "notebook", "started", "seconds", "peak_bytes", "attempts")
KINDS = {"key": "string", "notebook": "string", "cell": "Int64", "error": "string", "value": "float64"}
KINDS |= {"text": "string", "seconds": "float64", "peak_bytes": "Int64"}


Place = tuple[int | str, ...]  # of a number within a record: positions in lists, names in dicts


class Plan(NamedTuple):
    """The sweep last started into a folder: its name, and {"key", "notebook", "given"} of each of its runs."""

    name: str
    planned: list[dict[str, Any]]


class Tables(NamedTuple):
    """The results as tables. All but `times` are the same bytes wherever the same runs computed the same.

    As Parquet they keep every type. CSV writes an empty text and a missing one alike.

    runs     a row a run; `parameters.NAME` is a column each. A column holds numbers, truth values or texts if all its
             values are of that type; otherwise each value is JSON text, and so are lists (tuples)
    claims   a row each time that a claim was checked
    records  a row a number or text: `index` is its place within lists and dicts ("2.0", "a.1"; "" for a single value);
             `value` holds numbers (infinite ones too, truth values as 0 and 1), `text` holds texts
    times    what changes from sweep to sweep: times, memory, attempts, versions and machines
    """

    runs: pd.DataFrame
    claims: pd.DataFrame
    records: pd.DataFrame
    times: pd.DataFrame


def read(folder: Path) -> list[Sidecar]:
    """The runs of a folder, by notebook, given parameters and key.

    Raises RefusedError for a folder without runs, and for a file that is not the whole account of one.
    """
    paths = [path for path in folder.glob("*.json") if path.name != PLAN and not path.name.startswith(".")]
    if not paths:
        found = "no finished run" if folder.is_dir() else "no folder"
        raise RefusedError(f"there is {found} at {folder}; give the folder that `python -m mamlkit rerun` wrote into")
    return sorted((read_sidecar(path) for path in paths), key=lambda run: (run.notebook, order(run.given), run.key))


def plan(folder: Path) -> Plan | None:
    """The plan of the sweep last started into the folder; None where there is none. Raises RefusedError as `read`."""
    path = folder / PLAN
    if not path.is_file():
        return None
    found = read_json(path)
    planned = found.get("planned")
    if not (isinstance(found.get("name"), str) and isinstance(planned, list)):
        refuse(path, "it has no name or no planned runs")
    for run in planned:
        if not (
            isinstance(run, dict) and {"key", "notebook", "given"} <= run.keys() and isinstance(run["given"], dict)
        ):
            refuse(path, f"it plans {run!r:.60}")
    return Plan(found["name"], planned)


def last_sweep(folder: Path) -> list[Sidecar]:
    """The finished runs that the sweep last started into the folder asked for; all of `read`'s where no plan is there.

    What an older version of a notebook left in the folder is not among them. Raises RefusedError as `read` does, and
    where none of the planned runs is finished.
    """
    runs, last = read(folder), plan(folder)
    if last is None:
        return runs
    keys = {planned["key"] for planned in last.planned}
    if found := [run for run in runs if run.key in keys]:
        return found
    raise RefusedError(f"none of the {len(keys)} runs planned in {folder} is finished; start the sweep again")


def order(value: Any) -> tuple[Any, ...]:
    """A sort key for values of mixed types: nothing, numbers by size, texts, lists, dicts by their sorted names."""
    if value is None:
        return (0,)
    if isinstance(value, NUMBER):
        return (1, value)
    if isinstance(value, str):
        return (2, value)
    if isinstance(value, Mapping):
        return (4, tuple((name, order(value[name])) for name in sorted(value)))
    return (3, tuple(order(item) for item in value))


def tables(sidecars: Sequence[Sidecar]) -> Tables:
    """The tables of these runs, in their order."""
    names = sorted({name for run in sidecars for name in run.parameters})
    runs = [
        (*attrgetter(*RUNS)(run), len(run.claims), sum(claim["holds"] for claim in run.claims),
         *map(run.parameters.get, names))
        for run in sidecars
    ]  # fmt: skip
    claims = [(*attrgetter(*RUN)(run), claim["claim"], claim["holds"]) for run in sidecars for claim in run.claims]
    records = [
        (*attrgetter(*RUN)(run), record["name"], ".".join(map(str, path)), *_split(leaf))
        for run in sidecars
        for record in run.records
        for path, leaf in leaves(record["value"])
    ]
    times = pd.json_normalize([{name: getattr(run, name) for name in (*TIMES, "provenance")} for run in sidecars])
    return Tables(
        _frame((*RUNS, "claims", "holding", *(f"parameters.{name}" for name in names)), runs),
        _frame((*RUN, "claim", "holds"), claims),
        _frame((*RUN, "name", "index", "value", "text"), records),
        _frame(times.columns, times.astype(object).where(times.notna(), None).values.tolist()),
    )


def write(results: Tables, folder: Path) -> None:
    """Write each table as CSV and as Parquet, every file whole or not at all."""
    for name, frame in results._asdict().items():
        with replacing(folder / f"{name}.csv") as part:
            frame.to_csv(part, index=False, lineterminator="\n")
        with replacing(folder / f"{name}.parquet") as part:
            frame.to_parquet(part, index=False)


def leaves(value: Any) -> Iterator[tuple[Place, Any]]:
    """Each number or text of a record with its place."""
    if not isinstance(value, list | dict):
        yield (), value
        return
    for place, item in enumerate(value) if isinstance(value, list) else value.items():
        for path, leaf in leaves(item):
            yield (place, *path), leaf


def number(leaf: Any) -> float | None:
    """The number that a leaf of a record stands for, "inf", "-inf" and "nan" included; None for a text or nothing."""
    if isinstance(leaf, str):
        return float(leaf) if leaf in ("inf", "-inf", "nan") else None
    return None if leaf is None else float(leaf)


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table, its columns as their attributes."""
    return iter(table.itertuples())


def _split(leaf: Any) -> tuple[float | None, str | None]:
    value = number(leaf)
    return value, leaf if value is None else None


def _frame(names: Iterable[str], rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    return pd.DataFrame({name: _column(values, KINDS.get(name)) for name, values in columns.items()})


def _column(values: list[Any], kind: str | None) -> pd.Series[Any]:
    """The values as one type that Parquet can hold; where there is none, as JSON texts."""
    found = {type(value) for value in values if value is not None}
    fits = all(value in INTEGERS for value in values if type(value) is int)
    if kind is None and found == {bool}:
        kind = "boolean"
    elif kind is None and found and found <= {int, float} and fits:
        kind = "Int64" if found == {int} else "float64"
    elif kind is None:
        kind = "string"
        if found - {str}:
            values = [None if v is None else json.dumps(v, ensure_ascii=False, sort_keys=True) for v in values]
    return pd.Series(values, dtype=kind)
