"""The exam: curves, their intervals, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
import torch
from oracles import mse, quadratic_problem, sinusoid_problem
from torch.nn import functional

import mamlkit as mk
from mamlkit.statistics import Interval, half_width

TASKS = mk.Sinusoids(shots=5, queries=6, dtype=torch.float64)


def test_a_curve_holds_the_query_loss_after_every_step() -> None:
    objective, theta, _ = sinusoid_problem()
    curve = mk.evaluate(objective, theta, TASKS, alpha=0.05, steps=3, split="test", size=5, start=2)
    assert curve.loss.shape == (5, 4)
    assert curve.accuracy is None
    batch = TASKS.batch(2, 5, "test")
    for i in range(5):
        support, query = batch.task(i)
        for steps in range(4):
            theta_prime = mk.adapt(objective, theta, support, alpha=0.05, steps=steps)
            assert curve.loss[i, steps].item() == pytest.approx(objective(theta_prime, *query).item(), rel=1e-12)


def test_routes_and_chunks_give_the_same_curve() -> None:
    objective, theta, _ = sinusoid_problem()
    curves = [
        mk.evaluate(objective, theta, TASKS, alpha=0.05, steps=2, split="test", size=7, route=route, chunk=chunk)
        for route, chunk in (("vmap", 200), ("vmap", 3), ("vmap", None), ("loop", 200))
    ]
    for curve in curves[1:]:
        assert torch.allclose(curve.loss, curves[0].loss, atol=1e-12, rtol=0)


def test_evaluation_keeps_no_graph_and_changes_nothing() -> None:
    objective, theta, _ = sinusoid_problem()
    leaves = {name: weight.clone().requires_grad_() for name, weight in theta.items()}
    curve = mk.evaluate(objective, leaves, TASKS, alpha=0.05, steps=2, split="test", size=4)
    assert curve.loss.grad_fn is None
    assert not curve.loss.requires_grad
    assert all(torch.equal(leaf, theta[name]) and leaf.grad is None for name, leaf in leaves.items())


def test_the_split_must_be_asked_for_by_name() -> None:
    objective, theta, _ = sinusoid_problem()
    with pytest.raises(TypeError, match="split"):
        mk.evaluate(objective, theta, TASKS, alpha=0.05, steps=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="train, validation, test"):
        mk.evaluate(objective, theta, TASKS, alpha=0.05, steps=1, split="exam")


class Classes:
    """Two classes, told apart by the sign of x; one query label in four is wrong on purpose."""

    def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
        x = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64).view(1, 4, 1).expand(size, 4, 1)
        y = (x[..., 0] > 0).long()
        wrong = y.clone()
        wrong[:, 0] = 1
        return mk.TaskBatch(mk.Batch(x, y), mk.Batch(x, wrong))


def test_accuracy_is_the_share_of_query_labels_predicted() -> None:
    model = mk.models.mlp(1, 2, hidden=(), dtype=torch.float64)
    objective = mk.Objective(model, functional.cross_entropy)
    theta = {"0.weight": torch.zeros(2, 1, dtype=torch.float64), "0.bias": torch.tensor([1.0, 0.0]).double()}
    curve = mk.evaluate(objective, theta, Classes(), alpha=1.0, steps=2, split="test", size=3)
    assert curve.accuracy is not None
    assert curve.accuracy.tolist() == [[0.25, 0.75, 0.75]] * 3


def test_there_is_no_accuracy_where_whole_numbers_are_not_the_class_of_each_prediction() -> None:
    """The loss takes what it wants of them: a column of several, or a mean of logits over places."""

    class Columns(Classes):
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            parts = super().batch(start, size, split)
            return mk.TaskBatch(*(mk.Batch(x, y[..., None].expand(size, 4, 3)) for x, y in parts))

    plain, places = (mk.models.mlp(1, outputs, hidden=(), dtype=torch.float64) for outputs in (2, 6))
    column = mk.Objective(plain, lambda logits, y: functional.cross_entropy(logits, y[:, 0]))
    whole = torch.nn.Sequential(places, torch.nn.Unflatten(1, (2, 3)))
    mean = mk.Objective(whole, lambda logits, y: functional.cross_entropy(logits.mean(2), y))
    for objective, tasks in ((column, Columns()), (mean, Classes())):
        found = mk.evaluate(objective, objective.theta(), tasks, alpha=0.1, steps=1, split="test", size=4)
        assert found.accuracy is None


def test_a_curve_says_in_words_what_it_holds_and_which_statistics_batch_norm_used() -> None:
    curve = mk.Curve(torch.tensor([[3.0, 1.0], [5.0, 1.0]]), torch.tensor([[0.25, 1.0], [0.25, 0.5]]), "inductive")
    assert str(curve) == (
        "2 tasks, 0 → 1 steps: loss 4 ± 2 → 1 ± 0, accuracy 0.25 ± 0 → 0.75 ± 0.49; batch norm: inductive"
    )
    tasks = Classes()
    for norm, wanted in ((torch.nn.BatchNorm1d(2), "transductive"), (torch.nn.LayerNorm(2), None)):
        model = torch.nn.Sequential(mk.models.mlp(1, 2, hidden=(), dtype=torch.float64), norm.double())
        objective = mk.Objective(model, functional.cross_entropy)
        found = mk.evaluate(objective, objective.theta(), tasks, alpha=0.1, steps=1, split="test", size=2)
        assert found.batch_norm == wanted


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    """Losses are skewed, as squared errors are: the interval over 200 tasks must hold the mean 95 times in 100."""
    generator = torch.Generator().manual_seed(0)
    losses = torch.randn(200, 4000, generator=generator, dtype=torch.float64).square()
    covered = (losses.mean(0) - 1).abs() <= half_width(losses)
    # Five standard errors of a share of 0.95 over 4,000 repetitions, and one point for the skew at n = 200.
    assert covered.double().mean().item() == pytest.approx(0.95, abs=5 * math.sqrt(0.95 * 0.05 / 4000) + 0.01)


def test_the_interval_of_a_curve_is_over_tasks_not_over_examples() -> None:
    objective, theta, _ = quadratic_problem()
    tasks = mk.Quadratics(shots=5, queries=500, scales=(0.5, 1.0, 1.5))
    curve = mk.evaluate(objective, theta, tasks, alpha=0.05, steps=1, split="test", size=50)
    wanted = 1.96 * curve.loss.std(0) / math.sqrt(50)
    assert torch.allclose(curve.half_width(), wanted)
    assert torch.allclose(curve.mean(), curve.loss.mean(0))


def test_pairing_finds_a_difference_that_unpaired_intervals_hide() -> None:
    generator = torch.Generator().manual_seed(0)
    difficulty = torch.rand(100, 1, generator=generator) * 10
    small = torch.randn(100, 1, generator=generator) * 0.05
    a, b = mk.Curve(difficulty + 0.1 + small), mk.Curve(difficulty)
    difference = mk.paired_difference(a, b)
    assert difference.mean == pytest.approx(0.1, abs=0.03)
    assert difference.mean > difference.half_width
    assert a.mean() - b.mean() < a.half_width()
    assert difference.tasks == 100


def test_pairing_curves_of_different_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="3 tasks and the other 4"):
        mk.paired_difference(mk.Curve(torch.ones(3, 2)), mk.Curve(torch.ones(4, 2)))


@pytest.mark.parametrize(
    ("bad", "words"),
    [({"alpha": -0.1}, "alpha"), ({"steps": -1}, "steps"), ({"size": 1}, "size is 1"), ({"route": "x"}, "route")],
)
def test_bad_settings_are_refused(bad: dict[str, object], words: str) -> None:
    objective, theta, _ = sinusoid_problem()
    settings = {"alpha": 0.1, "steps": 1, "split": "test", "size": 4} | bad
    with pytest.raises(ValueError, match=words):
        mk.evaluate(objective, theta, TASKS, **settings)  # type: ignore[arg-type]


def test_tasks_from_any_start_are_those_of_a_longer_exam() -> None:
    objective, theta, _ = sinusoid_problem()
    settings: dict[str, Any] = {"alpha": 0.05, "steps": 2, "split": "validation"}
    whole = mk.evaluate(objective, theta, TASKS, size=12, **settings).loss
    for chunk in (3, 200):
        later = mk.evaluate(objective, theta, TASKS, size=7, start=5, chunk=chunk, **settings).loss
        assert torch.allclose(later, whole[5:], rtol=1e-12)


def test_a_task_that_diverged_shows_in_the_mean_and_its_interval() -> None:
    curve = mk.Curve(torch.tensor([[1.0, math.inf, math.nan], [1.0, 2.0, 3.0]]))
    assert curve.mean().tolist() == pytest.approx([1.0, math.inf, math.nan], nan_ok=True)
    assert curve.half_width().isfinite().tolist() == [True, False, False]


@pytest.mark.parametrize("route", ["loop", "vmap"])
@pytest.mark.parametrize("statistics", ["transductive", "inductive"])
def test_each_mode_of_batch_norm_judges_the_query_by_its_own_statistics(
    statistics: Literal["transductive", "inductive"], route: str
) -> None:
    parts = [mk.models.mlp(1, 4, hidden=()), torch.nn.BatchNorm1d(4, eps=0.1), mk.models.mlp(4, 1, hidden=(), seed=1)]
    objective = mk.Objective(torch.nn.Sequential(*parts).double(), mse, batch_norm=statistics)
    theta = objective.theta()
    curve = mk.evaluate(objective, theta, TASKS, alpha=0.05, steps=2, split="test", size=3, route=route)
    assert curve.batch_norm == statistics
    for i in range(3):
        support, query = TASKS.batch(i, 1, "test").task(0)
        others = query.x if statistics == "transductive" else support.x
        for step in range(3):
            weight, bias, scale, shift, last, end = mk.adapt(objective, theta, support, alpha=0.05, steps=step).values()
            h, judges = query.x @ weight.T + bias, others @ weight.T + bias
            normal = (h - judges.mean(0)) / (judges.var(0, correction=0) + 0.1).sqrt()
            wanted = mse((normal * scale + shift) @ last.T + end, query.y).item()
            assert curve.loss[i, step].item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("route", ["loop", "vmap"])
def test_a_model_that_remembers_is_refused_before_it_is_examined(route: str) -> None:
    class Remembering(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.calls = mk.models.mlp(1, 1, hidden=(), dtype=torch.float64), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            found: torch.Tensor = self.last(x) + self.calls
            return found

    objective = mk.Objective(Remembering(), mse)
    with pytest.raises(ValueError, match="predicts differently in two equal passes"):
        mk.evaluate(objective, objective.theta(), TASKS, alpha=0.1, steps=1, split="test", size=2, route=route)


def test_nan_in_the_data_is_refused_and_a_divergence_is_reported_as_it_is() -> None:
    objective, theta, _ = sinusoid_problem()

    class Poisoned:
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            support, (x, y) = TASKS.batch(start, size, split)
            return mk.TaskBatch(support, mk.Batch(x, y * math.nan))

    with pytest.raises(ValueError, match="query's y are NaN"):
        mk.evaluate(objective, theta, Poisoned(), alpha=0.1, steps=1, split="test", size=4)
    diverged = mk.evaluate(objective, theta, TASKS, alpha=1e6, steps=30, split="test", size=4)
    assert not torch.isfinite(diverged.loss[:, -1]).any()


def test_a_quadratic_task_is_solved_in_the_number_of_steps_theory_gives() -> None:
    """In one dimension H = 2, so one step of α = 1/2 lands on the optimum, and of α = 1 jumps to its mirror image."""
    model = mk.models.mlp(1, 1, hidden=(), dtype=torch.float64)
    model[0].register_parameter("bias", None)
    objective = mk.Objective(model, mse)
    tasks = mk.Quadratics(scales=(1.0,))
    half = mk.evaluate(objective, objective.theta(), tasks, alpha=0.5, steps=1, split="test", size=20).mean()
    one = mk.evaluate(objective, objective.theta(), tasks, alpha=1.0, steps=1, split="test", size=20).mean()
    assert half[1] < 1e-25
    assert one[1].item() == pytest.approx(one[0].item(), rel=1e-12)


REPEATS = 4000
FIVE_ERRORS = 5 * math.sqrt(0.95 * 0.05 / REPEATS)  # of a share of 0.95 over so many repetitions


def covered(intervals: list[Interval], truth: float) -> float:
    """The share of intervals that hold the truth."""
    return sum(interval.low <= truth <= interval.high for interval in intervals) / len(intervals)


@pytest.mark.parametrize("seeds", [3, 10])
def test_the_interval_over_seeds_covers_the_true_mean_as_often_as_it_says(seeds: int) -> None:
    runs = np.random.default_rng(0).normal(5.0, 2.0, (REPEATS, seeds))
    assert covered([mk.t_interval(row) for row in runs], 5.0) == pytest.approx(0.95, abs=FIVE_ERRORS)


def test_the_normal_interval_over_three_seeds_covers_far_less_than_it_says() -> None:
    """Which is why `half_width`, made for hundreds of tasks, is not used over seeds."""
    runs = torch.randn(3, REPEATS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = (runs.mean(0).abs() <= half_width(runs)).double().mean().item()
    assert 0.78 < share < 0.86  # 81% by Student's t with two degrees of freedom


def test_an_interval_over_seeds_is_the_one_on_paper() -> None:
    mean, low, high, n = mk.t_interval([1, 2, 3])  # t = 4.3027 for two degrees of freedom, s = 1
    assert (mean, n) == (2.0, 3)
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert mean - low == pytest.approx(high - mean, rel=1e-12)
    assert mk.t_interval([0.5] * 4) == (0.5, 0.5, 0.5, 4)


@pytest.mark.parametrize(("values", "words"), [([], "0 value"), ([1.0], "1 value"), ([1.0, math.nan, 2], "1 of 3")])
def test_an_interval_over_too_few_or_broken_seeds_is_refused(values: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mk.t_interval(values)


def test_the_interval_of_a_rate_covers_it_near_the_end_where_the_normal_one_fails() -> None:
    """The share of seeds on which a claim holds: 95 in 100, known from ten."""
    held = np.random.default_rng(0).binomial(10, 0.95, REPEATS)
    # Ten trials have eleven outcomes, so coverage is a sum of few terms: 91.4% here, where 95% is out of reach.
    assert covered([mk.wilson_interval(int(k), 10) for k in held], 0.95) == pytest.approx(0.914, abs=0.02)
    half = 1.96 * np.sqrt(held / 10 * (1 - held / 10) / 10)
    assert (np.abs(held / 10 - 0.95) <= half).mean() < 0.5


def test_the_interval_of_a_rate_is_wilsons_and_stays_between_0_and_1() -> None:
    z = 1.959964
    assert mk.wilson_interval(10, 10).low == pytest.approx(10 / (10 + z**2), rel=1e-6)
    assert mk.wilson_interval(10, 10).high == pytest.approx(1.0)
    assert mk.wilson_interval(0, 10)[:3] == pytest.approx((0.0, 0.0, z**2 / (10 + z**2)), rel=1e-6, abs=1e-12)
    centre, half = (9 + z**2 / 2) / (10 + z**2), z / (10 + z**2) * math.sqrt(0.9 + z**2 / 4)
    assert mk.wilson_interval(9, 10)[1:] == pytest.approx((centre - half, centre + half, 10), rel=1e-6)


@pytest.mark.parametrize(("successes", "trials"), [(11, 10), (-1, 10), (0, 0)])
def test_a_rate_that_cannot_be_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes in {trials} trials"):
        mk.wilson_interval(successes, trials)


@pytest.mark.parametrize(("pairs", "effect"), [(False, 1.0), (True, 1.0), (False, 0.4), (True, 0.4)])
def test_so_many_seeds_find_the_difference_as_often_as_asked(pairs: bool, effect: float) -> None:
    n = mk.sample_size(effect, 1.0, pairs=pairs)
    rng = np.random.default_rng(0)
    a, b = rng.normal(effect, 1, (REPEATS, n)), rng.normal(0, 1, (REPEATS, n))
    if pairs:
        found = [mk.t_interval(row).low > 0 for row in a]
    else:  # Student's two-sample interval, by numpy
        error = np.sqrt((a.var(1, ddof=1) + b.var(1, ddof=1)) / n)
        t = {17: 2.0369, 100: 1.9720}[n]  # 97.5% points for 32 and 198 degrees of freedom
        found = list(a.mean(1) - b.mean(1) > t * error)
    # The share can only exceed the power asked for by what one more seed adds: at most 2 points here.
    assert 0.8 - 5 * math.sqrt(0.16 / REPEATS) < np.mean(found) < 0.82 + 5 * math.sqrt(0.16 / REPEATS)


def test_the_papers_lead_of_second_order_needs_some_21_000_tasks_an_arm() -> None:
    """48.70 against 48.07% (Finn et al. 2017, Table 1), where a task's accuracy has a spread of about 23 points."""
    assert mk.sample_size(0.63, 23) == 20_924
    assert mk.sample_size(0.63, 23, pairs=True) == 10_464
    assert mk.sample_size(1, 1) == 17  # as power tables have it
    assert mk.sample_size(1, 1, pairs=True) == 10


