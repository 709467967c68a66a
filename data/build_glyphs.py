"""Glyphs, from the fonts to the images: 50 alphabets × 20 characters × 20 drawings of 28 × 28 pixels.

    python data/build_glyphs.py strokes [--check]   trace the strokes from the fonts of Debian's fonts-noto-core
    python data/build_glyphs.py images [--check]    draw the images from the strokes, with numpy alone
    python data/build_glyphs.py contact-sheet       draw the picture of the data card

`--check` compares with the shipped file and writes nothing. The code is in the order in which the set is made: the
outline of a font becomes centre-line strokes, 20 characters of each alphabet are chosen, a simulated hand writes each
of them 20 times. The fonts are those of version 20201225-1 of the package.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Arrays = dict[str, NDArray[Any]]
Pixel = tuple[int, int]  # row, column
Stroke = Floats  # [points, 2]: x to the right and y down, both in [−1, 1]; one point is a dot

HERE = Path(__file__).parent
FONTS = Path("/usr/share/fonts/truetype/noto")


def names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [" ".join(name.split()) for name in text.split(",")]


# Characters are chosen alphabet by alphabet in this order; of two that look alike the first stays.
ALPHABETS = names("""
    Latin, Greek, Cyrillic, Armenian, Georgian, Devanagari, Bengali, Telugu, Gujarati, Malayalam, Myanmar, Tibetan,
    Ethiopic, Cherokee, Mongolian, Glagolitic, Avestan, Balinese, Bhaiksuki, Brahmi, Cypriot, Deseret, Dogra,
    Hanifi Rohingya, Kharoshthi, Khojki, Khudawadi, Lepcha, Limbu, Linear A, Manichaean, Masaram Gondi, Medefaidrin,
    Meetei Mayek, Mende Kikakui, Multani, New Tai Lue, Newa, Old Turkic, Pahawh Hmong, Runic, Siddham, Sundanese,
    Tai Viet, Wancho, Yezidi, Adlam, Canadian Aboriginal, Sharada, Mahajani
""")
VALIDATION = names("Avestan, Limbu, Linear A, Manichaean, Medefaidrin, Sharada")
TEST = names("""
    Cypriot, Ethiopic, Georgian, Glagolitic, Hanifi Rohingya, Khojki, Masaram Gondi, Myanmar, New Tai Lue, Old Turkic,
    Tibetan, Wancho
