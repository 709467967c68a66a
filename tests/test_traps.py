"""Bugs seen in public MAML code. Each is planted, and a check that a right run passes must catch it.

First in the kit: a check takes nothing and raises AssertionError when the kit is wrong; a bug is a patch of the kit.
Then in the museum's plain runs, by name, as notebook 11 does.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import zoo
from oracles import (
    WithEverything,
    closed_form,
    finite_differences,
    flat,
    meta_loss,
    mse,
    quadratic_problem,
    relative_error,
    sinusoid_problem,
)
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import mamlkit as mk
from mamlkit import curves, inner, meta, museum, pure
from mamlkit import tasks as drawing
from mamlkit.museum.catalogue import ThePart
from mamlkit.objective import Objective
from mamlkit.pure import Params

unroll, sinusoid_batch = inner.unroll, mk.Sinusoids.batch
Loss = Callable[[Params], Tensor]
Plant = Callable[[pytest.MonkeyPatch], None]

# --- the checks


def second_order_equals_the_closed_form() -> None:
    objective, theta, batch = quadratic_problem()
    for route in ("loop", "vmap"):
        found = flat(mk.meta_gradient(objective, theta, batch, alpha=0.1, route=route).grad)
        assert torch.allclose(found, closed_form(batch, theta["0.weight"].T, 0.1, 1, order=2)[:, 0], atol=1e-10)


def first_order_equals_the_query_gradient_at_theta_prime() -> None:
    objective, theta, batch = sinusoid_problem(tasks=1)
    support, query = batch.task(0)
    theta_prime = {name: theta[name] - 0.1 * g for name, g in grad(objective)(theta, *support).items()}
    found = flat(mk.meta_gradient(objective, theta, batch, alpha=0.1, order=1).grad)
    assert torch.allclose(found, flat(grad(objective)(theta_prime, *query)), atol=1e-13)


def several_steps_equal_finite_differences() -> None:
    objective, theta, batch = sinusoid_problem(tasks=2)
    for steps in (1, 2, 5):
        found = flat(mk.meta_gradient(objective, theta, batch, alpha=0.1, steps=steps).grad)
        assert relative_error(found, finite_differences(meta_loss(objective, batch, 0.1, steps), theta)) < 1e-6


def several_steps_equal_the_closed_form() -> None:
    objective, theta, batch = quadratic_problem()
    found = flat(mk.meta_gradient(objective, theta, batch, alpha=0.1, steps=3).grad)
    assert torch.allclose(found, closed_form(batch, theta["0.weight"].T, 0.1, 3, order=2)[:, 0], atol=1e-10)


def the_query_judges_and_does_not_adapt() -> None:
    objective, theta, batch = sinusoid_problem()
    relabelled = mk.TaskBatch(batch.support, mk.Batch(batch.query.x, batch.query.y + 1))
    a, b = (mk.meta_gradient(objective, theta, tasks, alpha=0.1) for tasks in (batch, relabelled))
    assert not torch.allclose(flat(a.grad), flat(b.grad))
    same_query = mk.TaskBatch(mk.Batch(batch.support.x, batch.support.y + 1), batch.query)
    assert torch.equal(mk.meta_gradient(objective, theta, same_query, alpha=0.1).loss_before, a.loss_before)


def support_and_query_share_no_example() -> None:
    batch = mk.Sinusoids(shots=10, queries=10).batch(0, 50)
    for i in range(50):
        assert not set(batch.support.x[i].flatten().tolist()) & set(batch.query.x[i].flatten().tolist())


def tasks_are_not_repeated_and_splits_do_not_overlap() -> None:
    tasks = mk.Sinusoids(dtype=torch.float64)
    waves = [w for split in drawing.SPLITS for w in zip(*(v.tolist() for v in tasks.waves(0, 300, split)), strict=True)]
    assert len(set(waves)) == 900
    batches = [tasks.batch(0, 300, split).support.y.flatten(1).tolist() for split in drawing.SPLITS]
    assert len({tuple(y) for split in batches for y in split}) == 900


def sinusoids_cross_zero_at_their_phase() -> None:
    tasks = mk.Sinusoids(shots=200, dtype=torch.float64)
    amplitude, phase = tasks.waves(0, 30)
    x, y = tasks.batch(0, 30).support
    assert torch.allclose(y[..., 0], amplitude[:, None] * torch.sin(x[..., 0] - phase[:, None]), atol=1e-12)


def tasks_leave_no_state_behind() -> None:
    model = WithEverything()
    objective = mk.Objective(model, mse)
    theta, batch = objective.theta(), mk.Sinusoids(dtype=torch.float64).batch(0, 2)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    there = [objective(theta, *batch.task(i).query).item() for i in (0, 1)]
    back = [objective(theta, *batch.task(i).query).item() for i in (1, 0)]
    assert there == back[::-1]
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def duplicates_change_no_mean() -> None:
    objective, theta, batch = sinusoid_problem()
    twice = mk.TaskBatch(*(mk.Batch(part.x.repeat(2, 1, 1), part.y.repeat(2, 1, 1)) for part in batch))
    doubled = mk.TaskBatch(mk.Batch(*(t.repeat(1, 2, 1) for t in batch.support)), batch.query)
    wanted = mk.meta_gradient(objective, theta, batch, alpha=0.1)
    for tasks in (twice, doubled):
        found = mk.meta_gradient(objective, theta, tasks, alpha=0.1)
        assert torch.allclose(flat(found.grad), flat(wanted.grad), atol=1e-12)


def adaptation_changes_the_forward_pass() -> None:
    objective, theta, _ = sinusoid_problem()
    curve = mk.evaluate(objective, theta, mk.Sinusoids(dtype=torch.float64), alpha=0.1, steps=1, split="test", size=5)
    assert (curve.loss[:, 0] != curve.loss[:, 1]).all()
    support, query = sinusoid_problem()[2].task(0)
    theta_prime = mk.adapt(objective, theta, support, alpha=0.1)
    assert not torch.equal(objective.predict(theta_prime, query.x), objective.predict(theta, query.x))


def one_shot_and_fifteen_queries_are_dealt_as_asked() -> None:
    batch = mk.Sinusoids(shots=1, queries=15).batch(0, 4)
    assert batch.support.x.shape == (4, 1, 1)
    assert batch.query.x.shape == (4, 15, 1)
    assert len(set(batch.query.x.flatten().tolist())) == 60


def every_test_step_is_taken() -> None:
    objective, theta, _ = sinusoid_problem()
    tasks = mk.Sinusoids(dtype=torch.float64)
    loss = mk.evaluate(objective, theta, tasks, alpha=0.05, steps=10, split="test", size=4).loss
    assert loss.shape == (4, 11)
    assert (loss.diff(dim=1) != 0).all()


def evaluation_keeps_no_graph() -> None:
    objective, theta, _ = sinusoid_problem()
    leaves = {name: weight.clone().requires_grad_() for name, weight in theta.items()}
    tasks = mk.Sinusoids(dtype=torch.float64)
    assert mk.evaluate(objective, leaves, tasks, alpha=0.05, steps=1, split="test", size=4).loss.grad_fn is None


def training_never_sees_the_test_split() -> None:
    @dataclass(frozen=True)
    class Guarded:
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            assert split == "train"
            return mk.Sinusoids().batch(start, size, split)

    objective = mk.Objective(mk.models.mlp(1, 1), mse)
    list(mk.train(objective, Guarded(), alpha=0.1, beta=0.1, iterations=2, progress=False))


def intervals_cover_what_they_claim_to() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.randn(100, 2000, generator=generator, dtype=torch.float64)
    covered = (losses.mean(0).abs() <= mk.Curve(losses).half_width()).double().mean().item()
    assert abs(covered - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 2000)


def norms_have_the_right_gradient_under_vmap() -> None:
    layers = [
        mk.models.mlp(1, 6, hidden=()),
        nn.BatchNorm1d(6, track_running_stats=False),
        nn.Tanh(),
        mk.models.mlp(6, 1),
    ]
    objective = mk.Objective(nn.Sequential(*layers).double(), mse)
    theta, batch = objective.theta(), mk.Sinusoids(shots=6, dtype=torch.float64).batch(0, 2)
    found = flat(mk.meta_gradient(objective, theta, batch, alpha=0.05, route="vmap").grad)
    wanted = flat(mk.meta_gradient(objective, theta, batch, alpha=0.05, route="loop").grad)
    assert relative_error(found, wanted) < 1e-10
    # The bias in front of a batch norm changes nothing, so its true gradient is zero.
    assert mk.meta_gradient(objective, theta, batch, alpha=0.05).grad["0.0.bias"].abs().max() < 1e-12


# --- the bugs


def descent(step: Callable[[Loss, Params, Params, inner.StepSizes, int, int, int], Params]) -> Plant:
    """A bug inside the inner loop: `step(loss, θ, start, α, order, i, steps)` replaces one step."""

    def wrong(loss: Loss, theta: Params, loop: inner.InnerLoop) -> Iterator[Params]:
        start = theta
        yield theta
        for i, alpha in enumerate(loop.alphas):
            theta = step(loss, theta, start, alpha, loop.order, i, len(loop.alphas))
            yield theta

    def plant(patch: pytest.MonkeyPatch) -> None:
        for module in (inner, meta, curves):
            patch.setattr(module, "unroll", wrong)

    return plant


def one_step(loss: Loss, theta: Params, alpha: inner.StepSizes, order: int) -> Params:
    """The right step."""
    return list(unroll(loss, theta, inner.InnerLoop([alpha], order)))[-1]


def rewritten(module: str, function: str, *changes: tuple[str, str]) -> Plant:
    """A bug in the source: the kit's own function, compiled again with some of its text changed."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for public in mk.__all__:
            getattr(mk, public)  # a room that loads while a bug is planted would keep it
        home = importlib.import_module(f"mamlkit.{module}")
        source = inspect.getsource(getattr(home, function))
        for old, new in changes:
            assert old in source, f"{module}.{function} no longer reads {old!r}"
            source = source.replace(old, new)
        namespace = dict(vars(home))
        exec(compile("from __future__ import annotations\n" + source, f"{function} with a bug", "exec"), namespace)
        wrong = namespace[function]
        original = getattr(home, function)
        for name, owner in list(sys.modules.items()):
            if name.startswith("mamlkit") and vars(owner).get(function) is original:
                patch.setattr(owner, function, wrong)
        for route, known in list(meta.ROUTES.items()):
            parts = [wrong if part is original else part for part in (known.func, known.keywords["through"])]
            patch.setitem(meta.ROUTES, route, partial(parts[0], through=parts[1]))

    return plant


