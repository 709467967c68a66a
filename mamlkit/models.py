"""Models: plain nn.Modules, with weights drawn from a seed and never from the global random state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


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


def conv4(
    ways: int,
    *,
    filters: int = 64,
    norm: str = "batch",
    downsample: str = "pool",
    channels: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Four 3×3 convolutions and a linear head; x [images, channels, height, width] → logits [images, ways].

    filters     channels of each convolution: 64 for Omniglot in Finn et al. (2017), 32 for miniImagenet
    norm        "batch", "layer", "group" (4 groups), "instance" or "none", between convolution and ReLU
    downsample  "stride": convolutions of stride 2, the paper's Omniglot recipe; "pool": 2×2 max pooling after each
                ReLU, its miniImagenet recipe. What is left of the image is averaged before the head

    Convolutions keep the size ("same" padding), so an image needs 16 × 16 pixels or more to be pooled four times.
    Batch norm keeps no running statistics: `Objective.batch_norm` says whose it uses. Lives on the CPU.
    """
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; it must be one of {', '.join(NORMS)}")
    if downsample not in ("pool", "stride"):
        raise ValueError(f'downsample is {downsample!r}; it must be "pool" or "stride"')
    if filters < 1:
        raise ValueError(f"{filters} filters were asked for; a convolution needs 1 or more")
    if norm == "group" and filters % 4:
        raise ValueError(f"{filters} filters do not divide into the 4 groups of the group norm")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in in (channels, filters, filters, filters):
        block: list[nn.Module] = [_convolution(fan_in, filters, 1 + (downsample == "stride"), generator, dtype)]
        block += NORMS[norm](filters, dtype) + [nn.ReLU()] + [nn.MaxPool2d(2)] * (downsample == "pool")
        layers.append(nn.Sequential(*block))
    return nn.Sequential(*layers, _Average(), _linear(filters, ways, generator, dtype))


# A layer norm over channels and pixels is a group norm of one group; over a channel's pixels, an instance norm.
NORMS: dict[str, Callable[[int, torch.dtype], list[nn.Module]]] = {
    "batch": lambda filters, dtype: [nn.BatchNorm2d(filters, track_running_stats=False, device="cpu", dtype=dtype)],
    "layer": lambda filters, dtype: [nn.GroupNorm(1, filters, device="cpu", dtype=dtype)],
    "group": lambda filters, dtype: [nn.GroupNorm(4, filters, device="cpu", dtype=dtype)],
    "instance": lambda filters, dtype: [nn.InstanceNorm2d(filters, affine=True, device="cpu", dtype=dtype)],
    "none": lambda filters, dtype: [],
}


class _Average(nn.Module):
    """The mean over what is left of the image: [images, channels, height, width] → [images, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _convolution(fan_in: int, filters: int, stride: int, generator: torch.Generator, dtype: torch.dtype) -> nn.Conv2d:
    layer: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d, fan_in, filters, 3, stride=stride, padding=1, device="cpu", dtype=dtype
    )
    return _drawn(layer, 9 * fan_in, generator)


def _linear(fan_in: int, fan_out: int, generator: torch.Generator, dtype: torch.dtype) -> nn.Linear:
    if fan_in < 1 or fan_out < 1:
        raise ValueError(f"a layer of {fan_in} inputs and {fan_out} outputs was asked for; both must be 1 or more")
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, device="cpu", dtype=dtype)
    return _drawn(layer, fan_in, generator)


def _drawn(layer: Layer, fan_in: int, generator: torch.Generator) -> Layer:
    """The layer with its parameters drawn by PyTorch's law, uniform in ±1/√fan_in, from the generator.

    It comes from skip_init, so that its constructor has drawn nothing from the global random state.
    """
    bound = 1 / math.sqrt(fan_in)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer
