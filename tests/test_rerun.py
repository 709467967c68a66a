"""`mamlkit rerun`: what a sweep asks for, what becomes of each of its runs, and that no fault loses or spoils one."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from books import write
from fsspec.implementations.memory import MemoryFileSystem

from mamlkit.__main__ import main
from mamlkit.ledger import CLAIM, RECORD
from mamlkit.study import notebooks
from mamlkit.study.notebooks import RefusedError
from mamlkit.sweeps import driver, job, key, spec
from mamlkit.sweeps.board import Board, duration
from mamlkit.sweeps.job import Job, UnequalError, jobs, one_gpu, perform
from mamlkit.sweeps.results import read, tables
from mamlkit.sweeps.spec import load
from mamlkit.sweeps.store import Store

DISPLAY = "from IPython.display import display\n"
GOOD = (
    'seed: int = 0\nalpha: float = 0.1\nname: str = "θ"\nphase: tuple[float, float] = (0.0, 1.0)',
    f'{DISPLAY}display({{"text/plain": "x", "{RECORD}": {{"name": "x", "value": [alpha + seed, 1 / 3]}}}}, raw=True)',
    f'display({{"text/plain": "✓", "{CLAIM}": {{"claim": "α < 1", "holds": alpha < 1}}}}, raw=True)',
)
# Notes each of its executions in a file, so that a test can count them.
COUNTED = (
    'seed: int = 0\nlog: str = ""\npause: float = 0.0',
    "import time\nwith open(log, 'a') as file:\n    file.write(f'{seed}\\n')",
    "time.sleep(pause)",
    f'{DISPLAY}display({{"text/plain": "x", "{RECORD}": {{"name": "x", "value": seed * 2}}}}, raw=True)',
)


def plan(folder: Path, text: str, name: str = "sweep") -> Path:
    """A sweep's file."""
    path = folder / f"{name}.yml"
    path.write_text(text, encoding="utf-8")
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mamlkit", "rerun", *map(str, arguments)]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240, check=False)


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command, in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited two minutes for {what}"
        time.sleep(0.1)


def sidecars(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*-*.json"))]


def counts(log: Path) -> Counter[str]:
    """How often each seed was executed."""
    return Counter(log.read_text().split()) if log.exists() else Counter()


def listeners(driver: int) -> set[str]:
    """The addresses at which a driver, its workers and their kernels listen."""
    process = psutil.Process(driver)
    family = [process, *process.children(recursive=True)]
    sockets = [found for member in family for found in member.net_connections("inet")]
    return {found.laddr.ip for found in sockets if found.status == psutil.CONN_LISTEN}


def whole(folder: Path) -> bool:
    """Every file is complete, and nothing of a write that was cut off is there."""
    for path in folder.glob("*.json"):
        json.loads(path.read_text("utf-8"))
    for path in folder.glob("*.ipynb"):
        notebooks.load(path)
    return not [path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]


# ---- what a sweep asks for


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path, "good", GOOD)


def given(folder: Path, text: str) -> list[dict[str, Any]]:
    return [dict(run.given) for run in load(plan(folder, text)).runs]


@pytest.mark.usefixtures("good")
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


@pytest.mark.usefixtures("good")
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


@pytest.mark.usefixtures("good")
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


def test_a_grid_beyond_all_bounds_is_refused_unbuilt(tmp_path: Path, good: Path) -> None:
    axes = ", ".join(f"{name}: {list(range(200))}" for name in ("alpha", "seed"))
    text = f"runs: [{{notebooks: {good.name}, grid: {{{axes}, name: {list('abcdefghij') * 5}}}}}]"
    path = plan(tmp_path, text)
    with pytest.raises(RefusedError, match="limit is 1,000"):
        load(path)


