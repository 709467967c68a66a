"""The meta-gradient as each library computes it, and an iteration of training with it: a recipe a library.

A recipe is what the library's own documentation does. It takes a Problem and returns a Ready. It raises ImportError
where the library is not there, and NotImplementedError where the library does not serve the problem.
"""

from __future__ import annotations

import importlib
import math
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import mamlkit as mk
from mamlkit.inner import GRADIENT_DESCENT
from mamlkit.models import _Average
from mamlkit.train import Adam

BETA = 1e-3


@dataclass(frozen=True)
class Problem:
    """F(θ) = (1/n) Σᵢ L(θ'ᵢ; D'ᵢ), where θ are the model's parameters.

    loss   a function of (prediction, y): `mse_loss` or `cross_entropy`
    alpha  a number, or one number or tensor for each parameter, in their order
    iterations  of a training, where a whole one is asked for
    """

    model: nn.Sequential
    loss: Callable[[Tensor, Tensor], Tensor]
    batch: mk.TaskBatch
    alpha: float | list[Any]
    steps: int
    order: int = 2
    iterations: int = 1

    def alphas(self) -> list[Any]:
        """The step size of each parameter."""
        return self.alpha if isinstance(self.alpha, list) else [self.alpha for _ in self.model.parameters()]

    def one_alpha(self) -> float:
        """The step size of all."""
        if isinstance(self.alpha, list):
            raise NotImplementedError("one step size for all parameters is all that it takes")
        return self.alpha


class Ready(NamedTuple):
    """A recipe at work.

    gradient  () → ∇F(θ), in the order of the model's parameters
    iterate   () → what is timed: an iteration with Adam's step, or a whole training
    """

    gradient: Callable[[], Sequence[Any]]
    iterate: Callable[[], object]


def versions() -> dict[str, str]:
    """The version of each library that is here."""
    found = {path.name.partition("-")[0]: path.name.partition("-")[2] for path in sources()}
    for name in ("mamlkit", "torch", "numpy", "higher", "torchopt", "jax", "optax"):
        with suppress(PackageNotFoundError):
            found[name] = version(name).partition("+")[0]
    return found


def with_adam(problem: Problem, gradient: Callable[[], Sequence[Tensor]]) -> Ready:
    """PyTorch's Adam on a gradient."""
    theta = [*problem.model.parameters()]
    optimizer = torch.optim.Adam(theta, lr=BETA, fused=True)

    def iterate() -> None:
        for weight, slope in zip(theta, gradient(), strict=True):
            weight.grad = slope
        optimizer.step()

    return Ready(gradient, iterate)


def by_task(problem: Problem, one: Callable[[mk.Batch, mk.Batch], Sequence[Tensor]]) -> Ready:
    """The mean over tasks of what a library computes for one."""

    def gradient() -> Sequence[Tensor]:
        first, *others = (one(*problem.batch.task(i)) for i in range(problem.batch.size))
        total = [part.clone() for part in first]
        for found in others:
            torch._foreach_add_(total, list(found))
        torch._foreach_div_(total, problem.batch.size)
        return total

    return with_adam(problem, gradient)


def kit(problem: Problem, route: str, outer: Callable[..., mk.MetaGradient] = mk.meta_gradient) -> Ready:
    objective = mk.Objective(problem.model, problem.loss)
    theta = objective.parameters()
    settings = {"alpha": dict(zip(theta, problem.alphas(), strict=True)), "steps": problem.steps, "route": route}
    settings |= {"order": problem.order, "rule": GRADIENT_DESCENT}
    optimizer = Adam([*theta.values()], BETA)  # that of `mk.train`

    def gradient() -> list[Tensor]:
        return [*outer(objective, theta, problem.batch, **settings).grad.values()]

    return Ready(gradient, lambda: optimizer.descend(gradient()))


def kit_training(problem: Problem, route: str) -> Ready:
    """`mk.train` whole: tasks drawn, checks, records, checkpoints."""
    objective = mk.Objective(problem.model, problem.loss)
    tasks = mk.Sinusoids(shots=problem.batch.support.x.shape[1], queries=problem.batch.query.x.shape[1])

    def iterate() -> None:
        with tempfile.TemporaryDirectory() as folder:
            records = mk.train(
                objective,
                tasks,
                alpha=problem.one_alpha(),
                beta=BETA,
                iterations=problem.iterations,
                steps=problem.steps,
                order=problem.order,
                tasks_per_iteration=problem.batch.size,
                route=route,
                checkpoint=Path(folder, "checkpoint"),
                progress=False,
            )
            assert len([*records]) == problem.iterations

    return Ready(kit(problem, route).gradient, iterate)


