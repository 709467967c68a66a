"""`python -m mamlkit data`: a file is whole and as published, or it isn't there. The only server is on this machine."""

from __future__ import annotations

import argparse
import errno
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from tiny_omniglot import layout, png, publish, publish_exam, write_zip

from mamlkit.images import fetch, omniglot
from mamlkit.images.fetch import add_parser, fetch_omniglot
from mamlkit.images.omniglot import FILES, RUNS, WHOLE, Published, load_omniglot, read_zip, sha256, writing


def run(*arguments: str | Path) -> int:
    """The exit status of `python -m mamlkit data …`."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    options = parser.parse_args(["data", *map(str, arguments)])
    return int(options.command(options))


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


class Server:
    """Serves `answers` by file name; `cut` bytes of each are promised and not sent, once if it `heals`."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.cut = 0
        self.heals = False
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                outer.asked.append(name)
                content = outer.answers.get(name)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) - outer.cut])
                outer.cut = 0 if outer.heals else outer.cut

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Omniglot's address, with two small files and an exam."""
    server = Server()
    for name, alphabets in zip(WHOLE, ({"Greek": 2}, {"Avesta": 1}), strict=True):
        server.answers[name] = publish(tmp_path / "published", name, alphabets, monkeypatch).read_bytes()
    server.answers[RUNS] = publish_exam(tmp_path / "published", monkeypatch).read_bytes()
    monkeypatch.setattr(omniglot, "ADDRESS", server.address)
    monkeypatch.setattr(fetch, "RETRIES", 0)
    monkeypatch.setenv("NO_PROXY", "*")
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


# Downloading


def test_fetch_downloads_and_checks_the_files_and_packs_the_drawings(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "folder"
    assert run("fetch", "omniglot", "--to", folder) == 0
    assert listing(folder) == sorted([*WHOLE, RUNS, "images_background.npz", "images_evaluation.npz"])
    assert load_omniglot(folder).alphabets == ("Avesta", "Greek", "Greek")
    assert "all_runs.zip: Lake's one-shot exam, 20 runs of 20 classes" in capsys.readouterr().out


def test_fetching_again_downloads_only_what_is_missing(server: Server, tmp_path: Path) -> None:
    fetch_omniglot(tmp_path / "to")
    (tmp_path / "to" / WHOLE[1]).unlink()
    server.asked.clear()
    fetch_omniglot(tmp_path / "to")
    assert server.asked == [WHOLE[1]]


def test_a_damaged_file_is_replaced_by_fetching_again(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "to"
    folder.mkdir()
    (folder / WHOLE[0]).write_bytes(server.answers[WHOLE[0]][:50])
    fetch_omniglot(folder)
    assert sha256(folder / WHOLE[0]) == FILES[WHOLE[0]].sha256


def test_a_download_that_is_cut_off_leaves_nothing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cut = 100
    assert run("fetch", "omniglot", "--to", tmp_path / "to") == 2
    assert "could not be downloaded" in capsys.readouterr().err
    assert listing(tmp_path / "to") == []


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:-1] + b"?", lambda c: b"<html>Sign in</html>"])
def test_a_download_with_other_bytes_is_refused_and_leaves_nothing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    server.answers[WHOLE[1]] = damage(server.answers[WHOLE[1]])
    assert run("fetch", "omniglot", "--to", tmp_path / "to") == 2
    assert "is not the published file" in capsys.readouterr().err
    assert listing(tmp_path / "to") == [WHOLE[0]], "the whole one stays and is not fetched again"


def test_an_exam_with_other_bytes_is_refused_and_leaves_nothing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers[RUNS] = server.answers[RUNS][:-1]
    assert run("fetch", "omniglot", "--to", tmp_path / "to") == 2
    assert "all_runs.zip is not the published file" in capsys.readouterr().err
    assert listing(tmp_path / "to") == sorted(WHOLE)


def test_offline_one_line_names_the_files_the_address_and_the_other_way(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omniglot, "ADDRESS", "http://127.0.0.1:9/")
    assert run("fetch", "omniglot", "--to", tmp_path / "to") == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    for part in (
        "http://127.0.0.1:9/images_background.zip",
        "images_evaluation.zip",
        "http://127.0.0.1:9/one-shot-classification/all_runs.zip",
        "--from FOLDER",
        "python -m mamlkit",
    ):
        assert part in said
    assert listing(tmp_path / "to") == []