def test_more_power_and_a_smaller_difference_need_more() -> None:
    assert (
        mk.sample_size(1, 1, power=0.5)
        < mk.sample_size(1, 1)
        < mk.sample_size(1, 1, power=0.95)
        < mk.sample_size(0.5, 1, power=0.95)
    )
    assert mk.sample_size(1e6, 1) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0, 1, 0.8), "difference is 0"), ((1, -1, 0.8), "spread -1"), ((1, math.inf, 0.8), "inf"), ((1, 1, 1), "power")],
)
def test_a_number_that_cannot_be_worked_out_is_refused(arguments: tuple[float, float, float], words: str) -> None:
    difference, spread, power = arguments
    with pytest.raises(ValueError, match=words):
        mk.sample_size(difference, spread, power=power)


class Sequences:
    """Labels for each place of a sequence: logits [points, classes, length], y [points, length]."""

    def __init__(self, classes: int, length: int, ignored: int = 0, label: int = -100) -> None:
        self.classes, self.length, self.ignored, self.label = classes, length, ignored, label

    def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
        generator = torch.Generator().manual_seed(start)
        x = torch.randn(size, 6, self.length, generator=generator, dtype=torch.float64)
        y = torch.randint(self.classes, (size, 6, self.length), generator=generator)
        y[:, :, : self.ignored] = self.label
        return mk.TaskBatch(mk.Batch(x, y), mk.Batch(x + 0.1, y))