def plain(problem: Problem) -> Ready:
    """Autograd by hand, one task at a time, with no library but PyTorch: what the others are held against."""

    def one(support: mk.Batch, query: mk.Batch) -> Sequence[Tensor]:
        start = dict(problem.model.named_parameters())
        theta: dict[str, Tensor] = dict(start)
        for _ in range(problem.steps):
            loss = problem.loss(functional_call(problem.model, theta, (support.x,)), support.y)
            slopes = torch.autograd.grad(loss, [*theta.values()], create_graph=problem.order == 2)
            pairs = zip(theta.items(), slopes, problem.alphas(), strict=True)
            theta = {name: weight - alpha * slope for (name, weight), slope, alpha in pairs}
        loss = problem.loss(functional_call(problem.model, theta, (query.x,)), query.y)
        return torch.autograd.grad(loss, [*start.values()])

    return by_task(problem, one)


def torch_func(problem: Problem) -> Ready:
    """PyTorch's own recipe: `grad` in `grad`, with `vmap` over the tasks."""

    def loss(theta: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return problem.loss(functional_call(problem.model, theta, (x,)), y)

    def after(theta: dict[str, Tensor], support: mk.Batch, query: mk.Batch) -> Tensor:
        alphas = dict(zip(theta, problem.alphas(), strict=True))
        for _ in range(problem.steps):
            slopes = grad(loss)(theta, *support)
            slopes = slopes if problem.order == 2 else {name: slope.detach() for name, slope in slopes.items()}
            theta = {name: weight - alphas[name] * slopes[name] for name, weight in theta.items()}
        return loss(theta, *query)

    names = [name for name, _ in problem.model.named_parameters()]
    slope = grad(lambda theta: vmap(after, (None, 0, 0))(theta, *problem.batch).mean())

    def gradient() -> Sequence[Tensor]:
        theta = dict(zip(names, (weight.detach() for weight in problem.model.parameters()), strict=True))
        return [*slope(theta).values()]

    return with_adam(problem, gradient)


def higher(problem: Problem) -> Ready:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # archived, it warns of what PyTorch has since deprecated
        import higher

    model, second = problem.model, problem.order == 2
    groups = [{"params": [p], "lr": a} for p, a in zip(model.parameters(), problem.alphas(), strict=True)]
    inner = torch.optim.SGD(groups, lr=0.0)

    def one(support: mk.Batch, query: mk.Batch) -> Sequence[Tensor]:
        context = higher.innerloop_ctx(model, inner, copy_initial_weights=False, track_higher_grads=second)
        with context as (functional, descent):
            for _ in range(problem.steps):
                descent.step(problem.loss(functional(support.x), support.y))
            loss = problem.loss(functional(query.x), query.y)
            return torch.autograd.grad(loss, [*(model if second else functional).parameters()])

    return by_task(problem, one)


def torchopt(problem: Problem) -> Ready:
    import torchopt

    model, theta = problem.model, [*problem.model.parameters()]
    inner = torchopt.MetaSGD(model, lr=problem.one_alpha())
    start = [torchopt.extract_state_dict(part, by="reference") for part in (model, inner)]

    def one(support: mk.Batch, query: mk.Batch) -> Sequence[Tensor]:
        for _ in range(problem.steps):
            inner.step(problem.loss(model(support.x), support.y))
        loss = problem.loss(model(query.x), query.y)
        found = torch.autograd.grad(loss, theta if problem.order == 2 else [*model.parameters()])
        for part, state in zip((model, inner), start, strict=True):
            torchopt.recover_state_dict(part, state)
        return found

    return by_task(problem, one)


def sources() -> list[Path]:
    """The source distribution of learn2learn, where there is one: the package as a whole no longer installs."""
    return sorted(Path(sys.prefix, "sdist").glob("learn2learn-*"))


def learn2learn(problem: Problem) -> Ready:
    """Its class MAML, from its source distribution."""
    if not sources():
        raise ImportError("its source distribution is not here", name="learn2learn")
    for name in ("learn2learn", "learn2learn.algorithms"):  # what their own __init__ imports is not installed
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = [str(sources()[-1].joinpath(*name.split(".")))]
    maml = importlib.import_module("learn2learn.algorithms.maml").MAML(
        problem.model, lr=problem.one_alpha(), first_order=problem.order == 1
    )
    theta = [*problem.model.parameters()]

    def one(support: mk.Batch, query: mk.Batch) -> Sequence[Tensor]:
        learner = maml.clone()
        for _ in range(problem.steps):
            learner.adapt(problem.loss(learner(support.x), support.y))
        return torch.autograd.grad(problem.loss(learner(query.x), query.y), theta)

    return by_task(problem, one)


def in_jax(problem: Problem, over: str = "vmap") -> tuple[Any, Callable[..., Any], list[Any], list[Any]]:
    """JAX; F(θ) as a function of (θ, support x, y, query x, y), over the tasks by `vmap` or `lax.map`; θ; the data."""
    import jax
    import jax.numpy as jnp

    weights = [*problem.model.parameters()]
    jax.config.update("jax_enable_x64", weights[0].dtype == torch.float64)
    layers = [layer for layer in problem.model.modules() if not [*layer.children()]]

    def predict(theta: Sequence[Any], x: Any) -> Any:
        left = iter(theta)
        if x.ndim == 4:
            x = x.transpose(0, 2, 3, 1)  # channels last, which XLA's convolutions on a CPU are made for
        for layer in layers:
            if isinstance(layer, nn.Linear):
                x = x @ next(left).T + next(left)
            elif isinstance(layer, nn.Conv2d):
                kernel, sides = next(left).transpose(2, 3, 1, 0), [(side, side) for side in layer.padding]
                form = ("NHWC", "HWIO", "NHWC")
                x = jax.lax.conv_general_dilated(x, kernel, layer.stride, sides, dimension_numbers=form) + next(left)
            elif isinstance(layer, nn.BatchNorm2d):
                x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + layer.eps) * next(left) + next(left)
            elif isinstance(layer, _Average):
                x = x.mean((1, 2))
            elif isinstance(layer, nn.ReLU | nn.Tanh):
                x = jax.nn.relu(x) if isinstance(layer, nn.ReLU) else jnp.tanh(x)
            elif not isinstance(layer, nn.Identity):
                raise NotImplementedError(f"{type(layer).__name__} is not written out in JAX")
        return x

    def loss(theta: Sequence[Any], x: Any, y: Any) -> Any:
        if problem.loss is F.mse_loss:
            return ((predict(theta, x) - y) ** 2).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(predict(theta, x)), y[:, None], 1).mean()

    alphas = [alpha if isinstance(alpha, float) else jnp.asarray(alpha) for alpha in problem.alphas()]

    def after(theta: Any, x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
        def step(theta: Any, _: None) -> Any:
            slopes = jax.grad(loss)(theta, x, y)
            slopes = slopes if problem.order == 2 else jax.lax.stop_gradient(slopes)
            return [weight - alpha * slope for weight, alpha, slope in zip(theta, alphas, slopes, strict=True)], None

        theta, _ = jax.lax.scan(step, theta, None, length=problem.steps, unroll=min(problem.steps, 5))
        return loss(theta, query_x, query_y)

    def mean(theta: Any, *data: Any) -> Any:
        if over == "vmap":
            return jax.vmap(after, (None, 0, 0, 0, 0))(theta, *data).mean()
        return jax.lax.map(lambda task: after(theta, *task), data).mean()

    theta = [jnp.array(weight.detach().numpy()) for weight in weights]
    return jax, mean, theta, [jnp.array(part.numpy()) for part in (*problem.batch.support, *problem.batch.query)]


def jax(problem: Problem, over: str = "vmap") -> Ready:
    """`jit(grad(vmap))`, or `lax.map` over the tasks, with optax's Adam in the same jit."""
    jax, mean, theta, data = in_jax(problem, over)
    import optax

    adam = optax.adam(BETA)

    def step(theta: Any, state: Any, *data: Any) -> Any:
        loss, slopes = jax.value_and_grad(mean)(theta, *data)
        updates, state = adam.update(slopes, state, theta)
        return optax.apply_updates(theta, updates), state, loss

    at, jitted = [theta, adam.init(theta)], jax.jit(step)

    def iterate() -> None:
        *at[:], loss = jitted(*at, *data)
        jax.block_until_ready((at, loss))

    return Ready(lambda: jax.jit(jax.grad(mean))(theta, *data), iterate)


def jax_training(problem: Problem) -> Ready:
    """The whole loop in one `lax.scan`: tasks drawn, gradient, optax's Adam, the losses as records."""
    jax, mean, theta, data = in_jax(problem)
    import optax

    adam, jnp, random = optax.adam(BETA), jax.numpy, jax.random
    tasks, points = data[0].shape[:2]

    def drawn(key: Any) -> list[Any]:
        amplitude, phase, place = random.split(key, 3)
        x = random.uniform(place, (tasks, 2 * points, 1), minval=-5, maxval=5)
        amplitude = random.uniform(amplitude, (tasks, 1, 1), minval=0.1, maxval=5)
        y = amplitude * jnp.sin(x - random.uniform(phase, (tasks, 1, 1), maxval=math.pi))
        return [part for half in (slice(points), slice(points, None)) for part in (x[:, half], y[:, half])]

    def step(at: Any, key: Any) -> Any:
        theta, state = at
        loss, slopes = jax.value_and_grad(mean)(theta, *drawn(key))
        updates, state = adam.update(slopes, state, theta)
        return (optax.apply_updates(theta, updates), state), loss

    run = jax.jit(lambda at, key: jax.lax.scan(step, at, random.split(key, problem.iterations)))
    return Ready(
        lambda: jax.jit(jax.grad(mean))(theta, *data),
        lambda: jax.block_until_ready(run((theta, adam.init(theta)), random.key(0))),
    )
