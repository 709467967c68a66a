"""Equation (E1): what `adapt` computes, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles import WithEverything, flat, gradient, mse, quadratic_problem, sinusoid_problem
from torch import nn

import mamlkit as mk

ONE = torch.ones(4, 1, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_adapt_is_gradient_descent_on_the_support(steps: int) -> None:
    objective, theta, batch = quadratic_problem()
    support = batch.task(0).support
    w = theta["0.weight"][0][:, None]
    for _ in range(steps):
        w = w - 0.1 * gradient(*support, w)
    adapted = mk.adapt(objective, theta, support, alpha=0.1, steps=steps)
    assert torch.allclose(adapted["0.weight"][0], w[:, 0], atol=1e-14, rtol=0)


def test_every_parameter_takes_the_step_that_plain_pytorch_computes() -> None:
    objective, theta, batch = sinusoid_problem()
    x, y = batch.task(0).support
    leaves = {name: weight.clone().requires_grad_() for name, weight in theta.items()}
    for _ in range(3):
        loss = mse(torch.func.functional_call(objective.model, leaves, (x,)), y)
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        leaves = {n: (w - 0.1 * g).detach().requires_grad_() for (n, w), g in zip(leaves.items(), slopes, strict=True)}
    adapted = mk.adapt(objective, theta, batch.task(0).support, alpha=0.1, steps=3)
    assert adapted.keys() == leaves.keys()
    for name, weight in adapted.items():
        assert torch.allclose(weight, leaves[name], atol=1e-14, rtol=0), name


def test_order_does_not_change_theta_prime() -> None:
    objective, theta, batch = sinusoid_problem()
    support = batch.task(0).support
    first, second = (mk.adapt(objective, theta, support, alpha=0.1, steps=3, order=order) for order in (1, 2))
    assert torch.equal(flat(first), flat(second))


@pytest.mark.parametrize("kwargs", [{"alpha": 0.1, "steps": 0}, {"alpha": 0.0, "steps": 2}])
def test_no_steps_and_no_step_size_leave_theta_as_it_is(kwargs: dict[str, float]) -> None:
    objective, theta, batch = sinusoid_problem()
    adapted = mk.adapt(objective, theta, batch.task(0).support, **kwargs)  # type: ignore[arg-type]
    assert torch.equal(flat(adapted), flat(theta))


def test_theta_prime_stays_a_function_of_theta_at_either_order() -> None:
    objective, theta, batch = quadratic_problem()
    jacobian = {}
    for order in (1, 2):
        leaves = {name: weight.clone().requires_grad_() for name, weight in theta.items()}
        total = flat(mk.adapt(objective, leaves, batch.task(0).support, alpha=0.1, order=order)).sum()
        jacobian[order] = flat(dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True)))
    assert torch.equal(jacobian[1], torch.ones_like(jacobian[1]))
    assert not torch.allclose(jacobian[2], jacobian[1])


def test_adapt_leaves_theta_and_the_model_alone() -> None:
    model = WithEverything()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = mk.Objective(model, mse)
    theta = objective.theta()
    kept = {name: weight.clone() for name, weight in theta.items()}
    support = mk.Sinusoids(dtype=torch.float64).batch(0, 1).task(0).support
    mk.adapt(objective, theta, support, alpha=0.1, steps=2)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(theta[name], value) for name, value in kept.items())


def test_a_model_with_buffers_frozen_tied_and_unused_parameters_serves_unchanged() -> None:
    objective = mk.Objective(WithEverything(), mse)
    theta = objective.theta()
    assert "frozen" not in theta
    assert "unused" in theta
    support = mk.Sinusoids(dtype=torch.float64).batch(0, 1).task(0).support
    adapted = mk.adapt(objective, theta, support, alpha=0.1)
    assert torch.equal(adapted["unused"], theta["unused"])
    assert not torch.equal(adapted["again.0.weight"], theta["again.0.weight"])
    assert not any(name.startswith("tied") for name in theta)


@pytest.mark.parametrize(
    ("support", "words"),
    [
        (mk.Batch(ONE[:0], ONE[:0]), "support is empty"),
        (mk.Batch(ONE, ONE[:3]), r"x of shape \(4, 1\) and y of shape \(3, 1\)"),
        (mk.Batch(ONE * float("nan"), ONE), "4 values of the support's x are NaN or infinite"),
        (mk.Batch(ONE, ONE / 0), "support's y are NaN or infinite"),
        (mk.Batch(ONE, ONE[:, 0]), "would be broadcast"),
    ],
)
def test_a_bad_support_is_refused_by_what_is_wrong_with_it(support: mk.Batch, words: str) -> None:
    objective, theta, _ = sinusoid_problem()
    with pytest.raises(ValueError, match=words):
        mk.adapt(objective, theta, support, alpha=0.1)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"alpha": 0.1, "steps": -1}, "steps is -1"),
        ({"alpha": 0.1, "steps": 1.5}, "steps is 1.5"),
        ({"alpha": 0.1, "steps": True}, "steps is True"),
        ({"alpha": 0.1, "order": 3}, "order is 3"),
    ],
)
def test_a_bad_setting_is_refused(bad: dict[str, float], words: str) -> None:
    objective, theta, batch = sinusoid_problem()
    with pytest.raises(ValueError, match=words):
        mk.adapt(objective, theta, batch.task(0).support, **bad)  # type: ignore[arg-type]


def test_integer_inputs_are_refused_with_the_types_that_met() -> None:
    objective, theta, _ = sinusoid_problem()
    with pytest.raises(TypeError, match=r"torch\.int64.*torch\.float64"):
        mk.adapt(objective, theta, mk.Batch(ONE.long(), ONE), alpha=0.1)
    with pytest.raises(TypeError, match=r"y holds torch\.int64"):
        mk.adapt(objective, theta, mk.Batch(ONE, ONE.long()), alpha=0.1)


def test_a_float32_input_to_a_float64_model_is_refused() -> None:
    objective, theta, _ = sinusoid_problem()
    with pytest.raises(TypeError, match=r"torch\.float32.*torch\.float64"):
        mk.adapt(objective, theta, mk.Batch(ONE.float(), ONE.float()), alpha=0.1)


def test_a_loss_that_is_not_a_scalar_is_refused() -> None:
    model = mk.models.mlp(1, 1, dtype=torch.float64)
    objective = mk.Objective(model, lambda prediction, y: F.mse_loss(prediction, y, reduction="none"))
    with pytest.raises(ValueError, match=r"the loss has shape \(4, 1\); MAML needs a scalar"):
        mk.adapt(objective, objective.theta(), mk.Batch(ONE, ONE), alpha=0.1)
    objective = mk.Objective(model, lambda prediction, y: 1.0)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="the loss has type float"):
        mk.adapt(objective, objective.theta(), mk.Batch(ONE, ONE), alpha=0.1)


def test_parameters_of_another_model_are_refused_by_name() -> None:
    objective, theta, batch = sinusoid_problem()
    support = batch.task(0).support
    with pytest.raises(ValueError, match=r"0\.bias.*found \['nothing'\]"):
        mk.adapt(objective, {name: w for name, w in theta.items() if name != "0.bias"}, support, alpha=0.1)
    with pytest.raises(ValueError, match=r"0\.bias.*found \['\(3,\)'\], wanted \['\(5,\)'\]"):
        mk.adapt(objective, {**theta, "0.bias": torch.zeros(3)}, support, alpha=0.1)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="Flatten has no trainable parameter"):
        mk.Objective(nn.Flatten(), mse).theta()
