"""A module run as a pure function: forward values unchanged, buffers untouched, dropout refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import mamlkit as mk
from mamlkit import pure


def _module(norm: nn.Module) -> nn.Sequential:
    norm = norm.double()
    with torch.no_grad():
        for i, parameter in enumerate(norm.parameters()):
            parameter.copy_(torch.linspace(0.5, 1.5 + i, parameter.numel(), dtype=torch.float64).view(parameter.shape))
        for name, buffer in norm.named_buffers():
            if buffer.ndim:  # statistics far from 0 and 1, so that none can stand for another
                ends = (-1.0, 2.0) if name == "running_mean" else (0.3, 4.0)
                buffer.copy_(torch.linspace(*ends, buffer.numel(), dtype=torch.float64))
    return nn.Sequential(norm)


NORMS_1D: list[nn.Module] = [
    nn.BatchNorm1d(6),
    nn.BatchNorm1d(6, eps=0.5),
    nn.BatchNorm1d(6, track_running_stats=False, affine=False),
    nn.LayerNorm(6, eps=0.5),
    nn.LayerNorm(6, bias=False),
    nn.GroupNorm(3, 6),
    nn.RMSNorm(6),
]
NORMS_2D: list[nn.Module] = [
    nn.BatchNorm2d(6),
    nn.InstanceNorm2d(6, eps=0.5),
    nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
    nn.GroupNorm(2, 6, eps=0.5),
    nn.LayerNorm([6, 3, 3]),
]
CASES = [(norm, (5, 6)) for norm in NORMS_1D] + [(norm, (5, 6, 3, 3)) for norm in NORMS_2D]


def _input(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("norm", "shape"), CASES, ids=lambda value: str(value))
def test_forward_values_are_pytorchs_to_rounding(norm: nn.Module, shape: tuple[int, ...], training: bool) -> None:
    module = _module(norm).train(training)
    x = _input(shape)
    found = pure.predict(module, dict(module.named_parameters()), x)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    wanted = functional_call(module, buffers, (x,))
    assert torch.allclose(found, wanted, atol=1e-13, rtol=1e-13)


def test_running_statistics_are_read_in_evaluation_mode_and_never_written() -> None:
    norm = nn.BatchNorm1d(6).double()
    assert norm.running_mean is not None
    norm.running_mean.fill_(2.0)
    x = _input((5, 6))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    trained = pure.predict(norm.train(), {}, x)
    evaluated = pure.predict(norm.eval(), {}, x)
    assert torch.allclose(trained.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(evaluated, (x - 2) / (1 + norm.eps) ** 0.5)
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())


def test_the_replacement_is_gone_after_the_call() -> None:
    norm = nn.BatchNorm1d(6).double()
    pure.predict(norm, {}, _input((5, 6)))
    norm(_input((5, 6)))
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 1


class _Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


@pytest.mark.parametrize("module", [nn.Dropout(0.3), nn.Dropout1d(0.3), nn.AlphaDropout(0.3)], ids=repr)
def test_an_active_dropout_is_refused(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"active dropout \(p = 0\.\d\).*model\.eval\(\)"):
        pure.predict(module, {}, _input((5, 6, 3)))


class _Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            self.lstm = nn.LSTM(3, 3, num_layers=2, dropout=0.5).double()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.lstm(x)[0])


class _Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            self.attention = nn.MultiheadAttention(3, 1, dropout=0.5).double()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.attention(x, x, x)[0])


@pytest.mark.parametrize("module", [_Functional(), _Noisy(), _Recurrent(), _Attentive(), nn.RReLU()], ids=repr)
def test_randomness_of_any_layer_is_refused_and_the_generator_left_as_it_was(module: nn.Module) -> None:
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"draws random numbers.*leave the randomness out"):
        pure.predict(module, dict(module.named_parameters()), _input((5, 6, 3)))
    assert torch.equal(torch.get_rng_state(), before)


def test_randomness_of_an_accelerator_alone_is_refused_and_its_generator_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Accelerator:
        state = torch.zeros(2, dtype=torch.uint8)

        def get_rng_state(self, device: torch.device) -> Tensor:
            return self.state.clone()

        def set_rng_state(self, state: Tensor, device: torch.device) -> None:
            self.state = state

    there = Accelerator()
    monkeypatch.setattr(torch, "meta", there, raising=False)
    with pure.no_randomness(nn.Linear(1, 1), torch.device("meta")):
        pass
    with pytest.raises(ValueError, match="draws random"), pure.no_randomness(nn.Linear(1, 1), torch.device("meta")):
        there.state = there.state + 1
    assert there.state.tolist() == [0, 0]


@pytest.mark.parametrize("module", [nn.Dropout(0.3).eval(), nn.Dropout(0.0)], ids=["evaluation mode", "p = 0"])
def test_a_dropout_that_does_nothing_is_let_through(module: nn.Module) -> None:
    x = _input((5, 6))
    assert torch.equal(pure.predict(module, {}, x), x)


def test_dropout_is_refused_by_every_entry_on_every_route() -> None:
    model = nn.Sequential(mk.models.mlp(1, 4), nn.Dropout(0.5), mk.models.mlp(4, 1))
    objective = mk.Objective(model, F.mse_loss)
    batch = mk.Sinusoids().batch(0, 3)
    for route in ("loop", "vmap"):
        with pytest.raises(ValueError, match="active dropout"):
            mk.meta_gradient(objective, objective.theta(), batch, alpha=0.1, route=route)
    with pytest.raises(ValueError, match="active dropout"):
        next(mk.train(objective, mk.Sinusoids(), alpha=0.1, beta=0.1, iterations=1))


def test_one_value_a_channel_is_refused_by_batch_norm() -> None:
    with pytest.raises(ValueError, match="one value a channel"):
        pure.predict(nn.BatchNorm1d(6).double(), {}, _input((1, 6)))


class _Shared(nn.Module):
    """One module used under two names, and one weight shared by two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = mk.models.mlp(3, 3, hidden=(), seed=1)
        self.same = self.first
        self.other = mk.models.mlp(3, 3, hidden=(), seed=2)
        self.other[0].weight = self.first[0].weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.other(self.same(self.first(x)))
        return result


