"""A sweep's results: read back whole or refused, and tables that keep what runs computed."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from sidecars import ends, put, sidecar

from mamlkit import files
from mamlkit.study import RefusedError
from mamlkit.sweeps import results
from mamlkit.sweeps.report import report


def test_runs_are_read_in_the_order_of_their_notebook_and_given_numbers(tmp_path: Path) -> None:
    put(tmp_path, *[sidecar(seed) for seed in (10, 9, 2)], sidecar(0, notebook="01_first"))
    assert [(run.notebook, run.seed) for run in results.read(tmp_path)] == [
        ("01_first", 0),
        ("06_update", 2),
        ("06_update", 9),
        ("06_update", 10),
    ]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('{"format": 1, "key": ', "Expecting value"),
        ("[]", "does not begin with format 1"),
        (json.dumps(sidecar() | {"format": 2}), "format 1"),
        (json.dumps(sidecar(seconds=math.nan)), "NaN is not JSON"),
        (json.dumps(sidecar(status="fine")), "status is 'fine'"),
        (json.dumps(sidecar(seconds="65")), "'seconds' is '65'"),
        (json.dumps(sidecar(attempts=True)), "'attempts' is True"),
        (json.dumps(sidecar(claims=[{"claim": "x"}])), "a claim of it is"),
        (json.dumps(sidecar(records=[7])), "a record of it is 7"),
        (json.dumps(sidecar(executed="../../x.ipynb")), "executed notebook is '../../x.ipynb'"),
        (json.dumps(sidecar(key="other")), "inside it is run 'other'"),
        (json.dumps({name: value for name, value in sidecar().items() if name != "error"}), "no 'error'"),
    ],
)
def test_a_file_that_is_not_a_whole_sidecar_is_refused_with_its_name(tmp_path: Path, broken: str, said: str) -> None:
    (path,) = put(tmp_path, sidecar())
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(RefusedError, match=re.escape(said)) as refused:
        report(tmp_path)
    assert str(path) in str(refused.value)
    assert "start the sweep again" in str(refused.value)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("plan", ["{", '{"format": 1}', '{"format": 1, "name": "x", "planned": [{"key": 1}]}'])
def test_a_broken_plan_is_refused(tmp_path: Path, plan: str) -> None:
    put(tmp_path, sidecar())
    (tmp_path / results.PLAN).write_text(plan)
    with pytest.raises(RefusedError, match=r"sweep\.json is not a whole plan"):
        report(tmp_path)


def test_of_a_folder_the_runs_of_its_last_sweep_are_read(tmp_path: Path) -> None:
    put(tmp_path, *[sidecar(seed) for seed in range(3)])
    assert [run.seed for run in results.last_sweep(tmp_path)] == [0, 1, 2], "all, where nothing was planned"
    planned = [{name: sidecar(seed)[name] for name in ("key", "notebook", "given")} for seed in (1, 7)]
    text = {"format": 1, "name": "x", "planned": planned}
    (tmp_path / results.PLAN).write_text(json.dumps(text))
    assert [run.seed for run in results.last_sweep(tmp_path)] == [1]
    (tmp_path / results.PLAN).write_text(json.dumps(text | {"planned": planned[1:]}))
    with pytest.raises(RefusedError, match="none of the 1 runs planned"):
        results.last_sweep(tmp_path)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no finished run"):
        report(tmp_path)
    with pytest.raises(RefusedError, match="no folder"):
        report(tmp_path / "missing")


def test_records_become_long_rows_with_their_place_and_non_finite_floats_numbers() -> None:
    value = {"a": [1, "inf"], "b": {"c": "text", "d": True}, "e": None}
    run = results.Sidecar(**{name: item for name, item in sidecar().items() if name != "format"})
    run.records[:] = [{"name": "x", "value": 2.5, "cell": "c"}, {"name": "y", "value": value, "cell": "c"}]
    table = results.tables([run]).records
    assert table["index"].tolist() == ["", "a.0", "a.1", "b.c", "b.d", "e"]
    assert table["value"].tolist()[:3] == [2.5, 1, math.inf]
    assert table["value"].isna().tolist() == [False, False, False, True, False, True]
    assert table["text"].fillna("-").tolist() == ["-", "-", "-", "text", "-", "-"]
    assert table["seed"].tolist() == [0] * 6


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, 2], "Int64", [1, 2]),
        ([1, 2.5], "float64", [1, 2.5]),
        ([True, False], "boolean", [True, False]),
        (["a", "b"], "string", ["a", "b"]),
        ([[0.0, 3.14], [1, 2]], "string", ["[0.0, 3.14]", "[1, 2]"]),
        (["a", 1], "string", ['"a"', "1"]),
        ([True, 1], "string", ["true", "1"]),
        ([2**70, 1], "string", [str(2**70), "1"]),
    ],
)
def test_a_parameter_keeps_its_type_or_becomes_json(
    tmp_path: Path, values: list[Any], kind: str, stored: list[Any]
) -> None:
    put(tmp_path, *[sidecar(seed, given={"p": value}) for seed, value in enumerate(values)], sidecar(7))
    runs = results.tables(results.read(tmp_path)).runs.sort_values("parameters.seed")
    assert str(runs["parameters.p"].dtype) == kind
    assert runs["parameters.p"].tolist()[:2] == stored
    assert runs["parameters.p"].isna().tolist() == [False, False, True]


def test_tables_come_back_equal_from_parquet_and_csv(tmp_path: Path) -> None:
    folder = ends(tmp_path / "a sweep")
    tables = results.tables(results.read(folder))
    report(folder)
    assert [len(table) for table in tables] == [8, 7, 27, 8]
    for name, table in tables._asdict().items():
        assert_frame_equal(pd.read_parquet(folder / "report" / f"{name}.parquet"), table)
        kinds = {column: str(kind) for column, kind in table.dtypes.items()}
        read = pd.read_csv(folder / "report" / f"{name}.csv", dtype=kinds)
        # A CSV file has one way to write no text and an empty one.
        empty = dict.fromkeys(read.columns.intersection(["index"]), "")
        assert_frame_equal(read.fillna(empty), table)


def test_tables_but_for_times_are_the_same_bytes_when_the_same_was_computed(tmp_path: Path) -> None:
    for name, other in (("a", {}), ("b", {"started": "2027-01-01T00:00:00+00:00", "seconds": 1.5, "attempts": 2})):
        runs = [sidecar(seed, provenance={"platform": name}, **other) for seed in range(3)]
        put(tmp_path / name, *(runs if name == "a" else reversed(runs)))
        report(tmp_path / name)
    for table in results.Tables._fields:
        for kind in ("csv", "parquet"):
            a, b = ((tmp_path / name / "report" / f"{table}.{kind}").read_bytes() for name in "ab")
            assert (a == b) == (table != "times"), f"{table}.{kind}"


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    path.write_text("before")

    def fail() -> None:
        with files.replacing(path) as part:
            part.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail()
    assert path.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["runs.parquet"]
