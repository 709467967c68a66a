"""Small zips in Omniglot's layout, made where a test needs one."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mamlkit.images.omniglot import FILES, RUNS, Published, sha256


def png(seed: int, side: int = 105) -> bytes:
    """An image with two strokes that no other seed has, as Omniglot stores it: one bit, ink 0."""
    place = np.random.Generator(np.random.PCG64(seed)).integers(10, 80, 4)
    paper = np.ones((side, side), bool)
    paper[place[0] : place[0] + 3, place[1] : place[1] + 20] = False
    paper[place[2] : place[2] + 20, place[3] : place[3] + 3] = False
    file = io.BytesIO()
    Image.fromarray(paper).save(file, "PNG")
    return file.getvalue()


def layout(alphabets: Mapping[str, int], drawings: int = 20) -> dict[str, bytes]:
    """The files of a zip, by path: so many characters of each alphabet."""
    files: dict[str, bytes] = {}
    for alphabet, count in alphabets.items():
        for character in range(1, count + 1):
            for drawing in range(1, drawings + 1):
                path = f"images/{alphabet}/character{character:02d}/{character:04d}_{drawing:02d}.png"
                files[path] = png(len(files) + 7919 * len(alphabet))
    return files


def exam_layout(runs: int = 20, count: int = 20) -> dict[str, bytes]:
    """The files of all_runs.zip, by path: item j of a run is of class count − j + 1, and drawn as that class is."""
    files: dict[str, bytes] = {}
    for run in (f"run{number:02d}" for number in range(1, runs + 1)):
        lines = ""
        for j in range(1, count + 1):
            files[f"{run}/training/class{j:02d}.png"] = png(100 * int(run[3:]) + j)
            files[f"{run}/test/item{j:02d}.png"] = png(100 * int(run[3:]) + count - j + 1)
            lines += f"{run}/test/item{j:02d}.png {run}/training/class{count - j + 1:02d}.png\n"
        files[f"{run}/class_labels.txt"] = lines.encode()
    return files


def publish_exam(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exam that passes for the published one."""
    path = write_zip(folder / RUNS, exam_layout())
    monkeypatch.setitem(FILES, RUNS, Published(path.stat().st_size, sha256(path)))
    return path


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip with these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def publish(folder: Path, name: str, alphabets: Mapping[str, int], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zip that passes for the published one of this name."""
    path = write_zip(folder / name, layout(alphabets))
    monkeypatch.setitem(FILES, name, Published(path.stat().st_size, sha256(path)))
    return path