def rewritten_batch(rewrite: Callable[..., mk.TaskBatch]) -> Plant:
    return lambda patch: patch.setattr(mk.Sinusoids, "batch", rewrite)


def _scaled_loss(patch: pytest.MonkeyPatch) -> None:
    judge = Objective.judge
    patch.setattr(Objective, "judge", lambda self, prediction, y: len(y) * judge(self, prediction, y))


def _buffers_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pure, "predict", lambda model, theta, x, support: functional_call(model, theta, (x,)))


def _support_as_query(self: mk.Sinusoids, start: int, size: int, split: str = "train") -> mk.TaskBatch:
    batch = sinusoid_batch(self, start, size, split)
    return mk.TaskBatch(batch.support, batch.support)


def _pool(self: mk.Sinusoids, start: int, size: int, split: str = "train") -> mk.TaskBatch:
    whole = sinusoid_batch(self, 0, 100, "train")
    chosen = torch.arange(start, start + size) % 100
    return mk.TaskBatch(*(mk.Batch(part.x[chosen], part.y[chosen]) for part in whole))


def _phase_as_frequency(self: mk.Sinusoids, start: int, size: int, split: str = "train") -> mk.TaskBatch:
    amplitude, phase = (values[:, None, None] for values in self.waves(start, size, split))
    batch = sinusoid_batch(self, start, size, split)
    return mk.TaskBatch(*(mk.Batch(part.x, amplitude * torch.sin(phase * part.x)) for part in batch))


