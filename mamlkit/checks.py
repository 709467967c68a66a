"""What is refused before it computes a wrong number, and in which words: found, wanted, what to do."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.func import vmap
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from mamlkit import pure, watch
from mamlkit.objective import ALONE, Objective
from mamlkit.pure import Params
from mamlkit.tasks import Batch, TaskBatch


def settings(objective: Objective, theta: Params, alpha: Any, steps: int, order: int) -> None:
    """Refuse an inner loop that makes no sense, a θ that is not the model's, and transforms that would mislead it."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}; it must be a whole number of 0 or more")
    if order not in (1, 2):
        raise ValueError(f"order is {order!r}; it must be 1 (first-order MAML) or 2 (MAML)")
    trained = [(name, p) for name, p in objective.model.named_parameters() if p.requires_grad]
    wanted = {name: p.shape for name, p in trained}
    found = {name: p.shape for name, p in theta.items()}
    if found != wanted:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(
            f"theta does not fit the model at {', '.join(differing)}: "
            f"found {[_shape(found.get(name)) for name in differing]}, "
            f"wanted {[_shape(wanted.get(name)) for name in differing]}. Start from objective.theta()"
        )
    if hooked := [name for name, p in trained if p._backward_hooks or p._post_accumulate_grad_hooks]:
        raise ValueError(
            f"{', '.join(hooked)} have a hook on their gradient, which would not run: θ stands in their place. Remove "
            "it (`handle.remove()`), and do what it does in an inner rule, or in a function that is `outer` of mk.train"
        )
    _step_sizes(alpha, wanted, steps)
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "an inner loop needs gradients, which torch.inference_mode forbids; use torch.no_grad, or neither"
        )
    transforms = {level.key() for level in get_interpreter_stack() or []}
    if transforms & {TransformType.Vmap, TransformType.Jvp}:
        raise ValueError(
            "an inner loop was asked for inside torch.func.vmap, jvp, jacfwd or hessian, through which PyTorch's "
            "derivatives of it are missing or wrong. For many tasks use mk.meta_gradient or mk.evaluate, which stack "
            "them; for derivatives of θ' torch.func.grad and jacrev, or torch.autograd"
        )
    if transforms and steps and not all(weight.requires_grad for weight in theta.values()):
        raise ValueError(
            "an inner loop was asked for inside torch.func.grad or jacrev of something that is not the whole of θ, "
            "where PyTorch takes no further gradients. Let it be a function of all of θ, or differentiate by "
            "torch.autograd.grad, outside of torch.func"
        )


def observed(objective: Objective, theta: Params, task: Batch, order: int, route: str) -> None:
    """Watch passes of one task, once for each setting, shape, type and order; refuse what would mislead.

    Raises ValueError for a model that draws random numbers from whatever source, keeps something from one pass to the
    next, writes into what it holds, or uses what requires a gradient and θ does not reach; where a derivative is
    missing that `order` needs; and where PyTorch's vmap cannot run the model, or runs it to other numbers.
    """
    if parametrize._cache_enabled:
        raise ValueError(
            "inside torch.nn.utils.parametrize.cached() a weight is computed once and kept, where each θ' needs its "
            "own; call the kit outside of it"
        )
    if get_interpreter_stack():
        return  # inside torch.func's transforms tensors are not what they seem
    modules = tuple(
        (type(module), *(value for value in vars(module).values() if type(value) in (bool, int, float, str)))
        for module in objective.model.modules()
    )
    tensors = tuple((part.shape, part.dtype, part.device) for part in (*task, *theta.values()))
    kind = (modules, tensors, order, stacked(route))
    if kind in objective.seen:
        return
    theta = {name: weight.detach().clone().requires_grad_() for name, weight in theta.items()}
    other = {name: 1.5 * weight + 0.1 * weight.abs().mean() for name, weight in theta.items()}
    unseen = _copies(objective)
    with torch.enable_grad(), _exactly(task.x):
        alone = _watched(objective, theta, other, task, order)
        _whatever_came_first(unseen, theta, other, task)
        if stacked(route):
            _same_under_vmap(objective, theta, other, task, order, alone)
    objective.seen.add(kind)


