"""Real handwriting: MAML trained on Glyphs, and MAML trained on some alphabets of Omniglot, tested on others of it.

    python -m mamlkit data fetch omniglot --from images_background_small1.zip --to omniglot
    python tests/benchmarks/omniglot_transfer.py --folder omniglot

The zip is the authors' "background small 1", of 5 alphabets. 5-way 1-shot across alphabets, the model and recipe of
glyphs_accuracy.py, 600 test tasks of 15 queries a class; accuracy after one step with its 95% interval over tasks.
Glyphs shares some scripts with Omniglot, so the first row is a transfer between hands more than between scripts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import mamlkit as mk

ALPHA, BETA = 0.4, 3e-3
TRAIN = ("Balinese", "Early_Aramaic", "Greek")
TEST = ("Korean", "Latin")


def trained(tasks: mk.TaskDistribution, iterations: int, seed: int) -> mk.Objective:
    """conv4, meta-trained on the tasks; with no iterations, as it was drawn."""
    objective = mk.Objective(mk.models.conv4(5, filters=32, downsample="stride", seed=seed), cross_entropy)
    for _ in mk.train(objective, tasks, alpha=ALPHA, beta=BETA, iterations=iterations, tasks_per_iteration=8):
        pass
    return objective


def row(name: str, objective: mk.Objective, exam: mk.TaskDistribution) -> str:
    curve = mk.evaluate(objective, objective.theta(), exam, alpha=ALPHA, steps=1, split="test", size=600, chunk=20)
    assert curve.accuracy is not None
    mean, half = curve.accuracy.mean(0), 1.96 * curve.accuracy.std(0) / len(curve.accuracy) ** 0.5
    return f"| {name} | {mean[0]:.3f} | {mean[1]:.3f} ± {half[1]:.3f} | {curve.batch_norm} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the zip is")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    some = mk.Omniglot(
        shots=1, queries=5, seed=options.seed, splits={"train": TRAIN, "test": TEST}, folder=options.folder
    )
    every = replace(some, splits={"test": TRAIN + TEST}, queries=15)
    others = replace(some, queries=15)
    glyphs = trained(mk.Glyphs(shots=1, queries=5, seed=options.seed), options.iterations, options.seed)
    print("| trained on → tested on | before | 1 step | batch norm |")
    print("| --- | --- | --- | --- |")
    print(row("Glyphs → all five alphabets", glyphs, every))
    print(row("Glyphs → Korean and Latin", glyphs, others))
    omniglot = trained(some, options.iterations, options.seed)
    print(row("Balinese, Early Aramaic and Greek → Korean and Latin", omniglot, others))
    print(row("nothing (random start) → Korean and Latin", trained(some, 0, options.seed), others))


if __name__ == "__main__":
    main()