def _even_odd_split(self: mk.Sinusoids, start: int, size: int, split: str = "train") -> mk.TaskBatch:
    x, y = sinusoid_batch(replace(self, shots=self.shots + self.queries), start, size, split).support
    return mk.TaskBatch(mk.Batch(x[:, ::2], y[:, ::2]), mk.Batch(x[:, 1::2], y[:, 1::2]))


def _one_step_only(patch: pytest.MonkeyPatch) -> None:
    def once(loss: Loss, theta: Params, loop: inner.InnerLoop) -> Iterator[Params]:
        path = list(unroll(loss, theta, loop._replace(alphas=loop.alphas[:1])))
        yield from path
        yield from path[-1:] * (len(loop.alphas) - 1)

    patch.setattr(curves, "unroll", once)


def _through_the_batching_rules(patch: pytest.MonkeyPatch) -> None:
    """The published recipe: the gradient inside, `vmap` outside, so that derivatives go through its rules for norms."""

    def recipe(
        objective: mk.Objective, theta: Params, batch: mk.TaskBatch, loop: inner.InnerLoop, learned: Params
    ) -> mk.MetaGradient:
        def task_loss(theta: Params, task: mk.TaskBatch) -> Tensor:
            for alpha in loop.alphas:
                gradient = grad(objective)(theta, *task.support)
                theta = {name: weight - alpha[name] * gradient[name] for name, weight in theta.items()}
            return objective(theta, *task.query)

        loss = vmap(task_loss, in_dims=(None, 0))(theta, batch)
        gradients = torch.autograd.grad(loss.mean(), list(theta.values()), materialize_grads=True)
        return mk.MetaGradient(loss.detach(), dict(zip(theta, gradients, strict=True)), loss)

    patch.setitem(meta.ROUTES, "vmap", recipe)


def no_create_graph(
    loss: Loss, theta: Params, start: Params, alpha: inner.StepSizes, order: int, i: int, n: int
) -> Params:
    return one_step(loss, theta, alpha, order=1)


def parameters_detached(
    loss: Loss, theta: Params, start: Params, alpha: inner.StepSizes, order: int, i: int, n: int
) -> Params:
    adapted = one_step(loss, theta, alpha, order)
    # Detached from θ, and leaves of their own: the outer gradient by θ is then zero.
    return {name: weight.detach().requires_grad_() for name, weight in adapted.items()} if order == 1 else adapted


def graph_through_the_last_step_only(
    loss: Loss, theta: Params, start: Params, alpha: inner.StepSizes, order: int, i: int, n: int
) -> Params:
    return one_step(loss, theta, alpha, order=order if i == n - 1 else 1)


def gradient_of_the_start_at_every_step(
    loss: Loss, theta: Params, start: Params, alpha: inner.StepSizes, order: int, i: int, n: int
) -> Params:
    moved = one_step(loss, start, alpha, order)
    return {name: theta[name] + moved[name] - start[name] for name in theta}


TRAPS: list[tuple[str, Callable[[], None], Plant]] = [
    ("missing create_graph", second_order_equals_the_closed_form, descent(no_create_graph)),
    (
        "first order by detaching parameters",
        first_order_equals_the_query_gradient_at_theta_prime,
        descent(parameters_detached),
    ),
    (
        "graph through the last step only",
        several_steps_equal_finite_differences,
        descent(graph_through_the_last_step_only),
    ),
    ("right at one step only", several_steps_equal_the_closed_form, descent(gradient_of_the_start_at_every_step)),
    (
        "query loss on the support set",
        the_query_judges_and_does_not_adapt,
        rewritten("meta", "vmapped", ("(*query, support.x)", "(*support, support.x)")),
    ),
    ("query points are the support points", support_and_query_share_no_example, rewritten_batch(_support_as_query)),
    ("tasks from a pool", tasks_are_not_repeated_and_splits_do_not_overlap, rewritten_batch(_pool)),
    ("phase as frequency", sinusoids_cross_zero_at_their_phase, rewritten_batch(_phase_as_frequency)),
    ("even and odd points", one_shot_and_fifteen_queries_are_dealt_as_asked, rewritten_batch(_even_odd_split)),
    ("buffers written", tasks_leave_no_state_behind, _buffers_written),
    ("sum over tasks", duplicates_change_no_mean, rewritten("meta", "unrolled", ("loss.mean()", "loss.sum()"))),
    ("sum over examples", duplicates_change_no_mean, _scaled_loss),
    (
        "outputs from before adaptation",
        adaptation_changes_the_forward_pass,
        rewritten("curves", "follow", ("for theta in path for part", "for _ in path for part")),
    ),
    ("test steps as training steps", every_test_step_is_taken, _one_step_only),
    (
        "evaluation keeps the graph",
        evaluation_keeps_no_graph,
        rewritten("curves", "follow", ("weight.detach()", "weight"), ("torch.no_grad()", "torch.enable_grad()")),
    ),
    (
        "test split used for monitoring",
        training_never_sees_the_test_split,
        rewritten("train", "train", ("first, iterations, place)", 'first, iterations, place, "test")')),
    ),
    (
        "interval without the root of n",
        intervals_cover_what_they_claim_to,
        lambda patch: patch.setattr(curves, "half_width", lambda values: 1.96 * values.std(0)),
    ),
    (
        "interval over the examples of all tasks",
        intervals_cover_what_they_claim_to,
        lambda patch: patch.setattr(
            curves, "half_width", lambda values: 1.96 * values.std(0) / math.sqrt(15 * len(values))
        ),
    ),
    (
        "derivatives of norms through vmap",
        norms_have_the_right_gradient_under_vmap,
        _through_the_batching_rules,
    ),
]
NAMES = [name for name, _, _ in TRAPS]


