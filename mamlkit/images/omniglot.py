"""Omniglot (Lake, Salakhutdinov, Tenenbaum 2015): 50 alphabets, 1,623 characters, each drawn by 20 people.

`python -m mamlkit data fetch omniglot` brings the files. MIT licence, © 2015 Brenden Lake.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamlkit.extras import extra
from mamlkit.files import replacing
from mamlkit.images.episodes import Drawings, Episodes, Indices, arrays
from mamlkit.tasks import SPLITS

ADDRESS = "https://raw.githubusercontent.com/brendenlake/omniglot/057f034baf2ecb8530bc5710e5a23584d2a519cc/python/"
DRAWINGS = 20  # of each character
SIDE, ORIGINAL_SIDE = 28, 105  # pixels


class Published(NamedTuple):
    """A file as its authors published it."""

    bytes: int
    sha256: str


# The first two are the set. The small ones are parts of the first, published for quick trials. The last is the exam.
FILES = {
    "images_background.zip": Published(9_464_212, "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
    "images_evaluation.zip": Published(6_462_886, "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
    "images_background_small1.zip": Published(
        1_319_022, "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"
    ),
    "images_background_small2.zip": Published(
        1_580_917, "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"
    ),
    "all_runs.zip": Published(352_787, "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325"),
}
WHOLE = ("images_background.zip", "images_evaluation.zip")
RUNS = "all_runs.zip"  # Lake's one-shot exam, which one_shot_exam.py reads; the others hold drawings by character
FETCH = (
    "run: python -m mamlkit data fetch omniglot (16 MB), without a network "
    "python -m mamlkit data fetch omniglot --from FOLDER_OR_ZIP"
)
DRAWN = tuple(name for name in FILES if name != RUNS)


def address(name: str) -> str:
    """Where a file is published."""
    return ADDRESS + ("one-shot-classification/" if name == RUNS else "") + name


def _counts(table: str) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r"(\S+) (\d+)", table)}


# Characters of each alphabet. They are written out so that the splits are lists, whatever files are at hand.
BACKGROUND = _counts("""
    Alphabet_of_the_Magi 20, Anglo-Saxon_Futhorc 29, Arcadian 26, Armenian 41, Asomtavruli_(Georgian) 40, Balinese 24,
    Bengali 46, Blackfoot_(Canadian_Aboriginal_Syllabics) 14, Braille 26, Burmese_(Myanmar) 34, Cyrillic 33,
    Early_Aramaic 22, Futurama 26, Grantha 43, Greek 24, Gujarati 48, Hebrew 22,
    Inuktitut_(Canadian_Aboriginal_Syllabics) 16, Japanese_(hiragana) 52, Japanese_(katakana) 47, Korean 40, Latin 26,
    Malay_(Jawi_-_Arabic) 40, Mkhedruli_(Georgian) 41, N_Ko 33, Ojibwe_(Canadian_Aboriginal_Syllabics) 14, Sanskrit 42,
    Syriac_(Estrangelo) 23, Tagalog 17, Tifinagh 55
""")
EVALUATION = _counts("""
    Angelic 20, Atemayar_Qelisayer 26, Atlantean 26, Aurek-Besh 26, Avesta 26, Ge_ez 26, Glagolitic 45, Gurmukhi 45,
    Kannada 41, Keble 26, Malayalam 47, Manipuri 40, Mongolian 30, Old_Church_Slavonic_(Cyrillic) 45, Oriya 46,
    Sylheti 28, Syriac_(Serto) 23, Tengwar 25, Tibetan 42, ULOG 26
""")
# Every sixth background alphabet, by name.
VALIDATION = sorted(BACKGROUND)[5::6]

Character = tuple[str, str]  # alphabet, character


def published_characters(alphabets: Mapping[str, int]) -> list[Character]:
    """The characters of alphabets, by name."""
    return sorted((name, f"character{i:02d}") for name, count in alphabets.items() for i in range(1, count + 1))


def background_split() -> dict[str, list[Character]]:
    """The authors' own: the 20 evaluation alphabets are the test; five of the 30 others are held out to validate on."""
    train = {name: count for name, count in BACKGROUND.items() if name not in VALIDATION}
    validation = {name: BACKGROUND[name] for name in VALIDATION}
    return dict(zip(SPLITS, map(published_characters, (train, validation, EVALUATION)), strict=True))


def paper_split() -> dict[str, list[Character]]:
    """1,200 characters of all alphabets against 423 (Finn et al. 2017, section 5.2); 100 of the 1,200 validate.

    Which ones the paper took followed from the order of a directory's listing and can't be known. These follow from a
    fixed permutation of the names, the same on every machine.
    """
    characters = published_characters(BACKGROUND | EVALUATION)
    keys = np.random.Philox(key=2017).random_raw(len(characters))
    order = [characters[i] for i in np.argsort(keys, kind="stable")]
    return {"train": sorted(order[:1100]), "validation": sorted(order[1100:1200]), "test": sorted(order[1200:])}


