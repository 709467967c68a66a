"""The sweeps that the kit ships, and the results of `claims.yml` that it ships with them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mamlkit.ledger import CLAIM
from mamlkit.study import notebooks
from mamlkit.study.execute import execute
from mamlkit.sweeps.results import Sidecar, read, tables
from mamlkit.sweeps.spec import load

SWEEPS = Path(__file__).parents[1] / "notebooks" / "sweeps"
RESULTS = SWEEPS / "claims"
SEEDS = 10


@pytest.fixture(scope="module")
def runs() -> list[Sidecar]:
    return read(RESULTS)


@pytest.mark.parametrize(
    ("name", "runs"), [("smoke", 10), ("claims", 110), ("first_vs_second", 60), ("fresh_seeds", 100)]
)
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


def test_notebook_13_reads_a_sweep_of_ones_own_as_far_as_it_goes(tmp_path: Path) -> None:
    """Five seeds of 06: one fails after its exam, one before, one has no number there; and nothing of 08 and 10."""
    found = sorted(RESULTS.glob("06_*.json"))[:5]
    sidecars = [json.loads(path.read_text("utf-8")) for path in found]
    late, early, lost = sidecars[:3]
    (curve,) = (r["value"] for r in lost["records"] if r["name"].startswith("test mse, MAML start"))
    curve["1"][0] = "nan"
    late["claims"][-1]["holds"] = early["claims"][3]["holds"] = False
    early["claims"], early["records"] = early["claims"][:4], []
    for path, sidecar in zip(found, sidecars, strict=True):
        status = "ok" if all(claim["holds"] for claim in sidecar["claims"]) else "failed"
        (tmp_path / path.name).write_text(json.dumps(sidecar | {"status": status}), "utf-8")
    (path,) = notebooks.select(["13"])
    result, executed = execute(path, {"results": str(tmp_path)}, timeout=300)
    assert result.status == "ok", result.error
    said = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert "5 runs of 1 notebooks" in said
    assert "3 of 5 runs ended well" in said
    assert f"4 of 5: {early['claims'][3]['claim']} (06_the_meta_update)" in said
    assert f"3 of 4: {late['claims'][-1]['claim']} (06_the_meta_update)" in said
    assert "06: error after one step: 2 of 5 runs without this number left out" in said
    assert "has no two runs of 08" in said
    records = {record["name"]: record["value"] for record in result.records}
    ours = [sidecar["records"] for sidecar in (late, *sidecars[3:])]
    step = [next(r["value"]["1"][0] for r in run if r["name"].startswith("test mse, MAML start")) for run in ours]
    assert records["mean error after one step over seeds, and the ends of its interval"][0] == math.fsum(step) / 3


def test_notebook_13_refuses_a_folder_without_runs(tmp_path: Path) -> None:
    (path,) = notebooks.select(["13"])
    result, _ = execute(path, {"results": str(tmp_path)}, timeout=300)
    assert result.status == "failed"
    assert "there is no finished run at" in str(result.error)