def test_a_file_that_is_gone_from_its_address_is_reported(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers.clear()
    assert run("fetch", "omniglot", "--to", tmp_path / "to") == 2
    assert "HTTPError" in capsys.readouterr().err


def test_the_address_is_pinned_to_a_commit() -> None:
    pinned = "/057f034baf2ecb8530bc5710e5a23584d2a519cc/python"
    assert f"{pinned}/images_background.zip" in fetch.places()
    assert f"{pinned}/one-shot-classification/all_runs.zip" in fetch.places()


def test_a_download_that_is_cut_off_once_is_tried_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "RETRIES", 1)
    server.cut, server.heals = 100, True
    fetch_omniglot(tmp_path / "to")
    assert server.asked == [WHOLE[0], WHOLE[0], WHOLE[1], RUNS]
    assert sha256(tmp_path / "to" / WHOLE[0]) == FILES[WHOLE[0]].sha256


# Taking files at hand


@pytest.mark.parametrize("name", ["images_background.zip", "download (1).zip"])
def test_a_zip_is_taken_by_its_content_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    zipped = publish(tmp_path, "images_background.zip", {"Greek": 2}, monkeypatch)
    source = zipped.rename(tmp_path / name)
    assert run("fetch", "omniglot", "--from", source, "--to", tmp_path / "to") == 0
    assert listing(tmp_path / "to") == ["images_background.npz", "images_background.zip"]


def test_a_folder_gives_the_files_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "from", "images_background_small1.zip", {"Greek": 2}, monkeypatch)
    (tmp_path / "from" / "notes.txt").write_text("not a zip")
    assert run("fetch", "omniglot", "--from", tmp_path / "from", "--to", tmp_path / "to") == 0
    assert load_omniglot(tmp_path / "to").characters == ("character01", "character02")


def test_the_exam_alone_is_taken_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = publish_exam(tmp_path, monkeypatch).rename(tmp_path / "download.zip")
    assert run("fetch", "omniglot", "--from", source, "--to", tmp_path / "to") == 0
    assert listing(tmp_path / "to") == [RUNS]


def test_files_may_be_packed_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, "images_background.zip", {"Greek": 2}, monkeypatch)
    assert run("fetch", "omniglot", "--from", tmp_path, "--to", tmp_path) == 0
    assert listing(tmp_path) == ["images_background.npz", "images_background.zip"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing", "does not exist; --from takes a folder with Omniglot's zips, or one of them"),
        ("empty", "holds none of images_background.zip"),
        ("other.zip", "is none of images_background.zip"),
        ("cut", "is not the published file: it has"),
    ],
)
def test_a_wrong_source_is_refused_and_nothing_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_zip(tmp_path / "other.zip", layout({"Klingon": 1}))
    whole = publish(tmp_path / "cut", "images_background.zip", {"Greek": 1}, monkeypatch)
    whole.write_bytes(whole.read_bytes()[:-10])
    assert run("fetch", "omniglot", "--from", tmp_path / source, "--to", tmp_path / "to") == 2
    assert message in capsys.readouterr().err
    assert listing(tmp_path / "to") == []


# Reading zips


def test_the_drawings_come_by_name_and_number_whatever_the_order_in_the_zip(tmp_path: Path) -> None:
    files = layout({"Greek": 2, "Avesta": 1})
    one = read_zip(write_zip(tmp_path / "one.zip", files))
    other = read_zip(write_zip(tmp_path / "other.zip", dict(reversed(files.items()))))
    assert one.alphabets == ("Avesta", "Greek", "Greek")
    assert np.array_equal(one.pixels, other.pixels)
    assert one.pixels.max() > 128, "ink is high, paper is 0"
    assert np.median(one.pixels) == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"../escape.png": png(0)}, "leads out of it"),
        ({"images/../../escape.png": png(0)}, "leads out of it"),
        ({"/etc/escape.png": png(0)}, "leads out of it"),
        ({"..\\escape.png": png(0)}, "leads out of it"),
        ({"C:/escape.png": png(0)}, "leads out of it"),
        ({"holiday/beach.png": png(0)}, "is not Omniglot: 'holiday/beach.png'"),
        ({"images/Greek/character01/0001_01.png": png(0, side=64)}, "is 64 × 64 pixels; wanted are 105 × 105"),
        ({"images/Greek/character01/0001_01.png": b"not a picture"}, "is not a readable PNG"),
        ({"images/Greek/character01/0001_01.png": png(0)[:80]}, "is not a readable PNG"),
        ({"images/Latin/character01/0001_01.png": png(0)}, r"Latin/character01 has the drawings \[1\]"),
    ],
)
def test_a_zip_with_something_wrong_in_it_is_refused(tmp_path: Path, extra: dict[str, bytes], message: str) -> None:
    inside = tmp_path / "inside"
    zipped = write_zip(inside / "images.zip", layout({"Greek": 1}) | extra)
    with pytest.raises(ValueError, match=message):
        read_zip(zipped)
    assert listing(inside) == ["images.zip"]
    assert listing(tmp_path) == ["inside"], "nothing climbed out"


