"""Modules of every kind: right ones, ones that vmap cannot run, and ones that no number should come from."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
import torch.nn.utils as utils
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import mamlkit as mk
from mamlkit.museum.parts import Cube
from mamlkit.pure import Params

ALPHA, STEPS = 0.1, 2


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # deprecated, and still in many people's modules
    scripted_swish: Callable[[Tensor], Tensor] = torch.jit.script(swish)


class Functions(nn.Module):
    """Two linear layers with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 6), nn.Linear(6, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.function(self.first(x))))


class Padded(nn.Module):
    """An embedding with a padding row, which some of the inputs meet."""

    def __init__(self, padding: int, direct: bool = False) -> None:
        super().__init__()
        self.embedding, self.last, self.direct = nn.Embedding(5, 4, padding_idx=padding), nn.Linear(4, 1), direct
        nn.init.normal_(self.embedding.weight)

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x[:, 0].abs() * 5).long().clamp(max=4)
        if self.direct:
            found = torch.embedding(self.embedding.weight, tokens, self.embedding.padding_idx or 0)
        else:
            found = self.embedding(tokens)
        return cast(Tensor, self.last(torch.tanh(found)))


class TwoNames(nn.Module):
    """One parameter under two attributes of one module, and one under a name in another module."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Parameter(torch.randn(4, 4))
        self.decode = self.encode
        self.last = nn.Linear(4, 1)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.decode

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.other(torch.tanh(torch.tanh(x @ self.encode) @ self.decode.T))))


class Attention(nn.Module):
    """The points of a task attend to each other."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.last, self.kind = nn.Linear(4, 8), nn.Linear(8, 1), kind
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)[None]
        if self.kind == "function":
            return cast(Tensor, self.last(F.scaled_dot_product_attention(h, h, h)[0]))
        return cast(Tensor, self.last(self.encoder(h)[0]))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.recurrent, self.last = kind(4, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.recurrent(x[None])[0][0]))


class Middle(nn.Module):
    """A first and a last layer, and a function of the module and its input that says what is done with them."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 6), nn.Linear(6, 1), function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Hidden(nn.Module):
    """Two linear layers with something between them.

    keeps, ties  a part that a list holds as well; a parameter that also stands in the ParameterList `part`
    """

    def __init__(
        self,
        between: Callable[..., Tensor],
        part: nn.Module | None = None,
        buffers: dict[str, Tensor] | None = None,
        keeps: str = "",
        ties: str = "",
    ) -> None:
        super().__init__()
        self.first, self.last, self.between, self.part = nn.Linear(4, 6), nn.Linear(6, 1), between, part
        self.wants_module = not isinstance(between, nn.Module) and between.__code__.co_argcount == 2
        for name, buffer in (buffers or {}).items():
            self.register_buffer(name, buffer)
        self.kept = [getattr(self, keeps)] if keeps else []
        if ties:
            cast(nn.ParameterList, part).append(self.get_parameter(ties))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return cast(Tensor, self.last(torch.tanh(self.between(h, self) if self.wants_module else self.between(h))))


class Tokens(nn.Module):
    """An embedding of whole numbers made from the input."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding, self.last = embedding, nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(torch.tanh(self.embedding((x.abs() * 5).long().clamp(max=4)[:, 0]))))


def _zero_first(x: Tensor) -> Tensor:
    x[:, 0] = 0
    x.T.mul_(2)
    return x


def _moving_average(in_place: bool) -> Callable[[Tensor, Any], Tensor]:
    def between(h: Tensor, module: Any) -> Tensor:
        if in_place:
            module.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        else:
            module.mean = 0.9 * module.mean + 0.1 * h.detach().mean(0)
        return cast(Tensor, h - module.mean)

    return between


def _stored(norm: nn.BatchNorm1d) -> nn.Module:
    cast(Tensor, norm.running_mean).uniform_(-2, 2)
    cast(Tensor, norm.running_var).uniform_(0.2, 5)
    return norm.eval()


def _listed(parameter: nn.Parameter) -> nn.ParameterList:
    return nn.ParameterList([parameter])


def _hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, given, found: 2 * found)
    layer.register_forward_pre_hook(lambda module, given: (1.5 * given[0],))
    return layer