def test_a_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["rerun", str(tmp_path / "none.yml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


# ---- the key


def one(folder: Path, text: str) -> list[Job]:
    return jobs(load(plan(folder, text)).runs, str(folder), 60, 1)


def test_ten_thousand_runs_are_planned_and_resumed_as_they_are(
    tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan(tmp_path, f"runs: [{{notebooks: {good.name}, seeds: 0-9999}}]")
    out = tmp_path / "out"
    out.mkdir()
    planned = jobs(load(path).runs, str(out), 60, 1)
    assert len({found.key for found in planned}) == 10_000
    for found in planned[:-3]:
        bare = {"format": 1, "key": found.key, "notebook": "good", "status": "ok", "seconds": 2.0}
        (out / f"{found.name}.json").write_text(json.dumps(bare))
    assert main(["rerun", str(path), "--out", str(out), "--dry-run", "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "sweep: 10000 runs, 3 to do" in said
    assert "about 0:03 on 2 workers" in said
    assert said.count("\ndo  ") + said.startswith("do  ") == 3


def test_a_sidecar_that_was_cut_off_counts_as_none(tmp_path: Path, good: Path) -> None:
    planned = one(tmp_path, f"runs: [{{notebooks: {good.name}, seeds: 0-2}}]")
    texts = ['{"format": 1, "ke', "[]", json.dumps({"format": 1, "key": "of another"})]
    for found, text in zip(planned, texts, strict=True):
        (tmp_path / f"{found.name}.json").write_text(text)
    assert driver._kept(planned, Store(str(tmp_path))) == {}


# ---- one job


def test_a_sidecar_says_everything_about_its_run(tmp_path: Path, good: Path) -> None:
    (found,) = one(tmp_path, f"runs: [{{notebooks: {good.name}, set: {{alpha: 0.5, seed: 3}}}}]")
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


def test_a_kernel_has_the_threads_of_its_worker_and_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES')"
    cells = (f"import os; print([os.environ.get(name) for name in {names}])",)
    path = write(tmp_path, "asks", cells)
    monkeypatch.setattr(job, "visible_gpus", lambda: ["GPU-a", "GPU-b"])
    (found,) = jobs((spec.Run(path, {}),), str(tmp_path), 60, threads=3)
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
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = one(tmp_path, f"runs: [{{notebooks: {good.name}}}]")
    with monkeypatch.context() as patch:
        patch.setattr(key, "kit_digest", lambda path: "0.0.0+other")
        with pytest.raises(UnequalError, match="mamlkit is not what the plan"):
            perform(found)
    good.write_text(good.read_text().replace("alpha + seed", "alpha - seed"))
    with pytest.raises(UnequalError, match=r"good\.ipynb is not what the plan"):
        perform(found)
    good.unlink()
    with pytest.raises(UnequalError, match="at the same path"):
        perform(found)
    assert sidecars(tmp_path) == []


def test_a_full_disk_leaves_nothing_half_written_and_says_so(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = one(tmp_path, f"runs: [{{notebooks: {good.name}}}]")
    before = {path.name for path in tmp_path.iterdir()}
    pauses: list[float] = []
    original = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        original(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr("time.sleep", pauses.append)
    with pytest.raises(OSError, match="No space left") as error:
        Store(str(tmp_path)).write(f"{found.name}.json", "{}" * 100)
    assert pauses == [1.0, 5.0], "a fault that passes is waited for"
    assert {path.name for path in tmp_path.iterdir()} == before
    assert isinstance(error.value, OSError)
    refused = driver._failing(error.value)
    assert "make room, and start the sweep again: what is finished is kept" in str(refused)


def test_a_write_that_fails_for_a_moment_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries, replace = itertools.count(), os.replace

    def shaky(source: Path, target: Path) -> None:
        if next(tries) < 2:
            raise OSError(errno.EIO, "not now")
        replace(source, target)

    monkeypatch.setattr("mamlkit.files.os.replace", shaky)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    Store(str(tmp_path)).write("a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# ---- a store that is not a folder


def test_results_go_to_any_store_that_fsspec_knows(tmp_path: Path, good: Path) -> None:
    path = plan(tmp_path, f"runs: [{{notebooks: {good.name}, seeds: 0-1}}]")
    planned = jobs(load(path).runs, "memory://a/b", 60, 1)
    store = Store("memory://a/b/")
    with store.lock():
        assert driver._kept(planned, store) == {}
        perform(planned[0])
    assert store.names() == {f"{planned[0].name}.json", f"{planned[0].name}.ipynb"}
    assert set(driver._kept(planned, store)) == {planned[0].key}, "and are found there again"


def test_a_store_that_is_not_there_is_refused(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: MemoryFileSystem, path: str, **_: object) -> list[str]:
        raise ValueError("no such bucket")

    monkeypatch.setattr(MemoryFileSystem, "ls", broken)
    path = plan(tmp_path, f"runs: [{{notebooks: {good.name}}}]")
    assert main(["rerun", str(path), "--out", "memory://gone"]) == 2
    assert "memory://gone cannot be listed: [Errno 5] ValueError: no such bucket" in capsys.readouterr().err


def test_an_address_that_nothing_can_reach_is_refused(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan(tmp_path, f"runs: [{{notebooks: {good.name}}}]")
    assert main(["rerun", str(path), "--out", "nowhere://gone"]) == 2
    assert "nowhere://gone cannot be reached" in capsys.readouterr().err


# ---- whole sweeps


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """A sweep of notebooks that end in every way there is."""
    home = tmp_path_factory.mktemp("ends")
    write(home, "good", GOOD)
    write(home, "raises", ("fixed: str = ''", "import os\nif not os.path.exists(fixed):\n    1 / 0"))
    write(home, "killed", ("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)"))
    write(home, "exits", ("import sys", "sys.exit(0)", "3"))
    write(home, "slow", ("import time", "time.sleep(300)"))
    write(home, "breaks", ("import os, signal", "os.kill(os.getppid(), signal.SIGKILL)", "import time; time.sleep(60)"))
    once = f"if not os.path.exists({str(home / 'once')!r}):"
    once += f"\n    open({str(home / 'once')!r}, 'w').close(); os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
    write(home, "breaks_once", ("import os, signal, time", once))
    names = ", ".join(f"{name}.ipynb" for name in ("killed", "exits", "slow", "breaks_once", "breaks"))
    text = f"limit: 15\nruns:\n- notebooks: [{names}]\n- {{notebooks: good.ipynb, seeds: 0-1}}\n"
    text += f"- {{notebooks: raises.ipynb, set: {{fixed: {home / 'fixed'}}}}}\n"
    path = plan(home, text)
    return path, home / "out", call(path, "--out", home / "out")


def test_each_end_has_its_status(ends: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    _, out, done = ends
    found = {(sidecar["notebook"], sidecar["given"].get("seed")): sidecar for sidecar in sidecars(out)}
    assert {name: sidecar["status"] for name, sidecar in found.items()} == {
        ("good", 0): "ok",
        ("good", 1): "ok",
        ("raises", None): "failed",
        ("killed", None): "dead",
        ("exits", None): "incomplete",
        ("slow", None): "timeout",
        ("breaks", None): "dead",
        ("breaks_once", None): "ok",
    }, done.stderr
    assert done.returncode == 1
    assert found["raises", None]["error"] == "ZeroDivisionError: division by zero"
    assert found["raises", None]["cell"] == 3
    assert found["killed", None]["attempts"] == 2, "a kernel's death may be the machine's doing, once"
    assert found["breaks", None]["executed"] is None
    assert "workers died while they ran it" in found["breaks", None]["error"]
    assert "8 of 8 runs done" in done.stdout
    assert "raises fixed=" in done.stdout
    assert "failed: ZeroDivisionError" in done.stdout
    assert "Traceback" not in done.stderr
    assert whole(out)


def test_only_failed_does_those_again_and_no_others(ends: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    path, out, _ = ends
    before = {sidecar["key"]: sidecar for sidecar in sidecars(out)}
    again = call(path, "--out", out)
    assert again.returncode == 1, "runs that failed are finished, and still not well"
    assert {sidecar["key"]: sidecar for sidecar in sidecars(out)} == before
    (path.parent / "fixed").touch()
    for notebook in ("killed", "slow", "breaks"):  # what takes long need not fail again
        for old in out.glob(f"{notebook}-*.json"):
            old.write_text(json.dumps(json.loads(old.read_text()) | {"status": "ok"}))
    before = {sidecar["key"]: sidecar for sidecar in sidecars(out)}
    call(path, "--out", out, "--only", "failed")
    after = {sidecar["key"]: sidecar for sidecar in sidecars(out)}
    changed = {after[key]["notebook"]: after[key]["status"] for key in before if after[key] != before[key]}
    assert changed.pop("exits", "incomplete") == "incomplete", "tried again, with the same end"
    assert changed == {"raises": "ok"}
    assert not any(after[key] != before[key] for key in before if before[key]["notebook"].startswith("good"))


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_a_killed_driver_loses_nothing_and_a_second_sweep_is_kept_out(tmp_path: Path) -> None:
    write(tmp_path, "counted", COUNTED)
    log, out = tmp_path / "log", tmp_path / "out"
    path = plan(tmp_path, f"runs: [{{notebooks: counted.ipynb, set: {{log: {log}, pause: 2}}, seeds: 0-9}}]")
    with start(path, "--out", out, "--workers", 2) as first:
        wait_for(lambda: counts(log), "a first run")
        listening = listeners(first.pid)
        second = call(path, "--out", out)
        wait_for(lambda: len(list(out.glob("counted-*.json"))) >= 2, "two runs")
        first.kill()
        first.communicate()
    assert second.returncode == 2
    assert "another sweep is writing into" in second.stderr
    assert listening == {"127.0.0.1"}, "nobody else can hand the cluster work"
    kept = {sidecar["key"]: sidecar for sidecar in sidecars(out)}
    before = counts(log)
    assert 2 <= len(kept) < 10
    done = call(path, "--out", out)
    assert done.returncode == 0, done.stderr
    found = sidecars(out)
    assert sorted(sidecar["records"][0]["value"] for sidecar in found) == list(range(0, 20, 2))
    assert all(sidecar == kept.get(sidecar["key"], sidecar) for sidecar in found), "finished runs are untouched"
    finished = {str(sidecar["given"]["seed"]) for sidecar in kept.values()}
    again = counts(log) - before
    assert not finished & set(again), "and were not executed again"
    assert set(again.values()) == {1}
    assert f"{len(kept)} of them before" in done.stdout
    assert whole(out)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_leaves_everything_whole(tmp_path: Path) -> None:
    write(tmp_path, "counted", COUNTED)
    log, out = tmp_path / "log", tmp_path / "out"
    path = plan(tmp_path, f"runs: [{{notebooks: counted.ipynb, set: {{log: {log}, pause: 2}}, seeds: 0-3}}]")
    with start(path, "--out", out, "--workers", 1) as process:
        wait_for(lambda: len(list(out.glob("counted-*.json"))) >= 1, "one run")
        wait_for(lambda: len(counts(log)) >= 2, "the next run")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group
        said, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "of 4 runs done" in said
    assert complaint.strip() == "mamlkit: interrupted", "no process of the group complains"
    assert whole(out)
    kept = len(sidecars(out))
    done = call(path, "--out", out)
    assert done.returncode == 0
    assert f"4 of 4 runs done, {kept} of them before" in done.stdout
    done = call(path, "--out", out, "--force")
    assert done.returncode == 0
    assert min(counts(log).values()) == 2, "all again, when forced"


def test_a_folder_that_fails_in_the_middle_ends_the_sweep_with_a_clear_word(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(tmp_path, "removes", (f"import shutil; shutil.rmtree({str(out)!r})",))
    write(tmp_path, "good", GOOD)
    path = plan(tmp_path, "runs: [{notebooks: removes.ipynb}, {notebooks: good.ipynb, seeds: 0-5}]")
    done = call(path, "--out", out, "--workers", 1)
    assert done.returncode == 2
    assert "a result cannot be written" in done.stderr
    assert "what is finished is kept" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sets a limit on the size of files")
def test_a_disk_that_fills_up_ends_the_sweep_and_room_lets_it_go_on(tmp_path: Path) -> None:
    import resource

    out = tmp_path / "out"
    write(tmp_path, "good", GOOD)
    write(tmp_path, "large", ("seed: int = 0", "print('x' * 400_000)"))
    path = plan(tmp_path, "runs: [{notebooks: good.ipynb}, {notebooks: large.ipynb}]")
    # A file that may not grow stands for a disk that is full: a write stops in its middle, with an error.
    done = subprocess.run(
        command(path, "--out", out, "--workers", 1),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert "make room, and start the sweep again: what is finished is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert [sidecar["notebook"] for sidecar in sidecars(out)] == ["good"]
    assert whole(out)
    done = call(path, "--out", out)
    assert done.returncode == 0
    assert "2 of 2 runs done, 1 of them before" in done.stdout


@pytest.mark.parametrize("workers", [["--workers", "0"], ["--threads", "0"]])
def test_no_workers_are_refused(
    workers: list[str], tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan(tmp_path, f"runs: [{{notebooks: {good.name}}}]")
    assert main(["rerun", str(path), *workers]) == 2
    assert "must be 1 or more" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    path = plan(tmp_path, f"runs: [{{notebooks: {good.name}}}]")
    assert main(["rerun", str(path), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_scheduler_that_is_not_there_is_refused(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plan(tmp_path, f"runs: [{{notebooks: {good.name}}}]")
    done = call(path, "--out", tmp_path / "out", "--scheduler", f"tcp://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "there is no Dask scheduler at tcp://127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a scheduler with two workers, each a process of its own, and the scheduler's process."""
    address = f"tcp://127.0.0.1:{free_port()}"
    host = ["--host", "127.0.0.1"]
    dask = [sys.executable, "-m", "dask"]
    port = address.rpartition(":")[2]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    processes = [subprocess.Popen([*dask, "scheduler", *host, "--port", port, "--no-dashboard"], **quiet)]
    worker = [*dask, "worker", address, *host, "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
    processes += [subprocess.Popen(worker, **quiet) for _ in range(2)]
    yield address, processes[0]
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=60)


def test_a_cluster_gives_the_same_tables_byte_for_byte(
    tmp_path: Path, good: Path, cluster: tuple[str, subprocess.Popen[bytes]]
) -> None:
    write(tmp_path, "raises", ("alpha: float = 0.5", "1 / 0", "2"))
    text = f"runs: [{{notebooks: {good.name}, grid: {{alpha: [0.1, 2.0]}}, seeds: 0-1}}, {{notebooks: raises.ipynb}}]"
    path = plan(tmp_path, text)
    here, there = tmp_path / "here", tmp_path / "there"
    assert call(path, "--out", here).returncode == 1
    done = call(path, "--out", there, "--scheduler", cluster[0])
    assert done.returncode == 1, done.stderr
    assert "5 of 5 runs done" in done.stdout
    for name in ("runs", "claims", "records"):
        first, second = (getattr(tables(read(folder)), name).to_csv() for folder in (here, there))
        assert len(first) > 100
        assert first == second, name
    assert call(path, "--out", there).returncode == 1, "and either goes on where the other left off"
    assert len(sidecars(there)) == 5


def test_a_scheduler_that_dies_loses_nothing(tmp_path: Path, cluster: tuple[str, subprocess.Popen[bytes]]) -> None:
    write(tmp_path, "counted", COUNTED)
    log, out = tmp_path / "log", tmp_path / "out"
    runs = f"{{notebooks: counted.ipynb, set: {{log: {log}}}, zip: {{seed: [0, 1, 2], pause: [0, 60, 60]}}}}"
    path = plan(tmp_path, f"runs: [{runs}]")
    with start(path, "--out", out, "--scheduler", cluster[0]) as process:
        wait_for(lambda: sidecars(out), "one run")
        cluster[1].kill()
        _, complaint = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "the cluster is gone" in complaint
    assert "Traceback" not in complaint
    assert [sidecar["status"] for sidecar in sidecars(out)] == ["ok"]
    assert whole(out)


# ---- what is shown


def test_the_board_says_done_failed_and_left() -> None:
    kept = [{"notebook": "a", "status": "failed"}]
    board = Board(["a"] * 4 + ["b"] * 2, kept, {"b": 30.0}, workers=2)
    assert board.left() == (3 * 30 + 2 * 30) / 2, "before anything ended, earlier times are the guess"
    board.end("1", {"notebook": "a", "status": "ok", "seconds": 10.0, "given": {}})
    board.cell("2", "b seed=1", 3, 9)
    assert board.left() == (2 * 10 + 2 * 30) / 2
    assert board.line() == "2 of 6 runs done, 1 of them before, 1 not ok, 0:00 elapsed, about 0:40 left"
    with board.console.capture() as shown:
        board.console.print(board.table())
    assert "b seed=1  cell 3 of 9  0:00" in shown.get()
    assert Board(["a"], [], {}, workers=1).left() is None
    assert "waiting for workers" in Board(["a"], [], {}, workers=0).line()


def test_long_times_have_hours() -> None:
    assert [duration(seconds) for seconds in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
