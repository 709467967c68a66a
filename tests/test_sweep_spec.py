"""What a sweep asks for: a file that is read and checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweeping import plan

from mamlkit.__main__ import main
from mamlkit.study import RefusedError
from mamlkit.sweeps import driver
from mamlkit.sweeps.spec import load


def given(folder: Path, text: str) -> list[dict[str, Any]]:
    return [dict(run.given) for run in load(plan(folder, text)).runs]


def test_grid_zip_list_set_and_seeds_combine(tmp_path: Path) -> None:
    text = "runs: [{notebooks: good.ipynb, set: {name: a}, grid: {alpha: [0.1, 0.2]}, seeds: 3-5}]"
    assert given(tmp_path, text) == [
        {"name": "a", "alpha": alpha, "seed": seed} for alpha in (0.1, 0.2) for seed in (3, 4, 5)
    ]
    text = "runs: [{notebooks: good.ipynb, zip: {alpha: [0.1, 0.2], name: [a, b]}, seeds: [7, 9]}]"
    assert given(tmp_path, text) == [
        {"alpha": alpha, "name": name, "seed": seed} for alpha, name in ((0.1, "a"), (0.2, "b")) for seed in (7, 9)
    ]
    text = "runs: [{notebooks: good.ipynb, list: [{alpha: 0.5}, {name: b, seed: 2}]}]"
    assert given(tmp_path, text) == [{"alpha": 0.5}, {"name": "b", "seed": 2}]


def test_values_take_the_declared_types(tmp_path: Path) -> None:
    text = "runs: [{notebooks: good.ipynb, set: {alpha: 1e-3, phase: [0, 2], name: 'x\"; import os #'}}]"
    assert given(tmp_path, text) == [{"alpha": 0.001, "phase": (0.0, 2.0), "name": 'x"; import os #'}]


def test_the_walkthrough_is_named_by_number_as_yaml_reads_it(tmp_path: Path) -> None:
    found = load(plan(tmp_path, "runs: [{notebooks: [00, 03, 08, 10]}]")).runs
    assert [run.path.stem[:2] for run in found] == ["00", "03", "08", "10"]


REFUSED = [
    ("runs: [", "is not YAML that can be read"),
    ("a: &a [*a, *a]\nruns: *a", "unknown key 'a'"),
    ("runs: !!python/object/apply:os.system ['touch pwned']", "is not YAML that can be read"),
    ("runs: [{notebooks: good.ipynb, notebooks: good.ipynb}]", "'notebooks' stands here twice"),
    ("", "the file holds None"),
    ("[1, 2]", "the file holds [1, 2]"),
    ("runs: []", "at least one entry"),
    ("run: []", "unknown key 'run'; did you mean runs?"),
    ("limit: -1\nruns: [{notebooks: good.ipynb}]", "limit is -1"),
    ("limit: true\nruns: [{notebooks: good.ipynb}]", "limit is True"),
    ("name: ../up\nruns: [{notebooks: good.ipynb}]", "name is '../up'"),
    ("runs: [{seeds: 0-3}]", "entry 1: notebooks is None"),
    ("runs: [{notebooks: nowhere.ipynb}]", "there is no notebook"),
    ("runs: [{notebooks: good.ipynb, grids: {}}]", "did you mean grid?"),
    ("runs: [{notebooks: good.ipynb, seeds: 9-0}]", "seeds is '9-0'"),
    ("runs: [{notebooks: good.ipynb, seeds: 10}]", 'write a range like "0-9"'),
    ("runs: [{notebooks: good.ipynb, seeds: 0-9999999999}]", "seeds is"),
    ("runs: [{notebooks: good.ipynb, grid: {alpha: 0.1}}]", "alpha is 0.1; give a list"),
    ("runs: [{notebooks: good.ipynb, grid: {alpha: []}}]", "give a list of at least one value"),
    ("runs: [{notebooks: good.ipynb, zip: {alpha: [0.1], seed: [1, 2]}}]", "alpha has 1, seed has 2"),
    ("runs: [{notebooks: good.ipynb, set: {seed: 1}, seeds: 0-3}]", "the parameter seed is set in two ways"),
    ("runs: [{notebooks: good.ipynb, set: {lr: 1}}]", "good declares no parameter 'lr'; there are seed, alpha"),
    ("runs: [{notebooks: good.ipynb, set: {alpha: fast}}]", "parameter alpha is 'fast'"),
    ("runs: [{notebooks: good.ipynb, set: {alpha: yes}}]", "parameter alpha is True; the notebook declares"),
    ("runs: [{notebooks: good.ipynb, set: {seed: 1.5}}]", "parameter seed is 1.5"),
    ("runs: [{notebooks: good.ipynb, set: {phase: [1]}}]", "parameter phase is [1]"),
    ("runs: [{notebooks: good.ipynb, set: {alpha: .inf}}]", "parameter alpha is inf"),
    ("runs: [{notebooks: good.ipynb, set: {seed: '__import__(\"os\").getpid()'}}]", "parameter seed is"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text[:40] for text, _ in REFUSED])
def test_a_bad_sweep_is_refused_before_anything_starts(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LocalCluster", None)
    monkeypatch.chdir(tmp_path)
    assert main(["rerun", str(plan(tmp_path, text)), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mamlkit: sweep.yml")
    assert message in said
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"good.ipynb", "sweep.yml"}


def test_a_grid_beyond_all_bounds_is_refused_unbuilt(tmp_path: Path) -> None:
    axes = ", ".join(f"{name}: {list(range(200))}" for name in ("alpha", "seed"))
    text = f"runs: [{{notebooks: good.ipynb, grid: {{{axes}, name: {list('abcdefghij') * 5}}}}}]"
    path = plan(tmp_path, text)
    with pytest.raises(RefusedError, match="limit is 1,000"):
        load(path)


def test_a_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["rerun", str(tmp_path / "none.yml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
