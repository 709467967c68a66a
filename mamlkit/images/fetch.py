"""The command `python -m mamlkit data`: fetch Omniglot, verify the image sets, list them.

A file is either whole and as published, or not there: it is written beside its place, checked and then moved. Files
that are there already are not fetched again, so a broken run is resumed by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mamlkit.images.episodes import Drawings
from mamlkit.images.glyphs import glyphs_file, load_glyphs
from mamlkit.images.omniglot import (
    ADDRESS,
    FILES,
    WHOLE,
    load_packed,
    omniglot_folder,
    pack,
    packed_path,
    read_published,
    sha256,
    unwritable,
    write_atomically,
)

TIMEOUT = 30  # seconds without an answer


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `data` to the subparsers of a command line; its function, `command`, returns the exit status.

    0 well, 1 a file is damaged (verify), 2 refused.
    """
    data = commands.add_parser("data", help="fetch, verify and list the image sets")
    actions = data.add_subparsers(required=True, metavar="ACTION")

    get = actions.add_parser("fetch", help="download Omniglot (16 MB), or take it from files at hand")
    get.add_argument("name", choices=["omniglot"], help="the set")
    get.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER_OR_ZIP", help="take the published zips from here instead"
    )
    get.add_argument("--to", dest="folder", type=Path, metavar="FOLDER", help="where to put them (default: your cache)")
    get.set_defaults(command=refusing(_fetch))

    for name, does, function in (
        ("verify", "compare the files at hand with their checksums", _verify),
        ("list", "show the sets and where they are", _list),
    ):
        action = actions.add_parser(name, help=does)
        action.add_argument("--in", dest="folder", type=Path, metavar="FOLDER", help="where Omniglot is")
        action.set_defaults(command=refusing(function))


def refusing(function: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The function, with its ValueErrors and OSErrors said in one line instead of a traceback."""

    def command(options: argparse.Namespace) -> int:
        try:
            return function(options)
        except (ValueError, OSError) as error:
            print(
                f"mamlkit: {error.strerror if isinstance(error, OSError) and error.strerror else error}",
                file=sys.stderr,
            )
            return 2

    return command


def fetch_omniglot(folder: Path, source: Path | None = None) -> list[Path]:
    """Put Omniglot's zips, and their drawings packed beside them, into a folder; returns the zips.

    source  a folder with published zips, or one of them; without it they are downloaded

    Raises ConnectionError without a network, ValueError for a file that isn't as published, OSError where the folder
    can't be written. Whatever is raised, no part of a file is left.
    """
    if source is None:
        zips = [download(name, folder) for name in WHOLE]
    else:
        zips = [take(path, folder / name) for name, path in published_files(source).items()]
    for path in zips:
        if not packed_path(path).exists():
            pack(path)
    return zips


def published_files(source: Path) -> dict[str, Path]:
    """The published files that a path holds, by their published names; a zip alone may bear any name."""
    if source.is_dir():
        found = {name: source / name for name in FILES if (source / name).exists()}
        if not found:
            raise FileNotFoundError(f"{source} holds none of {', '.join(FILES)}; download them from {places()}")
    elif source.exists():
        found = {next((name for name in FILES if FILES[name].sha256 == sha256(source)), source.name): source}
    else:
        raise FileNotFoundError(f"{source} does not exist; --from takes a folder with Omniglot's zips, or one of them")
    for name, path in found.items():
        if name not in FILES:
            raise ValueError(f"{path} is none of {', '.join(FILES)} as published; download it again from {places()}")
        if sha256(path) != FILES[name].sha256:
            raise ValueError(
                f"{path} is not the published file: it has {path.stat().st_size:,} bytes and sha256 {sha256(path)}, "
                f"not {FILES[name].bytes:,} and {FILES[name].sha256}; download it again from {address(name)}"
            )
    return found


def take(path: Path, place: Path) -> Path:
    """Copy a file whole to its place."""
    if not (place.exists() and sha256(place) == sha256(path)):
        write_atomically(place, lambda file: file.write(path.read_bytes()))
    return place


def download(name: str, folder: Path) -> Path:
    """Download a published file, unless it is there and whole already; shows a progress bar."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            address(name),
            known_hash=f"sha256:{FILES[name].sha256}",
            fname=name,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT),
        )
    except requests.RequestException as error:
        raise ConnectionError(
            f"{name} could not be downloaded from {address(name)} ({type(error).__name__}); run the command again, or "
            f"download {places()} where there is a network, and then run: "
            "python -m mamlkit data fetch omniglot --from FOLDER"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"what came from {address(name)} is not the published file (sha256 {FILES[name].sha256}): it was cut off "
            "or changed on the way; nothing of it was kept, run the command again"
        ) from error
    except OSError as error:
        raise unwritable(folder / name, error) from error
    return folder / name


def address(name: str) -> str:
    """Where a file is published, at a fixed commit."""
    return ADDRESS.format(name=name)


def places() -> str:
    """Where the two files of the whole set are published."""
    return " and ".join(map(address, WHOLE))


def _folder(options: argparse.Namespace) -> Path:
    return options.folder if options.folder is not None else omniglot_folder()


def _fetch(options: argparse.Namespace) -> int:
    for path in fetch_omniglot(_folder(options), options.source):
        print(f"{path}: {describe(load_packed(packed_path(path)))}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    folder = _folder(options)
    checks: list[tuple[Path, Callable[[], Drawings]]] = [(glyphs_file(), lambda: load_glyphs()[0])]
    for zipped in (folder / name for name in FILES):
        for path, read in ((zipped, read_published), (packed_path(zipped), load_packed)):
            if path.exists():
                checks.append((path, partial(read, path)))
    damaged = 0
    for path, check in checks:
        try:
            print(f"{path}: sound, {describe(check())}")
        except ValueError as error:
            damaged += 1
            print(f"{path}: DAMAGED. {error}")
    if len(checks) == 1:
        print(f"Omniglot is not in {folder}")
    return int(damaged > 0)


def _list(options: argparse.Namespace) -> int:
    folder = _folder(options)
    print(f"glyphs    {glyphs_file()}: part of mamlkit, 1,000 characters, OFL-1.1")
    for name, published in FILES.items():
        state = "here" if (folder / name).exists() else "not here"
        part = "" if name in WHOLE else " (a part of images_background, for trials)"
        print(f"omniglot  {folder / name}: {state}, {published.bytes / 1e6:.1f} MB, MIT{part}")
    return 0


def describe(drawings: Drawings) -> str:
    """How much a set holds."""
    characters = len(drawings.characters)
    alphabets = len(set(drawings.alphabets))
    return f"{alphabets} alphabets, {characters:,} characters, {characters * drawings.pixels.shape[1]:,} images"
