"""MAML on Glyphs: accuracy on unseen alphabets, over ways, shots, alphabets and orders.

    python tests/benchmarks/glyphs_accuracy.py                      # 5-way 1-shot across alphabets, second order
    python tests/benchmarks/glyphs_accuracy.py --seeds 0 1 2
    python tests/benchmarks/glyphs_accuracy.py --ways 5 20 --shots 1 5 --alphabets across within --orders 2 1

Each line is one training: conv4 with 32 filters of stride 2 and batch norm, one inner step of α = 0.4, Adam with
β = 0.003, 5 queries a class, 8 tasks an iteration (2 for 20 ways, which hold as many images), and an exam on 600
test tasks with 15 queries a class: mean accuracy after one step, and its 95% interval over those tasks.
Glyphs is synthetic: these are not Omniglot's numbers. Batch norm is transductive, as in the paper's experiments.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy

import mamlkit as mk
from mamlkit.images import Glyphs

ALPHA, BETA = 0.4, 3e-3


def accuracy(ways: int, shots: int, alphabets: str, order: int, seed: int, iterations: int) -> str:
    """Train and examine one setting; the row of its table."""
    tasks = Glyphs(ways=ways, shots=shots, queries=5, alphabets=alphabets, seed=seed)
    model = mk.models.conv4(ways, filters=32, downsample="stride", seed=seed)
    objective = mk.Objective(model, cross_entropy)
    began = time.perf_counter()
    training = mk.train(
        objective,
        tasks,
        alpha=ALPHA,
        beta=BETA,
        order=order,
        iterations=iterations,
        tasks_per_iteration=8 if ways <= 10 else 2,
    )
    for _ in training:
        pass
    seconds = time.perf_counter() - began
    exam = replace(tasks, queries=15)
    curve = mk.evaluate(objective, objective.theta(), exam, alpha=ALPHA, steps=3, split="test", size=600, chunk=20)
    assert curve.accuracy is not None
    mean, half = curve.accuracy.mean(0), 1.96 * curve.accuracy.std(0) / len(curve.accuracy) ** 0.5
    return (
        f"| {ways} | {shots} | {alphabets} | {order} | {seed} | {mean[0]:.3f} | {mean[1]:.3f} ± {half[1]:.3f} "
        f"| {mean[3]:.3f} ± {half[3]:.3f} | {curve.batch_norm} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", type=int, nargs="+", default=[5])
    parser.add_argument("--shots", type=int, nargs="+", default=[1])
    parser.add_argument("--alphabets", nargs="+", default=["across"], choices=["across", "within"])
    parser.add_argument("--orders", type=int, nargs="+", default=[2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| ways | shots | alphabets | order | seed | before | 1 step | 3 steps | batch norm | training, s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    settings = (options.ways, options.shots, options.alphabets, options.orders, options.seeds)
    for ways, shots, alphabets, order, seed in itertools.product(*settings):
        print(accuracy(ways, shots, alphabets, order, seed, options.iterations), flush=True)


if __name__ == "__main__":
    main()
