"""Where a meta-gradient of Conv4 spends its time, and the least that it can take; about half a minute, on one thread.

    python tests/benchmarks/conv4_floor.py

Prints milliseconds a task (64 filters, 5-way 1-shot, 25 queries, second order, one step, route "vmap"): of the whole,
of each kind of operation in it, and of its matrix products alone at the rate of this processor's largest ones. Then
both ways to convolve each task's images with its own filters, derivatives included: grouped, as PyTorch's vmap does,
and as one matrix product of unfolded patches.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import bench
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import mamlkit as mk

CASE = bench.Case("conv4", 1, tasks=4, points=5, problem="conv4")
KINDS = {
    "convolutions": ("convolution",),
    "batch norm": ("batch_norm",),
    "copies": ("copy_", "clone", "cat", "stack"),
    "elementwise": ("mul", "add", "sub", "clamp", "threshold", "div", "where", "neg", "rsqrt", "pow", "sum", "mean"),
}


def milliseconds(function: Callable[[], object], repeats: int = 20) -> float:
    """The least time of a call."""
    function()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def grouped(x: Tensor, weight: Tensor) -> Tensor:
    """Images [tasks, points, channels, height, width] by filters [tasks, filters, channels, 3, 3], stride 2."""
    tasks, points, channels, *size = x.shape
    flat = x.transpose(0, 1).reshape(points, tasks * channels, *size)
    y: Tensor = F.conv2d(flat, weight.flatten(0, 1), stride=2, padding=1, groups=tasks)
    return y.reshape(points, tasks, -1, *y.shape[2:]).transpose(0, 1)


def unfolded(x: Tensor, weight: Tensor) -> Tensor:
    """The same."""
    tasks, points, _, height, _ = x.shape
    out = (height - 1) // 2 + 1
    patches = F.pad(x, (1, 1, 1, 1)).unfold(3, 3, 2).unfold(4, 3, 2)  # [tasks, points, channels, out, out, 3, 3]
    rows = patches.permute(0, 1, 3, 4, 2, 5, 6).reshape(tasks, points * out * out, -1)
    y = torch.bmm(rows, weight.flatten(2).mT)
    return y.reshape(tasks, points, out, out, -1).permute(0, 1, 4, 2, 3)


def twice_derived(convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """What a second-order step takes of a convolution: its value, its gradient, and the derivative of that."""
    x, weight = x.requires_grad_(), weight.requires_grad_()
    slopes = torch.autograd.grad(convolve(x, weight).square().sum(), (x, weight), create_graph=True)
    return torch.autograd.grad(slopes[0].square().sum() + slopes[1].square().sum(), (x, weight))


def main() -> None:
    """Print what the module's docstring says."""
    torch.set_num_threads(1)
    made = CASE.made(2)
    objective = mk.Objective(made.model, made.loss)
    alpha = made.one_alpha()
    gradient = partial(mk.meta_gradient, objective, objective.theta(), made.batch, alpha=alpha)
    flops = mk.cost(objective, made.batch, alpha=alpha).flops / CASE.tasks
    square = torch.rand(1024, 1024)
    rate = 2 * 1024**3 / milliseconds(partial(torch.mm, square, square)) * 1000
    whole = milliseconds(gradient) / CASE.tasks
    print(f"whole                {whole:7.1f} ms a task")
    print(f"at the highest rate  {1000 * flops / rate:7.1f} ms: {flops:.3g} operations at {rate / 1e9:.0f} GFLOP/s")

    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        gradient()
    shares: Counter[str] = Counter()
    for event in recorded.key_averages():
        kinds = [kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)]
        shares[(kinds or ["all else"])[0]] += event.self_cpu_time_total
    for kind, share in shares.most_common():
        print(f"  {kind:18} {share / shares.total():6.0%}")

    print("a layer of four tasks, its first two derivatives    grouped   unfolded")
    for points, channels, height in ((25, 1, 28), (25, 64, 14), (5, 64, 14), (25, 64, 7)):
        x, weight = torch.randn(4, points, channels, height, height), torch.randn(4, 64, channels, 3, 3)
        assert torch.allclose(grouped(x, weight), unfolded(x, weight), rtol=1e-3, atol=1e-3)
        found = [milliseconds(partial(twice_derived, way, x, weight), 8) for way in (grouped, unfolded)]
        size = f"{points} images of {channels} × {height} × {height}"
        print(f"  {size:48} {found[0]:6.1f} ms {found[1]:7.1f} ms")


if __name__ == "__main__":
    main()
