"""Modules of every kind, unchanged: their second-order meta-gradients against plain PyTorch, task after task."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from oracles import flat, relative_error
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import mamlkit as mk
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


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 1))


MODULES: dict[str, Callable[[], nn.Module]] = {
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
}
ONE_AT_A_TIME: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
}


def made(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().double()


def data(tasks: int = 3) -> mk.TaskBatch:
    generator = torch.Generator().manual_seed(1)

    def part() -> mk.Batch:
        x = torch.rand(tasks, 6, 4, dtype=torch.float64, generator=generator)
        return mk.Batch(x, torch.randn(tasks, 6, 1, dtype=torch.float64, generator=generator))

    return mk.TaskBatch(part(), part())


def by_hand(model: nn.Module, batch: mk.TaskBatch) -> Params:
    """The meta-gradient written out: the module itself, functional_call, and nested autograd, task after task."""
    theta: Params = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def loss(theta: Params, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(functional_call(model, theta, (x,)), y)

    total = torch.zeros((), dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        for support, query in map(batch.task, range(batch.size)):
            adapted = theta
            for _ in range(STEPS):
                gradient = torch.autograd.grad(
                    loss(adapted, *support), list(adapted.values()), create_graph=True, materialize_grads=True
                )
                adapted = {n: w - ALPHA * g for (n, w), g in zip(adapted.items(), gradient, strict=True)}
            total = total + loss(adapted, *query) / batch.size
        found = torch.autograd.grad(total, list(theta.values()), materialize_grads=True)
    return dict(zip(theta, found, strict=True))


@pytest.mark.parametrize("route", ["loop", "vmap"])
@pytest.mark.parametrize("name", MODULES)
def test_the_second_order_meta_gradient_is_that_of_plain_pytorch(name: str, route: str) -> None:
    model, batch = made(MODULES[name]), data()
    objective = mk.Objective(model, F.mse_loss)
    found = mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, steps=STEPS, route=route)
    assert relative_error(flat(found.grad), flat(by_hand(model, batch))) <= 1e-9


def test_a_padding_row_has_no_gradient_and_stays_in_training() -> None:
    model = made(MODULES["padding_idx"])
    row = model.get_parameter("embedding.weight")[0].detach().clone()
    objective, batch = mk.Objective(model, F.mse_loss), data()

    class Fixed:
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            return batch

    for route in ("loop", "vmap"):
        for order in (1, 2):
            grad = mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, order=order, route=route).grad
            assert torch.equal(grad["embedding.weight"][0], torch.zeros(4, dtype=torch.float64))
        list(mk.train(objective, Fixed(), alpha=ALPHA, beta=0.1, iterations=3, route=route, progress=False))
    assert torch.equal(model.get_parameter("embedding.weight")[0], row)


@pytest.mark.parametrize("name", ONE_AT_A_TIME)
def test_a_recurrent_network_is_right_one_task_at_a_time_and_otherwise_told_so(name: str) -> None:
    model, batch = made(ONE_AT_A_TIME[name]), data()
    objective = mk.Objective(model, F.mse_loss)
    theta = objective.theta()
    found = mk.meta_gradient(objective, theta, batch, alpha=ALPHA, steps=STEPS, route="loop")
    assert relative_error(flat(found.grad), flat(by_hand(model, batch))) <= 1e-9
    with pytest.raises(ValueError, match=r'vmap cannot run Recurrent.*use route="loop"'):
        mk.meta_gradient(objective, theta, batch, alpha=ALPHA)


def test_an_embedding_that_writes_into_its_weights_is_refused() -> None:
    objective = mk.Objective(made(lambda: nn.Sequential(nn.Embedding(5, 1, max_norm=1.0))), F.mse_loss)
    with pytest.raises(ValueError, match=r"embedding with max_norm = 1\.0"):
        objective.predict(objective.theta(), torch.zeros(3, dtype=torch.long))


def test_a_prediction_that_is_no_tensor_is_refused_with_what_to_do() -> None:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    objective = mk.Objective(made(lambda: Pair(4, 1)), F.mse_loss)
    with pytest.raises(TypeError, match="Pair returned a tuple; its forward must return a tensor"):
        mk.adapt(objective, objective.theta(), data().task(0).support, alpha=ALPHA)


@pytest.mark.parametrize("name", ["scripted function", "torch.layer_norm", "batch norm", "one parameter, three names"])
def test_torch_func_grad_and_jacrev_of_adapt_are_right(name: str) -> None:
    model, (support, query) = made(MODULES[name]), data(1).task(0)
    objective = mk.Objective(model, F.mse_loss)
    theta = objective.theta()

    def outer(theta: Params) -> Tensor:
        return objective(mk.adapt(objective, theta, support, alpha=ALPHA, steps=STEPS), *query)

    assert relative_error(flat(torch.func.grad(outer)(theta)), flat(by_hand(model, data(1)))) <= 1e-9
    leaves = {n: w.clone().requires_grad_() for n, w in theta.items()}
    moved = flat(mk.adapt(objective, leaves, support, alpha=ALPHA))
    wanted = [
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(m, list(leaves.values()), retain_graph=True, materialize_grads=True)
            ]
        )
        for m in moved
    ]
    jacobian = torch.func.jacrev(lambda theta: flat(mk.adapt(objective, theta, support, alpha=ALPHA)))(theta)
    found = torch.cat([jacobian[n].reshape(len(moved), -1) for n in theta], 1)
    assert torch.allclose(found, torch.stack(wanted), atol=1e-12, rtol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's own forward mode uses it
@pytest.mark.parametrize("transform", ["vmap", "jvp", "jacfwd", "hessian", "vmap of grad"])
def test_transforms_through_which_adapt_would_be_wrong_are_refused(transform: str) -> None:
    objective = mk.Objective(made(MODULES["batch norm"]), F.mse_loss)
    theta, (support, query) = objective.theta(), data(1).task(0)

    def outer(theta: Params) -> Tensor:
        return objective(mk.adapt(objective, theta, support, alpha=ALPHA), *query)

    many = {n: w[None] for n, w in theta.items()}
    calls: dict[str, Callable[[], object]] = {
        "vmap": lambda: torch.func.vmap(outer)(many),
        "jvp": lambda: torch.func.jvp(outer, (theta,), (theta,)),
        "jacfwd": lambda: torch.func.jacfwd(outer)(theta),
        "hessian": lambda: torch.func.hessian(outer)(theta),
        "vmap of grad": lambda: torch.func.vmap(torch.func.grad(outer))(many),
    }
    with pytest.raises(ValueError, match=r"inside torch\.func\.vmap.*mk\.meta_gradient"):
        calls[transform]()
