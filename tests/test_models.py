"""The models: shapes, laws of the weights, and meta-gradients of conv4 with every norm."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import flat, meta_loss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mamlkit as mk
from mamlkit.models import NORMS
from mamlkit.pure import Params


def episodes(tasks: int = 2, ways: int = 3, shots: int = 2, queries: int = 2) -> mk.TaskBatch:
    """Random images of 16 × 16 with labels: what matters here are derivatives, not what is learned."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> mk.Batch:
        x = torch.rand(tasks, ways * count, 1, 16, 16, dtype=torch.float64, generator=generator)
        return mk.Batch(x, torch.arange(ways).repeat(count).expand(tasks, -1))

    return mk.TaskBatch(part(shots), part(queries))


def conv(norm: str, statistics: str = "transductive", downsample: str = "pool") -> mk.Objective:
    model = mk.models.conv4(3, filters=4, norm=norm, downsample=downsample, seed=1, dtype=torch.float64)
    # A smooth activation, so that finite differences do not step over kinks; the norms are what is tested.
    for block in list(model)[:4]:
        assert isinstance(block, nn.Sequential)
        for i, layer in enumerate(block):
            if isinstance(layer, nn.ReLU):
                block[i] = nn.Softplus()
            if isinstance(layer, nn.MaxPool2d):
                block[i] = nn.AvgPool2d(2)
    return mk.Objective(model, cross_entropy, batch_norm=statistics)  # type: ignore[arg-type]


def directional_errors(objective: mk.Objective, batch: mk.TaskBatch, gradient: Params, steps: int) -> float:
    """The worst difference, relative to the gradient's norm, from finite differences in three random directions."""
    theta, value = objective.theta(), meta_loss(objective, batch, 0.1, steps)
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for _ in range(3):
        v = {n: torch.randn(w.shape, dtype=w.dtype, generator=generator) for n, w in theta.items()}
        scale = flat(v).norm()
        ends = [value({n: w + sign * 1e-5 * v[n] / scale for n, w in theta.items()}) for sign in (1, -1)]
        slope = (flat(gradient) @ flat(v) / scale).item()
        worst = max(worst, abs((ends[0] - ends[1]) / 2e-5 - slope) / flat(gradient).norm().item())
    return worst


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_conv4_meta_gradients_agree_over_routes_and_with_finite_differences(norm: str, steps: int) -> None:
    objective, batch = conv(norm), episodes()
    for order in (1, 2):
        loop, vmap = (
            flat(
                mk.meta_gradient(objective, objective.theta(), batch, alpha=0.1, steps=steps, order=order, route=r).grad
            )
            for r in ("loop", "vmap")
        )
        assert torch.allclose(loop, vmap, atol=1e-10, rtol=0)
    result = mk.meta_gradient(objective, objective.theta(), batch, alpha=0.1, steps=steps)
    assert directional_errors(objective, batch, result.grad, steps) < 1e-5


@pytest.mark.parametrize("statistics", ["transductive", "inductive"])
@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_batch_norm_statistics_have_the_right_gradient(statistics: str, downsample: str) -> None:
    objective, batch = conv("batch", statistics, downsample), episodes()
    found = [
        mk.meta_gradient(objective, objective.theta(), batch, alpha=0.1, steps=2, route=route).grad
        for route in ("loop", "vmap")
    ]
    assert torch.allclose(flat(found[0]), flat(found[1]), atol=1e-10, rtol=0)
    assert directional_errors(objective, batch, found[0], 2) < 1e-5