IGNORING: dict[int, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    -100: functional.cross_entropy,
    255: torch.nn.CrossEntropyLoss(ignore_index=255),
    0: partial(functional.cross_entropy, ignore_index=0),
    -1: lambda prediction, y: functional.cross_entropy(prediction, y, ignore_index=-1),
}


@pytest.mark.parametrize(("classes", "length", "ignored"), [(5, 5, 0), (3, 7, 0), (4, 6, 2)])
@pytest.mark.parametrize("label", IGNORING)
@pytest.mark.parametrize("route", ["loop", "vmap"])
def test_accuracy_is_over_the_dimension_of_classes_and_leaves_ignored_labels_out(
    classes: int, length: int, ignored: int, label: int, route: str
) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = mk.models.mlp(length, classes * length, hidden=(), dtype=torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.last(x).view(-1, classes, length)
            return found

    objective, tasks = mk.Objective(Net(), IGNORING[label]), Sequences(classes, length, ignored, label)
    theta = objective.theta()
    curve = mk.evaluate(objective, theta, tasks, alpha=0.5, steps=1, split="test", size=2, route=route)
    assert curve.accuracy is not None
    for i in range(2):
        support, query = tasks.batch(0, 2, "test").task(i)
        for step in (0, 1):
            adapted = mk.adapt(objective, theta, support, alpha=0.5, steps=step)
            guess = objective.predict(adapted, query.x).argmax(1)
            counted = query.y != label
            wanted = (guess == query.y)[counted].double().mean().item()
            assert curve.accuracy[i, step].item() == pytest.approx(wanted, abs=1e-12)


def test_there_is_no_accuracy_where_every_label_of_a_task_is_ignored() -> None:
    model = mk.models.mlp(1, 2, hidden=(), dtype=torch.float64)

    class Ignored(Classes):
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            support, query = super().batch(start, size, split)
            return mk.TaskBatch(support, mk.Batch(query.x, torch.full_like(query.y, -100)))

    objective = mk.Objective(model, functional.cross_entropy)
    curve = mk.evaluate(objective, objective.theta(), Ignored(), alpha=0.1, steps=1, split="test", size=2)
    assert curve.accuracy is None