def _scripted(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return cast(nn.Module, torch.jit.script(layer))


def _slope(h: Tensor) -> Tensor:
    with torch.enable_grad():
        z = h if h.requires_grad else h.detach().requires_grad_()
        return torch.autograd.grad((z**3).sum(), z, create_graph=True)[0]


def _remembering() -> Callable[[Tensor], Tensor]:
    """Subtracts a moving average that it keeps to itself."""
    memory: list[Tensor] = []

    def between(h: Tensor) -> Tensor:
        now = h.detach().mean(0)
        memory[:] = [0.9 * memory[0] + 0.1 * now if memory else now]
        return h - memory[0]

    return between


def _counting() -> Callable[[Tensor], Tensor]:
    calls: list[None] = []

    def between(h: Tensor) -> Tensor:
        calls.append(None)
        return h * (1 + 0.01 * len(calls))

    return between


class Initialized(nn.Module):
    """Subtracts the mean of what it saw first."""

    mean: Tensor | None = None

    def forward(self, h: Tensor) -> Tensor:
        self.mean = h.detach().mean(0) if self.mean is None else self.mean
        return h - self.mean


def _constrained(h: Tensor, m: Any) -> Tensor:
    with torch.no_grad():
        m.first.weight.clamp_(-0.2, 0.2)
    return h


def _square() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.bias = nn.Parameter(torch.rand(6, 1))
    return layer


class OnceDifferentiable(Cube):
    backward = staticmethod(torch.autograd.function.once_differentiable(Cube.backward))  # type: ignore[assignment]


def _own_generator() -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda h: h + torch.randn(6, generator=generator, dtype=h.dtype)


def _unregistered() -> Callable[[Tensor], Tensor]:
    layer = nn.Linear(6, 6).double()
    return lambda h: cast(Tensor, layer(h))


def _aliased() -> nn.Module:
    model = Middle(lambda m, x: m.last(torch.tanh(x @ m.__dict__["alias"].T))).double()
    model.__dict__["alias"] = model.first.weight.data
    return model


def _bound() -> nn.Module:
    model = Middle(lambda m, x: m.last(torch.tanh(m.linear(x)))).double()
    model.__dict__["linear"] = functools.partial(F.linear, weight=model.first.weight, bias=model.first.bias)
    return model


def _in_a_list() -> nn.Module:
    model = Middle(lambda m, x: m.last(torch.tanh(x @ m.weights[0].T))).double()
    model.__dict__["weights"] = [model.first.weight]
    return model


DRAWS, DIFFERS = "draws random numbers: it has", "predicts differently in two equal passes"
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "functional dropout": (lambda: Hidden(lambda h: F.dropout(h, 0.5)), DRAWS),
    "feature alpha dropout": (lambda: Hidden(lambda h: F.feature_alpha_dropout(h, 0.5, training=True)), DRAWS),
    "dropout layer": (lambda: Hidden(nn.Dropout(0.1)), r"draws random numbers: .*dropout \(p = 0.1\) at between"),
    "attention's dropout": (
        lambda: Hidden(lambda h, m: m.part(h[None], h[None], h[None])[0][0], nn.MultiheadAttention(6, 2, dropout=0.5)),
        DRAWS,
    ),
    "RReLU": (lambda: Hidden(nn.RReLU()), DRAWS),
    "Gumbel softmax": (lambda: Hidden(F.gumbel_softmax), DRAWS),
    "noise": (lambda: Hidden(lambda h: h + 0.1 * torch.randn_like(h)), DRAWS),
    "a sampled latent": (lambda: Hidden(lambda h: torch.distributions.Normal(h, 1.0).rsample()), DRAWS),
    "a permutation": (lambda: Hidden(lambda h: h[:, torch.randperm(6)]), DRAWS),
    "a generator of its own": (lambda: Hidden(_own_generator()), DRAWS),
    "a generator that starts anew at each pass": (lambda: Hidden(lambda h: _own_generator()(h)), DRAWS),
    "Python's random": (lambda: Hidden(lambda h: h * (1 + 0.1 * random.random())), DIFFERS),
    "NumPy's random": (lambda: Hidden(lambda h: h + torch.from_numpy(np.random.default_rng().normal(size=6))), DIFFERS),
    "a count of its calls": (lambda: Hidden(_counting()), DIFFERS),
    "a memory of its own": (lambda: Hidden(_remembering()), DIFFERS),
    "a parameter in a list": (_in_a_list, "uses first.weight by another way"),
    "a parameter in a partial": (_bound, "uses first.weight by another way"),
    "a parameter's alias": (_aliased, "uses first.weight by another way"),
    "a layer that is not registered": (
        lambda: Hidden(_unregistered()),
        r"shape \(6, 6\) that requires a gradient and is not among its parameters",
    ),
    "a frozen parameter written": (
        lambda: Hidden(lambda h, m: h * m.part.weight.mul_(0.99)[0], nn.Linear(6, 1).requires_grad_(False)),
        "writes into part.weight",
    ),
    "a frozen parameter written as a result": (
        lambda: Hidden(
            lambda h, m: h * torch.clamp(m.part.weight, -0.2, 0.2, out=m.part.weight.data)[0],
            nn.Linear(6, 1).requires_grad_(False),
        ),
        "writes into part.weight",
    ),
    "its own parameter written": (lambda: Hidden(_constrained), "writes into first.weight"),
    "what it saw first": (lambda: Hidden(Initialized()), DIFFERS),
    "a Bessel function": (
        lambda: Hidden(lambda h: torch.special.bessel_j0(h)),
        "or its loss lacks a derivative: .*bessel_j0",
    ),
    "a Chebyshev polynomial": (
        lambda: Hidden(lambda h: torch.special.chebyshev_polynomial_t(h, 3)),
        "or its loss lacks a derivative: .*chebyshev_polynomial_t",
    ),
    "the fused weight norm": (
        lambda: Hidden(
            lambda h, m: h @ torch.ops.aten._weight_norm_interface(m.part.weight, m.part.bias)[0], _square()
        ),
        "or its loss lacks a derivative: .*_weight_norm_interface",
    ),
    "once_differentiable": (
        lambda: Hidden(
            lambda h: cast(Tensor, OnceDifferentiable.apply(h))  # type: ignore[no-untyped-call]
        ),
        "or its loss lacks a derivative that order=2",
    ),
    "a distance": (lambda: Hidden(lambda h: torch.cdist(h, h) @ h), "or its loss lacks a derivative.*_cdist_backward"),
}


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 1))


