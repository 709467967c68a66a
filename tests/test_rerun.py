"""`mamlkit rerun`: what becomes of each run of a sweep, and that no fault loses or spoils one."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from books import write
from distributed.comm.core import CommClosedError
from sweeping import COUNTED, call, command, counts, listeners, plan, planned, sidecars, start, wait_for, whole

from mamlkit.__main__ import main
from mamlkit.study import RefusedError
from mamlkit.sweeps.driver import refusing
from mamlkit.sweeps.results import read, tables


def test_ten_thousand_runs_are_planned_and_resumed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    jobs = planned(tmp_path, "runs: [{notebooks: good.ipynb, seeds: 0-9999}]")
    assert len({job.key for job in jobs}) == 10_000
    for job in jobs[:-3]:
        bare = {"format": 1, "key": job.key, "notebook": "good", "status": "ok", "seconds": 2.0}
        (out / f"{job.name}.json").write_text(json.dumps(bare))
    assert main(["rerun", str(tmp_path / "sweep.yml"), "--out", str(out), "--dry-run", "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "sweep: 10000 runs, 3 to do" in said
    assert "about 0:03 on 2 workers" in said
    assert said.count("\ndo  ") + said.startswith("do  ") == 3


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plan(tmp_path, "runs: [{notebooks: good.ipynb, seeds: [0, 1, 1]}]")
    asked = ["rerun", str(path), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "sweep: 2 runs, 2 to do, at most 1:00:00 each, into " in said
    assert "1 runs are asked for twice and are done once" in said
    assert "no time is known for these notebooks yet" in said
    assert main([*asked, "--only", "failed"]) == 0
    said = capsys.readouterr().out
    assert "2 runs, 0 to do" in said
    assert "no time is known" not in said
    assert not (tmp_path / "out").exists()


def test_a_sidecar_that_was_cut_off_counts_as_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = planned(tmp_path, "runs: [{notebooks: good.ipynb, seeds: 0-2}]")
    texts = ['{"format": 1, "ke', "[]", json.dumps({"format": 1, "key": "of another"})]
    for job, text in zip(jobs, texts, strict=True):
        (tmp_path / f"{job.name}.json").write_text(text)
    assert main(["rerun", str(tmp_path / "sweep.yml"), "--out", str(tmp_path), "--dry-run"]) == 0
    assert "sweep: 3 runs, 3 to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(errno.ENOSPC, "No space left"), "make room, and start the sweep again: what is finished is kept"),
        (OSError(errno.EIO, "not now"), "see that every worker can write there, and start the sweep again"),
        (CommClosedError(), "the cluster is gone; start it and the sweep again: what is finished is kept"),
        (ModuleNotFoundError("No module named 'pooch'"), "install the same kit on every worker"),
    ],
)
def test_what_ends_a_sweep_says_what_to_do(fault: Exception, said: str) -> None:
    with pytest.raises(RefusedError, match=said), refusing():
        raise fault


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """A sweep of notebooks that end in every way there is."""
    home = tmp_path_factory.mktemp("ends")
    write(home, "raises", ("fixed: str = ''", "import os\nif not os.path.exists(fixed):\n    1 / 0"))
    write(home, "killed", ("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)"))
    write(home, "exits", ("import sys", "sys.exit(0)", "3"))
    write(home, "slow", ("import time", "time.sleep(300)"))
    noted = f"import os, signal, time; open({str(home / 'breaks.log')!r}, 'a').write('x')"
    write(home, "breaks", (noted, "os.kill(os.getppid(), signal.SIGKILL)", "time.sleep(60)"))
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
    tried = len((out.parent / "breaks.log").read_text())
    assert 3 <= tried < 9, "a run at work when its worker dies is blamed; one that only waits might be tried 12 times"
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


@contextmanager
def taken(port: int) -> Iterator[None]:
    """While it lasts, the port is this process's or, if not free, another's."""
    with socket.socket() as held:
        with suppress(OSError):
            held.bind(("127.0.0.1", port))
            held.listen()
        yield


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_leaves_everything_whole(tmp_path: Path) -> None:
    write(tmp_path, "counted", COUNTED)
    log, out = tmp_path / "log", tmp_path / "out"
    path = plan(tmp_path, f"runs: [{{notebooks: counted.ipynb, set: {{log: {log}, pause: 2}}, seeds: 0-2}}]")
    with taken(8787), start(path, "--out", out, "--workers", 1) as process:  # Dask's port: another sweep may have it
        wait_for(lambda: len(list(out.glob("counted-*.json"))) >= 1, "one run")
        wait_for(lambda: len(counts(log)) >= 2, "the next run")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group
        said, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "of 3 runs done" in said
    assert complaint.strip() == "mamlkit: interrupted", "no process of the group complains"
    assert whole(out)
    kept = len(sidecars(out))
    done = call(path, "--out", out)
    assert done.returncode == 0
    assert f"3 of 3 runs done, {kept} of them before" in done.stdout
    done = call(path, "--out", out, "--force")
    assert done.returncode == 0
    assert min(counts(log).values()) == 2, "all again, when forced"


def test_a_folder_that_fails_in_the_middle_ends_the_sweep_with_a_clear_word(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(tmp_path, "removes", (f"import shutil; shutil.rmtree({str(out)!r})",))
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
def test_no_workers_are_refused(workers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plan(tmp_path, "runs: [{notebooks: good.ipynb}]")
    assert main(["rerun", str(path), *workers]) == 2
    assert "must be 1 or more" in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_scheduler_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plan(tmp_path, "runs: [{notebooks: good.ipynb}]")
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
    tmp_path: Path, cluster: tuple[str, subprocess.Popen[bytes]]
) -> None:
    write(tmp_path, "raises", ("alpha: float = 0.5", "1 / 0", "2"))
    text = "runs: [{notebooks: good.ipynb, grid: {alpha: [0.1, 2.0]}, seeds: 0-1}, {notebooks: raises.ipynb}]"
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