""")
TRAIN = sorted(set(ALPHABETS) - {*VALIDATION, *TEST})
CHARACTERS = 20  # of each alphabet
DRAWINGS = 20  # of each character
SIDE = 28  # pixels of an image

RASTER = 96  # pixels a side when an outline is filled
FIT = 76  # the longest side of a character there
STEP = 3.0  # its pixels between two points of a stroke

LENGTHS = (2.4, 7.6)  # of all strokes of a character together, in half boxes: neither a bar nor a thicket
NARROWEST = 0.35  # the shorter side of its box, in half boxes
ALIKE = 0.88  # cosine similarity above which two characters are one
CANDIDATES = 110  # the letters of an alphabet that are looked at, by code point


def outlines(font: Any, name: str) -> list[Floats]:
    """The closed outlines of a glyph in font units, each [points, 2], its curves cut into 6 or 8 pieces."""
    from fontTools.pens.recordingPen import DecomposingRecordingPen

    pen = DecomposingRecordingPen(font)
    font[name].draw(pen)
    found: list[Floats] = []
    line: list[Floats] = []
    for operation, arguments in pen.value:
        points = [np.array(point, float) for point in arguments if point is not None]
        if operation in ("moveTo", "lineTo"):
            line += points
        elif operation == "curveTo":
            line += bezier([line[-1], *points], 8)
        elif operation == "qCurveTo":
            if arguments[-1] is None:  # a TrueType outline without a point on its curve starts between two controls
                line = [(points[-1] + points[0]) / 2]
                points.append(line[0])
            for control, following in pairwise(points):
                end = following if following is points[-1] else (control + following) / 2
                line += bezier([line[-1], control, end], 6)
        elif operation in ("closePath", "endPath"):
            if len(line) > 2:
                found.append(np.array(line))
            line = []
    return found


def bezier(controls: list[Floats], pieces: int) -> list[Floats]:
    """Points along a Bézier curve, its first left out, by repeated interpolation (de Casteljau)."""
    t = np.linspace(0, 1, pieces + 1)[1:, None]
    level = [np.broadcast_to(control, (pieces, 2)) for control in controls]
    while len(level) > 1:
        level = [(1 - t) * a + t * b for a, b in pairwise(level)]
    return list(level[0])


def fill(contours: list[Floats]) -> Mask:
    """The inside of the outlines by the non-zero winding rule, fitted into a raster: [RASTER, RASTER]."""
    points = np.concatenate(contours)
    low, high = points.min(0), points.max(0)
    scale = FIT / max((high - low).max(), 1e-6)
    contours = [(contour - low) * scale + (RASTER - (high - low) * scale) / 2 for contour in contours]
    x0, y0 = np.concatenate(contours).T
    x1, y1 = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours]).T
    y0, y1 = RASTER - y0, RASTER - y1  # fonts count upwards, images downwards

    centres = np.arange(RASTER) + 0.5
    edge, row = np.nonzero((np.minimum(y0, y1)[:, None] <= centres) & (centres < np.maximum(y0, y1)[:, None]))
    x = x0[edge] + (centres[row] - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    turns = np.zeros((RASTER, RASTER), int)
    np.add.at(turns, (row, np.floor(x + 0.5).astype(int)), np.sign(y1 - y0)[edge].astype(int))
    inside: Mask = turns.cumsum(1) != 0
    return inside


def thin(mask: Mask) -> Mask:
    """The skeleton of a mask, one pixel wide (Zhang and Suen 1984)."""
    ink = np.pad(mask, 1)
    centre = ink[1:-1, 1:-1]
    around = [ink[1 + y : RASTER + 1 + y, 1 + x : RASTER + 1 + x] for y, x in CLOCKWISE]  # views: they follow the ink
    changed = True
    while changed:
        changed = False
        for phase in (0, 1):
            ring = np.stack(around)
            count = ring.sum(0)
            strokes_met = (~ring & np.roll(ring, -1, axis=0)).sum(0)
            north, east, south, west = ring[0], ring[2], ring[4], ring[6]
            if phase == 0:
                inside = (north & east & south) | (east & south & west)
            else:
                inside = (north & east & west) | (north & south & west)
            peel = centre & (count >= 2) & (count <= 6) & (strokes_met == 1) & ~inside
            centre[peel] = False
            changed |= bool(peel.any())
    return centre.copy()


STRAIGHT = ((-1, 0), (0, 1), (1, 0), (0, -1))
DIAGONAL = ((-1, -1), (-1, 1), (1, 1), (1, -1))
CLOCKWISE = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def graph(skeleton: Mask) -> dict[Pixel, list[Pixel]]:
    """The neighbours of each pixel of a skeleton; a diagonal step counts where two straight ones can't do its work."""
    ink: set[Pixel] = {(y, x) for y, x in np.argwhere(skeleton).tolist()}

    def neighbours(y: int, x: int) -> Iterator[Pixel]:
        yield from ((y + dy, x + dx) for dy, dx in STRAIGHT if (y + dy, x + dx) in ink)
        for dy, dx in DIAGONAL:
            if (y + dy, x + dx) in ink and (y + dy, x) not in ink and (y, x + dx) not in ink:
                yield y + dy, x + dx

    return {pixel: list(neighbours(*pixel)) for pixel in ink}


def trace(skeleton: Mask) -> tuple[list[list[Pixel]], dict[Pixel, list[Pixel]]]:
    """The paths of a skeleton between its ends and crossings, then its closed loops; and its graph."""
    beside = graph(skeleton)
    walked: set[frozenset[Pixel]] = set()
    paths: list[list[Pixel]] = []
    for start in sorted(beside, key=lambda pixel: (len(beside[pixel]) == 2, pixel)):
        if not beside[start]:
            paths.append([start])
        for step in beside[start]:
            path = [start]
            ahead = [step]
            while ahead and frozenset((path[-1], ahead[0])) not in walked:
                walked.add(frozenset((path[-1], ahead[0])))
                path.append(ahead[0])
                onward = beside[path[-1]] if len(beside[path[-1]]) == 2 else []
                ahead = [pixel for pixel in onward if frozenset((path[-1], pixel)) not in walked]
            if len(path) > 1:
                paths.append(path)
    return paths, beside


def prune(skeleton: Mask, mask: Mask) -> Mask:
    """The skeleton without its spurs: the short side branches that thinning leaves in the corners of thick strokes."""
    paper = np.argwhere(~mask)
    for _ in range(3):
        paths, beside = trace(skeleton)
        spurs: list[Pixel] = []
        for path in paths:
            if len(beside[path[0]]) != 1:
                path = path[::-1]
            end, crossing = len(beside[path[0]]), len(beside[path[-1]])
            radius = np.sqrt(((paper - path[-1]) ** 2).sum(1).min())
            if end == 1 and crossing > 2 and len(path) - 1 <= 1.15 * radius + 1:
                spurs += path[:-1]
        if not spurs:
            break
        skeleton[tuple(np.transpose(spurs))] = False
        skeleton = thin(skeleton)
    return skeleton


