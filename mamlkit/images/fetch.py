"""The command `python -m mamlkit data`: fetch Omniglot, verify the image sets, list them.

A file is either whole and as published, or not there: it is written beside its place, checked and then moved. Files
that are there already are not fetched again, so a broken run is resumed by the same command.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mamlkit import images
from mamlkit.extras import extra

TIMEOUT = 30  # seconds without an answer
RETRIES = 2  # after a download that broke off


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `data` to the subparsers of a command line; its function, `command`, returns the exit status.

    0 well, 1 a file is damaged (verify), 2 refused.
    """
    data = commands.add_parser("data", help="fetch, verify and list the image sets")
    data.set_defaults(command=_command)
    actions = data.add_subparsers(required=True, metavar="ACTION")

    get = actions.add_parser("fetch", help="download Omniglot (16 MB), or take it from files at hand")
    get.add_argument("name", choices=["omniglot"], help="the set")
    get.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER_OR_ZIP", help="take the published zips from here instead"
    )
    get.add_argument("--to", dest="folder", type=Path, metavar="FOLDER", help="where to put them (default: your cache)")
    get.set_defaults(action=_fetch)

    for name, does, action in (
        ("verify", "compare the files at hand with their checksums", _verify),
        ("list", "show the sets and where they are", _list),
    ):
        parser = actions.add_parser(name, help=does)
        parser.add_argument("--in", dest="folder", type=Path, metavar="FOLDER", help="where Omniglot is")
        parser.set_defaults(action=action)


def _command(options: argparse.Namespace) -> int:
    """Do what was asked; what is wrong with the files, the disk or the network is said in a line, not a traceback."""
    try:
        return int(options.action(options, options.folder or images.omniglot.omniglot_folder()))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"mamlkit: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 2


def fetch_omniglot(folder: Path, source: Path | None = None) -> list[Path]:
    """Put Omniglot's zips, and their drawings packed beside them, into a folder; returns the zips.

    Lake's one-shot exam comes with them; it is small and stays as it is.

    source  a folder with published zips, or one of them; without it they are downloaded, with a progress bar

    Raises ConnectionError without a network, ValueError for a file that isn't as published, OSError where the folder
    can't be written. Whatever is raised, no part of a file is left.
    """
    at_hand = published_files(source) if source else {}
    wanted = at_hand or (*images.omniglot.WHOLE, images.omniglot.RUNS)
    zips = [bring(name, folder, at_hand.get(name)) for name in wanted]
    for path in zips:
        if path.name != images.omniglot.RUNS and not images.omniglot.packed_path(path).exists():
            images.omniglot.pack(path)
    return zips


def published_files(source: Path) -> dict[str, Path]:
    """The published files that a path holds, by their published names; a zip alone may bear any name."""
    known, found = images.omniglot.FILES, {}
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; --from takes a folder with Omniglot's zips, or one of them")
    for path in [source / name for name in known if (source / name).exists()] if source.is_dir() else [source]:
        digest = images.omniglot.sha256(path)
        name = next((name for name in known if known[name].sha256 == digest), None)
        if name is None and path.name in known:
            raise ValueError(
                f"{path} is not the published file: it has {path.stat().st_size:,} bytes and sha256 {digest}, not "
                f"{known[path.name].bytes:,} and {known[path.name].sha256}; download it again from {places()}"
            )
        if name is None:
            raise ValueError(f"{path} is none of {', '.join(known)} as published; download it again from {places()}")
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{source} holds none of {', '.join(known)}; download them from {places()}")
    return found


def bring(name: str, folder: Path, source: Path | None = None) -> Path:
    """Download a published file, or copy it from where it is, unless it is in the folder and whole already."""
    with extra("images"):
        import pooch
        import requests

    def copy(url: str, part: str, _: pooch.Pooch) -> None:
        shutil.copyfile(str(source), part)

    pooch.get_logger().setLevel("WARNING")
    published = {name: f"sha256:{file.sha256}" for name, file in images.omniglot.FILES.items()}
    address = images.omniglot.address(name)
    registry = pooch.create(folder, "", registry=published, urls={name: address}, retry_if_failed=RETRIES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        downloader = copy if source else pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
        return Path(registry.fetch(name, downloader=downloader))
    except requests.RequestException as error:
        raise ConnectionError(
            f"{name} could not be downloaded from {address} ({type(error).__name__}); run the command again, or "
            f"download {places()} where there is a network, and then run: "
            "python -m mamlkit data fetch omniglot --from FOLDER"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"what came from {address} is not the published file ({published[name]}): it was cut off or changed on the "
            "way; nothing of it was kept, run the command again"
        ) from error
    except OSError as error:
        raise images.omniglot.unwritable(folder / name, error) from error


def places() -> str:
    """Where the two files of the whole set and the exam are published, at a fixed commit."""
    *drawn, last = map(images.omniglot.address, (*images.omniglot.WHOLE, images.omniglot.RUNS))
    return f"{', '.join(drawn)} and {last}"


def _fetch(options: argparse.Namespace, folder: Path) -> int:
    for path in fetch_omniglot(folder, options.source):
        if path.name == images.omniglot.RUNS:
            print(f"{path}: {describe_exam(images.one_shot_exam.read_runs(path))}")
        else:
            print(f"{path}: {describe(images.omniglot.load_packed(images.omniglot.packed_path(path)))}")
    return 0


def _verify(options: argparse.Namespace, folder: Path) -> int:
    damaged = 0
    for path, read in _at_hand(folder):
        try:
            print(f"{path}: sound, {read(path)}")
        except ValueError as error:
            damaged += 1
            print(f"{path}: DAMAGED. {error}")
    if len(list(_at_hand(folder))) == 1:
        print(f"Omniglot is not in {folder}")
    return int(damaged > 0)


def _at_hand(folder: Path) -> Iterator[tuple[Path, Callable[[Path], str]]]:
    """The files of both sets that are there, each with what reads it and says what it holds, or refuses it."""
    yield images.glyphs.glyphs_file(), lambda path: describe(images.glyphs.load_glyphs(path)[0])
    for zipped in (folder / name for name in images.omniglot.DRAWN):
        if zipped.exists():
            yield zipped, lambda path: describe(images.omniglot.read_published(path))
        if (packed := images.omniglot.packed_path(zipped)).exists():
            yield packed, lambda path: describe(images.omniglot.load_packed(path))
    if (runs := folder / images.omniglot.RUNS).exists():
        yield runs, lambda path: describe_exam(images.OneShotExam(folder).runs)


def _list(options: argparse.Namespace, folder: Path) -> int:
    print(f"glyphs    {images.glyphs.glyphs_file()}: part of mamlkit, 1,000 characters, OFL-1.1")
    for name, published in images.omniglot.FILES.items():
        state = "here" if (folder / name).exists() else "not here"
        whole = {*images.omniglot.WHOLE, images.omniglot.RUNS}
        part = "" if name in whole else " (a part of images_background, for trials)"
        print(f"omniglot  {folder / name}: {state}, {published.bytes / 1e6:.1f} MB, MIT{part}")
    return 0


def describe_exam(runs: images.one_shot_exam.Runs) -> str:
    """How much the one-shot exam holds."""
    count, ways = runs.answers.shape
    return f"Lake's one-shot exam, {count} runs of {ways} classes"


def describe(drawings: images.Drawings) -> str:
    """How much a set holds."""
    characters, each = drawings.pixels.shape[:2]
    return f"{len(set(drawings.alphabets))} alphabets, {characters:,} characters, {characters * each:,} images"