# What plain PyTorch gets wrong at second order (2.13), so that it is no oracle: finite differences are.
WRONG_IN_PYTORCH = ("weight norm", "with a bias alone")
RIGHT: dict[str, Callable[[], nn.Module]] = {
    "scripted function": lambda: Functions(scripted_swish),
    "torch.layer_norm": lambda: Functions(lambda h: torch.tanh(torch.layer_norm(h, (6,)))),
    "torch.group_norm": lambda: Functions(lambda h: torch.tanh(torch.group_norm(h, 2))),
    "torch.batch_norm": lambda: Functions(
        lambda h: torch.tanh(torch.batch_norm(h, None, None, None, None, True, 0.1, 1e-5, False))
    ),
    "torch.rms_norm": lambda: Functions(lambda h: torch.tanh(torch.rms_norm(h, (6,)))),
    "batch norm": lambda: normed(nn.BatchNorm1d(6, track_running_stats=False)),
    "layer norm": lambda: normed(nn.LayerNorm(6)),
    "instance norm": lambda: nn.Sequential(
        nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, affine=True), nn.Flatten(), nn.Linear(6, 1)
    ),
    "padding_idx": lambda: Padded(0),
    "padding_idx from the end": lambda: Padded(-2),
    "torch.embedding": lambda: Padded(0, direct=True),
    "one parameter, three names": TwoNames,
    "TransformerEncoderLayer": lambda: Attention("layer"),
    "TransformerEncoderLayer in evaluation mode": lambda: Attention("layer").eval(),
    "scaled_dot_product_attention": lambda: Attention("function"),
    "writes into its input": lambda: Middle(lambda m, x: m.last(m.first(x.sub_(0.5).div_(0.25)))),
    "writes into a view of its input": lambda: Middle(lambda m, x: m.last(m.first(_zero_first(x)))),
    "relu in place on its input": lambda: Middle(lambda m, x: m.last(torch.tanh(m.first(F.relu(x, inplace=True))))),
    "relu in place on a hidden layer": lambda: Hidden(lambda h: F.relu_(h)),
    "a buffer written in place": lambda: Hidden(_moving_average(True), buffers={"mean": torch.zeros(6)}),
    "a buffer assigned anew": lambda: Hidden(_moving_average(False), buffers={"mean": torch.zeros(6)}),
    "batch norm with running statistics": lambda: Hidden(nn.BatchNorm1d(6)),
    "batch norm with cumulative statistics": lambda: Hidden(nn.BatchNorm1d(6, momentum=None)),
    "batch norm by stored statistics": lambda: Hidden(_stored(nn.BatchNorm1d(6, eps=0.1))),
    "instance norm with running statistics": lambda: nn.Sequential(
        nn.Linear(4, 6),
        nn.Unflatten(1, (2, 3)),
        nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(6, 1),
    ),
    "PReLU": lambda: Hidden(nn.PReLU(6)),
    "bilinear": lambda: Hidden(lambda h, m: m.part(h, h), part=nn.Bilinear(6, 6, 6)),
    "one module used twice": lambda: Hidden(lambda h, m: m.first(torch.tanh(h)[:, :4])),
    "a module in a list as well": lambda: Hidden(lambda h, m: m.kept[0](torch.tanh(h)[:, :4]), keeps="first"),
    "one parameter in a ParameterList too": lambda: Hidden(
        lambda h, m: h * m.part[0] + m.part[1], part=_listed(nn.Parameter(torch.rand(6))), ties="first.bias"
    ),
    "weight norm": lambda: Hidden(parametrizations.weight_norm(nn.Linear(6, 6))),
    "weight norm, the old one": lambda: Hidden(utils.weight_norm(nn.Linear(6, 6))),
    "weight norm of all entries": lambda: Hidden(parametrizations.weight_norm(nn.Linear(6, 6), dim=-1)),
    "layer norm with a bias alone": lambda: Hidden(
        lambda h, m: F.layer_norm(h, (6,), None, m.part.bias), nn.LayerNorm(6)
    ),
    "torch.layer_norm with a bias alone": lambda: Hidden(
        lambda h, m: torch.layer_norm(h, (6,), bias=m.part.bias), nn.LayerNorm(6)
    ),
    "batch norm with a bias alone": lambda: Hidden(
        lambda h, m: F.batch_norm(h, None, None, None, m.part.bias, True), nn.BatchNorm1d(6, track_running_stats=False)
    ),
    "torch.batch_norm with a bias alone": lambda: Hidden(
        lambda h, m: torch.batch_norm(h, None, m.part.bias, None, None, True, 0.1, 1e-5, False),
        nn.BatchNorm1d(6, track_running_stats=False),
    ),
    "instance norm with a bias alone": lambda: Hidden(
        lambda h, m: F.instance_norm(h.view(-1, 2, 3), bias=m.part.bias).flatten(1), nn.InstanceNorm1d(2, affine=True)
    ),
    "orthogonal weights": lambda: Hidden(parametrizations.orthogonal(nn.Linear(6, 6))),
    "pruned weights": lambda: Hidden(prune.l1_unstructured(nn.Linear(6, 6), "weight", amount=0.3)),
    "MultiheadAttention without weights": lambda: Hidden(
        lambda h, m: m.part(h[None], h[None], h[None], need_weights=False)[0][0],
        part=nn.MultiheadAttention(6, 2, batch_first=True),
    ),
    "causal attention": lambda: Hidden(
        lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None], is_causal=True)[0]
    ),
    "an embedding that counts its rows": lambda: Tokens(nn.Embedding(5, 4, padding_idx=2, scale_grad_by_freq=True)),
    "a dropout at rest": lambda: Hidden(nn.Dropout(0.5).eval()),
    "a frozen layer": lambda: Hidden(nn.Linear(6, 6).requires_grad_(False)),
    "a part without gradient": lambda: Hidden(lambda h: h - h.detach().amax(1, keepdim=True)),
    "a Fourier transform": lambda: Hidden(lambda h: torch.fft.fft(h).abs()),
    "a forward hook": lambda: Hidden(_hooked(nn.Linear(6, 6))),
    "a scripted module": lambda: Hidden(_scripted(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))),
}
ONE_AT_A_TIME: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTMCell": lambda: Middle(lambda m, x: m.last(m.part(x)[0]), part=nn.LSTMCell(4, 6)),
    "spectral norm": lambda: Hidden(parametrizations.spectral_norm(nn.Linear(6, 6))),
    "a branch on a value": lambda: Hidden(lambda h: h if h.mean() > 0 else -h),
    "a number taken out": lambda: Hidden(lambda h: h * h.mean().item()),
    "a gradient inside": lambda: Hidden(_slope),
    "recomputation": lambda: Hidden(lambda h: checkpoint(lambda h: torch.tanh(h) * 2, h, use_reentrant=False)),
}