NAMED = {"background": background_split, "paper": paper_split}


def omniglot_folder() -> Path:
    """Where the files are looked for: MAMLKIT_DATA if it is set, else the user's cache folder."""
    if named := os.environ.get("MAMLKIT_DATA"):
        return Path(named) / "omniglot"
    with extra("images"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # of a progress bar, not asked for
        import pooch

    return Path(pooch.os_cache("mamlkit")) / "omniglot"


def sha256(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A name to write to, in a folder that is made; it becomes `path` at the end. An OSError says what to do."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            yield part
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> OSError:
    """The same error (PermissionError, disk full, …) with the file's name and what to do."""
    why = error.strerror or str(error)
    return OSError(error.errno or errno.EIO, f"{path} can't be written: {why}. Make room there or name another folder")


LAYOUT = re.compile(r"[^/]+/(?P<alphabet>[^/]+)/(?P<character>character\d\d)/\d{4}_(?P<drawing>\d\d)\.png")


def read_zip(path: Path) -> Drawings:
    """The drawings of a zip in Omniglot's layout, alphabet/character/number_drawing.png, shrunk to 28 × 28.

    Nothing is unpacked to disk. Raises ValueError where the file is no such zip: cut off, with a path that leads out of
    it, with other files, with a character that hasn't 20 drawings, or with an image of another size.
    """
    found: dict[Character, dict[int, NDArray[np.uint8]]] = {}
    with opened(path) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".png") or name.startswith("__MACOSX/"):
                continue
            place = LAYOUT.fullmatch(name)
            if place is None:
                raise ValueError(
                    f"{path} is not Omniglot: {name!r} is not in the layout "
                    "'images_background/Greek/character01/0394_01.png'"
                )
            character = (place["alphabet"], place["character"])
            found.setdefault(character, {})[int(place["drawing"])] = read_png(archive.read(name), f"{path}: {name}")
    if not found:
        raise ValueError(f"{path} is not Omniglot: it holds no image; wanted is one of {', '.join(DRAWN)}")
    for character, images in found.items():
        if set(images) != set(range(1, DRAWINGS + 1)):
            raise ValueError(
                f"{path}: {'/'.join(character)} has the drawings {sorted(images)}; wanted are 1 to {DRAWINGS}"
            )
    return by_name({key: shrink(np.stack([images[i] for i in sorted(images)])) for key, images in found.items()})


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read from. Raises ValueError where it is cut off or damaged, or holds a path that leads out of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or ":" in name:
                    raise ValueError(f"{path} holds the path {name!r}, which leads out of it; don't use this file")
            yield archive
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is not a whole zip ({error}); download it again") from error


def by_name(found: Mapping[Character, NDArray[np.uint8]]) -> Drawings:
    """Characters as a set, in the order of their names."""
    names = sorted(found)
    return Drawings(np.stack([found[name] for name in names]), *zip(*names, strict=True))


def read_png(png: bytes, name: str) -> NDArray[np.uint8]:
    """The ink of one image, from paper 0 to ink 255: [105, 105]."""
    with extra("images"):
        from PIL import Image

    try:
        with Image.open(io.BytesIO(png)) as image:
            if image.size != (ORIGINAL_SIDE, ORIGINAL_SIDE):
                raise ValueError(f"{name} is {image.width} × {image.height} pixels; wanted are 105 × 105")
            return 255 - np.asarray(image.convert("L"))
    except (OSError, SyntaxError) as error:  # Pillow reports a broken PNG as either of these
        raise ValueError(f"{name} is not a readable PNG ({error})") from error


def shrink(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images [count, 105, 105] to [count, 28, 28]: each pixel is the mean of the area that it covers, 3.75 × 3.75.

    The original recipe resamples with Lanczos's filter. An area mean of whole numbers is exact (no sum nears 2⁵³ and no
    quotient lies halfway), so the result is the same to the bit on every machine, whatever the version of a library.
    """
    fine, coarse = 4 * np.arange(ORIGINAL_SIDE), 15 * np.arange(SIDE)[:, None]  # edges in quarters of a pixel
    overlap = np.clip(np.minimum(fine + 4, coarse + 15) - np.maximum(fine, coarse), 0, None).astype(float)
    small: NDArray[np.uint8] = np.rint(overlap @ ink @ overlap.T / 15**2).astype(np.uint8)
    return small


def packed_path(zipped: Path) -> Path:
    """Where the drawings of a zip are kept after it was read once."""
    return zipped.with_suffix(".npz")


def packed_checksum(drawings: Drawings) -> str:
    """sha256 of the pixels' bytes and of the names."""
    names = "\n".join(map("/".join, zip(drawings.alphabets, drawings.characters, strict=True)))
    return hashlib.sha256(drawings.pixels.tobytes() + names.encode()).hexdigest()


def load_packed(path: Path) -> Drawings:
    """Drawings packed earlier. Raises ValueError where the file is damaged."""
    kept = arrays(path, "delete it, and it is made again")
    drawings = Drawings(kept["pixels"], tuple(kept["alphabets"].tolist()), tuple(kept["characters"].tolist()))
    if packed_checksum(drawings) != str(kept["checksum"]):
        raise ValueError(f"the arrays of {path} don't have the sha256 kept with them; delete it, and it is made again")
    return drawings


def read_published(zipped: Path) -> Drawings:
    """The drawings of a published zip. Raises ValueError where it isn't the published file."""
    check_published(zipped)
    return read_zip(zipped)


def check_published(zipped: Path) -> None:
    """Raises ValueError where a file isn't the published one of its name."""
    found = sha256(zipped)
    if found != FILES[zipped.name].sha256:
        raise ValueError(
            f"{zipped} has sha256 {found}, not the published {FILES[zipped.name].sha256}: it is cut off, damaged or "
            "another file; run: python -m mamlkit data fetch omniglot"
        )


def pack(zipped: Path) -> Drawings:
    """Read a published zip and keep its drawings beside it, with their checksum."""
    drawings = read_published(zipped)
    with writing(packed_path(zipped)) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **vars(drawings), checksum=np.array(packed_checksum(drawings)))
    return drawings