def test_shared_modules_and_tied_weights_follow_theta_and_stay_whole() -> None:
    model = _Shared()
    parameters = dict(model.named_parameters())
    x = torch.ones(2, 3)
    wanted = model(x)
    doubled = {name: 2 * p.detach() for name, p in parameters.items()}
    found = pure.predict(model, doubled, x)
    w, b = doubled["first.0.weight"], doubled["first.0.bias"]
    assert torch.allclose(found, ((x @ w.T + b) @ w.T + b) @ w.T + doubled["other.0.bias"])
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert torch.equal(model(x), wanted)


def test_given_statistics_normalize_as_the_native_norm_does_in_evaluation_mode() -> None:
    """With the support's statistics stored in it, PyTorch's own layer is the oracle; ε and variances are far off."""
    norm = nn.BatchNorm1d(6, eps=0.5).double()
    module = _module(norm)
    support, query = _input((7, 6, 4)) * torch.linspace(0.1, 2, 6, dtype=torch.float64).view(1, 6, 1), _input((3, 6, 4))
    found = pure.predict(module, dict(module.named_parameters()), query, support)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(support.mean((0, 2)))
    norm.running_var.copy_(support.var((0, 2), correction=0))
    assert torch.allclose(found, module.eval()(query), atol=1e-12, rtol=0)


def test_a_buffer_stays_on_its_device() -> None:
    class Elsewhere(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 2, bias=False, dtype=torch.float64)
            self.register_buffer("table", torch.empty(3, device="meta"))

        def forward(self, x: Tensor) -> Tensor:
            assert cast(Tensor, self.table).is_meta
            return super().forward(x)

    model, x = Elsewhere(), _input((5, 6))
    assert torch.equal(pure.predict(model, dict(model.named_parameters()), x), x @ model.weight.T)


# Norms with a bias and no weight, as the functions take them by place; with a weight PyTorch's derivatives are right.
BIASED: dict[str, Callable[[Tensor, Tensor | None, Tensor], Tensor]] = {
    "F.layer_norm": lambda x, w, b: F.layer_norm(x, (6,), w, b),
    "torch.layer_norm": lambda x, w, b: torch.layer_norm(x, (6,), w, b),
    "F.group_norm": lambda x, w, b: F.group_norm(x, 2, w, b),
    "torch.group_norm": lambda x, w, b: torch.group_norm(x, 2, w, b),
    "F.instance_norm": lambda x, w, b: F.instance_norm(x.mT[None], None, None, w, b),
    "torch.instance_norm": lambda x, w, b: torch.instance_norm(x.mT[None], w, b, None, None, True, 0.1, 1e-5, False),
    "F.batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    "torch.batch_norm": lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
    "by name": lambda x, w, b: F.layer_norm(x, (6,), bias=b) if w is None else F.layer_norm(x, (6,), w, b),
}


@pytest.mark.parametrize("name", BIASED)
def test_a_norm_with_a_bias_and_no_weight_has_the_second_derivative_of_one_with_weights_of_one(name: str) -> None:
    norm = BIASED[name]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.linspace(0.5, 2, 6, dtype=torch.float64))
            self.bias = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return norm(torch.tanh(x * self.scale), None, self.bias)

    def curved(prediction: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
        slopes = torch.autograd.grad(prediction.pow(3).sum(), weights, create_graph=True)
        total = torch.stack([slope.square().sum() for slope in slopes]).sum()
        return list(torch.autograd.grad(total, weights))

    model, x = Model(), _input((6, 6))
    weights = list(model.parameters())
    found = curved(pure.predict(model, dict(model.named_parameters()), x), weights)
    ones = torch.ones(6, dtype=torch.float64)
    wanted = curved(norm(torch.tanh(x * model.scale), ones, model.bias), weights)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9)
