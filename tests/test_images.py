"""Image episodes: what a task is made of, that it is a pure function, and what is refused. Needs no network."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import subprocess
import sys
from functools import cached_property
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_omniglot import exam_layout, png, publish, publish_exam, write_zip

import mamlkit as mk
from mamlkit.images import Drawings, Episodes, Glyphs, Omniglot, OneShotExam
from mamlkit.images.episodes import Indices, distinct
from mamlkit.images.glyphs import glyphs_file, load_glyphs
from mamlkit.images.omniglot import (
    BACKGROUND,
    EVALUATION,
    RUNS,
    background_split,
    pack,
    paper_split,
    published_characters,
    shrink,
)
from mamlkit.images.one_shot_exam import read_runs
from mamlkit.study import notebooks
from mamlkit.study.execute import execute
from mamlkit.tasks import SPLITS, uniforms

ROOT = Path(__file__).parent.parent
ALPHABETS = {"Greek": 6, "Korean": 5, "Latin": 7}


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    return Glyphs(seed=3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small Omniglot: three alphabets under the published name."""
    return publish(tmp_path / "omniglot", "images_background.zip", ALPHABETS, monkeypatch).parent


def omniglot(folder: Path, **fields: object) -> Omniglot:
    splits = {"train": ["Greek"], "validation": ["Korean"], "test": ["Latin"]}
    return Omniglot(**{"folder": folder, "splits": splits, "queries": 5, **fields})  # type: ignore[arg-type]


# What a batch is


def test_a_batch_has_the_promised_shapes_types_and_range(glyphs: Glyphs) -> None:
    tasks = dataclasses.replace(glyphs, ways=4, shots=3, queries=6)
    support, query = tasks.batch(0, 7)
    assert support.x.shape == (7, 12, 1, 28, 28)
    assert query.x.shape == (7, 24, 1, 28, 28)
    assert support.y.shape == (7, 12)
    assert query.y.shape == (7, 24)
    assert support.x.dtype == torch.float32
    assert support.y.dtype == query.y.dtype == torch.int64
    assert set(query.x.unique().tolist()) == {0.0, 1.0}
    assert 0.02 < query.x.mean() < 0.3, "ink is 1, paper is 0, and most is paper"


def test_labels_lie_in_their_range_and_each_has_its_share(glyphs: Glyphs) -> None:
    batch = glyphs.batch(0, 20)
    for part, each in ((batch.support, 1), (batch.query, 15)):
        assert (torch.nn.functional.one_hot(part.y, 5).sum(1) == each).all()


def test_one_shot_with_fifteen_queries_splits_no_drawing_between_support_and_query(glyphs: Glyphs) -> None:
    for alphabets in ("across", "within"):
        tasks = dataclasses.replace(glyphs, shots=5, alphabets=alphabets)
        support, query = tasks.identities(0, 200)
        both = np.concatenate([support, query], axis=1)
        assert all(len(set(task)) == len(task) for task in both.tolist())


