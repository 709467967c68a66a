"""One meta-iteration of the paper's sinusoid setting, the kit against `higher`, measured in turn in one run.

    pip install -e ".[benchmarks]"
    python tests/benchmarks/meta_iteration.py

25 tasks, 10 + 10 points, MLP 1-40-40-1, one inner step, second order, float32, eager; each time includes Adam's step.
The two must give the same meta-gradient before anything is timed. Quote the ratios: absolute times are the machine's.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch.nn.functional import mse_loss

import mamlkit as mk

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # higher is archived, and warns of what PyTorch has since deprecated
    import higher

ALPHA, BETA = 0.01, 1e-3


def kit(batch: mk.TaskBatch, steps: int, route: str) -> tuple[torch.nn.Module, Callable[[bool], None]]:
    objective = mk.Objective(mk.models.mlp(1, 1), mse_loss)
    parameters: dict[str, torch.Tensor] = dict(objective.model.named_parameters())
    optimizer = torch.optim.Adam(objective.model.parameters(), lr=BETA)

    def iteration(update: bool = True) -> None:
        result = mk.meta_gradient(objective, parameters, batch, alpha=ALPHA, steps=steps, route=route)
        for name, parameter in parameters.items():
            parameter.grad = result.grad[name]
        if update:
            optimizer.step()

    return objective.model, iteration


def archived(batch: mk.TaskBatch, steps: int) -> tuple[torch.nn.Module, Callable[[bool], None]]:
    model = mk.models.mlp(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=BETA)
    inner = torch.optim.SGD(model.parameters(), lr=ALPHA)

    def iteration(update: bool = True) -> None:
        optimizer.zero_grad()
        for i in range(batch.size):
            support, query = batch.task(i)
            with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (functional, descent):
                for _ in range(steps):
                    descent.step(mse_loss(functional(support.x), support.y))
                (mse_loss(functional(query.x), query.y) / batch.size).backward()
        if update:
            optimizer.step()

    return model, iteration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds, each of one iteration by every route")
    parser.add_argument("--steps", type=int, default=1, help="inner steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    batch = mk.Sinusoids().batch(0, 25)
    contenders = {
        "higher": archived(batch, arguments.steps),
        "mamlkit loop": kit(batch, arguments.steps, "loop"),
        "mamlkit vmap": kit(batch, arguments.steps, "vmap"),
    }
    gradients = {}
    for name, (model, iteration) in contenders.items():
        iteration(False)
        gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for name, gradient in gradients.items():
        error = ((gradient - gradients["higher"]).norm() / gradients["higher"].norm()).item()
        assert error < 1e-5, f"{name} differs from higher by {error:.1e}"

    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds + 3):
        for name, (_, iteration) in contenders.items():
            began = time.perf_counter()
            iteration(True)
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values[3:]) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:14s} {1e3 * median:8.2f} ms   {median / medians['higher']:.3f} of higher")


if __name__ == "__main__":
    main()
