"""`mamlkit train`: a training from a file of settings, alone and dealt out over processes, stopped and resumed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from sweeping import wait_for
from torch import Tensor

import mamlkit as mk
from mamlkit import checkpoint
from mamlkit.__main__ import main
from mamlkit.experiment import experiment
from mamlkit.study import RefusedError

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "experiments").glob("*.yml"))
SETTINGS = """
tasks: {Sinusoids: {shots: 5, queries: 6, amplitude: [1, 2], dtype: float64}}
model: {mlp: {inputs: 1, outputs: 1, hidden: [8], dtype: float64}}
loss: mse_loss
training: {alpha: 1e-2, beta: 0.01, steps: 2, tasks_per_iteration: 7, iterations: 230, checkpoint_every: 100}
exam: {size: 10, steps: 3}
"""


def written(folder: Path, text: str = SETTINGS, **training: float) -> Path:
    """A file of settings, some of its training's changed."""
    content = yaml.safe_load(text)
    content["training"] |= training
    path = folder / "settings.yml"
    path.write_text(yaml.safe_dump(content))
    return path


def theta(out: Path) -> Tensor:
    """The weights of a checkpoint in a row."""
    return torch.cat([weight.flatten() for weight in checkpoint.load(out / "checkpoint")["theta"].values()])