def test_a_class_has_one_label_in_support_and_query(glyphs: Glyphs) -> None:
    tasks = dataclasses.replace(glyphs, shots=2)
    batch, identities = tasks.batch(0, 50), tasks.identities(0, 50)
    for i in range(50):
        labels: dict[int, set[int]] = {}
        for part, identity in zip(batch, identities, strict=True):
            for character, label in zip((identity[i] // 20).tolist(), part.y[i].tolist(), strict=True):
                labels.setdefault(character, set()).add(label)
        assert len(labels) == 5
        assert sorted(label for one in labels.values() for label in one) == [0, 1, 2, 3, 4]


def test_the_label_of_a_class_varies_over_tasks(glyphs: Glyphs) -> None:
    support, _ = dataclasses.replace(glyphs, ways=100).identities(0, 300)
    positions = np.argwhere(support // 20 == glyphs.classes["train"][0])[:, 1]
    assert len(positions) > 20
    assert len(set(positions.tolist())) > 10


def test_an_identity_names_the_drawing_that_was_given(glyphs: Glyphs) -> None:
    pixels = glyphs.drawings.pixels.reshape(-1, 28, 28)
    batch, identities = glyphs.batch(5, 4, "test"), glyphs.identities(5, 4, "test")
    for part, identity in zip(batch, identities, strict=True):
        assert np.array_equal(part.x[:, :, 0].numpy() * 255, pixels[identity])


def test_within_takes_a_task_from_one_alphabet_and_across_from_several(glyphs: Glyphs) -> None:
    alphabet = np.array(glyphs.drawings.alphabets)
    within = dataclasses.replace(glyphs, alphabets="within").identities(0, 100)[0] // 20
    across = glyphs.identities(0, 100)[0] // 20
    assert all(len(set(alphabet[task])) == 1 for task in within)
    assert len({alphabet[task][0] for task in within}) > 20
    assert np.mean([len(set(alphabet[task])) for task in across]) > 4


@pytest.mark.parametrize("alphabets", ["across", "within"])
def test_no_class_is_in_two_splits(glyphs: Glyphs, alphabets: str) -> None:
    tasks = dataclasses.replace(glyphs, alphabets=alphabets)
    seen = {split: set((tasks.identities(0, 2000, split)[1] // 20).ravel().tolist()) for split in SPLITS}
    assert [len(seen[split]) for split in SPLITS] == [640, 120, 240], "every class of a split comes up"
    assert all(not seen[one] & seen[other] for one, other in combinations(SPLITS, 2))


def test_choices_are_uniform_over_classes_and_drawings(glyphs: Glyphs) -> None:
    _, query = glyphs.identities(0, 4000, "validation")
    counts = np.bincount((query // 20).ravel(), minlength=1000)[glyphs.classes["validation"]]
    drawings = np.bincount((query % 20).ravel(), minlength=20)
    assert abs(counts / counts.mean() - 1).max() < 0.35  # 4.5 standard deviations of 167 draws each
    assert abs(drawings / drawings.mean() - 1).max() < 0.04


# A pure function of (seed, split, index)


@pytest.mark.parametrize("alphabets", ["across", "within"])
def test_a_task_is_the_same_alone_and_in_a_batch(glyphs: Glyphs, alphabets: str) -> None:
    tasks = dataclasses.replace(glyphs, alphabets=alphabets)
    together, alone = tasks.batch(10, 8, "test"), tasks.batch(14, 1, "test")
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.x[4:5], other.x)
        assert torch.equal(one.y[4:5], other.y)


def test_seed_split_and_index_each_change_the_tasks(glyphs: Glyphs) -> None:
    reference = glyphs.identities(0, 5)[1]
    assert not np.array_equal(reference, dataclasses.replace(glyphs, seed=4).identities(0, 5)[1])
    assert not np.array_equal(reference, glyphs.identities(5, 5)[1])
    positions = np.searchsorted(glyphs.classes["test"], glyphs.identities(0, 5, "test")[1] // 20)
    assert not np.array_equal(reference // 20, glyphs.classes["train"][positions])


def test_seed_split_and_index_each_change_which_classes_are_taken(glyphs: Glyphs) -> None:
    """Where in its split a task's first class stands, its alphabet's place and its own there, is uncorrelated."""

    def where(tasks: Glyphs, start: int = 0, split: str = "train") -> NDArray[np.float64]:
        found = np.searchsorted(tasks.classes[split], tasks.identities(start, 300, split)[0][:, 0] // 20)
        return np.array([found // 20 * 20 / len(tasks.classes[split]), found % 20])

    for tasks in (glyphs, dataclasses.replace(glyphs, alphabets="within")):
        for other in (where(dataclasses.replace(tasks, seed=4)), where(tasks, 300), where(tasks, 0, "test")):
            for one, another in zip(where(tasks), other, strict=True):
                assert abs(np.corrcoef(one, another)[0, 1]) < 0.23, "four standard deviations"


def test_seed_split_and_index_each_change_which_drawings_are_taken(glyphs: Glyphs) -> None:
    """Of 20 drawings each time, whatever the classes: a stuck choice would have all of them alike."""
    reference = glyphs.identities(0, 50)[0] % 20
    for other in (
        dataclasses.replace(glyphs, seed=4).identities(0, 50)[0],
        glyphs.identities(0, 50, "test")[0],
        glyphs.identities(50, 50)[0],
    ):
        assert 0.01 < (other % 20 == reference).mean() < 0.12, "one in 20 by chance"


def test_the_classes_of_a_task_take_their_drawings_independently(glyphs: Glyphs) -> None:
    taken = glyphs.identities(0, 400)[0] % 20
    pairs = [taken[:, one] == taken[:, other] for one, other in combinations(range(5), 2)]
    assert 0.03 < np.mean(pairs) < 0.07, "one in 20 by chance, of 4,000"


def test_the_turns_of_a_task_follow_seed_split_and_index(folder: Path) -> None:
    def turns(tasks: Omniglot, start: int = 0, split: str = "train") -> NDArray[np.int64]:
        return tasks.identities(start, 100, split)[0] // 20 // len(tasks.drawings.characters)

    tasks = omniglot(folder, rotate_test=True)
    for other in (turns(omniglot(folder, rotate_test=True, seed=1)), turns(tasks, 100), turns(tasks, 0, "test")):
        assert 0.15 < (turns(tasks) == other).mean() < 0.35, "one in four by chance, of 500"


@pytest.mark.parametrize("ways", [6, 13, 20])
@pytest.mark.parametrize("shots", [1, 5, 19])
def test_all_twenty_drawings_are_shared_out_at_any_number_of_ways(glyphs: Glyphs, ways: int, shots: int) -> None:
    tasks = dataclasses.replace(glyphs, ways=ways, shots=shots, queries=20 - shots)
    both = np.concatenate(tasks.identities(0, 40), axis=1)
    for task in both.tolist():
        assert len(set(task)) == len(task) == 20 * ways, "each drawing of each class once"


def test_support_does_not_depend_on_queries_nor_query_on_shots(glyphs: Glyphs) -> None:
    support, query = glyphs.identities(0, 30)
    assert np.array_equal(support, dataclasses.replace(glyphs, queries=3).identities(0, 30)[0])
    assert np.array_equal(query, dataclasses.replace(glyphs, shots=5).identities(0, 30)[1])


def test_another_process_draws_the_same_tasks(glyphs: Glyphs) -> None:
    code = (
        "import hashlib, mamlkit.images as i; b = i.Glyphs(seed=3).batch(100, 3, 'test');"
        "print(hashlib.sha256(b.query.x.numpy().tobytes() + b.query.y.numpy().tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    query = glyphs.batch(100, 3, "test").query
    assert other.strip() == hashlib.sha256(query.x.numpy().tobytes() + query.y.numpy().tobytes()).hexdigest()


def test_global_random_state_is_neither_read_nor_set(glyphs: Glyphs) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = glyphs.batch(0, 2)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first.query.x, glyphs.batch(0, 2).query.x)


def test_distinct_makes_every_ordered_choice_equally_often() -> None:
    u = uniforms(0, "train", "test", 0, 24_000, 3)
    chosen = distinct(u, np.full(len(u), 4))
    kinds, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(kinds) == 24
    assert all(len(set(kind)) == 3 for kind in kinds.tolist())
    assert abs(counts / 1000 - 1).max() < 0.15


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_tasks(folder: Path) -> None:
    for tasks in (Glyphs(), omniglot(folder)):
        here, there = tasks.batch(0, 8), dataclasses.replace(tasks, device="cuda").batch(0, 8)
        assert there.query.x.is_cuda
        assert torch.equal(here.query.x, there.query.x.cpu())
        assert torch.equal(here.support.y, there.support.y.cpu())


# Glyphs, the set


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_glyphs", ROOT / "data" / "build_glyphs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_builder_draws_the_shipped_bits_from_the_shipped_strokes(builder: ModuleType) -> None:
    strokes = builder.load("glyph_strokes.npz")
    first = 8  # characters; all 1,000 take a while: python data/build_glyphs.py images --check
    some = {**strokes, "strokes": strokes["strokes"][:first]}
    some["lengths"] = strokes["lengths"][: some["strokes"].sum(dtype=int)]
    some["points"] = strokes["points"][: some["lengths"].sum(dtype=int)]
    drawn, shipped = builder.build_images(some), builder.load("glyphs.npz")
    assert np.array_equal(drawn["bits"], shipped["bits"][: first * 20])
    for name in ("codepoints", "alphabets", "split"):
        assert np.array_equal(drawn[name], shipped[name])


def test_glyphs_holds_what_its_card_says(glyphs: Glyphs, builder: ModuleType) -> None:
    card = (ROOT / "data" / "README.md").read_text()
    for name in ("glyphs.npz", "glyph_strokes.npz"):
        assert builder.checksum(builder.load(name)) in card
    assert len(set(glyphs.drawings.characters)) == 1000
    assert len({image.tobytes() for image in glyphs.drawings.pixels.reshape(-1, 784)}) == 20_000, "no drawing twice"
    ink = (glyphs.drawings.pixels > 0).sum(axis=(2, 3))
    assert ink.min() >= 12, "no drawing is empty"
    assert ink.max() < 784 / 2, "nor a blot"


def test_a_class_of_glyphs_is_what_its_rows_of_the_file_say(glyphs: Glyphs) -> None:
    with np.load(glyphs_file()) as file:
        bits, codepoints, alphabets, split = (file[name] for name in ("bits", "codepoints", "alphabets", "split"))
    each = codepoints.shape[1]
    for one in (0, 21, 500, 999):
        assert glyphs.drawings.characters[one] == chr(codepoints[one // each, one % each])
        assert glyphs.drawings.alphabets[one] == alphabets[one // each]
        assert [name for name in SPLITS if one in glyphs.classes[name]] == [SPLITS[split[one // each]]]
        for drawing, image in enumerate(glyphs.drawings.pixels[one]):
            ink = "".join(f"{byte:08b}" for byte in bits[20 * one + drawing].tolist())
            assert image.ravel().tolist() == [255 * int(bit) for bit in ink], "eight pixels a byte, row by row"


def test_a_set_with_one_bit_changed_is_refused(tmp_path: Path) -> None:
    with np.load(glyphs_file()) as file:
        arrays = dict(file)
    arrays["bits"][123, 45] ^= 1
    np.savez_compressed(tmp_path / "glyphs.npz", allow_pickle=False, **arrays)
    with pytest.raises(ValueError, match=r"have sha256 .* fresh clone"):
        load_glyphs(tmp_path / "glyphs.npz")


def test_a_cut_off_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "glyphs.npz").write_bytes(glyphs_file().read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"glyphs.npz can't be read"):
        load_glyphs(tmp_path / "glyphs.npz")


def test_a_missing_set_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is missing; clone or install"):
        load_glyphs(tmp_path / "glyphs.npz")


def test_the_checksum_does_not_depend_on_how_the_file_is_compressed(tmp_path: Path) -> None:
    with np.load(glyphs_file()) as file:
        np.savez(tmp_path / "glyphs.npz", allow_pickle=False, **dict(file))
    assert len(load_glyphs(tmp_path / "glyphs.npz")[0].characters) == 1000


# Omniglot: reading, rotations, splits


def test_rotations_make_new_classes_in_training_alone(folder: Path) -> None:
    upright = len(omniglot(folder).drawings.characters)
    for tasks, splits in ((omniglot(folder), {"train"}), (omniglot(folder, rotate_test=True), set(SPLITS))):
        for split in SPLITS:
            turns = tasks.identities(0, 100, split)[1] // 20 // upright
            assert set(turns.ravel().tolist()) == ({0, 1, 2, 3} if split in splits else {0})
    assert not (omniglot(folder, rotate=False).identities(0, 100)[1] // 20 >= upright).any()


def test_a_turned_class_is_turned_in_support_and_query_alike(folder: Path) -> None:
    tasks = omniglot(folder)
    pixels = tasks.drawings.pixels.reshape(-1, 28, 28)
    for part, identity in zip(tasks.batch(0, 20), tasks.identities(0, 20), strict=True):
        turn, drawing = np.divmod(identity, len(pixels))
        wanted = np.array([np.rot90(pixels[d], t) for d, t in zip(drawing.ravel(), turn.ravel(), strict=True)])
        assert np.array_equal(part.x.reshape(-1, 28, 28), (torch.from_numpy(wanted).float() / 255))


def test_a_character_never_meets_itself_turned(folder: Path) -> None:
    tasks = omniglot(folder)
    character = tasks.identities(0, 200)[0] // 20 % len(tasks.drawings.characters)
    assert all(len(set(task)) == 5 for task in character.tolist())


def test_the_splits_are_the_same_lists_on_every_machine() -> None:
    def digest(split: dict[str, list[tuple[str, str]]]) -> str:
        lines = "\n".join(f"{name} {alphabet}/{character}" for name in split for alphabet, character in split[name])
        return hashlib.sha256(lines.encode()).hexdigest()

    assert digest(background_split()) == "9ced8df1fa319ca97e01136dc938d61eec737b8827aa52a3685908c85e81015f"
    assert digest(paper_split()) == "1d24dcda91b437a174006ecfc5b5c8967b70fecdbcb658554487b330ecf5cfc9"


def test_the_splits_have_the_published_sizes_and_share_nothing() -> None:
    assert sum(BACKGROUND.values()) == 964
    assert sum(EVALUATION.values()) == 659
    for split, sizes in ((background_split(), (806, 158, 659)), (paper_split(), (1100, 100, 423))):
        assert tuple(map(len, split.values())) == sizes
        assert sorted(key for keys in split.values() for key in keys) == published_characters(BACKGROUND | EVALUATION)


def test_a_named_split_keeps_to_its_list_on_a_part_of_the_set(folder: Path) -> None:
    for name, split in (("background", background_split()), ("paper", paper_split())):
        tasks = omniglot(folder, splits=name, ways=2)
        names = list(zip(tasks.drawings.alphabets, tasks.drawings.characters, strict=True))
        for part in SPLITS:
            assert {names[i] for i in tasks.classes[part]} == set(split[part]) & set(names)


def test_shrinking_keeps_the_ink_and_its_place() -> None:
    ink = np.zeros((2, 105, 105), np.uint8)
    ink[0] = 255
    ink[1, 15:30, 60:75] = 255  # 3.75 × 4 = 15: exactly four pixels a side
    small = shrink(ink)
    assert (small[0] == 255).all()
    assert (small[1, 4:8, 16:20] == 255).all()
    assert small[1].sum() == 16 * 255


def test_shrinking_rounds_to_the_nearest_grey() -> None:
    """One pixel of value v covers 16/225 of a coarse one: means on both sides of every half come up."""
    ink = np.zeros((255, 105, 105), np.uint8)
    ink[:, 50, 1] = np.arange(255)
    mean = np.arange(255) * 16 / 225
    assert (abs(mean % 1 - 0.5) < 0.01).any()
    assert shrink(ink)[:, 13, 0].tolist() == [round(value) for value in mean]


# Lake's one-shot exam


def test_the_exam_is_twenty_tasks_of_twenty_classes_with_the_published_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exam = OneShotExam(publish_exam(tmp_path, monkeypatch).parent)
    support, query = exam.batch(0, 20, "test")
    assert support.x.shape == query.x.shape == (20, 20, 1, 28, 28)
    assert torch.equal(support.y, torch.arange(20).repeat(20, 1))
    assert torch.equal(query.y, 19 - support.y), "the last class is the first item's"
    assert torch.equal(query.x, support.x.flip(1)), "an item is drawn as its class is: labels and drawings go together"
    assert 0.5 < query.x.max() <= 1, "ink is high, paper is 0"
    assert query.x.median() == 0
    assert torch.equal(exam.batch(7, 2, "test").query.x, query.x[7:9]), "a run is the same alone"
    assert len({run.numpy().tobytes() for run in support.x}) == 20


def test_the_exam_follows_the_environment_and_is_for_the_test_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_exam(tmp_path / "omniglot", monkeypatch)
    monkeypatch.setenv("MAMLKIT_DATA", str(tmp_path))
    exam = OneShotExam(dtype=torch.float64)
    assert exam.batch(19, 1, "test").query.x.dtype == torch.float64
    for arguments, message in (
        ((0, 1), "split is 'train'; the exam is for testing alone"),
        ((0, 21, "test"), "runs 0 to 21 were asked for; the exam has runs 0 to 20"),
        ((-1, 1, "test"), "runs -1 to 0"),
        ((3, 0, "test"), "runs 3 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            exam.batch(*arguments)
    for field in ({"dtype": torch.int64}, {"device": "gpu"}):
        with pytest.raises(ValueError, match=next(iter(field))):
            OneShotExam(tmp_path / "omniglot", **field)


def test_a_learner_is_examined_on_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The items are the support's drawings, so that one step from no knowledge names nearly all."""
    exam = OneShotExam(publish_exam(tmp_path, monkeypatch).parent)
    objective = mk.Objective(mk.models.mlp(784, 20, hidden=(64,)), torch.nn.functional.cross_entropy)
    model = torch.nn.Sequential(torch.nn.Flatten(), objective.model)
    objective = mk.Objective(model, torch.nn.functional.cross_entropy)
    curve = mk.evaluate(objective, objective.theta(), exam, alpha=1.0, steps=10, split="test", size=20)
    assert curve.accuracy is not None
    assert curve.accuracy.shape == (20, 11)
    assert curve.accuracy[:, -1].mean() > 0.9


def test_without_its_file_the_exam_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"all_runs.zip is not in .*data fetch omniglot .*--from FOLDER_OR_ZIP"):
        OneShotExam(tmp_path)


def test_an_exam_that_is_not_as_published_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = publish_exam(tmp_path, monkeypatch)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"all_runs.zip has sha256 .*not the published .*data fetch omniglot"):
        OneShotExam(tmp_path)


WRONG = "run03/class_labels.txt doesn't give each of the 20 items one of the 20 classes"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {name: None for name in exam_layout(1) if name.startswith("run01")},
            "holds no run01; wanted are run01 to run20",
        ),
        ({"run20/class_labels.txt": None}, r"run20 lacks run20/class_labels.txt \(1 such\)"),
        ({"run03/test/item20.png": None}, "run03 lacks run03/test/item20.png"),
        ({"run03/training/class21.png": png(0)}, "run03 also holds run03/training/class21.png"),
        ({"run03/class_labels.txt": b""}, WRONG),
        ({"run03/class_labels.txt": exam_layout(3)["run02/class_labels.txt"]}, WRONG),
        ({"run03/class_labels.txt": exam_layout(3)["run03/class_labels.txt"].replace(b"class20", b"class21")}, WRONG),
        ({"run03/class_labels.txt": 2 * exam_layout(3)["run03/class_labels.txt"]}, WRONG),
        ({"run03/class_labels.txt": exam_layout(3)["run03/class_labels.txt"] + b"and a word\n"}, WRONG),
        ({"run03/test/item20.png": png(0, side=64)}, "item20.png is 64 × 64 pixels; wanted are 105 × 105"),
        ({"run03/test/item20.png": b"not a picture"}, "item20.png is not a readable PNG"),
        ({"../escape.png": png(0)}, "leads out of it"),
    ],
)
def test_an_exam_with_something_wrong_in_it_is_refused(
    tmp_path: Path, change: dict[str, bytes | None], message: str
) -> None:
    files: dict[str, bytes | None] = {**exam_layout(), **change}
    path = write_zip(tmp_path / RUNS, {name: content for name, content in files.items() if content is not None})
    with pytest.raises(ValueError, match=message):
        read_runs(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_an_exam_that_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RUNS).write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole zip"):
        read_runs(tmp_path / RUNS)


# A reader's own images


@dataclasses.dataclass(frozen=True)
class Birds(Episodes):
    """Seven colour images of 12 × 16 pixels of each of 30 birds; as in the docstring of Episodes, without a file."""

    @cached_property
    def drawings(self) -> Drawings:
        pixels = np.arange(30 * 7 * 3 * 12 * 16).astype(np.uint8).reshape(30, 7, 3, 12, 16)
        pixels[..., 0, 0, 0] = np.arange(30 * 7).reshape(30, 7)  # the first pixel says which image it is
        return Drawings(pixels, alphabets=("bird",) * 30, characters=tuple(map(str, range(30))))

    @property
    def classes(self) -> dict[str, Indices]:
        return dict(zip(SPLITS, np.split(np.arange(30), [20, 25]), strict=True))


def test_a_set_of_ones_own_has_any_size_colours_and_number_of_drawings() -> None:
    birds = Birds(ways=4, shots=2, queries=5)
    batch, identities = birds.batch(0, 20, "validation"), birds.identities(0, 20, "validation")
    assert batch.support.x.shape == (20, 8, 3, 12, 16)
    assert batch.query.x.shape == (20, 20, 3, 12, 16)
    pixels = birds.drawings.pixels.reshape(-1, 3, 12, 16)
    for part, identity in zip(batch, identities, strict=True):
        assert torch.equal(part.x, torch.from_numpy(pixels[identity]).float() / 255)
        assert set((identity // 7).ravel().tolist()) <= set(range(20, 25))
    both = np.concatenate(identities, axis=1)
    assert all(len(set(task)) == 28 for task in both.tolist()), "all seven of each class, none twice"


def test_a_model_trains_on_a_set_of_ones_own() -> None:
    birds = Birds(ways=3, queries=4)
    model = torch.nn.Sequential(torch.nn.Flatten(), mk.models.mlp(3 * 12 * 16, 3, hidden=(8,)))
    objective = mk.Objective(model, torch.nn.functional.cross_entropy)
    records = list(mk.train(objective, birds, alpha=0.1, beta=0.01, iterations=2, progress=False))
    assert len(records) == 2


def test_more_examples_than_a_set_of_ones_own_has_drawings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shots \+ queries is 1 \+ 7, but a character has 7 drawings"):
        Birds(queries=7)


def test_images_that_are_not_square_are_not_turned() -> None:
    class Turned(Birds):
        def rotated(self, split: str) -> bool:
            return split == "train"

    with pytest.raises(ValueError, match="images of 12 × 16 pixels can't be turned by 90°"):
        Turned(queries=4)


# What is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ways": 1}, "ways is 1; it must be a whole number of 2 or more"),
        ({"ways": 2.0}, "ways is 2.0; it must be a whole number"),
        ({"ways": 641}, "split 'train' has 640 classes and ways is 641; ways must be 640 or less"),
        ({"ways": 21, "alphabets": "within"}, "alphabet Adlam of split 'train' has 20 classes and ways is 21"),
        ({"shots": 0}, "shots is 0; it must be a whole number of 1 or more"),
        ({"queries": 0}, "queries is 0"),
        ({"shots": 6}, r"shots \+ queries is 6 \+ 15, but a character has 20 drawings"),
        ({"seed": -1}, "seed is -1"),
        ({"alphabets": "Greek"}, 'alphabets is \'Greek\'; it must be "across" or "within"'),
        ({"dtype": torch.int64}, "images need a floating-point type"),
        ({"device": "gpu"}, "device is 'gpu'"),
    ],
)
def test_a_wrong_field_is_refused_with_what_to_do(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Glyphs(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, "eval"), "split is 'eval'; it must be one of train, validation, test"),
        ((0, 0), "size 1 or more"),
        ((-1, 1), "start must be 0 or more"),
    ],
)
def test_a_wrong_batch_is_refused(glyphs: Glyphs, arguments: tuple[int, int, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        glyphs.batch(*arguments)


def test_more_ways_than_a_split_has_classes_are_refused_for_that_split() -> None:
    tasks = Glyphs(ways=121, queries=1)
    tasks.batch(0, 1)
    with pytest.raises(ValueError, match="split 'validation' has 120 classes and ways is 121"):
        tasks.batch(0, 1, "validation")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"splits": {"train": ["Klingon"]}}, "alphabet 'Klingon' is not in the set; it holds Greek, Korean, Latin"),
        ({"splits": {"train": ["Greek"], "test": ["Greek"]}}, "alphabet 'Greek' is named twice"),
        ({"splits": {"training": ["Greek"]}}, "splits names 'training'; it may name train, validation, test"),
        ({"splits": "lake"}, 'splits is \'lake\'; it must be "background", "paper"'),
        ({"ways": 7}, "split 'train' has 6 classes and ways is 7"),
        ({"ways": 7, "alphabets": "within"}, "alphabet Greek of split 'train' has 6 classes"),
        ({"rotate": False, "rotate_test": True}, "rotate_test is set and rotate is not"),
    ],
)
def test_a_wrong_omniglot_is_refused(folder: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        omniglot(folder, **fields)


def test_a_split_that_the_files_do_not_hold_is_refused_when_asked_for(folder: Path) -> None:
    tasks = omniglot(folder, splits="background")
    tasks.batch(0, 1)
    with pytest.raises(ValueError, match=r"split 'test' has no classes in the files at hand .*fetch the whole set"):
        tasks.batch(0, 1, "test")


def test_without_its_files_omniglot_names_the_command_and_the_way_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data fetch omniglot .*--from FOLDER_OR_ZIP.*Glyphs"):
        Omniglot(folder=tmp_path)


def test_the_default_folder_follows_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMLKIT_DATA", str(folder.parent))
    assert Omniglot(splits={"train": ["Greek"]}).drawings.alphabets.count("Greek") == 6


def test_a_zip_that_changed_after_it_was_fetched_is_refused(folder: Path) -> None:
    with (folder / "images_background.zip").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"not the published .*data fetch omniglot"):
        omniglot(folder)
    assert [path.name for path in folder.iterdir()] == ["images_background.zip"]


def test_a_damaged_packed_file_is_refused_and_made_again_once_deleted(folder: Path) -> None:
    pixels = omniglot(folder).drawings.pixels
    packed = folder / "images_background.npz"
    with np.load(packed) as file:
        arrays = dict(file)
    arrays["pixels"][0, 0, 0, 0] ^= 1
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    with pytest.raises(ValueError, match=r"sha256 kept with them; delete it"):
        omniglot(folder)
    packed.unlink()
    assert np.array_equal(omniglot(folder).drawings.pixels, pixels)


def test_a_character_in_two_files_is_taken_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(folder, "images_background_small1.zip", {"Greek": 6, "Tagalog": 2}, monkeypatch)
    drawings = omniglot(folder).drawings
    assert drawings.alphabets == ("Greek",) * 6 + ("Korean",) * 5 + ("Latin",) * 7 + ("Tagalog",) * 2
    assert np.array_equal(drawings.pixels[:6], pack(folder / "images_background.zip").pixels[:6])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 20, 28), np.uint8),
        np.zeros((1, 20, 1, 1, 28, 28), np.uint8),
        np.zeros((1, 1, 28, 28), np.uint8),
        np.zeros((1, 20, 0, 28), np.uint8),
        np.zeros((2, 20, 28, 28), np.uint8),
        np.zeros((1, 20, 28, 28), np.float32),
    ],
)
def test_drawings_of_another_shape_number_or_type_are_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"wanted are one of each a character, and pixels"):
        Drawings(pixels, ("Greek",), ("alpha",))


def test_episodes_alone_has_no_drawings() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Episodes()  # type: ignore[abstract]


def test_notebook_10_runs_on_omniglot_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader has it who fetched both files, but with other drawings under the names, and next to no training."""
    pixels = load_glyphs()[0].pixels
    for name, alphabets in (("images_background", BACKGROUND), ("images_evaluation", EVALUATION)):
        characters = published_characters(alphabets)
        drawings = Drawings(pixels[: len(characters)], *zip(*characters, strict=True))
        monkeypatch.setattr("mamlkit.images.omniglot.read_published", lambda _, found=drawings: found)
        pack(tmp_path / "omniglot" / f"{name}.zip")
    monkeypatch.setenv("MAMLKIT_DATA", str(tmp_path))
    (path,) = notebooks.select(["10"])
    few = {"dataset": "omniglot", "iterations": 2, "test_size": 8, "filters": 4}
    result, _ = execute(path, few, timeout=300, environment={"OMP_NUM_THREADS": "1"})
    assert result.status == "ok", result.error
    assert "no character of the test is used in training" in {claim["claim"] for claim in result.claims}
    records = {record["name"]: record["value"] for record in result.records}
    assert 0 < records["accuracy on the query"]["MAML, k = 0"][0] < 0.5, "five ways, hardly trained"
    assert "error on Lake's exam" not in records, "without all_runs.zip the rest goes on"
