"""Modules of every kind, unchanged: their second-order meta-gradients against plain PyTorch, task after task."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from oracles import finite_differences, flat, meta_loss, relative_error
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from zoo import (
    ALPHA,
    ONE_AT_A_TIME,
    REFUSED,
    RIGHT,
    STEPS,
    WRONG_IN_PYTORCH,
    Hidden,
    Middle,
    by_hand,
    data,
    made,
)

import mamlkit as mk
from mamlkit.pure import Params

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{words}")
    for words in ("weight_norm.*deprecated", "torch.jit.*deprecated", "performance drop")
]


@pytest.mark.parametrize("route", ["loop", "vmap", "flat"])
@pytest.mark.parametrize("name", RIGHT)
def test_the_second_order_meta_gradient_is_that_of_plain_pytorch(name: str, route: str) -> None:
    model, batch = made(RIGHT[name]), data()
    objective = mk.Objective(model, F.mse_loss)
    found = mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, steps=STEPS, route=route)
    if any(words in name for words in WRONG_IN_PYTORCH):
        slopes = finite_differences(meta_loss(objective, batch, ALPHA, STEPS), objective.theta())
        assert relative_error(flat(found.grad), slopes) <= 1e-6
    else:
        assert relative_error(flat(found.grad), flat(by_hand(model, batch))) <= 1e-9


def test_a_padding_row_has_no_gradient_and_stays_in_training() -> None:
    model = made(RIGHT["padding_idx"])
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
def test_what_vmap_cannot_run_is_right_one_task_at_a_time_and_otherwise_told_so(name: str) -> None:
    model, batch = made(ONE_AT_A_TIME[name]), data()
    objective = mk.Objective(model, F.mse_loss)
    theta = objective.theta()
    for route in ("loop", "flat-loop"):
        found = mk.meta_gradient(objective, theta, batch, alpha=ALPHA, steps=STEPS, route=route)
        assert relative_error(flat(found.grad), flat(by_hand(model, batch))) <= 1e-9
    for route in ("vmap", "flat"):
        with pytest.raises(ValueError, match=r'vmap cannot run .*use route="loop" or "flat-loop"'):
            mk.meta_gradient(objective, theta, batch, alpha=ALPHA, route=route)


@pytest.mark.parametrize("route", ["loop", "vmap"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_right_number_can_come_from_is_refused_and_nothing_is_changed(name: str, route: str) -> None:
    build, words = REFUSED[name]
    model, batch = made(build), data()
    before, drawn = {n: v.clone() for n, v in model.state_dict().items()}, torch.get_rng_state()
    objective = mk.Objective(model, F.mse_loss)
    with pytest.raises(ValueError, match=words):
        mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, route=route)
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


LARGE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "large labels": lambda p, y: F.mse_loss(p, 3000 * y),
    "a large constant": lambda p, y: F.mse_loss(p, y) + 1000,
    "a small loss": lambda p, y: 1e-6 * F.mse_loss(p, y),
}


@pytest.mark.parametrize("loss", LARGE)
@pytest.mark.parametrize("name", ["a gradient that a hook changes", "an embedding's own operation"])
def test_what_vmap_computes_wrongly_is_seen_however_large_the_loss_is(name: str, loss: str) -> None:
    def damped(h: Tensor) -> Tensor:
        h = h * 1
        if h.requires_grad:
            h.register_hook(lambda gradient: 0.1 * gradient)
        return h

    def looked_up(h: Tensor, m: Any) -> Tensor:
        rows = torch.ops.aten.embedding(m.part.weight, (h[:, 0] > 0).long(), 0)
        return cast(Tensor, h * rows)

    build = (lambda: Hidden(damped)) if "hook" in name else lambda: Hidden(looked_up, nn.Embedding(5, 6))
    for dtype in (torch.float32, torch.float64):
        model = made(build).to(dtype)
        batch = mk.TaskBatch(*(mk.Batch(part.x.to(dtype), part.y.to(dtype)) for part in data()))
        objective = mk.Objective(model, LARGE[loss])
        for route in ("vmap", "flat", "traced"):
            with pytest.raises(ValueError, match=r"PyTorch's vmap computes another (gradient|second derivative)"):
                mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, route=route)
        found = mk.meta_gradient(objective, objective.theta(), batch, alpha=1e-9, steps=STEPS, route="loop")
        assert all(part.isfinite().all() for part in found.grad.values())


@pytest.mark.parametrize("route", ["loop", "vmap"])
def test_what_is_set_after_the_first_look_is_looked_at(route: str) -> None:
    class Noisy(nn.Linear):
        p = 0.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (self.p * random.random() if self.p else 0)

    model = made(lambda: Noisy(4, 1))
    cast(Any, model).p = 0.0
    objective = mk.Objective(model, F.mse_loss)
    mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, route=route)
    cast(Any, model).p = 0.5
    with pytest.raises(ValueError, match="predicts differently in two equal passes"):
        mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, route=route)


@pytest.mark.parametrize("route", ["loop", "vmap", "flat"])
@pytest.mark.parametrize("name", ["a scripted batch norm", "batch norm's own operation", "a layer that mixes examples"])
def test_inductive_predictions_that_depend_on_other_queries_are_refused(name: str, route: str) -> None:
    builds: dict[str, Callable[[], nn.Module]] = {
        "a scripted batch norm": lambda: Hidden(torch.jit.script(nn.BatchNorm1d(6, track_running_stats=False))),
        "batch norm's own operation": lambda: Hidden(
            lambda h: torch.ops.aten.batch_norm(h, None, None, None, None, True, 0.1, 1e-5, False)
        ),
        "a layer that mixes examples": lambda: Hidden(lambda h: h - h.mean(0)),
    }
    model = made(builds[name])
    objective = mk.Objective(model, F.mse_loss, batch_norm="inductive")
    with pytest.raises(ValueError, match=r'"inductive" was asked for.*Use batch_norm="transductive"'):
        mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, route=route)
    objective = mk.Objective(model, F.mse_loss)
    found = mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, steps=STEPS, route="loop")
    assert relative_error(flat(found.grad), flat(by_hand(model, data()))) <= 1e-9


@pytest.mark.parametrize("route", ["loop", "vmap", "flat", "flat-loop", "traced"])
@pytest.mark.parametrize("kind", ["an eval mode's RReLU", "a polynomial of the input", "a sparse buffer"])
def test_what_only_looks_random_flat_or_without_storage_is_right(kind: str, route: str) -> None:
    builds: dict[str, Callable[[], nn.Module]] = {
        "an eval mode's RReLU": lambda: Hidden(nn.RReLU().eval()),
        "a polynomial of the input": lambda: Middle(
            lambda m, x: m.last(torch.tanh(m.first(torch.special.chebyshev_polynomial_t(x, 2))))
        ),
        "a sparse buffer": lambda: Hidden(
            lambda h, m: torch.sparse.mm(m.links, h), buffers={"links": (torch.eye(6) * 2).to_sparse()}
        ),
    }
    model = made(builds[kind])
    objective = mk.Objective(model, F.mse_loss)
    if "RReLU" in kind and not route.endswith("loop"):
        with pytest.raises(ValueError, match=r"vmap cannot run Hidden"):
            mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, route=route)
        return
    found = mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, steps=STEPS, route=route)
    assert relative_error(flat(found.grad), flat(by_hand(model, data()))) <= 1e-9


class Enclosing(nn.Module):
    """Functions of its own that enclose it, one of them as a hook: no copy of it has copies of these."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(4, 6), nn.Linear(6, 1), nn.Parameter(torch.rand(6))
        self.first.register_forward_hook(lambda module, given, found: found * self.scale)
        self.between: Any = lambda h: torch.tanh(h + self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.between(self.first(x))))