def blobs(mask: Mask) -> Iterator[NDArray[np.int64]]:
    """The connected parts of a mask, each [pixels, 2]."""
    left = {(y, x) for y, x in np.argwhere(mask).tolist()}
    while left:
        part = [left.pop()]
        for y, x in part:  # grows while it is read
            near = {(y + dy, x + dx) for dy, dx in CLOCKWISE} & left
            left -= near
            part += sorted(near)
        yield np.array(part)


def centre_lines(mask: Mask) -> list[Stroke]:
    """The strokes of a filled character, smoothed, with a point every STEP pixels; its longest side becomes 2."""
    skeleton = thin(mask)
    for part in blobs(mask):
        if not skeleton[tuple(part.T)].any():  # a dot can thin away altogether
            y, x = part.mean(0).astype(int)
            skeleton[y, x] = True
    paths, _ = trace(prune(skeleton, mask))
    strokes = [resample(smooth(np.array(path, float))) for path in paths]
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    half = max((high - low).max(), 12) / 2  # a lone dot isn't blown up
    return [((stroke - (low + high) / 2) / half)[:, ::-1] for stroke in strokes]


def smooth(line: Floats) -> Floats:
    """A line [points, 2] without the staircase of its pixels: three passes of the weights ¼, ½, ¼; open ends stay."""
    if len(line) < 5:
        return line
    closed = (line[0] == line[-1]).all()
    for _ in range(3):
        if closed:
            ring = line[:-1]
            ring = (np.roll(ring, 1, axis=0) + 2 * ring + np.roll(ring, -1, axis=0)) / 4
            line = np.vstack([ring, ring[:1]])
        else:
            line = np.vstack([line[:1], (line[:-2] + 2 * line[1:-1] + line[2:]) / 4, line[-1:]])
    return line


def resample(line: Floats) -> Floats:
    """The same line with its points STEP apart."""
    along = np.r_[0, np.hypot(*np.diff(line, axis=0).T).cumsum()]
    if along[-1] <= 1:
        return line[:1]
    at = np.linspace(0, along[-1], max(2, round(along[-1] / STEP) + 1))
    return np.stack([np.interp(at, along, line[:, 0]), np.interp(at, along, line[:, 1])], axis=1)


def length(strokes: list[Stroke]) -> float:
    """The length of all strokes together."""
    return float(sum(np.hypot(*np.diff(stroke, axis=0).T).sum() for stroke in strokes))


def candidates(alphabet: str) -> Iterator[tuple[int, list[Stroke]]]:
    """Code points and strokes of an alphabet's letters that a hand could write in a small box."""
    from fontTools import unicodedata
    from fontTools.ttLib import TTFont

    own = sorted(FONTS.glob(f"*{alphabet.replace(' ', '')}-Regular.ttf"))  # Sans comes before Serif
    font = TTFont(own[0] if own else FONTS / "NotoSans-Regular.ttf")
    cmap, glyphs = font.getBestCmap(), font.getGlyphSet()
    letters = [
        point
        for point in sorted(cmap)
        if unicodedata.script_name(unicodedata.script(chr(point))) == alphabet
        and unicodedata.category(chr(point)) in ("Lu", "Ll", "Lo")
        and not unicodedata.decomposition(chr(point))  # no É beside E
    ]
    for point in letters[:CANDIDATES]:
        contours = outlines(glyphs, cmap[point])
        mask = fill(contours) if contours else np.zeros(0, bool)
        if not mask.any():
            continue
        strokes = centre_lines(mask)
        box = np.ptp(np.concatenate(strokes), axis=0)
        if LENGTHS[0] <= length(strokes) <= LENGTHS[1] and box.min() > NARROWEST and max(map(len, strokes)) > 2:
            yield point, strokes


def distance(strokes: list[Stroke]) -> Floats:
    """Squared distance of every pixel's centre from the nearest stroke, all in pixels: [SIDE, SIDE]."""
    start = np.concatenate([stroke[:-1] if len(stroke) > 1 else stroke for stroke in strokes])
    end = np.concatenate([stroke[1:] if len(stroke) > 1 else stroke for stroke in strokes])
    along_x, along_y = (end - start).T
    square = along_x**2 + along_y**2 + 1e-9  # a dot has no length
    centres = np.arange(SIDE)[:, None] + 0.5
    x, y = (
        (centres - start[:, 0])[None, :],
        (centres - start[:, 1])[:, None],
    )  # [1, SIDE, segments], [SIDE, 1, segments]
    t = np.clip(x * (along_x / square) + y * (along_y / square), 0, 1)
    nearest: Floats = ((x - t * along_x) ** 2 + (y - t * along_y) ** 2).min(-1)
    return nearest


