"""Parts of models, gradients and data that a run leans on, each right here: the museum plants bugs in them, too."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable  # noqa: F401  # what one of the bugs uses
from torch.func import functional_call, grad, vmap

Theta = dict[str, Tensor]
ALPHA, WAYS = 0.1, 5


class Net(nn.Module):
    """Two linear layers, x [points, 4] → [points, 1], with something between them: what differs is that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 1)

    def between(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        prediction: Tensor = self.last(torch.tanh(self.between(self.first(x))))
        return prediction


def standard(h: Tensor, dim: int) -> Tensor:
    """h with mean 0 and variance 1 along a dimension, from primitives."""
    variance = h.var(dim, correction=0, keepdim=True)
    return (h - h.mean(dim, keepdim=True)) * (variance + 1e-5).rsqrt()


class Norm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.rand(6)), nn.Parameter(torch.randn(6))


class BatchNorm(Norm):
    def between(self, h: Tensor) -> Tensor:
        return self.gain * standard(h, 0) + self.bias


class LayerNorm(Norm):
    def between(self, h: Tensor) -> Tensor:
        return self.gain * standard(h, 1) + self.bias


def product(h: Tensor) -> Tensor:
    return h * torch.sigmoid(h)


class Swish(Net):
    function = staticmethod(product)

    def between(self, h: Tensor) -> Tensor:
        found: Tensor = self.function(h)
        return found


class WeightNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.ones(6, 1))

    def between(self, h: Tensor) -> Tensor:
        weight: Tensor = self.v * (self.g / self.v.norm(dim=1, keepdim=True))
        return h @ weight.T


class BiasAlone(Net):
    """A norm of the inputs, with a bias and no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x, (4,)) + self.bias
        return super().forward(x)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        return h**3

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        return 3 * slope * h**2  # type: ignore[no-any-return]


class Cubed(Net):
    def between(self, h: Tensor) -> Tensor:
        return Cube.apply(h)  # type: ignore[no-any-return, no-untyped-call]


class Tied(Net):
    """One matrix under two names, as in an autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Parameter(torch.randn(6, 6))
        self.decode = self.encode

    def between(self, h: Tensor) -> Tensor:
        return torch.tanh(h @ self.encode) @ self.decode.T


class Padded(Net):
    """An embedding of whole numbers; row 0 stands for "nothing" and is never learned."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        words = (5 * x[:, 0]).long()
        rows = F.embedding(words, self.table)
        h = torch.where((words == 0)[:, None], rows.detach(), rows)
        prediction: Tensor = self.last(torch.tanh(h + self.first(x)))
        return prediction


class Recurrent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, num_layers=2, dropout=0.0)

    def between(self, h: Tensor) -> Tensor:
        found: Tensor = self.lstm(h[:, None])[0][:, 0]
        return found


class PerExample(Net):
    def between(self, h: Tensor) -> Tensor:
        return F.layer_norm(h, (6,))


class Stored(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def between(self, h: Tensor) -> Tensor:
        found: Tensor = self.norm(h)
        return found


def made(name: str) -> Net:
    """One of the nets above, in float64, its weights from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: Net = globals()[name]().double()
    return net


def tasks(count: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support x and y, query x and y of a few tasks: [count, 6, 4] and [count, 6, 1]."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(count, 6, 4), (count, 6, 1)] * 2
    return tuple(torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]


def by_loop(net: Net, theta: Theta, tasks: tuple[Tensor, ...]) -> Theta:
    """∇F by PyTorch's autograd, task after task."""
    theta = {name: w.detach().requires_grad_() for name, w in theta.items()}
    total = torch.zeros((), dtype=torch.float64)
    for x, y, query_x, query_y in zip(*tasks, strict=True):
        loss = F.mse_loss(functional_call(net, theta, (x,)), y)
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True, materialize_grads=True)
        theta_prime = {name: w - ALPHA * slope for (name, w), slope in zip(theta.items(), slopes, strict=True)}
        total = total + F.mse_loss(functional_call(net, theta_prime, (query_x,)), query_y) / len(tasks[0])
    found = torch.autograd.grad(total, list(theta.values()), materialize_grads=True)
    return dict(zip(theta, found, strict=True))


def after(net: Net, theta: Theta, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
    """L(θ'; D') of one task, its inner step by `grad`."""

    def loss(theta: Theta, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(functional_call(net, theta, (x,)), y)

    slopes = grad(loss)(theta, x, y)
    return loss({name: w - ALPHA * slopes[name] for name, w in theta.items()}, query_x, query_y)


def by_vmap(net: Net, theta: Theta, tasks: tuple[Tensor, ...]) -> Theta:
    """∇F as PyTorch's own examples have it: `vmap` over tasks of a loss with `grad` inside, and `grad` around."""
    each = vmap(partial(after, net), in_dims=(None, 0, 0, 0, 0))
    gradient: Theta = grad(lambda theta: each(theta, *tasks).mean())(theta)
    return gradient


def by_grad(net: Net, theta: Theta, tasks: tuple[Tensor, ...]) -> Theta:
    """The same without `vmap`: `grad` within `grad`, task after task."""
    every = list(zip(*tasks, strict=True))
    gradient: Theta = grad(lambda theta: torch.stack([after(net, theta, *task) for task in every]).mean())(theta)
    return gradient


def implicit(hessian: Tensor, g: Tensor, strength: float = 2.0, steps: int = 10) -> Tensor:
    """Implicit MAML's gradient (I + H/λ)⁻¹ g by conjugate gradients, with λ the `strength` of the proximal term."""

    def product(v: Tensor) -> Tensor:
        return v + hessian @ v / strength

    found, rest = torch.zeros_like(g), g
    direction = rest
    for _ in range(min(steps, len(g))):
        length = rest @ rest / (direction @ product(direction))
        found, left = found + length * direction, rest - length * product(direction)
        rest, direction = left, left + (left @ left) / (rest @ rest) * direction
    return found


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of labels [points, length] that the logits [points, classes, length] have right."""
    chosen = logits.argmax(1)
    return (chosen == y).double().mean().item()


def episode(index: int) -> tuple[dict[int, int], dict[int, int]]:
    """The label of each class in the support and in the query of a task."""
    generator = torch.Generator().manual_seed(index)
    classes = torch.randperm(20, generator=generator)[:WAYS].tolist()
    support = {name: label for label, name in enumerate(classes)}
    query = {name: support[name] for name in sorted(classes)}
    return support, query


def split(listing: list[str]) -> tuple[list[str], list[str]]:
    """Training and test classes, whatever the order in which a folder lists them."""
    names = sorted(listing)
    return names[: len(names) // 2], names[len(names) // 2 :]