@pytest.mark.parametrize(("name", "check", "plant"), TRAPS, ids=NAMES)
def test_the_kit_passes_the_check(name: str, check: Callable[[], None], plant: Plant) -> None:
    check()


@pytest.mark.parametrize(("name", "check", "plant"), TRAPS, ids=NAMES)
def test_the_planted_bug_is_caught(
    name: str, check: Callable[[], None], plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


# --- the museum's


@pytest.mark.parametrize("name", museum.CATALOGUE)
def test_the_museums_right_run_passes_the_check(name: str) -> None:
    exhibit = museum.CATALOGUE[name]
    assert exhibit.check(exhibit.room) == ""


@pytest.mark.parametrize("name", museum.CATALOGUE)
def test_the_exhibit_is_caught_for_what_it_is(name: str) -> None:
    with pytest.raises(AssertionError, match=museum.CATALOGUE[name].finding):
        assert not (words := museum.words(name)), words


@pytest.mark.parametrize("name", museum.CATALOGUE)
def test_an_exhibit_counts_as_named_only_if_more_is_said_than_that_a_number_is_off(name: str) -> None:
    exhibit = museum.CATALOGUE[name]
    a_number_is_off = r"off by|away from|cover too (much|little)|given an accuracy of"
    assert exhibit.named == (re.search(a_number_is_off, exhibit.finding) is None)


@pytest.mark.parametrize("name", museum.CATALOGUE)
def test_an_exhibit_shows_whole_lines_of_its_runs(name: str) -> None:
    right, wrong = museum.lines(name)
    assert right != wrong
    assert right in [line.strip() for line in inspect.getsource(museum.CATALOGUE[name].room).splitlines()]


def test_planting_a_bug_leaves_the_right_run_as_it_was() -> None:
    run = museum.plant("sum over tasks")
    theta, tasks = museum.plain.start(), museum.plain.draw(0, 3)
    (right, _), (wrong, _) = (part.meta_gradient(theta, tasks) for part in (museum.plain, run))
    assert torch.allclose(wrong, 3 * right)


@pytest.mark.parametrize("recipe", ["by_vmap", "by_grad"])
@pytest.mark.parametrize("net", ["BatchNorm", "LayerNorm", "Swish", "WeightNorm", "BiasAlone", "Tied"])
def test_the_recipes_give_one_gradient_of_a_right_part(net: str, recipe: str) -> None:
    by_loop, found = (ThePart(net, name).gradient(museum.parts) for name in ("by_loop", recipe))
    assert museum.gap(found, by_loop) < 1e-10


def test_a_right_line_that_is_gone_is_said() -> None:
    exhibit = museum.CATALOGUE["sum over tasks"]._replace(right="value = 3")
    with pytest.raises(ValueError, match=r"'value = 3' stands 0 times in mamlkit\.museum\.plain"):
        museum.planted(exhibit, "x")


def test_the_readme_counts_the_bugs_that_are_planted_and_the_modules_that_are_held_against_plain_pytorch() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"{len(TRAPS)} in the kit and the {len(museum.CATALOGUE)} of notebook 11" in " ".join(readme.split())
    kinds = [name for name in zoo.RIGHT if not any(words in name for words in zoo.WRONG_IN_PYTORCH)]
    assert "on modules of more than forty kinds to 1e-9" in readme
    assert len(kinds) + len(zoo.ONE_AT_A_TIME) > 40