def made(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().double()


def data(tasks: int = 3, seed: int = 1) -> mk.TaskBatch:
    generator = torch.Generator().manual_seed(seed)

    def part() -> mk.Batch:
        x = torch.rand(tasks, 6, 4, dtype=torch.float64, generator=generator)
        return mk.Batch(x, torch.randn(tasks, 6, 1, dtype=torch.float64, generator=generator))

    return mk.TaskBatch(part(), part())


def by_hand(model: nn.Module, batch: mk.TaskBatch, loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss) -> Params:
    """The meta-gradient written out: the module itself, functional_call, and nested autograd, task after task.

    Each pass has a copy of its input and of the module's buffers.
    """
    theta: Params = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}

    def value(theta: Params, x: Tensor, y: Tensor) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return loss(functional_call(model, {**theta, **buffers}, (x.clone(),)), y)

    total = torch.zeros((), dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        for support, query in map(batch.task, range(batch.size)):
            adapted = theta
            for _ in range(STEPS):
                gradient = torch.autograd.grad(
                    value(adapted, *support), list(adapted.values()), create_graph=True, materialize_grads=True
                )
                adapted = {n: w - ALPHA * g for (n, w), g in zip(adapted.items(), gradient, strict=True)}
            total = total + value(adapted, *query) / batch.size
        found = torch.autograd.grad(total, list(theta.values()), materialize_grads=True)
    return dict(zip(theta, found, strict=True))
