"""Is it really second order, and is it right? A judge of meta-gradients: the kit's, a reader's own, another library's.

Everything is compared with the definition, F(θ) = (1/n) Σᵢ L(θ − α∇L(θ; Dᵢ); D'ᵢ), written out here in plain PyTorch,
one task after the other, with first derivatives alone; its own derivative is taken by finite differences. Nothing of
the kit's inner loop, routes or replacements is used for that.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from mamlkit import checks, pure, watch
from mamlkit.inner import Alpha, step_sizes
from mamlkit.meta import ROUTES, meta_gradient
from mamlkit.objective import Objective
from mamlkit.pure import Params
from mamlkit.tasks import Batch, TaskBatch

MARKS = {"right": "✓", "note": "·", "wrong": "✗"}
DIRECTIONS, WIDTHS = 3, (1e-6, 1e-7, 1e-5, 1e-8)  # of finite differences; ReLUs make steps of F, which a width may meet
ITERATIONS = 20  # of the power method, at most

GradientFunction = Callable[[Params, TaskBatch], Mapping[str, Tensor]]


class Finding(NamedTuple):
    """What was looked at, the verdict, and a sentence with the figure and what to do."""

    subject: str
    verdict: Literal["right", "note", "wrong"]
    text: str


@dataclass(frozen=True)
class Report:
    """The findings of `check`. `ok` is False if one of them is wrong; `print(report)` shows all."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.verdict != "wrong" for finding in self.findings)

    def __str__(self) -> str:
        return "\n".join(f"{MARKS[verdict]} {subject}: {text}" for subject, verdict, text in self.findings)

    def _repr_markdown_(self) -> str:
        rows = [f"| {MARKS[verdict]} | {subject} | {_escaped(text)} |" for subject, verdict, text in self.findings]
        return "\n".join(["| | looked at | found |", "| --- | --- | --- |", *rows])


def check(
    objective: Objective,
    batch: TaskBatch,
    *,
    alpha: Alpha,
    steps: int = 1,
    gradient: GradientFunction | None = None,
    seed: int = 0,
) -> Report:
    """Examine a model, its loss and its meta-gradient on a few tasks, in float64 on copies; nothing given is changed.

    batch        a few tasks; with 4 tasks of 5 images `conv4` takes seconds
    alpha, steps  of the inner loop, as in `adapt`
    gradient     a function (θ, tasks) → {name: gradient} to be judged, of a reader's own or of another library; it is
                 given θ and tasks in float64 and should return ∇F at second order, the mean over tasks. None judges
                 `meta_gradient`: each route, both orders
    seed         of the directions in which derivatives are compared

    A model that cannot be computed in float64 is examined in its own type, with wider tolerances. Raises ValueError on
    bad settings and on tasks that `meta_gradient` would refuse.
    """
    checks.settings(objective, objective.theta(), alpha, steps, 2)
    checks.tasks(batch)
    try:
        checks.observed(objective, objective.theta(), batch.task(0).support, 2, "loop")
    except (ValueError, TypeError) as refusal:
        return Report((Finding("one pass, watched", "wrong", f"{refusal}"),))
    examination = _Examination(*_in_double(objective, batch), alpha, steps, seed)
    judged = examination.own() if gradient is None else examination.foreign(gradient)
    parts = (examination.habits(), examination.derivatives(), judged, examination.data(), examination.curvature())
    return Report(tuple(finding for part in parts for finding in part))


def _in_double(objective: Objective, batch: TaskBatch) -> tuple[Objective, TaskBatch]:
    """Copies in float64, where the model can be copied and computed in it; themselves elsewhere."""
    tasks = TaskBatch(*(Batch(*(t.double() if t.is_floating_point() else t for t in part)) for part in batch))
    try:
        model, loss = copy.deepcopy(objective.model).double(), copy.deepcopy(objective.loss)
        double = Objective(model, loss.double() if isinstance(loss, nn.Module) else loss, objective.batch_norm)
        double(double.theta(), *tasks.task(0).support, tasks.task(0).support.x)
    except Exception:
        return objective, batch
    return double, tasks