def _watched(objective: Objective, theta: Params, other: Params, task: Batch, order: int) -> list[list[Tensor]]:
    """The loss and its derivatives, of passes in which each operation is watched."""
    model = type(objective.model).__name__
    with watch.Watch(objective.model, objective.loss, theta, order) as seer:
        loss, prediction = objective.judged(theta, *task, task.x)
        objective.predict(other, task.x, task.x)
        again = objective.judged(theta, *task, task.x)
        if seer.drew:
            raise ValueError(pure.random_refused(objective.model))
        if (stray := watch.unreached([prediction, loss], [*theta.values(), task.y])) is not None:
            raise ValueError(
                f"{model} or its loss uses a tensor of shape {tuple(stray.shape)} that requires a gradient and is not "
                "among its parameters, so no step would change it. Assign it as an nn.Parameter of the model "
                "(several: nn.ParameterList), or detach it"
            )
        _equal(model, (loss, prediction), again)
        half = len(task.x) // 2
        if half and objective.batch_norm == "inductive":
            part = objective.predict(theta, task.x[:half], task.x)
            if not close(prediction[:half], part, torch.linalg.vector_norm(part).item(), 0.3):
                raise ValueError(
                    f'batch_norm="inductive" was asked for, and yet what {model} predicts for an example depends on '
                    "which others are at hand: by a batch norm that is scripted or called below "
                    'torch.nn.functional, or by a layer that mixes examples. Use batch_norm="transductive"'
                )
        if not loss.requires_grad:
            raise ValueError(f"the loss depends on no parameter of {model}, so there is nothing to adapt")
        try:
            return _derivatives(loss, theta, order)
        except RuntimeError as error:
            way_out = "order=1 or another layer" if order == 2 else "another layer"
            raise ValueError(
                f"{model} or its loss lacks a derivative that order={order} needs: use {way_out}. PyTorch says: {error}"
            ) from error


def _copies(objective: Objective) -> list[Objective]:
    """Two copies that have seen what the original has; none of what cannot be copied."""
    try:
        copies = [copy.deepcopy((objective.model, objective.loss)) for _ in range(2)]
    except Exception:  # of whatever kind: anything may stand in a model
        return []
    return [replace(objective, model=model, loss=loss) for model, loss in copies]


def _whatever_came_first(copies: list[Objective], theta: Params, other: Params, task: Batch) -> None:
    """Refuse what predicts or judges otherwise where it has seen another θ before.

    Copies are compared with each other: what a function of the model's encloses, they share with the model itself.
    """
    found = []
    for each, seen in zip(copies, (theta, other), strict=False):
        with suppress(Exception):  # a copy need not run, nor a loss take what another θ predicts
            each.judged(seen, *task, task.x)
        with suppress(Exception):
            found.append(each.judged(theta, *task, task.x))
    if len(found) == 2:
        _equal(type(copies[0].model).__name__, *found)


def _equal(model: str, *passes: tuple[Tensor, Tensor]) -> None:
    """Refuse what has another loss or prediction in two passes that should be the same."""
    for one, two in zip(*passes, strict=True):
        if not close(one, two, torch.linalg.vector_norm(one).item()):
            raise ValueError(
                f"{model} predicts differently in two equal passes, or its loss judges so: it draws random numbers "
                "outside PyTorch, or keeps something from one pass to the next. Either would make θ' depend on what "
                "was computed before; leave it out, or keep it in a buffer of the model, of which each pass has a copy"
            )


def _exactly(x: Tensor) -> AbstractContextManager[Any]:
    """Without autocast, whose rounding would hide what is looked for."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _derivatives(loss: Tensor, theta: Params, order: int) -> list[list[Tensor]]:
    """A loss, its gradient and, at second order, its Hessian times a vector of ones."""
    weights = list(theta.values())
    gradient = torch.autograd.grad(loss.sum(), weights, create_graph=order == 2, materialize_grads=True)
    if not (curved := [part for part in gradient if part.requires_grad]):
        return [[loss.detach()], list(gradient)]
    if watch.is_once_differentiable(curved):
        raise RuntimeError("a function of it is marked once_differentiable")
    ones = [torch.ones_like(part) for part in curved]
    second = torch.autograd.grad(curved, weights, ones, materialize_grads=True)
    return [[loss.detach()], [part.detach() for part in gradient], list(second)]


def _same_under_vmap(
    objective: Objective, theta: Params, other: Params, task: Batch, order: int, alone: list[list[Tensor]]
) -> None:
    """Refuse a model that vmap cannot run, or for which its rules are wrong: tasks at once against one alone.

    It stands first and last, since a rule may be right for the first task only: laying tasks end to end, it counts a
    padding row, say, from the beginning of them all.
    """
    model = type(objective.model).__name__
    stacked = {n: torch.stack([weight, other[n], weight]).detach().requires_grad_() for n, weight in theta.items()}
    x, y = (part.expand(3, *part.shape) for part in task)
    try:
        mapped = _derivatives(vmap(objective.__call__)(stacked, x, y, x), stacked, order)
    except RuntimeError as error:
        raise ValueError(f"PyTorch's vmap cannot run {model}: use {ALONE}. PyTorch says: {error}") from error
    above = 0.0  # of the loss or derivative before: what rounds there is noise in the next, which may be zero
    for what, wanted, found in zip(("loss", "gradient", "second derivative"), alone, mapped, strict=False):
        one = torch.cat([part.flatten() for part in wanted])
        first, middle, last = (torch.cat([part[place].flatten() for part in found]) for place in range(3))
        scale = max(torch.linalg.vector_norm(part).item() for part in (one, middle))  # θ may stand where it vanishes
        scale += 32 * torch.finfo(one.dtype).eps ** 0.7 * above
        above = max(above, scale)
        if not (close(one, first, scale, 0.3) and close(one, last, scale, 0.3)):
            raise ValueError(
                f"PyTorch's vmap computes another {what} of {model} than its plain operations do: its rule for one of "
                f"them is wrong, or a hook that the forward pass sets is lost there. Use {ALONE}"
            )


def close(a: Tensor, b: Tensor, scale: float, digits: float = 0.5) -> bool:
    """Equal but for rounding, to a share of the type's digits; what is not finite is not compared."""
    difference = torch.linalg.vector_norm(a - b)
    return not bool(difference > torch.finfo(difference.dtype).eps ** digits * scale)