@pytest.mark.parametrize("route", ["loop", "vmap", "flat", "flat-loop", "traced"])
def test_a_model_that_its_own_functions_enclose_is_right(route: str) -> None:
    model = made(Enclosing)
    wanted = flat(by_hand(model, data()))
    objective = mk.Objective(model, F.mse_loss)
    theta = objective.theta()
    with torch.no_grad():
        model.get_parameter("scale").add_(1)  # θ stays as it was
    found = mk.meta_gradient(objective, theta, data(), alpha=ALPHA, steps=STEPS, route=route)
    assert relative_error(flat(found.grad), wanted) <= 1e-9


def test_what_an_enclosing_function_would_write_is_refused_before_it_is_written() -> None:
    part = nn.Linear(6, 6).double().requires_grad_(False)
    model, frozen = made(lambda: Hidden(lambda h: h @ part.weight.mul_(0.9), part)), part.weight
    before = frozen.clone()
    objective = mk.Objective(model, F.mse_loss)
    with pytest.raises(ValueError, match=r"writes into part\.weight"):
        mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, route="loop")
    assert torch.equal(frozen, before)


def test_at_first_order_the_fused_weight_norm_is_right() -> None:
    build, words = REFUSED["the fused weight norm"]
    objective = mk.Objective(made(build), F.mse_loss)
    solve = functools.partial(mk.meta_gradient, objective, objective.theta(), data(), alpha=0.0, route="loop")
    with pytest.raises(ValueError, match=words):
        solve()
    found = solve(order=1)  # without a step, θ's own gradient
    theta: Params = {n: p.detach().clone().requires_grad_() for n, p in objective.model.named_parameters()}
    losses = [F.mse_loss(torch.func.functional_call(objective.model, theta, (x,)), y)
              for x, y in zip(*data().query, strict=True)]  # fmt: skip
    wanted = torch.autograd.grad(torch.stack(losses).mean(), list(theta.values()))
    assert relative_error(flat(found.grad), flat(dict(zip(theta, wanted, strict=True)))) <= 1e-9


def test_inside_parametrize_cached_the_kit_says_so() -> None:
    objective = mk.Objective(made(lambda: Hidden(parametrizations.orthogonal(nn.Linear(6, 6)))), F.mse_loss)
    mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, route="loop")  # and looks at it
    with parametrize.cached(), pytest.raises(ValueError, match=r"inside torch.nn.utils.parametrize.cached\(\)"):
        mk.meta_gradient(objective, objective.theta(), data(), alpha=ALPHA, route="loop")


@pytest.mark.parametrize("name", [n for n in RIGHT if "input" in n or "buffer" in n or "statistics" in n])
def test_a_pass_changes_neither_the_data_nor_the_model(name: str) -> None:
    model, batch, untouched = made(RIGHT[name]), data(), data()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    objective = mk.Objective(model, F.mse_loss)
    for route in ("loop", "vmap"):
        mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, steps=STEPS, route=route)
    mk.adapt(objective, objective.theta(), batch.task(0).support, alpha=ALPHA)
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    assert all(
        torch.equal(a, b) for one, two in zip(batch, untouched, strict=True) for a, b in zip(one, two, strict=True)
    )


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
    model, (support, query) = made(RIGHT[name]), data(1).task(0)
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
    objective = mk.Objective(made(RIGHT["batch norm"]), F.mse_loss)
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


@pytest.mark.parametrize("by", ["one parameter", "alpha"])
def test_adapt_inside_a_transform_of_less_than_theta_says_what_to_do_instead(by: str) -> None:
    objective = mk.Objective(made(RIGHT["layer norm"]), F.mse_loss)
    theta, (support, query) = objective.theta(), data(1).task(0)
    name = next(reversed(theta))

    def outer(given: Tensor) -> Tensor:
        start, alpha = (theta | {name: given}, ALPHA) if by == "one parameter" else (theta, dict.fromkeys(theta, given))
        return objective(mk.adapt(objective, start, support, alpha=alpha), *query)

    given = theta[name] if by == "one parameter" else torch.tensor(ALPHA, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"not the whole of θ.*differentiate by torch\.autograd\.grad"):
        torch.func.grad(outer)(given)
    given = given.clone().requires_grad_()
    [slope] = torch.autograd.grad(outer(given), given)
    with torch.no_grad():
        ahead, behind = outer(given + 1e-6), outer(given - 1e-6)
    assert slope.sum().item() == pytest.approx((ahead - behind).item() / 2e-6, rel=1e-6)


def test_a_model_that_vmap_runs_to_other_numbers_is_refused_there_and_right_one_task_at_a_time() -> None:
    class Direct(nn.Module):
        """A padding row by the operation itself, whose rule under vmap forgets it."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Parameter(torch.randn(5, 4)), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            tokens = (x[:, 0].abs() * 5).long().clamp(max=4)
            found: Tensor = self.last(torch.tanh(torch.ops.aten.embedding(self.table, tokens, 0)))
            return found

    model, batch = made(Direct), data()
    objective = mk.Objective(model, F.mse_loss)
    found = mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, steps=STEPS, route="loop")
    assert relative_error(flat(found.grad), flat(by_hand(model, batch))) <= 1e-9
    for order in (1, 2):
        with pytest.raises(ValueError, match=r'computes another gradient of Direct .*Use route="loop"'):
            mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA, order=order, route="vmap")


@pytest.mark.parametrize("wrap", [torch.jit.script, nn.DataParallel])
def test_a_wrapped_module_is_refused_with_what_to_give_instead(wrap: Callable[[nn.Module], nn.Module]) -> None:
    objective = mk.Objective(wrap(made(lambda: nn.Linear(4, 1))), F.mse_loss)
    with pytest.raises(TypeError, match="give the plain module that it wraps"):
        mk.adapt(objective, objective.theta(), data().task(0).support, alpha=ALPHA)


def test_inference_mode_is_refused_and_no_grad_changes_nothing() -> None:
    objective, batch = mk.Objective(made(RIGHT["layer norm"]), F.mse_loss), data()
    wanted = mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA)
    with torch.no_grad():
        found = mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA)
    assert torch.equal(flat(found.grad), flat(wanted.grad))
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch\.inference_mode forbids"):
        mk.meta_gradient(objective, objective.theta(), batch, alpha=ALPHA)