def place(strokes: list[Stroke], longest: float, shift: Floats | float = 0.0) -> list[Stroke]:
    """Strokes in pixels: the longest side of their box as given, its centre `shift` from the image's."""
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    scale = longest / max((high - low).max(), 0.6)
    room = np.maximum(SIDE / 2 - 1.2 - (high - low) * scale / 2, 0)  # the ink stays inside the image
    return [(stroke - (low + high) / 2) * scale + SIDE / 2 + np.clip(shift, -room, room) for stroke in strokes]


def looks(strokes: list[Stroke]) -> Floats:
    """A character as the eye meets it, for comparing: a clean drawing, blurred, of length one, [9, SIDE²].

    Its nine rows are shifted against each other by up to one pixel.
    """
    image = np.clip(1.3 - np.sqrt(distance(place(strokes, longest=22))), 0, 1)
    apart = np.subtract.outer(np.arange(SIDE), np.arange(SIDE))
    blur = np.where(abs(apart) <= 4, np.exp(-0.5 * (apart / 1.3) ** 2), 0)
    image = blur @ image @ blur.T
    image /= np.linalg.norm(image)
    return np.stack([np.roll(image, (y, x), (0, 1)).ravel() for y in (-1, 0, 1) for x in (-1, 0, 1)])


def choose() -> dict[str, list[tuple[int, list[Stroke]]]]:
    """Code point and strokes of the first 20 characters of each alphabet that look like no other one chosen."""
    chosen: dict[str, list[tuple[int, list[Stroke]]]] = {}
    seen = np.empty((0, SIDE * SIDE))
    for alphabet in ALPHABETS:
        chosen[alphabet] = []
        for point, strokes in candidates(alphabet):
            look = looks(strokes)
            if (seen @ look.T <= ALIKE).all():
                seen = np.vstack([seen, look[4]])
                chosen[alphabet].append((point, strokes))
            if len(chosen[alphabet]) == CHARACTERS:
                break
        print(f"{alphabet}: {''.join(chr(point) for point, _ in chosen[alphabet])}", flush=True)
    return chosen


def build_strokes() -> Arrays:
    """The arrays of glyph_strokes.npz.

    points [all points, 2] int8, in 1/127 of a half box; lengths [all strokes], the number of points of each;
    strokes [1000], the number of strokes of each character; codepoints [50, 20]; alphabets [50].
    """
    chosen = choose()
    order = TRAIN + VALIDATION + TEST
    characters = [strokes for alphabet in order for _, strokes in chosen[alphabet]]
    points = np.concatenate([stroke for strokes in characters for stroke in strokes])
    return {
        "points": np.clip(points * 127, -127, 127).round().astype(np.int8),
        "lengths": np.array([len(stroke) for strokes in characters for stroke in strokes], np.uint8),
        "strokes": np.array([len(strokes) for strokes in characters], np.uint8),
        "codepoints": np.array([[point for point, _ in chosen[alphabet]] for alphabet in order], np.uint32),
        "alphabets": np.array(order),
    }


def write(strokes: list[Stroke], hand: np.random.Generator) -> Mask:
    """One drawing of a character, [SIDE, SIDE]; ink is where a pixel's centre lies under the pen.

    Each stroke slips and tilts on its own, the sheet bends in four slow waves, the whole leans, turns and stretches,
    and a pen of some width draws it somewhere near the middle. Strengths are standard deviations unless a range.
    """
    turn = np.deg2rad(hand.normal(0, 4))
    shear = hand.normal(0, 0.10)
    aspect = np.exp(hand.normal(0, 0.08))
    lean = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    lean = lean @ [[1, shear], [0, 1]] @ [[aspect, 0], [0, 1 / aspect]]
    frequency = hand.normal(0, 0.5, (4, 2))
    phase = hand.uniform(0, 2 * np.pi, (4, 2))
    height = hand.normal(0, 0.088 / np.sqrt(2), (4, 2))
    slip = hand.normal(0, 0.068, (len(strokes), 1, 2))
    tilt = hand.normal(0, 0.068, (len(strokes), 1, 2))
    longest = 19 * hand.uniform(0.74, 1.04)  # pixels
    shift = hand.normal(0, 1.4, 2)
    pen = hand.uniform(1.1, 1.7)

    written = []
    for stroke, slipped, tilted in zip(strokes, slip, tilt, strict=True):
        waves = (height * np.sin(np.pi * (stroke @ frequency.T)[..., None] + phase)).sum(1)
        along = np.linspace(-1, 1, len(stroke))[:, None] if len(stroke) > 1 else 0
        written.append((stroke + waves + slipped + along * tilted) @ lean.T)
    return distance(place(written, longest, shift)) <= (pen / 2) ** 2