def _step_sizes(alpha: Any, shapes: Mapping[str, torch.Size], steps: int) -> None:
    if not isinstance(alpha, Mapping):
        if isinstance(alpha, Tensor) or not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(
                f"alpha is {alpha}; the inner step size must be a finite number of 0 or more, or a dict of them by "
                "parameter"
            )
        return
    if alpha.keys() != shapes.keys():
        unknown, missing = sorted(alpha.keys() - shapes.keys()), sorted(shapes.keys() - alpha.keys())
        raise ValueError(
            f"alpha names {', '.join(unknown) or 'nothing'} that the model does not have, and leaves out "
            f"{', '.join(missing) or 'nothing'}; give one entry to each of {', '.join(shapes)} (0 leaves it alone)"
        )
    for name, size in alpha.items():
        values = size.detach() if isinstance(size, Tensor) else torch.tensor(float(size))
        learned = isinstance(size, Tensor) and size.requires_grad  # the outer loop may learn to step uphill
        bad = ~torch.isfinite(values) | ((values < 0) if not learned else torch.zeros_like(values, dtype=torch.bool))
        if bad.any():
            raise ValueError(
                f"alpha of {name} holds {values[bad].flatten()[0].item():g}; step sizes must be finite and 0 or more"
            )
    by_step(alpha, shapes, steps)


def by_step(alpha: Mapping[str, Any], shapes: Mapping[str, torch.Size], steps: int) -> set[str]:
    """The names whose step sizes differ by step. Raises ValueError for a shape that fits neither parameter nor steps.

    [steps] and a parameter's own shape may be the same. Then the other parameters' tensors say which is meant.
    """
    fits: dict[str, list[bool]] = {}
    for name, size in alpha.items():
        if not isinstance(size, Tensor) or not size.ndim:
            continue
        shape = shapes[name]
        each = ((steps,), (steps, *shape), (steps, *(1,) * len(shape)))
        fits[name] = [by for by, fit in ((False, size.shape == shape), (True, tuple(size.shape) in each)) if fit]
        if not fits[name]:
            raise ValueError(
                f"alpha of {name} has shape {tuple(size.shape)}; it must be a number, of the parameter's shape "
                f"{tuple(shape)}, or one of both for each of the {steps} steps: {each[0]} or {each[1]}"
            )
    sure = {found[0] for found in fits.values() if len(found) == 1}
    for name, found in fits.items():
        if len(found) == 2 and len(sure) != 1:
            raise ValueError(
                f"alpha of {name} has shape {tuple(shapes[name])}, which may mean an entry of the parameter or a step; "
                f"for one a step write it as [{steps}, 1]; for one an entry give every step its own, "
                f"{(steps, *shapes[name])}"
            )
    return {name for name, found in fits.items() if (found[0] if len(found) == 1 else True in sure)}


def training(alpha: Any, beta: float, **counts: int) -> None:
    """Refuse an outer loop that makes no sense."""
    for name, count in counts.items():
        if count < (least := int(name != "iterations")):
            raise ValueError(f"{name} is {count}; it must be {least} or more")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta is {beta}; the meta step size must be a finite number above 0")
    for name, size in learned(alpha).items():
        if not size.is_leaf or (size < 0).any():
            raise ValueError(
                f"alpha of {name} is to be learned, so it must be a leaf tensor of entries of 0 or more to begin with, "
                "like torch.full(shape, 0.01, requires_grad=True)"
            )


