"""Who computes the meta-gradients of data/golden.json? The kit, torch.func, JAX, higher and TorchOpt, where installed.

    pip install -c constraints.txt -e ".[benchmarks]"
    python tests/benchmarks/golden_libraries.py

A row a library, with its largest relative error over the cases in float64, for the second order and for the first.
Each adapter is what the library's own documentation does, with the derivative's order and α as the case has them.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mamlkit as mk

sys.path.insert(0, str(Path(__file__).parents[2] / "data"))
import golden

Case = dict[str, Any]
Gradient = dict[str, Any]
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


def task_by_task(case: Case, gradient: Callable[[mk.TaskBatch], tuple[Tensor, ...]]) -> Gradient:
    """The mean over tasks."""
    batch = tasks(case)
    found = zip(*map(gradient, map(batch.task, range(batch.size))), strict=True)
    return {name: sum(parts) / batch.size for name, parts in zip(case["theta"], found, strict=True)}


def kit(route: str) -> Callable[[Case, int], Gradient]:
    def gradient(case: Case, order: int) -> Gradient:
        objective = mk.Objective(module(case), LOSSES[case["loss"]])
        theta = objective.theta()
        alpha = dict(zip(theta, step_sizes(case).values(), strict=True))
        settings: dict[str, Any] = {"alpha": alpha, "steps": case["steps"], "order": order, "route": route}
        found = mk.meta_gradient(objective, theta, tasks(case), **settings).grad
        return dict(zip(case["theta"], found.values(), strict=True))

    return gradient


def nested(library: Any, array: Callable[[Any], Any], constant: Callable[[Any], Any], nn: Any) -> Any:
    """Transforms of functions, as torch.func and JAX have them alike: `grad` in `grad`, with `vmap` over the tasks."""

    def gradient(case: Case, order: int) -> Gradient:
        alpha, function = step_sizes(case), getattr(nn, case["activation"], None)

        def loss(theta: Gradient, data: Any) -> Any:
            h, y = data["x"] @ theta["W1"].T + theta["b1"], data["y"]
            if function:
                h = function(h) @ theta["W2"].T + theta["b2"]
            if case["loss"] == "squared_error":
                return ((h - y) ** 2).mean()
            return -(nn.log_softmax(h, -1) * y).sum(-1).mean()

        def after(theta: Gradient, support: Any, query: Any) -> Any:
            for _ in range(case["steps"]):
                slopes = library.grad(loss)(theta, support)
                slopes = slopes if order == 2 else {name: constant(slope) for name, slope in slopes.items()}
                theta = {name: weight - alpha[name] * slopes[name] for name, weight in theta.items()}
            return loss(theta, query)

        def data(part: str) -> Any:
            x, y = case[part].values()
            if case["loss"] == "cross_entropy":
                y = [[[float(c == k) for k in range(len(case["theta"]["b1"]))] for c in task] for task in y]
            return {"x": array(x), "y": array(y)}

        each = library.vmap(after, (None, 0, 0))
        theta = {name: array(weight) for name, weight in case["theta"].items()}
        found: Gradient = library.grad(lambda theta: each(theta, data("support"), data("query")).mean())(theta)
        return found

    return gradient


def torch_func() -> Any:
    return nested(torch.func, tensor, Tensor.detach, torch)


def with_jax() -> Any:
    import jax

    jax.config.update("jax_enable_x64", True)
    return nested(jax, jax.numpy.asarray, jax.lax.stop_gradient, jax.nn)


def with_higher() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # archived, it warns of what PyTorch has since deprecated
        import higher

    def gradient(case: Case, order: int) -> Gradient:
        judged = LOSSES[case["loss"]]

        def one(task: mk.TaskBatch) -> tuple[Tensor, ...]:
            model = module(case)
            groups = [
                {"params": [p], "lr": a} for p, a in zip(model.parameters(), step_sizes(case).values(), strict=True)
            ]
            optimizer = torch.optim.SGD(groups, lr=0.0)
            context = higher.innerloop_ctx(model, optimizer, copy_initial_weights=False, track_higher_grads=order == 2)
            with context as (functional, descent):
                for _ in range(case["steps"]):
                    descent.step(judged(functional(task.support.x), task.support.y))
                loss = judged(functional(task.query.x), task.query.y)
                return torch.autograd.grad(loss, [*(model if order == 2 else functional).parameters()])

        return task_by_task(case, one)

    return gradient


def with_torchopt() -> Any:
    import torchopt

    def gradient(case: Case, order: int) -> Gradient | None:
        if isinstance(case["alpha"], dict):
            return None  # MetaSGD has one step size for all parameters
        judged = LOSSES[case["loss"]]

        def one(task: mk.TaskBatch) -> tuple[Tensor, ...]:
            model = module(case)
            theta = [*model.parameters()]
            optimizer = torchopt.MetaSGD(model, lr=case["alpha"])
            for _ in range(case["steps"]):
                optimizer.step(judged(model(task.support.x), task.support.y))
            loss = judged(model(task.query.x), task.query.y)
            return torch.autograd.grad(loss, theta if order == 2 else [*model.parameters()])

        return task_by_task(case, one)

    return gradient


LIBRARIES: dict[str, tuple[str, Callable[[], Any]]] = {
    'mamlkit, route="vmap"': ("mamlkit", lambda: kit("vmap")),
    'mamlkit, route="loop"': ("mamlkit", lambda: kit("loop")),
    "torch.func, grad in grad under vmap": ("torch", torch_func),
    "JAX, grad in grad under vmap": ("jax", with_jax),
    "higher, innerloop_ctx": ("higher", with_higher),
    "TorchOpt, MetaSGD": ("torchopt", with_torchopt),
}


def table() -> Iterator[str]:
    """The rows, in Markdown."""
    yield "| library | version | cases | second order | first order |"
    yield "| --- | --- | --- | --- | --- |"
    for name, (package, made) in LIBRARIES.items():
        try:
            gradient = made()
        except ImportError:
            yield f"| {name} | not installed | | | |"
            continue
        errors: dict[int, list[float]] = {2: [], 1: []}
        for case in golden.cases():
            for order, what in ((2, golden.SECOND), (1, golden.FIRST)):
                if (found := gradient(case, order)) is not None:
                    errors[order].append(golden.errors(found, case)[what])
        served = f"{len(errors[2])} of {len([*golden.cases()])}"
        worst = [f"{max(found):.1e}" for found in errors.values()]
        yield f"| {' | '.join([name, version(package).partition('+')[0], served, *worst])} |"


if __name__ == "__main__":
    for row in table():
        print(row)
