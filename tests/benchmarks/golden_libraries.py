"""Who computes the meta-gradients of data/golden.json? The kit, and the libraries of `rivals`, where installed.

    .venv-bench/bin/python tests/benchmarks/golden_libraries.py          (`make bench` makes .venv-bench)

A row a library, with its largest relative error over the cases in float64, for the second order and for the first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import rivals
import torch
import torch.nn.functional as F
from rivals import Problem, Ready
from torch import Tensor, nn

import mamlkit as mk
from mamlkit.meta import ROUTES

sys.path.insert(0, str(Path(__file__).parents[2] / "data"))
import golden

Case = dict[str, Any]
ACTIVATIONS = {"none": nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_error": F.mse_loss,
    "cross_entropy": F.cross_entropy,
}


def tensor(values: Any) -> Tensor:
    """Labels stay whole numbers."""
    found = torch.tensor(values)
    return found.double() if found.is_floating_point() else found


def module(case: Case) -> nn.Sequential:
    """The model of a case; its parameters are in the order of theta."""
    weights = [tensor(weight) for weight in case["theta"].values()]
    layers: list[nn.Module] = []
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])  # draws nothing
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers += [layer, ACTIVATIONS[case["activation"]]()]
    return nn.Sequential(*layers[:-1])


def tasks(case: Case) -> mk.TaskBatch:
    return mk.TaskBatch(*(mk.Batch(*map(tensor, case[part].values())) for part in ("support", "query")))


def step_sizes(case: Case) -> dict[str, Any]:
    return case["alpha"] if isinstance(case["alpha"], dict) else dict.fromkeys(case["theta"], case["alpha"])


def by(recipe: Callable[[Problem], Ready]) -> Callable[[Case, int], Any]:
    """What a recipe computes of a case; None where the library does not serve it."""

    def gradient(case: Case, order: int) -> dict[str, Any] | None:
        sizes = [size if isinstance(size, float) else tensor(size) for size in step_sizes(case).values()]
        alpha = sizes if isinstance(case["alpha"], dict) else case["alpha"]
        problem = Problem(module(case), LOSSES[case["loss"]], tasks(case), alpha, case["steps"], order)
        try:
            return dict(zip(case["theta"], recipe(problem).gradient(), strict=True))
        except NotImplementedError:
            return None

    return gradient


def kit(route: str) -> Callable[[Case, int], Any]:
    return by(partial(rivals.kit, route=route))


LIBRARIES: dict[str, tuple[str, Callable[[Case, int], Any]]] = {
    **{
        f'mamlkit, route="{route}"': ("mamlkit", kit(route)) for route in ROUTES if route != "compiled"
    },  # a minute each
    "torch.func, grad in grad under vmap": ("torch", by(rivals.torch_func)),
    "JAX, grad in grad under vmap": ("jax", by(rivals.jax)),
    "higher, innerloop_ctx": ("higher", by(rivals.higher)),
    "TorchOpt, MetaSGD": ("torchopt", by(rivals.torchopt)),
    "learn2learn, MAML": ("learn2learn", by(rivals.learn2learn)),
}


def table() -> Iterator[str]:
    """The rows, in Markdown."""
    yield "| library | version | cases | second order | first order |"
    yield "| --- | --- | --- | --- | --- |"
    for name, (package, gradient) in LIBRARIES.items():
        errors: dict[int, list[float]] = {2: [], 1: []}
        try:
            for case in golden.cases():
                for order, what in ((2, golden.SECOND), (1, golden.FIRST)):
                    if (found := gradient(case, order)) is not None:
                        errors[order].append(golden.errors(found, case)[what])
        except ImportError:
            yield f"| {name} | not installed | | | |"
            continue
        served = f"{len(errors[2])} of {len([*golden.cases()])}"
        worst = [f"{max(found):.1e}" for found in errors.values()]
        yield f"| {' | '.join([name, rivals.versions()[package], served, *worst])} |"


if __name__ == "__main__":
    for row in table():
        print(row)