def learned(alpha: Any) -> Params:
    """The step sizes that the outer loop learns: the tensors in `alpha` that require a gradient, each once, by name."""
    found: Params = {}
    for name, size in alpha.items() if isinstance(alpha, Mapping) else ():
        is_new = all(size is not other for other in found.values())  # one tensor may serve many parameters
        if isinstance(size, Tensor) and size.requires_grad and is_new:
            found[name] = size
    return found


def examples(part: Batch, name: str, dims: int = 1) -> None:
    """Refuse examples that are missing, unequal in number or not finite. `dims`: 1 for a task's, 2 for many tasks'."""
    x, y = part
    if x.ndim < dims or y.ndim < dims or x.shape[:dims] != y.shape[:dims]:
        raise ValueError(
            f"the {name} has x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}; "
            f"their first {dims} dimension{'s' * (dims > 1)} ({'tasks, ' * (dims > 1)}points) must be the same"
        )
    if 0 in x.shape[:dims]:
        raise ValueError(f"the {name} is empty (x has shape {tuple(x.shape)}); give it at least one example")
    for which, values in (("x", x), ("y", y)):
        if values.is_floating_point() and not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(f"{bad} values of the {name}'s {which} are NaN or infinite; clean the data first")


def tasks(batch: TaskBatch) -> None:
    """Refuse tasks whose support or query cannot be used, or that are not as many in the one as in the other."""
    if not isinstance(batch, TaskBatch) or not all(isinstance(part, Batch) for part in batch):
        held = f" of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, tuple) else ""
        raise ValueError(
            f"the tasks are {type(batch).__name__}{held}; they must be drawn, as by `tasks.batch(0, 4)`, or be a "
            "mk.TaskBatch(mk.Batch(x, y), mk.Batch(x, y)) of support and query"
        )
    examples(batch.support, "support", dims=2)
    examples(batch.query, "query", dims=2)
    if len(batch.support.x) != len(batch.query.x):
        raise ValueError(
            f"the support holds {len(batch.support.x)} tasks and the query {len(batch.query.x)}; "
            "each task needs both, stacked along the first dimension"
        )


def route(name: str, known: Iterable[str]) -> None:
    """Refuse the name of a route that there is not."""
    if name not in known:
        raise ValueError(f"route is {name!r}; it must be one of {', '.join(known)}")


def chunk(size: int | None) -> None:
    """Refuse a number of tasks at a time that is none."""
    if size is not None and size < 1:
        raise ValueError(f"chunk is {size}; it must be 1 task or more at a time, or None for all of them")


def stacked(route: str) -> bool:
    """Whether a route takes all tasks at once, along a first dimension of their own."""
    return not route.endswith("loop")


def same_structure(found: Any, wanted: Params, what: str) -> None:
    """Refuse a dict that does not hold a tensor of the same shape under each of the same names."""
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    is_params = isinstance(found, Mapping) and all(isinstance(tensor, Tensor) for tensor in found.values())
    given = {name: tuple(tensor.shape) for name, tensor in found.items()} if is_params else type(found).__name__
    if given != shapes:
        raise ValueError(f"{what} is {given}; it must hold {shapes}, a tensor for each parameter")


def state(found: Any, theta: Params) -> Any:
    """The state of an inner rule, if it holds tensors alone, where θ is."""
    if other := {type(leaf).__name__ for leaf in pytree.tree_leaves(found) if not isinstance(leaf, Tensor)}:
        raise ValueError(
            f"the state of the inner rule holds {', '.join(sorted(other))}; it must hold tensors in dicts, lists and "
            "tuples (count steps in a tensor)"
        )
    place = next(iter(theta.values())).device
    if elsewhere := {str(leaf.device) for leaf in pytree.tree_leaves(found) if leaf.device != place}:
        raise ValueError(
            f"the state of the inner rule is on {', '.join(sorted(elsewhere))} and theta on {place}; make it of theta, "
            "by torch.zeros_like or weight.new_zeros"
        )
    return found


def moved(found: Any, theta: Params, before: Any) -> tuple[Params, Any]:
    """What the step of an inner rule returned, if it has the structure that it was given."""
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"the inner rule's step returned {type(found).__name__}; it must return (theta, state)")
    same_structure(found[0], theta, "theta after the inner rule's step")
    if _structure(found[1]) != _structure(before):
        raise ValueError(
            f"the inner rule's step changed the structure of its state from {_structure(before)} to "
            f"{_structure(found[1])}; it must stay as init made it"
        )
    return found


def _structure(state: Any) -> Any:
    return pytree.tree_map(lambda leaf: tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__, state)


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else str(tuple(shape))
