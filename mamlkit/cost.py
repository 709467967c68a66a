"""What a meta-gradient takes, predicted from a few tasks and steps: memory, operations, calls."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mamlkit import checks
from mamlkit.inner import GRADIENT_DESCENT, Alpha, InnerLoop, InnerRule, step_sizes
from mamlkit.meta import ROUTES, refuse
from mamlkit.objective import Objective
from mamlkit.pure import Params
from mamlkit.tasks import TaskBatch


@dataclass(frozen=True)
class Cost:
    """What one meta-gradient takes.

    peak   bytes of all tensors made on the way that live at once, at most; θ and the batch are there besides
    theta  bytes of θ
    data   bytes of the batch
    flops  floating-point operations of matrix products, convolutions and attention, two for a multiply-add
    calls  tensor operations that are started, whatever their size: what small models wait for
    """

    peak: int
    theta: int
    data: int
    flops: int
    calls: int

    def __str__(self) -> str:
        """All of it in words."""
        beside = f"beside θ ({size(self.theta)}) and the data ({size(self.data)})"
        work = f"{self.flops:.2g} floating-point operations in {self.calls:,} calls"
        return f"needs about {size(self.peak)} at its peak, {beside}; {work}"


def cost(
    objective: Objective,
    batch: TaskBatch,
    *,
    alpha: Alpha,
    steps: int = 1,
    order: int = 2,
    route: str = "vmap",
    rule: InnerRule = GRADIENT_DESCENT,
    chunk: int | None = None,
) -> Cost:
    """What `meta_gradient` of the same arguments takes, at the model's own parameters.

    Up to three tasks and three steps are computed and counted; what more of them take follows, since each further task
    and each further step adds the same. What a kernel takes for itself and what the allocator rounds up is not counted.

    Raises as `meta_gradient` does.
    """
    theta = objective.parameters()
    refuse(objective, theta, batch, alpha, steps, order, route, chunk)
    return _predicted(objective, theta, batch, chunk, alpha=alpha, steps=steps, order=order, route=route, rule=rule)


def memory_warning(
    objective: Objective, theta: Params, batch: TaskBatch, chunk: int | None, **settings: Any
) -> str | None:
    """What there is to say before a training whose meta-gradient will not fit its device; None where it will.

    A peak grows with tasks and steps at most in proportion, so one task and one step, counted, bound it. Only what
    could be too large by that bound is predicted. Nothing is said where the free memory, or the cost, is not known.
    """

    def peak(chunk: int | None = chunk, **other: Any) -> int:
        return _predicted(objective, theta, batch, chunk, **(settings | other)).peak

    if (free := free_memory(next(iter(theta.values())).device)) is None:
        return None
    try:
        bound = _counted(objective, theta, batch, 1, 1, **settings).peak * batch.size * max(settings["steps"], 1)
        if bound <= free or (found := peak()) <= free:
            return None
        flat = "flat" if checks.stacked(settings["route"]) else "flat-loop"
        fewer = max(1, int(0.9 * free / found * (chunk or batch.size)))
        ways = {f'route="{flat}"': peak(route=flat), "order=1": peak(order=1), f"chunk={fewer}": peak(fewer)}
    except Exception:  # a training runs, whether or not its cost can be predicted
        return None
    less = "".join(f"{way} takes {size(taken)}, " for way, taken in ways.items() if taken < 0.9 * found)
    return (
        f"an iteration needs about {size(found)} at its peak, and {size(free)} are free: it may not fit. "
        f"Here {less}and fewer tasks or inner steps take less (mk.cost says how much)"
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU or, where Linux says so, in main memory; None where it is not known."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return kept + torch.cuda.mem_get_info(device)[0]
    known = Path("/proc/meminfo")
    text = known.read_text() if device.type == "cpu" and known.exists() else ""
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return 1024 * int(found[1]) if found else None


def size(count: int) -> str:
    """Bytes in words: 1.2 GB."""
    power = next((power for power in (4, 3, 2, 1) if count >= 1000**power), 0)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _predicted(objective: Objective, theta: Params, batch: TaskBatch, chunk: int | None, **settings: Any) -> Cost:
    at_once = min(chunk or batch.size, batch.size)
    full, rest = divmod(batch.size, at_once)
    stacked, by_steps = checks.stacked(settings["route"]), _line(settings["steps"])
    few = {1, min(2, batch.size), *_line(at_once)}
    runs = {(n, k): _counted(objective, theta, batch, n, k, **settings) for n in few for k in by_steps}

    def at(tasks: int, what: str) -> int:
        """What so many tasks at once take, on the lines through what a few of them and a few steps take."""
        pairs = [(n, k, here * there) for n, here in _line(tasks).items() for k, there in by_steps.items()]
        return sum(weight * int(getattr(runs[n, k], what)) for n, k, weight in pairs)

    gradients = [weight.nbytes for weight in (*theta.values(), *checks.learned(settings["alpha"]).values())]
    # What is held of each chunk and, one task at a time, of each task, until `averaged` takes the mean.
    held = full + bool(rest) + (0 if stacked else at_once - 1)
    one = at(at_once if stacked else 1, "peak")
    each = max(sum(gradients), 0 if stacked else at(min(2, batch.size), "peak") - one)
    mean = (held + 1) * sum(gradients) + 2 * held * max(gradients)
    return Cost(
        peak=max(one + (held - 1) * each, mean if held > 1 else 0),
        theta=sum(weight.nbytes for weight in theta.values()),
        data=sum(part.nbytes for part in tree_leaves(tuple(batch))),
        flops=batch.size * at(1, "flops"),  # for many at once, PyTorch's formulas count grouped convolutions wrongly
        calls=full * at(at_once, "calls") + (at(rest, "calls") if rest else 0),
    )


def _line(count: int) -> Mapping[int, int]:
    """What to measure, each with its weight on the line through it that is read off at `count`."""
    return {count: 1} if count <= 3 else {2: 3 - count, 3: count - 2}


def _counted(
    objective: Objective, theta: Params, batch: TaskBatch, tasks: int, few: int, *, alpha: Alpha, **settings: Any
) -> Count:
    """A meta-gradient of the first tasks and of the first few steps, counted."""
    theta = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
    inner = InnerLoop(step_sizes(alpha, theta, settings["steps"])[:few], settings["order"], settings["rule"])
    route, part = ROUTES.get(settings["route"], ROUTES["vmap"]), next(batch.chunks(tasks))  # what a replay repeats
    count = Count()
    with torch.enable_grad(), count:
        route(objective, theta, part, inner, checks.learned(alpha))
    return count


class Count(TorchDispatchMode):
    """Counts what runs within it, below autograd and vmap.

    now, peak     bytes of the storages that were made within and live: now, and at most
    flops, calls  as in `Cost`
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.flops = self.calls = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.calls += 1
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=out)
        given = {part.untyped_storage().data_ptr() for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        for storage in (part.untyped_storage() for part in tree_leaves(out) if isinstance(part, Tensor)):
            place, length = storage.data_ptr(), storage.nbytes()
            if place not in given | self.alive:  # neither a view of what was there before nor counted already
                self.alive.add(place)
                self.now += length
                weakref.finalize(storage, self._drop, place, length)
        self.peak = max(self.peak, self.now)
        return out

    def _drop(self, place: int, length: int) -> None:
        self.alive.discard(place)
        self.now -= length
