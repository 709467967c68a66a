"""Models: plain nn.Modules, with weights drawn from a seed and never from the global random state."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn


def mlp(
    inputs: int, outputs: int, *, hidden: tuple[int, ...] = (40, 40), seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """A multilayer perceptron with ReLU between its linear layers; x [points, inputs] → [points, outputs].

    The default is the network of Finn et al. (2017), section 5.1. Weights and biases follow PyTorch's own law,
    uniform in ±1/√(inputs of the layer), where the paper's code starts from a truncated normal of σ = 0.01.
    Lives on the CPU; move it with `.to`.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise((inputs, *hidden, outputs)):
        layers += [_linear(fan_in, fan_out, generator, dtype), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _linear(fan_in: int, fan_out: int, generator: torch.Generator, dtype: torch.dtype) -> nn.Linear:
    if fan_in < 1 or fan_out < 1:
        raise ValueError(f"a layer of {fan_in} inputs and {fan_out} outputs was asked for; both must be 1 or more")
    # skip_init leaves the weights unset, so that the module's constructor draws nothing from the global random state.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, device="cpu", dtype=dtype)
    bound = 1 / math.sqrt(fan_in)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer
