"""One run of a sweep on a worker: what it writes, what its kernel gets, and what it refuses to compute."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from books import write
from sweeping import planned, sidecars

from mamlkit.study import notebooks
from mamlkit.sweeps import job, key
from mamlkit.sweeps.job import UnequalError, jobs, lost, one_gpu, perform
from mamlkit.sweeps.results import read
from mamlkit.sweeps.spec import Run


def test_a_sidecar_says_everything_about_its_run(tmp_path: Path) -> None:
    (found,) = planned(tmp_path, "runs: [{notebooks: good.ipynb, set: {alpha: 0.5, seed: 3}}]")
    returned = perform(found)
    (sidecar,) = sidecars(tmp_path)
    assert json.loads(json.dumps(returned)) == sidecar
    assert sidecar["status"] == "ok"
    assert sidecar["parameters"] == {"seed": 3, "alpha": 0.5, "name": "θ", "phase": [0.0, 1.0]}
    assert sidecar["given"] == {"alpha": 0.5, "seed": 3}
    assert sidecar["records"][0]["value"] == [3.5, 1 / 3]
    assert sidecar["claims"][0]["claim"] == "α < 1"
    assert sidecar["provenance"]["threads"] == 1
    assert {"python", "packages", "cpu_capability", "commit", "uncommitted_changes"} <= set(sidecar["provenance"])
    assert sidecar["peak_bytes"] > 10_000_000
    assert sidecar["seconds"] > 0
    executed = notebooks.load(tmp_path / sidecar["executed"])
    assert executed.metadata["mamlkit"]["parameters"]["alpha"] == 0.5
    assert str(tmp_path) not in json.dumps(sidecar), "a sidecar names no folder"


def test_a_run_whose_workers_died_leaves_an_account_that_is_read_as_others_are(tmp_path: Path) -> None:
    (found,) = planned(tmp_path, "runs: [{notebooks: good.ipynb, set: {alpha: 0.5}}]")
    lost(found, "3 workers died", 3)
    (run,) = read(tmp_path)
    assert (run.status, run.error, run.attempts, run.executed) == ("dead", "3 workers died", 3, None)
    assert run.parameters == {"seed": 0, "alpha": 0.5, "name": "θ", "phase": [0.0, 1.0]}


def test_a_kernel_has_the_threads_of_its_worker_and_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES')"
    cells = (f"import os; print([os.environ.get(name) for name in {names}])",)
    path = write(tmp_path, "asks", cells)
    monkeypatch.setattr(job, "visible_gpus", lambda: ["GPU-a", "GPU-b"])
    (found,) = jobs((Run(path, {}),), str(tmp_path), 60, threads=3)
    sidecar = perform(found)
    said = notebooks.load(tmp_path / sidecar["executed"]).cells[1].outputs[0].text
    assert said == "['3', '3', 'GPU-a']\n"
    assert sidecar["provenance"]["device"] == "GPU-a"


def test_gpus_are_dealt_out_and_shared_when_there_are_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"test-{os.getpid()}-{letter}" for letter in "ab"]
    monkeypatch.setattr(job, "visible_gpus", lambda: names)
    with one_gpu() as first, one_gpu() as second:
        assert {first, second} == set(names)
        with one_gpu() as third:
            assert third in names
    monkeypatch.setattr(job, "visible_gpus", lambda: ["only"])
    with one_gpu() as alone:
        assert alone is None, "nothing to deal out"


def test_visible_gpus_are_the_ones_this_process_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-x,")
    assert job.visible_gpus() == ["2", "GPU-x"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert job.visible_gpus() == []


def test_a_worker_with_another_notebook_or_kit_does_not_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = planned(tmp_path, "runs: [{notebooks: good.ipynb}]")
    with monkeypatch.context() as patch:
        patch.setattr(key, "kit_digest", lambda path: "0.0.0+other")
        with pytest.raises(UnequalError, match="mamlkit is not what the plan"):
            perform(found)
    good = tmp_path / "good.ipynb"
    good.write_text(good.read_text().replace("alpha + seed", "alpha - seed"))
    with pytest.raises(UnequalError, match=r"good\.ipynb is not what the plan"):
        perform(found)
    good.unlink()
    with pytest.raises(UnequalError, match="at the same path"):
        perform(found)
    assert sidecars(tmp_path) == []