def build_images(strokes: Arrays, drawings: int = DRAWINGS) -> Arrays:
    """The arrays of glyphs.npz.

    bits [1000 · 20, 98], 784 pixels packed, rows from the top, ink 1; codepoints [50, 20]; alphabets [50];
    split [50], 0 train, 1 validation, 2 test.
    """
    lines = np.split(strokes["points"] / 127, strokes["lengths"].cumsum(dtype=int)[:-1])
    ends = strokes["strokes"].cumsum(dtype=int).tolist()
    codepoints = strokes["codepoints"].ravel().tolist()
    images = np.empty((len(ends), drawings, SIDE, SIDE), bool)
    for i, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        hand = np.random.Generator(np.random.PCG64([2026, codepoints[i]]))
        for drawing in range(drawings):
            images[i, drawing] = write(lines[first:last], hand)
    held_out = [VALIDATION, TEST]
    split = [sum(k + 1 for k, names in enumerate(held_out) if name in names) for name in strokes["alphabets"]]
    return {
        "bits": np.packbits(images.reshape(-1, SIDE * SIDE), axis=1),
        "codepoints": strokes["codepoints"],
        "alphabets": strokes["alphabets"],
        "split": np.array(split, np.uint8),
    }


def contact_sheet(images: Arrays, zoom: int = 3) -> NDArray[np.uint8]:
    """Ten drawings of one character of each alphabet, two alphabets a row, as grey levels; enlarged with soft edges."""
    drawings = np.unpackbits(images["bits"], axis=1).reshape(len(images["alphabets"]), CHARACTERS, DRAWINGS, SIDE, SIDE)
    shown = np.stack([drawings[i, (7 * i) % CHARACTERS, :10] for i in range(len(drawings))])
    rows = len(shown) // 2
    ink = shown.reshape(rows, 20, SIDE, SIDE).swapaxes(1, 2).reshape(rows * SIDE, 20 * SIDE).astype(float)
    for axis in (0, 1):
        ink = ink.repeat(zoom, axis)
        for _ in range(2):
            ink = np.mean([np.roll(ink, shift, axis) for shift in range(-(zoom // 2), zoom // 2 + 1)], axis=0)
    grey = 255 * (1 - np.clip(1.5 * ink - 0.25, 0, 1))
    grey[:: SIDE * zoom] = grey[:, :: SIDE * zoom] = 200
    return (grey / 17).round().astype(np.uint8) * np.uint8(17)  # sixteen levels: a small file


def checksum(arrays: Arrays) -> str:
    """sha256 of the bytes of the arrays, one after another."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()


def save_or_check(name: str, build: Callable[[], Arrays], check: bool) -> bool:
    """Write the arrays, or compare them with the shipped ones; True where all is well."""
    arrays = build()
    path = HERE / name
    if not check:
        np.savez_compressed(path, allow_pickle=False, **arrays)
        print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 of the arrays {checksum(arrays)}")
        return True
    with np.load(path) as shipped:
        same = {key: np.array_equal(array, shipped[key]) for key, array in arrays.items()}
    print(f"{name}: " + ", ".join(f"{key} {'the same' if equal else 'DIFFERENT'}" for key, equal in same.items()))
    return all(same.values())


def load(name: str) -> Arrays:
    """The arrays of a shipped file."""
    with np.load(HERE / name) as file:
        return dict(file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["strokes", "images", "contact-sheet"])
    parser.add_argument("--check", action="store_true", help="compare with the shipped file and write nothing")
    arguments = parser.parse_args()
    if arguments.command == "contact-sheet":
        from PIL import Image

        Image.fromarray(contact_sheet(load("glyphs.npz"))).save(HERE / "contact_sheet.png", optimize=True)
        return 0
    if arguments.command == "strokes":
        if not FONTS.is_dir():
            sys.exit(f"no fonts in {FONTS}; install them with: apt-get install fonts-noto-core")
        return 0 if save_or_check("glyph_strokes.npz", build_strokes, arguments.check) else 1
    return 0 if save_or_check("glyphs.npz", lambda: build_images(load("glyph_strokes.npz")), arguments.check) else 1


if __name__ == "__main__":
    sys.exit(main())