class Users(nn.Module):
    """A user's module: an embedding, every 1-d norm, and a tied output layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding = nn.Embedding(11, 8)
            self.mix = nn.Linear(8, 8)
            self.norms = nn.ModuleList(
                [nn.BatchNorm1d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.InstanceNorm1d(8, affine=True)]
            )
            self.out = nn.Linear(8, 11)
        self.out.weight = self.embedding.weight
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        for norm in self.norms:
            h = torch.tanh(self.mix(h))
            h = norm(h) if isinstance(norm, nn.LayerNorm) else norm(h.mT).mT
        result: Tensor = self.out(h.mean(1))
        return result


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("statistics", ["transductive", "inductive"])
def test_a_users_module_with_every_norm_an_embedding_and_tied_weights(statistics: str, steps: int) -> None:
    objective = mk.Objective(Users(), cross_entropy, batch_norm=statistics)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    parts = [
        mk.Batch(
            torch.randint(0, 11, (2, n, 5), generator=generator), torch.randint(0, 11, (2, n), generator=generator)
        )
        for n in (4, 6)
    ]
    batch = mk.TaskBatch(*parts)
    theta = objective.theta()
    for order in (1, 2):
        loop, vmap = (
            mk.meta_gradient(objective, theta, batch, alpha=0.1, steps=steps, order=order, route=route).grad
            for route in ("loop", "vmap")
        )
        assert torch.allclose(flat(loop), flat(vmap), atol=1e-10, rtol=0)
    assert directional_errors(objective, batch, loop, steps) < 1e-5


@pytest.mark.parametrize("route", ["loop", "vmap"])
def test_predictions_one_by_one_agree_in_inductive_mode_and_differ_in_transductive_mode(route: str) -> None:
    batch = episodes(queries=4)
    support, query = batch.task(0)
    for statistics in ("inductive", "transductive"):
        objective = conv("batch", statistics)
        theta = objective.theta()
        together = objective.predict(theta, query.x, support.x)
        alone = torch.cat([objective.predict(theta, x[None], support.x) for x in query.x])
        assert torch.allclose(together, alone, atol=1e-12) == (statistics == "inductive")
        single = mk.TaskBatch(batch.support, mk.Batch(batch.query.x[:, :1], batch.query.y[:, :1]))
        pair = mk.TaskBatch(batch.support, mk.Batch(batch.query.x[:, [0, 5]], batch.query.y[:, [0, 5]]))
        other = mk.TaskBatch(batch.support, mk.Batch(batch.query.x[:, [5]], batch.query.y[:, [5]]))
        losses = [
            mk.meta_gradient(objective, theta, part, alpha=0.1, route=route).loss for part in (single, other, pair)
        ]
        assert torch.allclose((losses[0] + losses[1]) / 2, losses[2], atol=1e-12) == (statistics == "inductive")


@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("norm", NORMS)
def test_conv4_has_the_stated_shapes_and_draws_from_its_seed(norm: str, downsample: str) -> None:
    state = torch.get_rng_state()
    model = mk.models.conv4(5, filters=8, norm=norm, downsample=downsample)
    assert torch.equal(torch.get_rng_state(), state)
    assert model(torch.zeros(6, 1, 28, 28)).shape == (6, 5)
    again = mk.models.conv4(5, filters=8, norm=norm, downsample=downsample)
    other = mk.models.conv4(5, filters=8, norm=norm, downsample=downsample, seed=1)
    weights = [flat(dict(m.named_parameters())) for m in (model, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 4
    assert convolutions[1].weight.abs().max() <= 1 / math.sqrt(9 * 8)


@pytest.mark.parametrize(("norm", "groups"), [("batch", 0), ("layer", 1), ("group", 4), ("instance", 8)])
def test_each_norm_of_conv4_is_that_of_its_name_written_out(norm: str, groups: int) -> None:
    """Mean and variance over all examples and pixels of a channel, or over each example's groups of channels."""
    model = mk.models.conv4(3, filters=8, norm=norm, dtype=torch.float64)
    x = torch.randn(5, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for block in list(model)[:4]:
        assert isinstance(block, nn.Sequential)
        h = block[0](x)
        apart = h.unflatten(1, (groups, -1)) if groups else h
        over = (2, 3, 4) if groups else (0, 2, 3)
        normal = (apart - apart.mean(over, True)) / (apart.var(over, correction=0, keepdim=True) + 1e-5).sqrt()
        scale, shift = (parameter.view(-1, 1, 1) for parameter in block[1].parameters())
        assert torch.allclose(block[1](h), normal.view_as(h) * scale + shift, atol=1e-12)
        x = block(x)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"norm": "weight"}, "norm is 'weight'; it must be one of batch, layer, group, instance, none"),
        ({"downsample": "max"}, "downsample is 'max'"),
        ({"norm": "group", "filters": 6}, "6 filters do not divide into the 4 groups"),
        ({"filters": 0}, "0 outputs|0 filters"),
    ],
)
def test_a_bad_conv4_is_refused(bad: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mk.models.conv4(5, **bad)  # type: ignore[arg-type]


def test_convolutions_follow_pytorchs_law() -> None:
    """Uniform in ±1/√(inputs of an output), of which a 3 × 3 convolution has nine a channel."""
    model = mk.models.conv4(5, filters=64, channels=2, dtype=torch.float64)
    for convolution, fan_in in zip(
        [m for m in model.modules() if isinstance(m, nn.Conv2d)], (2, 64, 64, 64), strict=True
    ):
        drawn, bound = flat(dict(convolution.named_parameters())), 1 / math.sqrt(9 * fan_in)
        assert 0.99 * bound < drawn.abs().max() <= bound
        assert abs(drawn.mean()) < 5 * bound / math.sqrt(3 * len(drawn))
        # Five standard errors of a uniform law's variance, whose fourth moment is 9/5 of its square.
        assert drawn.var().item() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / len(drawn)))


@pytest.mark.parametrize("norm", NORMS)
def test_models_live_on_the_cpu_whatever_the_default_device(norm: str) -> None:
    with torch.device("meta"):
        models = [mk.models.conv4(3, filters=4, norm=norm), mk.models.mlp(2, 2)]
    assert {parameter.device.type for model in models for parameter in model.parameters()} == {"cpu"}


def test_mlp_has_the_papers_shape_and_pytorchs_law() -> None:
    model = mk.models.mlp(1, 1)
    assert [tuple(p.shape) for p in model.parameters()] == [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]
    wide = mk.models.mlp(100, 100, hidden=(), dtype=torch.float64)[0]
    assert isinstance(wide, nn.Linear)
    assert wide.weight.abs().max() <= 0.1
    assert wide.weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.03)
    with pytest.raises(ValueError, match="0 inputs"):
        mk.models.mlp(0, 1)


def test_unknown_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match='batch_norm is \'both\'; it must be "transductive" or "inductive"'):
        mk.Objective(mk.models.mlp(1, 1), cross_entropy, batch_norm="both")  # type: ignore[arg-type]