def made(target: str) -> dict[str, Any]:
    """The arguments of `check` that a factory returns, named "module:function" or "path.py:function".

    It returns them as a dict, or as a pair (objective, batch). Raises ValueError for a name that leads to none.
    """
    where, _, name = target.partition(":")
    path = Path(where)
    try:
        sys.path.insert(0, str(path.parent.resolve() if path.suffix == ".py" else Path.cwd()))
        factory = getattr(importlib.import_module(path.stem if path.suffix == ".py" else where), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{target!r} names no function ({error}); write module:function or path.py:function"
        ) from error
    finally:
        sys.path.pop(0)
    found = factory()
    found = dict(zip(("objective", "batch"), found, strict=False)) if isinstance(found, tuple) else found
    if not isinstance(found, dict) or not {"objective", "batch"} <= found.keys() <= set(
        inspect.signature(check).parameters
    ):
        raise ValueError(
            f"{target} returned {list(found) if isinstance(found, dict) else type(found).__name__}; it should return "
            "(objective, batch), or a dict of the arguments of mamlkit.check"
        )
    return found


_CUTTING = {
    *(Tensor.detach, Tensor.detach_, torch.detach, Tensor.data.__get__, Tensor.__array__, Tensor.numpy),  # type: ignore[attr-defined]
    *(Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__int__, Tensor.__bool__),
}