def command(settings: Path, out: Path, processes: int = 0) -> list[str]:
    """The command line, alone or under torchrun."""
    run = ["-m", "mamlkit", "train", str(settings), "--out", str(out)]
    if processes:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        run = [*launcher, f"--nproc-per-node={processes}", *run]
    return [sys.executable, *run]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training in one process, left alone."""
    folder = tmp_path_factory.mktemp("alone")
    list(experiment(written(folder), folder / "out"))
    return folder / "out"


def test_a_file_of_settings_is_the_training_and_the_exam_that_it_says(alone: Path) -> None:
    tasks = mk.Sinusoids(shots=5, queries=6, amplitude=(1, 2), dtype=torch.float64)
    model = mk.models.mlp(1, 1, hidden=(8,), dtype=torch.float64)
    objective = mk.Objective(model, torch.nn.functional.mse_loss)
    options = {"alpha": 0.01, "beta": 0.01, "steps": 2, "tasks_per_iteration": 7, "iterations": 230}
    records = list(mk.train(objective, tasks, **options, progress=False))  # type: ignore[arg-type]
    assert torch.equal(theta(alone), torch.cat([weight.flatten() for weight in objective.theta().values()]))
    curve = mk.evaluate(objective, objective.theta(), tasks, alpha=0.01, steps=3, split="test", size=10)
    found = json.loads((alone / "result.json").read_text())
    assert found["settings"] == yaml.safe_load(SETTINGS)
    assert found["exam"] == {"loss": curve.mean().tolist(), "half_width": curve.half_width().tolist()}
    with (alone / "records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == [100, 200, 230]
    for row, first, last in zip(rows, (0, 100, 200), (100, 200, 230), strict=True):
        wanted = sum(record.loss_after for record in records[first:last]) / (last - first)
        assert float(row["loss_after"]) == pytest.approx(wanted, rel=1e-12)


def test_a_training_that_was_killed_goes_on_to_the_same_bits(alone: Path, tmp_path: Path) -> None:
    settings, out = written(tmp_path), tmp_path / "out"
    with subprocess.Popen(command(settings, out), stdout=subprocess.DEVNULL) as process:
        wait_for((out / "checkpoint").exists, "a checkpoint")
        process.kill()
    assert not (out / "result.json").exists()
    lines = list(experiment(settings, out))
    assert "10 tasks, 0 → 3 steps" in lines[-1]
    assert torch.equal(theta(out), theta(alone))
    iterations = [line.split(",")[0] for line in (out / "records.csv").read_text().splitlines()]
    assert iterations[-2:] == ["200", "230"]
    assert sorted(set(iterations[1:]), key=int) == iterations[1:]


def test_two_processes_find_the_theta_of_one(alone: Path, tmp_path: Path) -> None:
    subprocess.run(command(written(tmp_path), tmp_path / "out", processes=2), check=True, stdout=subprocess.DEVNULL)
    assert torch.allclose(theta(tmp_path / "out"), theta(alone), rtol=0, atol=1e-12)
    one, two = (json.loads((out / "result.json").read_text())["exam"]["loss"] for out in (alone, tmp_path / "out"))
    assert two == pytest.approx(one, abs=1e-12)


def test_a_process_that_dies_ends_the_run_with_a_whole_checkpoint_from_which_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    settings, out, whole = written(tmp_path, iterations=600), tmp_path / "out", tmp_path / "whole"
    with subprocess.Popen(command(settings, out, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as launcher:
        wait_for((out / "checkpoint").exists, "a checkpoint")
        workers = [c for c in psutil.Process(launcher.pid).children() if "RANK" in c.environ()]
        last = max(workers, key=lambda worker: int(worker.environ()["RANK"]))
        os.kill(last.pid, signal.SIGKILL)
        assert launcher.wait(timeout=240) != 0
    assert 100 <= checkpoint.load(out / "checkpoint")["iteration"] < 600
    assert not (out / "result.json").exists()
    subprocess.run(command(settings, out, processes=2), check=True, stdout=subprocess.DEVNULL)
    list(experiment(settings, whole))
    assert torch.allclose(theta(out), theta(whole), rtol=0, atol=1e-10)


def test_more_processes_than_tasks_are_refused(tmp_path: Path) -> None:
    run = command(written(tmp_path, tasks_per_iteration=1), tmp_path / "out", processes=2)
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode != 0
    assert "1 tasks an iteration cannot be dealt out to 2 processes" in done.stderr


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_experiment_runs(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    assert f"python -m mamlkit train experiments/{path.name}" in text
    settings = written(tmp_path, text, iterations=2, tasks_per_iteration=2)
    settings.write_text(settings.read_text().replace("size: 600", "size: 3"))
    assert "3 tasks, 0 →" in list(experiment(settings, tmp_path / "out"))[-1]
    assert ("accuracy" in json.loads((tmp_path / "out" / "result.json").read_text())["exam"]) == (path.stem == "glyphs")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("loss: mse_loss", "", "there is no loss"),
        ("loss: mse_loss", "loss: nll", "loss is 'nll'; it must be one of mse_loss"),
        ("loss: mse_loss", "losses: mse_loss", "did you mean loss"),
        ("Sinusoids:", "Sinusoid:", "did you mean Sinusoids"),
        ("shots: 5", "shot: 5", "did you mean shots"),
        ("shots: 5", "shots: 0", "shots is 0"),
        ("{mlp: {", "{conv4: {", "unknown key 'inputs'"),
        ("inputs: 1, ", "", "inputs"),
        ("beta: 0.01, ", "", "beta"),
        ("beta: 0.01", "beta: fast", "beta is 'fast'; it must be of type float"),
        ("alpha: 1e-2", "alpha: -1", "alpha is -1"),
        ("steps: 2", "outer: reptile", "unknown key 'outer'"),
        ("size: 10", "size: 1", "size is 1"),
        ("loss: mse_loss", "loss: mse_loss\nbatch_norm: none", "batch_norm is 'none'"),
        ("loss: mse_loss", "loss: mse_loss\ndevice: abacus", "device is 'abacus'"),
        ("float64}}\nloss", "float32}}\nloss", "float"),
        ("float64}}\nloss", "float16}}\nloss", "dtype is 'float16'; it must be of type"),
        ("{Sinusoids:", "[Sinusoids:", "not YAML"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in SETTINGS
    path = tmp_path / "settings.yml"
    path.write_text(SETTINGS.replace(old, new, 1).replace("iterations: 230", "iterations: 1"))
    with pytest.raises(RefusedError, match=words):
        list(experiment(path, tmp_path / "out"))


def test_the_device_that_is_named_goes_before_the_one_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="device is 'abacus'"):
        list(experiment(written(tmp_path), tmp_path / "out", "abacus"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_this_machine_lacks_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert "this machine offers 0 CUDA devices" in capsys.readouterr().err


def test_a_result_that_is_not_finite_is_written_as_json_that_any_reader_takes(tmp_path: Path) -> None:
    path = tmp_path / "settings.yml"
    path.write_text(SETTINGS.replace("230", "1").replace("size: 10, steps: 3", "size: 10, steps: 60, alpha: 1000.0"))
    list(experiment(path, tmp_path / "out"))

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    found = json.loads((tmp_path / "out" / "result.json").read_text(), parse_constant=refuse)
    assert found["exam"]["loss"][-1] in ("NaN", "Infinity")
    assert isinstance(found["exam"]["loss"][0], float)


def test_the_command_says_what_is_wrong_in_one_line_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tmp_path / "none.yml"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_training_does_not_go_on_from_a_checkpoint(alone: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="belongs to another run"):
        list(experiment(written(tmp_path, beta=0.02), alone))
