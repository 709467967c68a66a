"""The sweeps that the kit ships, and the results of `claims.yml` that it ships with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mamlkit import notebooks
from mamlkit.report.ledger import CLAIM
from mamlkit.rerun.results import Sidecar, read, tables
from mamlkit.rerun.sweep import load

SWEEPS = Path(__file__).parents[1] / "notebooks" / "sweeps"
RESULTS = SWEEPS / "claims"
SEEDS = 10


@pytest.fixture(scope="module")
def runs() -> list[Sidecar]:
    return read(RESULTS)


@pytest.mark.parametrize(("name", "runs"), [("smoke", 10), ("claims", 110), ("first_vs_second", 60)])
def test_a_sweep_asks_only_for_what_its_notebooks_declare(name: str, runs: int) -> None:
    found = load(SWEEPS / f"{name}.yml")
    assert found.name == name
    assert len(found.runs) == runs


def test_the_results_are_those_of_the_sweep(runs: list[Sidecar]) -> None:
    asked = {(run.path.stem, tuple(run.given.items())) for run in load(SWEEPS / "claims.yml").runs}
    assert {(run.notebook, tuple(run.given.items())) for run in runs} == asked
    assert len(runs) == len(asked)
    assert {run.status for run in runs} == {"ok"}


def test_the_results_are_of_the_claims_that_the_notebooks_make(runs: list[Sidecar]) -> None:
    for path in notebooks.select([]):
        made = {value["claim"] for _, value in notebooks.displayed(notebooks.load(path), CLAIM)}
        checked = {claim["claim"] for run in runs if run.notebook == path.stem for claim in run.claims}
        if checked or path.stem in {run.notebook for run in runs}:
            assert made == checked, f"{path.stem} changed; run notebooks/sweeps/claims.yml again and commit its results"


def test_every_claim_holds_on_nine_of_ten_seeds_or_more(runs: list[Sidecar]) -> None:
    held = tables(runs).claims.groupby(["notebook", "claim"])["holds"].agg(["sum", "size"])
    assert (held["size"] == SEEDS).all(), "each was checked on every seed"
    assert (held["sum"] >= 0.9 * SEEDS).all(), held[held["sum"] < 0.9 * SEEDS]


@pytest.mark.parametrize("name", ["runs", "claims", "records", "times"])
def test_the_committed_table_is_what_the_runs_say(name: str, runs: list[Sidecar]) -> None:
    text = getattr(tables(runs), name).to_csv(index=False, lineterminator="\n")
    assert (RESULTS / "tables" / f"{name}.csv").read_text(encoding="utf-8") == text
