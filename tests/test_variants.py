"""Eight variants of MAML, each written on the seam in a few lines: `alpha`, an inner rule, or an outer gradient.

Each gradient, of α too, is held against finite differences, or a closed form; each variant trains, is examined, and is
killed and resumed to the same bits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import finite_differences, flat, gradient, hessian, mse, quadratic_problem, relative_error
from torch import Tensor, nn

import mamlkit as mk
from mamlkit.inner import GRADIENT_DESCENT
from mamlkit.meta import ROUTES, unchecked
from mamlkit.pure import Params

STEPS = 2
HEAD = ("2.weight", "2.bias")


@dataclass(frozen=True)
class Variant:
    """What a variant changes: the step sizes that it makes for θ, its inner rule, its outer gradient."""

    alpha: Callable[[Params], Any] = lambda theta: 0.05
    others: dict[str, Any] = field(default_factory=dict)


# ANIL (Raghu et al. 2020) adapts the head alone, BOIL (Oh et al. 2021) the body alone.
def anil(theta: Params) -> dict[str, float]:
    return {name: 0.05 * (name in HEAD) for name in theta}


def boil(theta: Params) -> dict[str, float]:
    return {name: 0.05 * (name not in HEAD) for name in theta}


# Meta-SGD (Li et al. 2017) learns a step size for each entry of each parameter.
def meta_sgd(theta: Params) -> Params:
    return {name: torch.full_like(weight, 0.05).requires_grad_() for name, weight in theta.items()}


# LSLR (MAML++, Antoniou et al. 2019) learns one for each layer and step.
def by_layer_and_step(theta: Params) -> Params:
    return {name: w.new_full((STEPS,), 0.05).requires_grad_() for name, w in theta.items()}


# Heavy-ball momentum inside: v ← µv + ∇L, θ ← θ − αv.
def heavy_ball(theta: Params, gradient: Params, alpha: Any, v: Params) -> tuple[Params, Params]:
    v = {name: 0.9 * v[name] + gradient[name] for name in v}
    return {name: weight - alpha[name] * v[name] for name, weight in theta.items()}, v


momentum = mk.InnerRule(lambda theta: {name: torch.zeros_like(weight) for name, weight in theta.items()}, heavy_ball)


# Adam inside (Kingma and Ba 2015, Algorithm 1), ε within the root so that its derivative exists at zero.
def adam_init(theta: Params) -> tuple[Params, Params, Tensor]:
    zeros = {name: torch.zeros_like(weight) for name, weight in theta.items()}
    return zeros, zeros, next(iter(theta.values())).new_zeros(())


def adam_step(theta: Params, gradient: Params, alpha: Any, state: Any) -> tuple[Params, Any]:
    m, v, t = state[0], state[1], state[2] + 1
    m = {name: 0.9 * m[name] + 0.1 * g for name, g in gradient.items()}
    v = {name: 0.99 * v[name] + 0.01 * g**2 for name, g in gradient.items()}
    move = {n: m[n] / (1 - 0.9**t) / (v[n] / (1 - 0.99**t) + 1e-8).sqrt() for n in theta}
    return {name: weight - alpha[name] * move[name] for name, weight in theta.items()}, (m, v, t)


adam = mk.InnerRule(adam_init, adam_step)


# Reptile (Nichol et al. 2018, Algorithm 2): the mean of θ − θ', found on the support alone.
def reptile(
    objective: mk.Objective, theta: Params, batch: mk.TaskBatch, *, alpha: Any, steps: int, rule: mk.InnerRule, **_: Any
) -> mk.MetaGradient:
    grad, losses, before = {name: torch.zeros_like(weight) for name, weight in theta.items()}, [], []
    fixed = {name: weight.detach() for name, weight in theta.items()}
    for support, query in map(batch.task, range(batch.size)):
        adapted = mk.adapt(objective, fixed, support, alpha=alpha, steps=steps, order=1, rule=rule)
        grad = {name: g + (fixed[name] - adapted[name]) / batch.size for name, g in grad.items()}
        losses.append(objective(adapted, *query).detach())
        before.append(objective(fixed, *query).detach())
    return mk.MetaGradient(torch.stack(losses), grad, torch.stack(before))


# Implicit MAML (Rajeswaran et al. 2019): minimize L + λ/2·|φ − θ|² inside; outside solve (I + H/λ) g = ∇L(φ; D').
LAMBDA = 2.0
proximal = mk.InnerRule(
    lambda theta: theta,
    lambda phi, g, alpha, theta: ({n: p - alpha[n] * (g[n] + LAMBDA * (p - theta[n])) for n, p in phi.items()}, theta),
)


def implicit(objective: Any, theta: Params, batch: mk.TaskBatch, *, order: int, route: str, **inner: Any) -> Any:
    def loss(part: mk.Batch, v: Tensor) -> Tensor:
        return objective(like(v, theta), *part)  # type: ignore[no-any-return]

    found = []
    for support, query in map(batch.task, range(batch.size)):
        phi = flat(mk.adapt(objective, theta, support, order=1, **inner)).detach()
        system = torch.eye(len(phi)).to(phi) + torch.autograd.functional.hessian(partial(loss, support), phi) / LAMBDA
        solved = torch.linalg.solve(system, torch.autograd.functional.jacobian(partial(loss, query), phi))
        found.append((loss(query, phi), solved, objective(theta, *query).detach()))
    after, gradients, before = (torch.stack(parts) for parts in zip(*found, strict=True))
    return mk.MetaGradient(after, like(gradients.mean(0), theta), before)


def like(vector: Tensor, theta: Params) -> Params:
    """A flat vector in the shapes of θ."""
    parts = vector.split([weight.numel() for weight in theta.values()])
    return {name: part.view_as(theta[name]) for name, part in zip(theta, parts, strict=True)}


VARIANTS = {
    "ANIL": Variant(anil),
    "BOIL": Variant(boil),
    "Meta-SGD": Variant(meta_sgd),
    "step sizes by layer and step": Variant(by_layer_and_step),
    "momentum inside": Variant(others={"rule": momentum}),
    "Adam inside": Variant(others={"rule": adam}),
    "Reptile": Variant(others={"outer": reptile}),
    "implicit MAML": Variant(others={"outer": implicit, "rule": proximal}),
}
UNROLLED = [name for name, variant in VARIANTS.items() if "outer" not in variant.others]
TASKS = mk.Sinusoids(shots=5, queries=6, dtype=torch.float64)


def problem(seed: int = 0) -> mk.Objective:
    first, second = (mk.models.mlp(*sizes, hidden=(), seed=seed, dtype=torch.float64)[0] for sizes in ((1, 4), (4, 1)))
    return mk.Objective(nn.Sequential(first, nn.Tanh(), second), mse)


def by_hand(objective: mk.Objective, batch: mk.TaskBatch, alpha: Any, rule: mk.InnerRule | None) -> Any:
    """F(θ, α) with the inner loop written out, by PyTorch's functional_call and no line of the kit's inner loop."""
    model = objective.model

    def loss(theta: Params, x: Tensor, y: Tensor) -> Tensor:
        return mse(torch.func.functional_call(model, theta, (x,)), y)

    def value(both: Params) -> float:
        total = 0.0
        for support, query in map(batch.task, range(batch.size)):
            theta = {name: both[name] for name in objective.theta()}
            state = rule.init(theta) if rule else None
            for k in range(STEPS):
                leaves = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
                slopes = dict(
                    zip(leaves, torch.autograd.grad(loss(leaves, *support), list(leaves.values())), strict=True)
                )
                sizes = {}
                for name, weight in theta.items():
                    size = both.get(f"alpha {name}", alpha if isinstance(alpha, float) else alpha[name])
                    by_step = isinstance(size, Tensor) and size.shape == (STEPS,) and weight.shape != size.shape
                    sizes[name] = size.detach()[k] if by_step and isinstance(size, Tensor) else size
                if rule:
                    theta, state = rule.step(theta, slopes, sizes, state)
                else:
                    theta = {name: weight - sizes[name] * slopes[name] for name, weight in theta.items()}
            total += loss(theta, *query).item() / batch.size
        return total

    return value


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", UNROLLED)
def test_the_gradient_by_theta_and_by_alpha_equals_finite_differences(name: str, route: str) -> None:
    variant, objective, batch = VARIANTS[name], problem(), TASKS.batch(0, 3)
    theta = objective.theta()
    alpha, rule = variant.alpha(theta), variant.others.get("rule")
    found = mk.meta_gradient(objective, theta, batch, alpha=alpha, steps=STEPS, route=route, **variant.others)
    learned = {} if isinstance(alpha, float) else {n: a for n, a in alpha.items() if isinstance(a, Tensor)}
    assert found.grad_alpha.keys() == learned.keys()
    both = theta | {f"alpha {n}": a.detach() for n, a in learned.items()}
    wanted = finite_differences(by_hand(objective, batch, alpha, rule), both)
    together = torch.cat([flat(found.grad), *(g.flatten() for g in found.grad_alpha.values())])
    assert relative_error(together, wanted) <= 1e-6
    split = len(flat(theta))
    assert relative_error(together[:split], wanted[:split]) <= 1e-6
    if learned:
        assert relative_error(together[split:], wanted[split:]) <= 1e-6


@pytest.mark.parametrize("name", UNROLLED)
@pytest.mark.parametrize("order", [1, 2])
def test_routes_agree(name: str, order: int) -> None:
    variant, objective, batch = VARIANTS[name], problem(), TASKS.batch(0, 30)
    theta = objective.theta()
    one, *others = (
        mk.meta_gradient(
            objective, theta, batch, alpha=variant.alpha(theta), steps=STEPS, order=order, route=r, **variant.others
        )
        for r in ["loop", *ROUTES]
    )
    for other in others:
        assert torch.allclose(flat(one.grad), flat(other.grad), atol=1e-12, rtol=0)
        assert torch.allclose(one.loss, other.loss, atol=1e-12, rtol=0)
        for name, by_alpha in one.grad_alpha.items():
            assert torch.allclose(by_alpha, other.grad_alpha[name], atol=1e-12, rtol=0)


def test_reptile_equals_its_closed_form_on_quadratics() -> None:
    objective, theta, batch = quadratic_problem()
    found = reptile(objective, theta, batch, alpha=0.1, steps=3, rule=GRADIENT_DESCENT).grad["0.weight"][0]
    start, wanted = theta["0.weight"][0][:, None], torch.zeros(3, 1, dtype=torch.float64)
    for x, y in (batch.task(i).support for i in range(batch.size)):
        w = start
        for _ in range(3):
            w = w - 0.1 * gradient(x, y, w)
        wanted += (start - w) / batch.size
    assert torch.allclose(found, wanted[:, 0], atol=1e-10, rtol=0)


def test_implicit_maml_equals_its_closed_form_on_quadratics() -> None:
    objective, theta, batch = quadratic_problem()
    found = implicit(objective, theta, batch, order=2, route="loop", alpha=0.05, steps=2000, rule=proximal).grad[
        "0.weight"
    ][0]
    start, wanted = theta["0.weight"][0][:, None], torch.zeros(3, 1, dtype=torch.float64)
    for (x, y), query in map(batch.task, range(batch.size)):
        eye, h = torch.eye(3, dtype=torch.float64), hessian(x)
        phi = torch.linalg.solve(h + LAMBDA * eye, 2 * x.T @ y / len(x) + LAMBDA * start)
        wanted += torch.linalg.solve(eye + h / LAMBDA, gradient(*query, phi)) / batch.size
    assert torch.allclose(found, wanted[:, 0], atol=1e-10, rtol=0)


def trainings(name: str, seed: int, iterations: int, file: Path | None) -> tuple[mk.Objective, Any, Any]:
    variant, objective = VARIANTS[name], problem(seed)
    alpha = variant.alpha(objective.theta())
    records = mk.train(
        objective, TASKS, alpha=alpha, beta=0.01, steps=STEPS, iterations=iterations, tasks_per_iteration=3,
        checkpoint=file, checkpoint_every=2, examine_every=4, examine_tasks=5, progress=False, **variant.others,
    )  # fmt: skip
    return objective, alpha, records


def weights(objective: mk.Objective, alpha: Any) -> Tensor:
    learned = [] if isinstance(alpha, float) else [a for a in alpha.values() if isinstance(a, Tensor)]
    return torch.cat([flat(objective.theta()), *(a.detach().flatten() for a in learned)])


KILLED = """
import sys
from pathlib import Path
from test_variants import VARIANTS, trainings
for name in VARIANTS:
    for record in trainings(name, 0, 8, Path(sys.argv[1]) / name)[2]:
        if record.iteration == 4:
            print(name, flush=True)
            break
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of one training of each variant, in a process that was killed after iteration 4 of each."""
    folder = tmp_path_factory.mktemp("killed")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    assert process.stdout is not None
    begun = [process.stdout.readline() for _ in VARIANTS]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [line.strip() for line in begun] == list(VARIANTS)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_each_is_trained_examined_and_resumed_to_the_same_bits(name: str, killed: Path) -> None:
    alone, alpha, records = trainings(name, 0, 8, None)
    before = weights(alone, alpha)
    curves = [record for record in records if record.training]
    assert [record.iteration for record in curves] == [0, 4]
    assert curves[0].training["support"].loss.shape == (3, STEPS + 1)
    assert curves[0].validation["query"].loss.shape == (5, STEPS + 1)
    assert not torch.equal(weights(alone, alpha), before)

    resumed, again, rest = trainings(name, 7, 8, killed / name)
    assert [record.iteration for record in rest] == [4, 5, 6, 7]
    assert torch.equal(weights(resumed, again), weights(alone, alpha))

    rule = {k: v for k, v in VARIANTS[name].others.items() if k == "rule"}
    exams = [
        mk.evaluate(
            resumed, resumed.theta(), TASKS, alpha=again, steps=STEPS, split="test", size=6, route=route, **rule
        )
        for route in ("vmap", "loop")
    ]
    assert torch.allclose(exams[0].loss, exams[1].loss, atol=1e-12, rtol=0)
    for i in range(6):
        support, query = TASKS.batch(i, 1, "test").task(0)
        theta_prime = mk.adapt(resumed, resumed.theta(), support, alpha=again, steps=STEPS, **rule)
        assert exams[0].loss[i, -1].item() == pytest.approx(resumed(theta_prime, *query).item(), abs=1e-12)


def test_a_checkpoint_of_another_variant_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.checkpoint"
    list(trainings("momentum inside", 0, 2, file)[2])
    other = problem()
    settings: dict[str, Any] = {"alpha": 0.05, "beta": 0.01, "steps": STEPS, "iterations": 4, "tasks_per_iteration": 3}
    for changed, what in (
        ({"rule": adam}, "inner rule"),
        ({"rule": momentum, "outer": reptile}, "outer gradient"),
        ({"rule": momentum, "alpha": dict.fromkeys(other.theta(), 0.05)}, "settings"),
    ):
        with pytest.raises(ValueError, match=f"another run: its {what}"):
            next(mk.train(other, TASKS, checkpoint=file, progress=False, **(settings | changed)))
    for objective, what in (
        (mk.Objective(other.model, lambda prediction, y: 2 * mse(prediction, y)), "loss function"),
        (mk.Objective(other.model, mse, batch_norm="inductive"), "batch norm mode"),
        (mk.Objective(nn.Sequential(other.model[0], nn.ReLU(), other.model[2]), mse), "layers"),  # type: ignore[index]
    ):
        with pytest.raises(ValueError, match=f"another run: its {what}"):
            next(mk.train(objective, TASKS, checkpoint=file, progress=False, **settings, rule=momentum))


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        ({"5.weight": 0.1}, r"alpha names 5\.weight.*leaves out 0\.bias"),
        ({"0.bias": -0.1}, r"alpha of 0\.bias holds -0\.1"),
        ({"0.bias": float("nan")}, r"alpha of 0\.bias holds nan"),
        ({"0.bias": torch.tensor([0.1, 0.1, -1.0, 0.1])}, r"alpha of 0\.bias holds -1"),
        ({"0.bias": torch.full((3,), 0.1)}, r"alpha of 0\.bias has shape \(3,\).*each of the 2 steps"),
        ({"0.weight": torch.full((3, 4, 1), 0.1)}, r"alpha of 0\.weight has shape \(3, 4, 1\)"),
        (-0.1, "alpha is -0.1"),
        (torch.tensor(0.1), "a dict of them by parameter"),
    ],
)
def test_step_sizes_that_fit_nothing_are_refused(alpha: Any, words: str) -> None:
    objective = problem()
    theta, batch = objective.theta(), TASKS.batch(0, 2)
    if isinstance(alpha, dict) and "5.weight" not in alpha:
        alpha = dict.fromkeys(theta, 0.1) | alpha
    for call in (
        lambda: mk.adapt(objective, theta, batch.task(0).support, alpha=alpha, steps=2),
        lambda: mk.meta_gradient(objective, theta, batch, alpha=alpha, steps=2),
        lambda: next(mk.train(objective, TASKS, alpha=alpha, beta=0.1, iterations=1, steps=2)),
        lambda: mk.evaluate(objective, theta, TASKS, alpha=alpha, steps=2, split="test", size=2),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("route", ROUTES)
def test_one_learned_step_size_for_all_parameters_is_one(route: str) -> None:
    objective, batch = problem(), TASKS.batch(0, 3)
    theta, shared = objective.theta(), torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    alpha = dict.fromkeys(theta, shared)
    found = mk.meta_gradient(objective, theta, batch, alpha=alpha, steps=STEPS, route=route).grad_alpha
    ends = [by_hand(objective, batch, 0.05 + h, None)(theta) for h in (1e-5, -1e-5)]
    assert len(found) == 1
    assert next(iter(found.values())).item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)
    records = mk.train(
        objective, TASKS, alpha=alpha, beta=0.01, steps=STEPS, iterations=1, tasks_per_iteration=3, progress=False
    )
    (record,) = records
    wanted = torch.cat([flat(mk.meta_gradient(problem(), theta, batch, alpha=0.05, steps=STEPS).grad)])
    by_alpha = next(iter(found.values()))
    assert record.grad_norm == pytest.approx(torch.cat([wanted, by_alpha[None]]).norm().item(), rel=1e-9)
    assert abs(abs(shared.item() - 0.05) - 0.01) < 1e-6, "Adam's first step is β long, once"


def test_a_step_size_that_may_be_read_in_two_ways_is_read_as_the_others_are_or_refused() -> None:
    objective, batch = problem(), TASKS.batch(0, 2)
    theta = objective.theta()
    steps = 4  # as many as 0.bias has entries
    by_entry = {name: torch.full_like(weight, 0.01) for name, weight in theta.items()}
    by_step = {name: torch.linspace(0, 0.03, steps, dtype=torch.float64) for name in theta}
    written_out = {n: s.view(-1, *(1,) * theta[n].ndim) for n, s in by_step.items()}
    grads = [
        flat(mk.meta_gradient(objective, theta, batch, alpha=a, steps=steps).grad)
        for a in (by_entry, 0.01, by_step, written_out)
    ]
    assert torch.allclose(grads[0], grads[1], atol=1e-14)
    assert torch.allclose(grads[2], grads[3], atol=1e-14)
    assert not torch.allclose(grads[1], grads[2])
    unclear = dict.fromkeys(theta, 0.01) | {"0.bias": by_step["0.bias"]}
    with pytest.raises(ValueError, match=r"an entry of the parameter or a step"):
        mk.meta_gradient(objective, theta, batch, alpha=unclear, steps=steps)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (mk.InnerRule(lambda t: (), lambda t, g, a, s: t), "must return"),  # type: ignore[arg-type, return-value]
        (mk.InnerRule(lambda t: (), lambda t, g, a, s: ({"0.bias": t["0.bias"]}, s)), "theta after the inner rule"),
        (
            mk.InnerRule(lambda t: (), lambda t, g, a, s: ({n: w[None] for n, w in t.items()}, s)),
            "theta after the inner",
        ),
        (mk.InnerRule(lambda t: dict(t), lambda t, g, a, s: (t, {})), "changed the structure of its state"),
        (mk.InnerRule(lambda t: 0, lambda t, g, a, s: (t, s + 1)), "must hold tensors"),
    ],
)
@pytest.mark.parametrize("route", ROUTES)
def test_an_inner_rule_that_returns_another_structure_is_refused(rule: mk.InnerRule, words: str, route: str) -> None:
    objective = problem()
    with pytest.raises(ValueError, match=words):
        mk.meta_gradient(objective, objective.theta(), TASKS.batch(0, 2), alpha=0.1, rule=rule, route=route)


def one_iteration(objective: mk.Objective, change: Callable[[Any], Any], route: str) -> Iterator[Any]:
    """A training whose outer gradient is MAML's, changed."""

    def outer(*given: Any, **settings: Any) -> Any:
        return change(unchecked(*given, **settings))

    return mk.train(objective, TASKS, alpha=0.1, beta=0.1, iterations=1, route=route, outer=outer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found._replace(grad={"0.bias": found.grad["0.bias"]}), "the outer gradient by θ is"),
        (lambda found: found._replace(grad={n: g[None] for n, g in found.grad.items()}), "the outer gradient by θ is"),
        (lambda found: found._replace(grad=list(found.grad.values())), "the outer gradient by θ is list"),
        (lambda found: found._replace(grad_alpha=found.grad), "the outer gradient by alpha is"),
        (lambda found: found._replace(grad={}), "the outer gradient by θ is {}"),
    ],
)
@pytest.mark.parametrize("route", ["auto", "traced"])
def test_an_outer_gradient_of_another_structure_is_refused(
    change: Callable[[Any], Any], words: str, route: str
) -> None:
    objective = problem()
    before = objective.theta()
    with pytest.raises(ValueError, match=f"^{words}"):
        next(one_iteration(objective, change, route))
    assert torch.equal(flat(objective.theta()), flat(before))


def test_an_outer_gradient_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the outer gradient by θ is dict"):
        next(one_iteration(problem(), lambda found: found._replace(grad=dict.fromkeys(found.grad, 0.0)), "auto"))


def test_the_readme_names_each_variant_that_is_written_out_here() -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    sentence = page.split("`tests/test_variants.py` writes out eight: ")[1].split(".\n")[0]
    assert len(VARIANTS) == 8
    words = " ".join(sentence.split())
    assert [name for name in VARIANTS if name.removesuffix(" inside") not in words] == []
