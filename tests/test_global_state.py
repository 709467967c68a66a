"""The kit neither reads nor sets global state, and says where its tensors live."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracles import flat, mse

import mamlkit as mk
from mamlkit.meta import ROUTES, unchecked


def everything() -> torch.Tensor:
    """Tasks, model, adaptation, meta-gradients, training and evaluation: θ and losses in one vector."""
    tasks = mk.Sinusoids(shots=4, queries=4, noise=0.1)
    objective = mk.Objective(mk.models.mlp(1, 1, hidden=(5,)), mse)
    quadratic = mk.Quadratics(noise=0.1).batch(0, 3)
    adapted = mk.adapt(objective, objective.theta(), tasks.batch(0, 1).task(0).support, alpha=0.1, steps=2)
    gradients = [
        mk.meta_gradient(objective, objective.theta(), tasks.batch(0, 3), alpha=0.1, order=order, route=route).grad
        for order in (1, 2)
        for route in ("loop", "vmap")
    ]
    list(mk.train(objective, tasks, alpha=0.1, beta=0.01, iterations=3, progress=False))
    curve = mk.evaluate(objective, objective.theta(), tasks, alpha=0.1, steps=2, split="test", size=4)
    parts = [
        quadratic.support.y.float(),
        flat(adapted),
        *map(flat, gradients),
        flat(objective.theta()),
        curve.half_width(),
    ]
    return torch.cat([part.reshape(-1) for part in parts])


def test_global_random_state_is_neither_read_nor_set() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index] # noqa: NPY002
    first = everything()
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index] # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(2)
    assert torch.equal(everything(), first)


def test_no_tensor_is_made_on_the_default_device() -> None:
    """Under a default device of "meta", a tensor made without a device would have no values, and any use would fail."""
    wanted = everything()
    with torch.device("meta"):
        found = everything()
    assert found.device.type == "cpu"
    assert torch.equal(found, wanted)


def test_default_dtype_does_not_matter() -> None:
    wanted = everything()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(everything(), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_everything_runs_on_tensors_without_values() -> None:
    """Shapes and devices alone: on "meta" tensors any mixture of devices in the computation is an error."""
    model = mk.models.mlp(1, 1).to("meta")
    objective = mk.Objective(model, mse)
    theta = objective.theta()
    batch = mk.Sinusoids().batch(0, 3).to("meta")

    for route in ROUTES:
        rule = mk.InnerRule(lambda theta: theta, lambda theta, gradient, alpha, state: (gradient, state))
        result = unchecked(objective, theta, batch, alpha=0.1, steps=2, order=2, route=route, rule=rule)
        assert {g.device.type for g in result.grad.values()} == {"meta"}
        assert result.loss.shape == (3,)


def test_device_names() -> None:
    assert mk.device("cpu") == torch.device("cpu")
    assert mk.device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "meta", "xla"):
        with pytest.raises(ValueError, match=f'device is {name!r}; it must be "auto", "cpu", "cuda" or "cuda:N"'):
            mk.device(name)
    with pytest.raises(RuntimeError, match=r"'mps:7' but this machine offers \d MPS devices"):
        mk.device("mps:7")
    with pytest.raises(RuntimeError, match="'cuda:99' but this machine offers"):
        mk.device("cuda:99")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("route", ["loop", "vmap"])
def test_cpu_and_cuda_agree_in_float64(route: str, order: int) -> None:
    tasks = mk.Sinusoids(dtype=torch.float64)
    results = {}
    for place in ("cpu", "cuda"):
        objective = mk.Objective(mk.models.mlp(1, 1, dtype=torch.float64).to(mk.device(place)), mse)
        batch = tasks.batch(0, 25).to(place)
        result = mk.meta_gradient(objective, objective.theta(), batch, alpha=0.01, steps=3, order=order, route=route)
        assert {g.device.type for g in result.grad.values()} == {place}
        list(mk.train(objective, tasks, alpha=0.01, beta=1e-3, iterations=5, order=order, route=route, progress=False))
        curve = mk.evaluate(objective, objective.theta(), tasks, alpha=0.01, steps=3, split="test", size=50)
        results[place] = torch.cat([flat(result.grad), flat(objective.theta()), curve.mean()]).cpu()
    assert torch.allclose(results["cpu"], results["cuda"], atol=1e-10, rtol=1e-9)


# The bits of products, convolutions and second-order gradients in float32, and of a short training.
PROBE = """
import hashlib, sys
import torch
import torch.nn.functional as F
import mamlkit as mk

if "early" in sys.argv:
    mk.reference_numerics()
x = torch.linspace(-1, 1, 300 * 300).reshape(300, 300)
found = [x @ x.sin()]
if "late" in sys.argv:
    mk.reference_numerics()
images = torch.linspace(-1, 1, 2 * 10 * 28 * 28).sin().reshape(2, 10, 1, 28, 28)
tasks = mk.TaskBatch(*[mk.Batch(images, torch.arange(10).remainder(5).expand(2, 10))] * 2)
objective = mk.Objective(mk.models.conv4(5, filters=16, downsample="stride"), F.cross_entropy)
found += mk.meta_gradient(objective, objective.theta(), tasks, alpha=0.4).grad.values()
objective = mk.Objective(mk.models.mlp(1, 1), F.mse_loss)
list(mk.train(objective, mk.Sinusoids(), alpha=0.01, beta=0.001, iterations=50, progress=False))
found += objective.theta().values()
print(hashlib.sha256(b"".join(part.numpy().tobytes() for part in found)).hexdigest())
"""


def probed(threads: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-c", PROBE, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reference numerics are x86's")
def test_reference_numerics_give_the_same_bits_with_one_thread_and_with_two() -> None:
    one, two, free = probed("1", "early"), probed("2", "early"), probed("2")
    assert len(one.stdout.strip()) == 64, one.stderr
    assert one.stdout == two.stdout != free.stdout


def test_reference_numerics_are_refused_where_they_come_too_late() -> None:
    done = probed("1", "late")
    assert done.returncode
    assert "must be asked for before the first operation" in done.stderr
