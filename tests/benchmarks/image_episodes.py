"""How fast image episodes are made, and how hard they are for a reader who only compares pixels.

python tests/benchmarks/image_episodes.py speed
python tests/benchmarks/image_episodes.py difficulty [--omniglot FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

import mamlkit as mk
from mamlkit.images import Episodes, Glyphs, Omniglot

TASKS = 1000
QUERIES = 5


def speed() -> None:
    """Median processor time of a batch of 32 tasks with 15 queries a class, on one core."""
    torch.set_num_threads(1)
    for ways, shots, alphabets in ((5, 1, "across"), (5, 1, "within"), (20, 1, "across"), (20, 5, "across")):
        tasks = Glyphs(ways=ways, shots=shots, alphabets=alphabets)
        tasks.batch(0, 32)
        spent = []
        for i in range(200):
            start = time.thread_time()
            tasks.batch(32 * i, 32)
            spent.append(time.thread_time() - start)
        middle = 1e3 * statistics.median(spent)
        print(f"Glyphs, {ways}-way {shots}-shot, {alphabets}: {middle:.2f} ms a batch of 32 tasks")


def blurred(x: torch.Tensor) -> torch.Tensor:
    """Images [tasks, points, 1, 28, 28] under a Gaussian of 1.5 pixels, which forgives small shifts."""
    weights = torch.exp(-0.5 * (torch.arange(-5, 6) / 1.5) ** 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    return torch.nn.functional.conv2d(x.flatten(0, 1), kernel[None, None], padding=5).reshape(x.shape)


def nearest_neighbour(tasks: Episodes, split: str) -> str:
    """Accuracy of the nearest support drawing by pixels, then by blurred pixels, over 1,000 one-shot tasks."""
    plain: list[torch.Tensor] = []
    soft: list[torch.Tensor] = []
    for start in range(0, TASKS, 100):
        support, query = tasks.batch(start, 100, split)
        for accuracies, view in ((plain, torch.Tensor.float), (soft, blurred)):
            nearest = torch.cdist(view(query.x).flatten(2), view(support.x).flatten(2)).argmin(-1)
            accuracies.append((nearest == query.y).double().mean(-1))
    means = [f"{a.mean():.3f} ± {1.96 * a.std() / TASKS**0.5:.3f}" for a in map(torch.cat, (plain, soft))]
    return f"{means[0]}, blurred {means[1]}"


def difficulty(omniglot: Path | None) -> None:
    """Pixel nearest neighbour, 5-way 1-shot, 5 queries a class; a mean and its 95% interval over the tasks."""
    for alphabets in ("within", "across"):
        for split in ("train", "validation", "test"):
            tasks: Episodes = Glyphs(queries=QUERIES, alphabets=alphabets)
            print(f"Glyphs {split}, {alphabets}: {nearest_neighbour(tasks, split)}")
        if omniglot:
            everything = {"train": sorted(set(Omniglot(folder=omniglot).drawings.alphabets))}
            tasks = Omniglot(queries=QUERIES, alphabets=alphabets, splits=everything, rotate=False, folder=omniglot)
            print(f"Omniglot, {len(everything['train'])} alphabets, {alphabets}: {nearest_neighbour(tasks, 'train')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["speed", "difficulty"])
    parser.add_argument("--omniglot", type=Path, help="a folder with Omniglot's files, to compare")
    arguments = parser.parse_args()
    print(f"mamlkit in {Path(mk.__file__).parent.parent.name}, torch {torch.__version__}")
    speed() if arguments.command == "speed" else difficulty(arguments.omniglot)
