"""Where results lie: in a folder or in any other store, whole, whatever fails."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from sweeping import plan, planned

from mamlkit.__main__ import main
from mamlkit.sweeps.job import perform
from mamlkit.sweeps.store import Store


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    original = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        original(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr("time.sleep", pauses.append)
    with pytest.raises(OSError, match="No space left"):
        Store(str(tmp_path)).write("a.json", "{}" * 100)
    assert pauses == [1.0, 5.0], "a fault that passes is waited for"
    assert list(tmp_path.iterdir()) == []


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


def test_results_go_to_any_store_that_fsspec_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, where = "runs: [{notebooks: good.ipynb, seeds: 0-1}]", "memory://a/b"
    first, _ = planned(tmp_path, text, where)
    again = ["rerun", str(tmp_path / "sweep.yml"), "--out", where, "--dry-run"]
    store = Store("memory://a/b/")
    with store.lock():
        assert main(again) == 0
        assert "do    good seed=0\ndo    good seed=1\n" in capsys.readouterr().out
        perform(first)
    assert store.names() == {f"{first.name}.json", f"{first.name}.ipynb"}
    assert main(again) == 0
    assert "done  good seed=0\ndo    good seed=1\n" in capsys.readouterr().out, "and are found there again"


def test_a_store_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: MemoryFileSystem, path: str, **_: object) -> list[str]:
        raise ValueError("no such bucket")

    monkeypatch.setattr(MemoryFileSystem, "ls", broken)
    path = plan(tmp_path, "runs: [{notebooks: good.ipynb}]")
    assert main(["rerun", str(path), "--out", "memory://gone"]) == 2
    assert "memory://gone cannot be listed: [Errno 5] ValueError: no such bucket" in capsys.readouterr().err


def test_an_address_that_nothing_can_reach_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plan(tmp_path, "runs: [{notebooks: good.ipynb}]")
    assert main(["rerun", str(path), "--out", "nowhere://gone"]) == 2
    assert "nowhere://gone cannot be reached" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    path = plan(tmp_path, "runs: [{notebooks: good.ipynb}]")
    assert main(["rerun", str(path), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err