class _Cuts(TorchFunctionMode):
    """Notes whether a pass takes a part of what it computes for a constant, so that its derivative leaves that out."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= func in _CUTTING or not torch.is_grad_enabled()
        if func in (F.embedding, torch.embedding):  # a padding row, or gradients by frequency
            self.found |= any(part is not None and part is not False for part in (*args[2:], *(kwargs or {}).values()))
        return func(*args, **(kwargs or {}))


class _Examination:
    """One model, its loss and its tasks under examination; each method yields findings."""

    def __init__(self, objective: Objective, batch: TaskBatch, alpha: Alpha, steps: int, seed: int) -> None:
        self.objective, self.batch, self.alpha, self.steps = objective, batch, alpha, steps
        self.theta = objective.theta()
        self.sizes = step_sizes(alpha, self.theta, steps)
        dtype = next(iter(self.theta.values())).dtype
        self.tolerance = torch.finfo(dtype).eps ** 0.25
        self.generator = torch.Generator().manual_seed(seed)
        self.model = objective.model
        self.cuts = False  # whether the model or the loss takes a part of itself for a constant

    # The definition, written out.

    def loss(self, theta: Params, x: Tensor, y: Tensor, support: Tensor) -> Tensor:
        """L(θ; D): the module itself with θ in its places, its buffers as they were."""
        if self.objective.batch_norm == "inductive" and pure.uses_batch_statistics(self.model):
            return self.objective(theta, x, y, support)  # only the kit knows this mode
        with _holding(self.model, theta), sdpa_kernel(SDPBackend.MATH):
            return self.objective.loss(self.model(x.clone()), y.clone())

    def adapted(self, theta: Params, support: Batch) -> Params:
        """θ' by first derivatives alone, as numbers."""
        for alpha in self.sizes:
            slope = self.slope(theta, *support, support.x)
            theta = {name: (weight - alpha[name] * slope[name]).detach() for name, weight in theta.items()}
        return theta

    def slope(self, theta: Params, x: Tensor, y: Tensor, support: Tensor) -> Params:
        """∇L(θ; D)."""
        leaves = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
        with torch.enable_grad():
            loss = self.loss(leaves, x, y, support)
            found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    def value(self, theta: Params) -> float:
        """F(θ), the mean of L(θ'ᵢ; D'ᵢ) over the tasks."""
        total = 0.0
        for support, query in map(self.batch.task, range(self.batch.size)):
            with torch.no_grad():
                total += self.loss(self.adapted(theta, support), *query, support.x).item()
        return total / self.batch.size

    def first_order(self, i: int) -> Params:
        """∇L(θ'ᵢ; D'ᵢ), which first-order MAML takes for the gradient."""
        support, query = self.batch.task(i)
        return self.slope(self.adapted(self.theta, support), *query, support.x)

    def second_order(self, i: int, judge: Literal["support", "query"] = "query") -> Params:
        """∇θ L(θ'ᵢ; D'ᵢ), by PyTorch's derivative of a derivative, and the kit's for those that are wrong."""
        task = self.batch.task(i)
        theta = leaves = {name: weight.detach().requires_grad_() for name, weight in self.theta.items()}
        with torch.enable_grad():
            for alpha in self.sizes:
                loss = self.objective(theta, *task.support, task.support.x)
                slope = torch.autograd.grad(loss, list(theta.values()), create_graph=True, materialize_grads=True)
                theta = {n: w - alpha[n] * g for (n, w), g in zip(theta.items(), slope, strict=True)}
            x, y = task.query if judge == "query" else task.support
            loss = self.objective(theta, x, y, task.support.x)
            found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    # What is found.

    def habits(self) -> Iterator[Finding]:
        """Of the model, whatever its numbers are."""
        given = self.batch.task(0).support.x.clone()
        with torch.no_grad(), _holding(self.model, self.theta):
            self.model(given)
        if given._version:
            yield Finding(
                "inputs",
                "wrong",
                "the model writes into its input, so a second pass sees other data; the kit gives each pass a copy, "
                "other code does not. Leave out in-place operations on the input (inplace=True)",
            )
        else:
            yield Finding("inputs", "right", "the model leaves its input as it was")
        kept = [n for n, m in self.model.named_modules() if m.training and getattr(m, "running_mean", None) is not None]
        if kept:
            yield Finding(
                "running statistics",
                "wrong",
                f"{', '.join(kept)} would mix the statistics of all tasks in training mode and use them in evaluation "
                "mode; the kit never updates them. Set track_running_stats=False",
            )

    def derivatives(self) -> Iterator[Finding]:
        """Of the loss: first and second derivatives against finite differences, parameters without any."""
        support = self.batch.task(0).support
        slope, direction = self.slope(self.theta, *support, support.x), self.direction()

        def value(theta: Params) -> float:
            with torch.no_grad():
                return self.loss(theta, *support, support.x).item()

        def change(theta: Params) -> float:
            return _dot(self.slope(theta, *support, support.x), direction)

        leaves = {name: weight.detach().requires_grad_() for name, weight in self.theta.items()}
        with torch.enable_grad(), _holding(self.model, leaves), _Cuts() as cuts:
            loss = self.objective.loss(self.model(support.x.clone()), support.y.clone())
        written = ", ".join(sorted(watch.written_by_hand(loss)))
        self.cuts = cuts.found and not written  # who writes a backward pass may detach in it
        blamed = f"the backward pass of {written or 'one of its functions'}"
        error = self.differs(value, slope, [slope])
        yield self.whole("first derivative of the loss", error, f"{blamed} is wrong")
        turned = self.curved(support, direction)
        error = self.differs(change, turned, [turned])
        hint = f"{blamed} cannot itself be differentiated rightly; use order=1, or write it of other operations"
        yield self.whole("second derivative of the loss", error, hint)

        used = {name for task in range(self.batch.size) for name in self.touched(task)}
        if idle := sorted(self.theta.keys() - used):
            yield Finding(
                "idle parameters",
                "note",
                f"the support loss of every task has a zero gradient by {', '.join(idle)}: unused, or dead. They never "
                "adapt; remove them, or look for units that are always off",
            )

    def own(self) -> Iterator[Finding]:
        """Of `meta_gradient`: the loop against the definition, at both orders, and every route against the loop."""
        second, first = (self.kit("loop", order) for order in (2, 1))
        difference = {name: second[name] - first[name] for name in self.theta}
        error = self.apart(second, _mean([self.second_order(i) for i in range(self.batch.size)]), difference)
        yield self.compared("meta-gradient, second order", error, "take no number from it, and report the model")
        error = _relative(first, _mean([self.first_order(i) for i in range(self.batch.size)]))
        yield self.compared("meta-gradient, first order", error, "take no number from it, and report the model")
        share = _norm(difference) / max(_norm(second), 1e-300)
        yield Finding("what the Hessian adds", "note", f"{share:.1%} of the meta-gradient at this θ and alpha")
        for route in [name for name in ROUTES if name != "loop"]:
            try:
                error = max(_relative(self.kit(route, o), g) for o, g in ((2, second), (1, first)))
            except ValueError as refusal:
                yield Finding(f'route="{route}"', "note", f"{refusal}")
                continue
            yield self.compared(f'route="{route}" against the loop', error, 'use route="loop"')

    def foreign(self, gradient: GradientFunction) -> Iterator[Finding]:
        """Of a gradient that is not the kit's: what it is."""
        found = self.called(gradient, self.batch)
        if isinstance(found, Finding):
            yield found
            return
        everything = range(self.batch.size)
        each = [self.second_order(i) for i in everything]
        first = [self.first_order(i) for i in everything]
        second, plain = _mean(each), _mean(first)
        difference = {name: second[name] - plain[name] for name in self.theta}
        error = self.apart(found, second, difference)
        if error <= self.tolerance:
            yield self.compared("the gradient", error, "")
            return
        before = [self.slope(self.theta, *self.batch.task(i).query, self.batch.task(i).support.x) for i in everything]
        alone = [self.second_order(i, "support") for i in everything]
        yield Finding("the gradient", "wrong", self.named(found, each, first, before, alone, second))
        apart = [self.called(gradient, self.batch.chosen([i])) for i in everything]
        if all(isinstance(g, dict) and _relative(g, e) <= self.tolerance for g, e in zip(apart, each, strict=True)):
            back = self.called(gradient, self.batch.chosen(list(everything)[::-1]))
            kept = isinstance(back, dict) and _relative(back, found) > self.tolerance
            blamed = (
                "In another order they give another gradient: something is kept from one task to the next"
                if kept
                else "A rule of vmap, or how the tasks are put together, is to blame"
            )
            text = f"each task by itself is right: what is wrong comes of computing them together. {blamed}"
            yield Finding("one task alone", "wrong", text)

    def named(
        self,
        found: Params,
        each: list[Params],
        first: list[Params],
        before: list[Params],
        alone: list[Params],
        second: Params,
    ) -> str:
        """What a wrong gradient is."""
        if _norm(found) == 0:
            return "it is zero: the graph to θ is cut, by detach, .data or torch.no_grad around the inner step"
        bases = {
            "second order": (each, ""),
            "first order": (first, "the Hessian is dropped: keep the graph of the inner gradient (create_graph=True)"),
            "not adapted": (before, "the query is judged by θ, not by θ'"),
            "judged on the support": (alone, "give the outer loss the query, which the inner step has not seen"),
        }
        n = self.batch.size
        for what, (gradients, hint) in bases.items():
            columns = torch.stack([_flat(g) for g in gradients], 1)
            weights = torch.linalg.lstsq(columns, _flat(found)[:, None]).solution[:, 0]
            if _norm_of(columns @ weights - _flat(found)) > self.tolerance * _norm(found):
                continue
            said = [f"it is {what}"] if what != "second order" else []
            if torch.allclose(weights, torch.ones_like(weights), rtol=1e-3):
                said += [f"it is the sum over tasks, {n} times the mean: divide it, or β means something else"]
            elif (missing := (weights.abs() < 1e-3 / n)).any():
                said += [f"it leaves out tasks {', '.join(str(i) for i in missing.nonzero().flatten().tolist())}"]
            elif not torch.allclose(weights, torch.full_like(weights, 1 / n), rtol=1e-3):
                said += [f"it weighs the tasks by {', '.join(f'{w:.3g}' for w in weights.tolist())} for 1/{n} each"]
            if said:
                return "; ".join(said + [hint] * bool(hint))
        errors = {name: float(_norm_of(found[name] - second[name])) for name in self.theta}
        worst = [
            name for name in sorted(errors, key=lambda n: -errors[n]) if errors[name] > 0.01 * max(errors.values())
        ]
        return (
            f"it is off by {_relative(found, second):.1%}, most at {', '.join(worst[:3])}, and is neither first order, "
            "nor a sum, nor judged on other data: look at the inner step, or at a derivative that is wrong"
        )

    def called(self, gradient: GradientFunction, batch: TaskBatch) -> Params | Finding:
        """What a gradient function returns, if it is a gradient."""
        try:
            found = gradient({name: weight.clone() for name, weight in self.theta.items()}, batch)
            checks.same_structure(found, self.theta, "what the gradient function returned")
        except Exception as error:
            return Finding("the gradient", "wrong", f"it cannot be had: {type(error).__name__}: {error}")
        return {name: found[name].detach() for name in self.theta}

    def data(self) -> Iterator[Finding]:
        """Of the tasks: what must matter does, what must not does not."""
        (x, y), (query_x, query_y) = self.batch
        plain, mixed = (self.losses(TaskBatch(Batch(x, labels), self.batch.query)) for labels in (y, _other(y)))
        judged = self.losses(TaskBatch(self.batch.support, Batch(query_x, _other(query_y))))
        adapts = self.longest() > 0
        matters = {"support": not adapts or not torch.equal(plain, mixed), "query": not torch.equal(plain, judged)}
        if idle := [name for name, does in matters.items() if not does]:
            yield Finding("labels", "wrong", f"other labels of the {' and '.join(idle)} change no query loss")
        else:
            yield Finding(
                "labels", "right", "other labels of the support change θ', other labels of the query the loss"
            )

        back = self.losses(self.batch.chosen(list(range(self.batch.size))[::-1])).flip(0)
        error = (_norm_of(plain - back) / _norm_of(plain).clamp(min=1e-300)).item()
        yield self.compared("order of the tasks", error, "something is kept from one task to the next")

        support = self.batch.task(0).support
        once, twice = (
            self.loss(self.theta, torch.cat([support.x] * k), torch.cat([support.y] * k), support.x).item()
            for k in (1, 2)
        )
        if abs(twice - 2 * once) <= 1e-6 * abs(once):
            yield Finding(
                "the loss",
                "wrong",
                "it is a sum over examples, so that alpha means another step with more shots; take the mean",
            )
        query = self.batch.task(0).query
        together = self.objective.predict(self.theta, query.x, support.x)
        try:
            apart = torch.cat([self.objective.predict(self.theta, point[None], support.x) for point in query.x])
            error = (_norm_of(together - apart) / _norm_of(together).clamp(min=1e-300)).item()
        except (ValueError, TypeError, RuntimeError):
            error = float("inf")
        if error > self.tolerance:
            yield Finding(
                "queries together",
                "note",
                "a prediction depends on which other queries are at hand (transductive), as in the paper's batch norm; "
                'with batch_norm="inductive", or another norm, it would not',
            )

    def curvature(self) -> Iterator[Finding]:
        """Of the support loss: its largest curvature, and the step sizes that it allows."""
        largest = 0.0
        for i in range(self.batch.size):
            direction, size, before = self.direction(), 1.0, 0.0
            for _ in range(ITERATIONS):
                if not size or abs(size - before) < 0.01 * size:
                    break
                turned = self.curved(self.batch.task(i).support, direction)
                size, before = _norm(turned), size
                direction = {name: part / (size or 1.0) for name, part in turned.items()}
            largest = max(largest, size)
        if not largest:
            yield Finding("curvature", "note", "the support loss is linear in θ: its Hessian is zero, as is its share")
            return
        text = f"the largest of a support loss is {largest:.3g}, so that steps of alpha below {2 / largest:.3g} descend"
        too_long = self.longest() > 2 / largest
        yield Finding("curvature", "note", text + f"; yours, {self.longest():.3g}, may overshoot" * too_long)

    # How it is found.

    def compared(self, subject: str, error: float, hint: str) -> Finding:
        if error <= self.tolerance:
            return Finding(subject, "right", f"differs by {error:.1e} of its size")
        return Finding(subject, "wrong", f"differs by {error:.1e} of its size: {hint}")

    def apart(self, found: Params, second: Params, difference: Params) -> float:
        """How far a meta-gradient is from finite differences of F; where these may see more than a derivative should,
        from PyTorch's derivative of a derivative, if that is nearer."""
        error = self.differs(self.value, found, [second, difference])
        return min(error, _relative(found, second)) if self.cuts else error

    def whole(self, subject: str, error: float, hint: str) -> Finding:
        """`compared`, where a model may mean to leave out a part of its derivative."""
        if error <= self.tolerance or not self.cuts:
            return self.compared(subject, error, hint)
        return Finding(
            subject,
            "note",
            f"it leaves out {error:.1%} of what finite differences see, since the model takes a part of what it "
            "computes for a constant (detach, no_grad, item, a padding row); what follows does so too",
        )

    def kit(self, route: str, order: int) -> Params:
        settings: dict[str, Any] = {"alpha": self.alpha, "steps": self.steps, "order": order, "route": route}
        return meta_gradient(self.objective, self.theta, self.batch, **settings).grad

    def losses(self, batch: TaskBatch) -> Tensor:
        return meta_gradient(
            self.objective, self.theta, batch, alpha=self.alpha, steps=self.steps, order=1, route="loop"
        ).loss

    def longest(self) -> float:
        """The largest step size of the inner loop."""
        return max(
            (float(torch.as_tensor(size).detach().max()) for alpha in self.sizes for size in alpha.values()),
            default=0.0,
        )

    def direction(self) -> Params:
        drawn = {
            name: torch.randn(weight.shape, generator=self.generator, dtype=torch.float64).to(weight)
            for name, weight in self.theta.items()
        }
        size = _norm(drawn)
        return {name: part / size for name, part in drawn.items()}

    def differs(self, value: Callable[[Params], float], gradient: Params, along: list[Params]) -> float:
        """How far a gradient is from the slope of a function, as a share of its size: the median over directions.

        Random directions, and those of `along`. In each the width counts that fits best: a ReLU that changes sign
        within it makes a step, which another width avoids.
        """
        directions = [self.direction() for _ in range(DIRECTIONS)]
        directions += [{n: p / _norm(a) for n, p in a.items()} for a in along if _norm(a) > 0]
        wider = max(1.0, _norm(self.theta)) * (self.tolerance / 1.22e-4) ** 0.5  # where digits are few, or θ is large
        widths, errors = [wider * width for width in WIDTHS], []
        for direction in directions:
            claimed, error = _dot(gradient, direction), math.inf
            for width in widths:
                ends = [value({n: w + s * width * direction[n] for n, w in self.theta.items()}) for s in (1, -1)]
                slope = (ends[0] - ends[1]) / (2 * width)
                error = min(error, abs(claimed - slope) / max(abs(claimed), abs(slope), 1e-3 * _norm(gradient), 1e-10))
                if error <= self.tolerance / 10:
                    break
            errors.append(error)
        return statistics.median_low(errors)

    def curved(self, support: Batch, direction: Params) -> Params:
        """The Hessian of a support loss times a direction."""
        leaves = {name: weight.detach().requires_grad_() for name, weight in self.theta.items()}
        with torch.enable_grad():
            loss = self.objective(leaves, *support, support.x)
            slope = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, materialize_grads=True)
            along = sum((g * direction[n]).sum() for n, g in zip(leaves, slope, strict=True))
            if not isinstance(along, Tensor) or not along.requires_grad:
                return {name: torch.zeros_like(weight) for name, weight in leaves.items()}
            found = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    def touched(self, i: int) -> set[str]:
        support = self.batch.task(i).support
        return {name for name, part in self.slope(self.theta, *support, support.x).items() if part.any()}