@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04 and no more"])
def test_a_file_that_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole zip"):
        read_zip(tmp_path / "images.zip")


def test_a_zip_with_damaged_content_is_refused(tmp_path: Path) -> None:
    zipped = write_zip(tmp_path / "images.zip", layout({"Greek": 1}))
    content = bytearray(zipped.read_bytes())
    content[120] ^= 255  # in the first image
    zipped.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is not a whole zip"):
        read_zip(zipped)


def test_a_zip_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not Omniglot: it holds no image"):
        read_zip(write_zip(tmp_path / "images.zip", {"readme.txt": b"hello"}))


# Writing


def full_disk(file: BinaryIO) -> None:
    file.write(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"images.npz can't be written: No space left on device. Make room") as caught,
        writing(tmp_path / "images.npz") as part,
        part.open("wb") as file,
    ):
        full_disk(file)
    assert caught.value.errno == errno.ENOSPC
    assert listing(tmp_path) == []


def test_a_failed_write_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "images.npz").write_bytes(b"older")
    with (
        pytest.raises(OSError, match="No space left"),
        writing(tmp_path / "images.npz") as part,
        part.open("wb") as file,
    ):
        full_disk(file)
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "images.npz"):
        raise KeyboardInterrupt
    assert listing(tmp_path) == ["images.npz"]
    assert (tmp_path / "images.npz").read_bytes() == b"older"


def test_a_disk_that_fills_while_packing_keeps_the_whole_zip_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "from", "images_background.zip", {"Greek": 2}, monkeypatch)
    monkeypatch.setattr(np, "savez_compressed", lambda file, **_: full_disk(file))
    assert run("fetch", "omniglot", "--from", tmp_path / "from", "--to", tmp_path / "to") == 2
    assert "images_background.npz can't be written: No space left on device" in capsys.readouterr().err
    assert listing(tmp_path / "to") == ["images_background.zip"]


def test_a_folder_that_cannot_be_made_is_reported(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    sources: tuple[list[str | Path], ...] = ([], ["--from", tmp_path / "published"])
    for source in sources:
        assert run("fetch", "omniglot", *source, "--to", tmp_path / "file" / "to") == 2
        assert "images_background.zip can't be written: Not a directory" in capsys.readouterr().err


def test_no_write_permission_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "from", "images_background.zip", {"Greek": 2}, monkeypatch)

    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    assert run("fetch", "omniglot", "--from", tmp_path / "from", "--to", tmp_path / "to") == 2
    assert "can't be written: Permission denied. Make room there or name another folder" in capsys.readouterr().err


# Verify and list


def test_verify_tells_sound_files_from_damaged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    zipped = publish(tmp_path, "images_background.zip", {"Greek": 2}, monkeypatch)
    exam = publish_exam(tmp_path, monkeypatch)
    fetch_omniglot(tmp_path, tmp_path)
    assert run("verify", "--in", tmp_path) == 0
    assert capsys.readouterr().out.count(": sound, ") == 4
    for damaged in (zipped, exam):
        damaged.write_bytes(damaged.read_bytes()[:-1])
    zipped.with_suffix(".npz").write_bytes(b"PK")
    assert run("verify", "--in", tmp_path) == 1
    assert capsys.readouterr().out.count(": DAMAGED. ") == 3


def test_verify_without_omniglot_says_so_and_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "--in", tmp_path) == 0
    said = capsys.readouterr().out
    assert "1,000 characters" in said
    assert f"Omniglot is not in {tmp_path}" in said


def test_list_names_every_file_and_whether_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, "images_evaluation.zip", {"Avesta": 1}, monkeypatch)
    assert run("list", "--in", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(FILES)
    assert [": here" in line for line in lines[1:]] == [False, True, False, False, False]
    assert ["for trials" in line for line in lines[1:]] == [False, False, True, True, False]


def test_the_registry_is_complete() -> None:
    assert all(published.bytes > 3e5 and len(published.sha256) == 64 for published in FILES.values())
    assert isinstance(FILES[WHOLE[0]], Published)