def load_omniglot(folder: Path) -> Drawings:
    """All characters that the files of a folder hold, by name; a character in two of the files is taken once.

    Raises FileNotFoundError where there is no file, and ValueError where one is damaged.
    """
    found: dict[Character, NDArray[np.uint8]] = {}
    for zipped in (folder / name for name in reversed(DRAWN)):
        packed = packed_path(zipped)
        if packed.exists() or zipped.exists():
            part = load_packed(packed) if packed.exists() else pack(zipped)
            found |= dict(zip(zip(part.alphabets, part.characters, strict=True), part.pixels, strict=True))
    if not found:
        raise FileNotFoundError(f"Omniglot is not in {folder}; {FETCH}, or take Glyphs, which needs neither")
    return by_name(found)


@dataclass(frozen=True)
class Omniglot(Episodes):
    """Episodes on Omniglot. Fields, shapes and errors are those of `Episodes`, and:

    splits       "background": the authors' background and evaluation alphabets, five of the former to validate on;
                 "paper": 1,200 characters against 423, 100 of the former to validate on (Finn et al. 2017);
                 or alphabets by name, {"train": ["Greek", "Korean"], "test": ["Latin"]}, for a part of the set
    rotate       use every class also turned by 90°, 180° and 270°, in training; as in the paper's code, a task draws
                 characters and then a turn for each, so that no character meets itself turned
    rotate_test  turn the classes of validation and test as well, as the paper's code did
    folder       where the files are; by default where `python -m mamlkit data fetch omniglot` puts them

    Raises FileNotFoundError without the files, and ValueError on an unknown alphabet or one that is in two splits.
    """

    splits: str | Mapping[str, Sequence[str]] = "background"
    rotate: bool = True
    rotate_test: bool = False
    folder: Path | str | None = None

    def __post_init__(self) -> None:
        if self.rotate_test and not self.rotate:
            raise ValueError("rotate_test is set and rotate is not; turned classes are tested only if trained on")
        super().__post_init__()

    @cached_property
    def drawings(self) -> Drawings:
        """The set: 1,623 characters, or those of the files at hand."""
        return load_omniglot(Path(self.folder) if self.folder is not None else omniglot_folder())

    @cached_property
    def classes(self) -> dict[str, Indices]:
        """The classes of each split that the files at hand hold."""
        at = {key: i for i, key in enumerate(zip(self.drawings.alphabets, self.drawings.characters, strict=True))}
        lists = self._lists(list(at))
        return {split: np.array([at[key] for key in lists.get(split, []) if key in at], np.int64) for split in SPLITS}

    def rotated(self, split: str) -> bool:
        """Whether the classes of a split are also used turned."""
        return self.rotate and (self.rotate_test or split == "train")

    def _lists(self, characters: list[Character]) -> dict[str, list[Character]]:
        """The characters of each split, of which the files at hand hold these."""
        if isinstance(self.splits, str):
            if self.splits not in NAMED:
                raise ValueError(
                    f'splits is {self.splits!r}; it must be "background", "paper" or alphabets by name for each split'
                )
            return NAMED[self.splits]()
        known = {alphabet for alphabet, _ in characters}
        named = [alphabet for alphabets in self.splits.values() for alphabet in alphabets]
        for split in self.splits:
            if split not in SPLITS:
                raise ValueError(f"splits names {split!r}; it may name {', '.join(SPLITS)}")
        for alphabet in named:
            if alphabet not in known:
                raise ValueError(f"alphabet {alphabet!r} is not in the set; it holds {', '.join(sorted(known))}")
            if named.count(alphabet) > 1:
                raise ValueError(f"alphabet {alphabet!r} is named twice; a class may be in one split only")
        return {split: [key for key in characters if key[0] in alphabets] for split, alphabets in self.splits.items()}