@contextmanager
def _holding(model: nn.Module, theta: Params) -> Iterator[None]:
    """The module with θ in place of its trainable parameters, under all their names; all is as it was afterwards."""
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    places = [(module._parameters, n, p) for module in model.modules() for n, p in module._parameters.items()]
    buffers = [(module._buffers, n, b) for module in model.modules() for n, b in module._buffers.items()]
    try:
        for held, name, parameter in places:
            if id(parameter) in names:
                held[name] = theta[names[id(parameter)]]  # type: ignore[assignment]
        for table, name, buffer in buffers:
            table[name] = None if buffer is None else buffer.clone()
        yield
    finally:
        for held, name, parameter in places:
            held[name] = parameter
        for table, name, buffer in buffers:
            table[name] = buffer


def _other(y: Tensor) -> Tensor:
    """Other labels of the same kind: those of the next task and point, or numbers moved."""
    if y.is_floating_point() or y.is_complex():
        return y + 1
    other = y.roll(1, 1)
    return other if not torch.equal(other, y) else y.flip(0) if not torch.equal(y.flip(0), y) else (y == y.min()).to(y)


def _flat(params: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in params.values()])


def _norm_of(tensor: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(tensor)
    return found


def _norm(params: Mapping[str, Tensor]) -> float:
    return float(_norm_of(_flat(params)))


def _dot(a: Params, b: Params) -> float:
    return sum(float((a[name] * b[name]).sum()) for name in a)


def _mean(gradients: list[Params]) -> Params:
    return {name: torch.stack([g[name] for g in gradients]).mean(0) for name in gradients[0]}


def _relative(found: Params, wanted: Params) -> float:
    return float(_norm_of(_flat(found) - _flat({n: wanted[n] for n in found}))) / max(_norm(wanted), 1e-300)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
