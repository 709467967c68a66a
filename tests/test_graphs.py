"""Routes "traced" and "compiled": the same numbers as without a graph, and never those of an older model."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from oracles import (
    finite_differences,
    flat,
    meta_loss,
    mse,
    relative_error,
    sinusoid_problem,
)
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import mamlkit as mk
from mamlkit import graphs, meta
from mamlkit.inner import GRADIENT_DESCENT

REFUSED = {"batch norm with cumulative statistics": "Python asks for the value of a tensor"}
TASKS = mk.Sinusoids(shots=4, queries=5, dtype=torch.float64)


def same(found: mk.MetaGradient, wanted: mk.MetaGradient) -> bool:
    return all(map(torch.equal, pytree.tree_leaves(found), pytree.tree_leaves(wanted)))


def momentum() -> mk.InnerRule:
    def step(theta: Any, gradient: Any, alpha: Any, state: Any) -> Any:
        state = {name: 0.5 * state[name] + gradient[name] for name in theta}
        return {name: theta[name] - alpha[name] * state[name] for name in theta}, state

    return mk.InnerRule(lambda theta: {name: torch.zeros_like(weight) for name, weight in theta.items()}, step)


@pytest.mark.filterwarnings("ignore:.*performance drop:UserWarning", "ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", zoo.RIGHT)
def test_a_traced_meta_gradient_is_the_vmapped_one_to_the_bit(name: str) -> None:
    objective, batch = mk.Objective(zoo.made(zoo.RIGHT[name]), F.mse_loss), zoo.data()
    solve = functools.partial(mk.meta_gradient, objective, batch=batch, alpha=zoo.ALPHA, steps=zoo.STEPS)
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name] + '.*use route="vmap"'):
            solve(objective.theta(), route="traced")
        return
    other = {name: 1.1 * weight for name, weight in objective.theta().items()}
    for theta in (objective.theta(), other):
        assert same(solve(theta, route="traced"), solve(theta))


@pytest.mark.parametrize("name", zoo.ONE_AT_A_TIME)
def test_what_vmap_cannot_run_is_sent_to_the_loop(name: str) -> None:
    objective = mk.Objective(zoo.made(zoo.ONE_AT_A_TIME[name]), F.mse_loss)
    with pytest.raises(ValueError, match='use route="loop"'):
        mk.meta_gradient(objective, objective.theta(), zoo.data(), alpha=0.1, route="traced")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_orders_steps_rules_learned_step_sizes_and_chunks_are_traced(order: int, steps: int) -> None:
    objective, theta, batch = sinusoid_problem()
    by_step = {name: torch.full((steps, *weight.shape), 0.05).double() for name, weight in theta.items()}
    learned = {name: torch.tensor(0.05, dtype=torch.float64, requires_grad=True) for name in theta}
    alphas = (0.05, by_step, {name: size.detach() for name, size in learned.items()}, learned | {"0.weight": 0.0})
    cases: list[dict[str, Any]] = [{"alpha": alpha} for alpha in alphas]
    cases += [{"alpha": learned, "rule": momentum()}, {"alpha": learned, "chunk": 2}]
    cases += [{"alpha": dict.fromkeys(theta, learned["0.bias"])}]  # one tensor for all
    for case in cases:
        settings = {"order": order, "steps": steps, **case}
        found = mk.meta_gradient(objective, theta, batch, route="traced", **settings)
        assert same(found, mk.meta_gradient(objective, theta, batch, **settings))


def test_a_compiled_meta_gradient_is_that_of_finite_differences() -> None:
    model = mk.models.mlp(1, 1, hidden=(5,), dtype=torch.float64)
    objective, batch = mk.Objective(model, mse), TASKS.batch(0, 3)
    theta = objective.parameters()
    learned = {name: torch.tensor(0.05, dtype=torch.float64, requires_grad=True) for name in theta}
    found = mk.meta_gradient(objective, theta, batch, alpha=learned, route="compiled")
    assert not any(part.requires_grad for part in pytree.tree_leaves(found))
    slope = finite_differences(meta_loss(objective, batch, 0.05, 1), objective.theta())
    assert relative_error(flat(found.grad), slope) < 1e-6
    vmapped = mk.meta_gradient(objective, theta, batch, alpha=learned)
    assert relative_error(flat(found.grad_alpha), flat(vmapped.grad_alpha)) < 1e-12


def test_a_compiled_convolution_with_batch_norm_and_a_rule_with_a_state() -> None:
    layers = (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(13), nn.Flatten(), nn.Linear(8, 3))
    objective = mk.Objective(zoo.made(lambda: nn.Sequential(*layers)), F.cross_entropy)
    batch = mk.Glyphs(ways=3, shots=1, queries=2, dtype=torch.float64).batch(0, 2)
    settings: dict[str, Any] = {"alpha": 0.1, "rule": momentum()}
    wanted = mk.meta_gradient(objective, objective.theta(), batch, route="loop", **settings)
    found = mk.meta_gradient(objective, objective.theta(), batch, route="compiled", **settings)
    assert relative_error(flat(found.grad), flat(wanted.grad)) < 1e-10


class Changeable(nn.Module):
    """Everything that may change between two passes, in one module."""

    CLASS = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)
        self.frozen = nn.Parameter(torch.rand(6), requires_grad=False)
        self.register_buffer("shift", torch.rand(6))
        self.scale, self.scales, self.kept, self.plain = 1.0, [1.0], {"by": 1.0}, torch.ones(6, dtype=torch.float64)
        self.space, self.record = SimpleNamespace(by=1.0), Record()
        self.slotted, self.subclass = Slotted(), Dictionary()
        self.array, self.partly = np.ones(1), functools.partial(float.__mul__, 1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x)) * self.frozen + cast(Tensor, self.shift)
        h = torch.tanh(h) * self.scale * self.scales[0] * self.kept["by"] * FACTOR * self.plain
        return cast(Tensor, self.last(h) * self.around() * getattr(self.frozen, "gain", 1.0))

    def around(self) -> float:
        objects = self.space.by * self.record.by * self.slotted.by * self.subclass.by * AROUND.by * Slotted.shared
        functions = float(self.array.sum()) * self.partly() * helped()
        import settings_of_the_test  # type: ignore[import-not-found]
        from settings_of_the_test import also

        texts = CONFIG.texted * vars(CONFIG)["viewed"] * sys.modules["settings_of_the_test"].found
        imported = settings_of_the_test.by * also * texts * globals()["NAMED"]
        return float(objects * functions * CONFIG.by * PACKAGE.config.by * self.CLASS * imported)


class Slotted:
    __slots__ = ("by",)
    shared = 1.0

    def __init__(self) -> None:
        self.by = 1.0


@dataclass
class Record:
    by: float = 1.0


class Dictionary(dict[str, float]):
    by = 1.0


def helped(by: float = 1.0, *, also: float = 1.0) -> float:
    return float(by * also * HELPED[0] * (lambda: INNER)() * cast(Any, helped).by)


cast(Any, helped).by = 1.0
AROUND, FACTOR, INNER, HELPED = SimpleNamespace(by=1.0), 1.0, 1.0, (1.0,)
CONFIG, PACKAGE = cast(Any, ModuleType("settings")), cast(Any, ModuleType("package"))
CONFIG.by, PACKAGE.config = 1.0, ModuleType("package.config")
PACKAGE.config.by, PACKAGE.config.config = 1.0, PACKAGE  # as modules that import each other
NAMED, SETTINGS = 1.0, cast(Any, ModuleType("settings_of_the_test"))
CONFIG.texted = CONFIG.viewed = SETTINGS.by = SETTINGS.also = SETTINGS.found = 1.0
sys.modules[SETTINGS.__name__] = SETTINGS


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(1, dtype=torch.float64))
        self.power = 2

    def forward(self, prediction: Tensor, y: Tensor) -> Tensor:
        return (cast(Tensor, self.weight) * (prediction - y).abs() ** self.power).mean()


def _attribute(name: str, value: Any) -> Callable[[Any, pytest.MonkeyPatch], Any]:
    return lambda objective, patch: setattr(objective.model, name, value)


CHANGES: dict[str, Callable[[Any, pytest.MonkeyPatch], Any]] = {
    "a buffer, in place": lambda o, patch: o.model.shift.add_(0.5),
    "a buffer, anew": _attribute("shift", torch.full((6,), 0.3, dtype=torch.float64)),
    "a buffer's data": lambda o, patch: setattr(o.model.shift, "data", torch.full((6,), 0.3, dtype=torch.float64)),
    "a frozen parameter, in place": lambda o, patch: o.model.frozen.mul_(2),
    "a frozen parameter, anew": _attribute("frozen", nn.Parameter(torch.ones(6).double() / 3, requires_grad=False)),
    "a tensor that is no buffer, in place": lambda o, patch: o.model.plain.mul_(2),
    "a tensor that is no buffer, anew": _attribute("plain", torch.full((6,), 0.3, dtype=torch.float64)),
    "a mode": lambda o, patch: o.model.eval(),
    "the mode of a part": lambda o, patch: o.model.norm.eval(),
    "a setting of a part": lambda o, patch: setattr(o.model.norm, "eps", 0.5),
    "statistics, in a mode that uses them": lambda o, patch: (o.model.eval(), o.model.norm.running_mean.add_(0.2)),
    "a number": _attribute("scale", 2.0),
    "a number in a list": lambda o, patch: o.model.scales.__setitem__(0, 2.0),
    "a number in a dict": lambda o, patch: o.model.kept.update(by=2.0),
    "a number around the class": lambda o, patch: patch.setitem(globals(), "FACTOR", 2.0),
    "an object's": lambda o, patch: setattr(o.model.space, "by", 2.0),
    "a record's": lambda o, patch: setattr(o.model.record, "by", 2.0),
    "a slot": lambda o, patch: setattr(o.model.slotted, "by", 2.0),
    "a dictionary's attribute": lambda o, patch: setattr(o.model.subclass, "by", 2.0),
    "a parameter's attribute": lambda o, patch: setattr(o.model.frozen, "gain", 2.0),
    "the class's": lambda o, patch: patch.setattr(Changeable, "CLASS", 2.0),
    "another class's": lambda o, patch: patch.setattr(Slotted, "shared", 2.0),
    "a method": lambda o, patch: patch.setattr(Changeable, "around", lambda self: 2.0),
    "an array, in place": lambda o, patch: o.model.array.fill(2.0),
    "a partial function": _attribute("partly", functools.partial(float.__mul__, 1.0, 2.0)),
    "an object around the class": lambda o, patch: patch.setattr(AROUND, "by", 2.0),
    "a helper": lambda o, patch: patch.setitem(globals(), "helped", lambda: 2.0),
    "what a helper reads": lambda o, patch: patch.setitem(globals(), "HELPED", (2.0,)),
    "what a function in a helper reads": lambda o, patch: patch.setitem(globals(), "INNER", 2.0),
    "a helper's default": lambda o, patch: patch.setattr(helped, "__defaults__", (2.0,)),
    "a helper's named default": lambda o, patch: patch.setitem(cast(Any, helped).__kwdefaults__, "also", 2.0),
    "a helper's attribute": lambda o, patch: patch.setattr(helped, "by", 2.0),
    "a module's": lambda o, patch: patch.setattr(CONFIG, "by", 2.0),
    "that of a module that a pass imports": lambda o, patch: patch.setattr(SETTINGS, "by", 2.0),
    "what a pass imports from a module": lambda o, patch: patch.setattr(SETTINGS, "also", 2.0),
    "what is found in a module by its name": lambda o, patch: patch.setattr(SETTINGS, "found", 2.0),
    "what getattr finds": lambda o, patch: patch.setattr(CONFIG, "texted", 2.0),
    "what vars shows": lambda o, patch: patch.setattr(CONFIG, "viewed", 2.0),
    "what globals holds": lambda o, patch: patch.setitem(globals(), "NAMED", 2.0),
    "that of a module in a module": lambda o, patch: patch.setattr(PACKAGE.config, "by", 2.0),
    "a part": _attribute("last", nn.Linear(6, 1).double()),
    "a hook": lambda o, patch: o.model.first.register_forward_hook(lambda module, given, found: 2 * found),
    "the loss's weight": lambda o, patch: o.loss.weight.mul_(3),
    "the loss's setting": lambda o, patch: setattr(o.loss, "power", 4),
    "what is trained": lambda o, patch: o.model.first.bias.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_is_never_that_of_an_older_model(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective, batch = mk.Objective(Changeable().double(), Weighted()), zoo.data()

        traced, settings = graphs.Replayed(meta.unchecked, "traced"), {"steps": 1, "order": 2, "rule": GRADIENT_DESCENT}

        def solve(outer: Any, **route: Any) -> mk.MetaGradient:
            found: mk.MetaGradient = outer(objective, objective.theta(), batch, alpha=0.1, **settings, **route)
            return found

        before = solve(traced)
        with torch.no_grad():
            CHANGES[change](objective, monkeypatch)
    after = solve(traced)
    assert same(after, solve(meta.unchecked, route="vmap"))
    assert not torch.equal(after.loss, before.loss) or after.grad.keys() != before.grad.keys()


READS: dict[str, Callable[[Tensor, Any], Any]] = {
    "item": lambda h, t: h / t.item(),
    "float": lambda h, t: h / float(t),
    "numpy": lambda h, t: h / float(t.detach().numpy()),
    "tolist": lambda h, t: h / t.tolist(),
    "a new tensor": lambda h, t: h / torch.tensor([t]).to(h),
    "full": lambda h, t: h / torch.full((6,), t),
    "a size": lambda h, t: h / len(torch.arange(int(t) + 1)),
    "alpha": lambda h, t: torch.add(h, h, alpha=t),
    "a branch": lambda h, t: h if t > 1 else 2 * h,
}


@pytest.mark.parametrize(
    ("read", "held"), [*((read, "an attribute") for read in READS), ("item", "a frozen parameter")]
)
def test_a_value_that_python_reads_is_never_kept_in_a_graph(read: str, held: str) -> None:
    def build(between: Callable[..., Any]) -> nn.Module:
        model = zoo.made(lambda: zoo.Hidden(between))
        value = torch.tensor(1.0, dtype=torch.float64)
        cast(Any, model).held = value if held == "an attribute" else nn.Parameter(value, requires_grad=False)
        return model

    class Tasks:
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            return zoo.data(1).chosen([0] * size)

    ends = []
    for route in ("vmap", "auto"):
        objective = mk.Objective(build(lambda h, m: READS[read](h, m.held)), F.mse_loss)
        settings: dict[str, Any] = {"tasks_per_iteration": 2, "progress": False, "route": route}
        for record in mk.train(objective, Tasks(), alpha=0.1, beta=0.01, iterations=300, **settings):
            if record.iteration == 1:
                with torch.no_grad():
                    cast(Any, objective.model).held.fill_(3.0)
            if record.iteration == 3:
                break
        ends.append(flat(objective.theta()))
    assert torch.equal(*ends)
    with pytest.raises(ValueError, match=r"cannot be recorded as a graph, as where their Python asks for the value"):
        mk.meta_gradient(objective, objective.theta(), zoo.data(), alpha=0.1, route="traced")


@pytest.mark.parametrize("thing", [memoryview(bytearray(8)), np.void(b"ab"), inspect.signature(lambda by=[1]: by)])
def test_an_attribute_that_has_no_hash_ends_nothing(thing: Any) -> None:
    model = zoo.made(zoo.RIGHT["layer norm"])
    cast(Any, model).thing = thing
    objective = mk.Objective(model, F.mse_loss)
    found = mk.meta_gradient(objective, objective.theta(), zoo.data(), alpha=0.1, route="traced")
    assert same(found, mk.meta_gradient(objective, objective.theta(), zoo.data(), alpha=0.1))


def test_a_graph_is_never_that_of_another_setting_loss_or_shape() -> None:
    weights = [1.0]

    def loss(prediction: Tensor, y: Tensor) -> Tensor:
        return weights[0] * F.mse_loss(prediction, y)

    model, batch = zoo.made(zoo.RIGHT["layer norm"]), zoo.data()
    objective = mk.Objective(model, loss)
    shorter = mk.TaskBatch(*(mk.Batch(part.x[:, :4], part.y[:, :4]) for part in batch))
    turned = mk.TaskBatch(*(mk.Batch(part.x.mT.contiguous().mT, part.y) for part in batch))
    learned = {name: torch.tensor(0.1, dtype=torch.float64, requires_grad=True) for name in objective.theta()}
    cases: list[dict[str, Any]] = [
        {"alpha": 0.1}, {"alpha": 0.2}, {"alpha": 0.1, "steps": 2}, {"alpha": 0.1, "order": 1},
        {"alpha": 0.1, "rule": momentum()}, {"alpha": 0.1, "batch": shorter}, {"alpha": 0.1, "batch": turned},
        {"alpha": learned, "batch": mk.TaskBatch(batch.support, batch.support)},
    ]  # fmt: skip
    for weights[0] in (1.0, 3.0):
        for case in cases:
            case = {"theta": objective.theta(), "batch": batch, **case}
            found = mk.meta_gradient(objective, route="traced", **case)
            assert same(found, mk.meta_gradient(objective, **case))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert same(mk.meta_gradient(objective, route="traced", **case), mk.meta_gradient(objective, **case))
    finally:
        torch.set_num_threads(threads)


def test_a_step_size_that_is_a_number_is_never_taken_for_a_tensor_at_its_place() -> None:
    objective, batch = mk.Objective(nn.Linear(1, 1).double(), F.mse_loss), TASKS.batch(0, 2)
    size = torch.tensor(0.1, dtype=torch.float64)  # the seventh tensor, after θ, support and query
    for alpha in ({"weight": size, "bias": 6.0}, {"weight": 6.0, "bias": size}):
        case: dict[str, Any] = {"theta": objective.theta(), "batch": batch, "alpha": alpha}
        assert same(mk.meta_gradient(objective, route="traced", **case), mk.meta_gradient(objective, **case))


def test_a_graph_is_never_that_of_another_precision() -> None:
    objective, batch = mk.Objective(mk.models.mlp(1, 1), F.mse_loss), mk.Sinusoids().batch(0, 3)
    settings: dict[str, Any] = {"alpha": 0.01, "steps": 1, "order": 2, "rule": GRADIENT_DESCENT}
    traced, found = graphs.Replayed(meta.unchecked, "traced"), {}
    for half in (True, False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found[half] = traced(objective, objective.theta(), batch, **settings)
            assert same(found[half], meta.unchecked(objective, objective.theta(), batch, route="vmap", **settings))
    assert not same(found[True], found[False])


@pytest.mark.parametrize("hidden", [(40, 40), (64, 64), (100, 100)])
def test_under_autocast_no_network_is_refused_for_its_rounding(hidden: tuple[int, ...]) -> None:
    for seed in range(3):
        objective = mk.Objective(mk.models.mlp(1, 1, hidden=hidden, seed=seed), F.mse_loss)
        solve = functools.partial(
            mk.meta_gradient, objective, objective.theta(), mk.Sinusoids().batch(0, 5), alpha=0.01
        )
        whole = solve(route="loop")
        for route in ("vmap", "flat", "traced"):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = solve(route=route)
            assert 0 < relative_error(flat(half.grad), flat(whole.grad)) < 0.1


@pytest.mark.parametrize("route", ["vmap", "loop", "flat", "traced"])
def test_under_autocast_products_are_bfloat16_and_the_inner_state_float32(route: str) -> None:
    objective, batch = mk.Objective(mk.models.mlp(1, 1), F.mse_loss), mk.Sinusoids().batch(0, 25)
    seen: list[tuple[torch.dtype, ...]] = []

    def noting(theta: Any, gradient: Any, alpha: Any, state: Any) -> Any:
        found = GRADIENT_DESCENT.step(theta, gradient, alpha, state)
        seen.append(tuple(tensor.dtype for part in (gradient, found[0]) for tensor in part.values()))
        return found

    rule = mk.InnerRule(GRADIENT_DESCENT.init, noting)
    solve = functools.partial(mk.meta_gradient, objective, objective.theta(), batch, alpha=0.01, steps=5, rule=rule)
    whole = solve(route="vmap")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = solve(route=route)
    assert {dtype for dtypes in seen for dtype in dtypes} == {torch.float32}
    assert {part.dtype for part in half.grad.values()} == {torch.float32}
    assert 0.01 < relative_error(flat(half.grad), flat(whole.grad)) < 0.03  # 0.019 to 0.022


def test_no_more_than_a_few_graphs_are_kept() -> None:
    objective, theta, batch = sinusoid_problem()
    for alpha in range(12):
        mk.meta_gradient(objective, theta, batch, alpha=alpha / 100, steps=0, route="traced")
    assert len(objective.replays["traced"].graphs) == 8


class Noting(nn.Linear):
    """A layer that counts its passes and keeps the last, as many do for their statistics."""

    passes, last = 0, torch.zeros(())
    history: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        self.passes, self.last = self.passes + 1, super().forward(x)
        self.history = (*self.history, "forward")
        return self.last


def test_what_a_pass_notes_down_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, batch = mk.Objective(zoo.made(lambda: Noting(4, 1)), F.mse_loss), zoo.data()
    settings: dict[str, Any] = {"alpha": 0.1, "steps": 2, "order": 2, "rule": GRADIENT_DESCENT}
    wanted = meta.unchecked(objective, objective.theta(), batch, route="vmap", **settings)
    calls, outer = counted(monkeypatch, "recorded"), graphs.Replayed(meta.unchecked, "traced")
    assert all(same(outer(objective, objective.theta(), batch, **settings), wanted) for _ in range(5))
    assert len(calls) == 1


def test_an_objective_with_graphs_can_be_copied_and_pickled() -> None:
    objective, theta, batch = sinusoid_problem()
    wanted = mk.meta_gradient(objective, theta, batch, alpha=0.1, route="traced")
    for twin in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert same(mk.meta_gradient(twin, theta, batch, alpha=0.1, route="traced"), wanted)


def trained(route: str, iterations: int = 310, **settings: Any) -> tuple[Tensor, list[mk.Iteration]]:
    objective = mk.Objective(mk.models.mlp(1, 1, hidden=(5,), seed=1, dtype=torch.float64), mse)
    settings = {"alpha": 0.02, "beta": 0.01, "tasks_per_iteration": 3, "progress": False, **settings}
    records = list(mk.train(objective, TASKS, iterations=iterations, route=route, **settings))
    return flat(objective.theta()), records


def counted(patch: pytest.MonkeyPatch, name: str) -> list[int]:
    """A list that grows whenever a function of `graphs` is called."""
    calls: list[int] = []
    function = getattr(graphs, name)

    def noted(*args: Any, **settings: Any) -> Any:
        calls.append(1)
        return function(*args, **settings)

    patch.setattr(graphs, name, noted)
    return calls


def test_a_training_of_many_iterations_is_traced_and_ends_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, wanted = trained("vmap")
    calls = counted(monkeypatch, "recorded")
    theta, records = trained("auto")
    assert torch.equal(theta, plain)
    assert [r.loss_after for r in records] == [r.loss_after for r in wanted]
    assert len(calls) == 1
    assert trained("auto", 20)[1][-1].loss_after == wanted[19].loss_after
    assert len(calls) == 1, "a short training is not worth a graph"


def test_an_outer_gradient_of_another_is_called_in_each_iteration_unless_a_graph_is_asked_for() -> None:
    calls = []

    def outer(*args: Any, **settings: Any) -> mk.MetaGradient:
        calls.append(1)
        return meta.unchecked(*args, **settings)

    trained("auto", outer=outer)
    assert len(calls) == 310
    trained("traced", outer=outer)
    assert len(calls) == 310 + 2, "once recorded, and once held against it"


def test_a_long_training_is_compiled_by_its_number_of_iterations_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "compiled", lambda graph, arguments, progress: graph)
    asked = counted(monkeypatch, "compiled")
    objective = mk.Objective(mk.models.mlp(1, 1, hidden=(5,), dtype=torch.float64), mse)
    for iterations, wanted in ((19_999, 0), (20_000, 1)):
        next(mk.train(objective, TASKS, alpha=0.01, beta=0.01, iterations=iterations, progress=False))
        assert len(asked) == wanted


def test_a_compiled_training_is_that_without_a_graph_and_resumes_to_its_bits(tmp_path: Path) -> None:
    plain, _ = trained("vmap", 40)
    compiled, _ = trained("compiled", 40)
    assert relative_error(compiled, plain) < 1e-9
    trained("compiled", 40 - 15, checkpoint=tmp_path / "run")
    resumed, records = trained("compiled", 40, checkpoint=tmp_path / "run")
    assert records[0].iteration == 25
    assert torch.equal(resumed, compiled)


@pytest.mark.parametrize(
    "name", ["batch norm with cumulative statistics", "padding_idx", "TransformerEncoderLayer", "a frozen layer"]
)
def test_auto_computes_without_a_graph_what_cannot_be_recorded(name: str) -> None:
    class Tasks:
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            whole = zoo.data(12)
            return whole.chosen([i % 12 for i in range(start, start + size)])

    ends = []
    for route in ("vmap", "auto"):
        objective = mk.Objective(zoo.made(zoo.RIGHT[name]), F.mse_loss)
        run = mk.train(objective, Tasks(), alpha=0.1, beta=0.01, iterations=300, tasks_per_iteration=3, route=route,
                       progress=False)  # fmt: skip
        ends.append([flat(objective.theta()) for _, _ in zip(range(8), run, strict=False)])
    assert torch.equal(torch.stack(ends[0]), torch.stack(ends[1]))


def test_a_model_that_changes_in_each_iteration_is_followed_and_not_recorded_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Tasks:
        def batch(self, start: int, size: int, split: str = "train") -> mk.TaskBatch:
            return zoo.data(1).chosen([0] * size)

    def follow(route: str) -> Tensor:
        model = zoo.made(zoo.RIGHT["layer norm"])
        objective = mk.Objective(model, F.mse_loss)
        settings: dict[str, Any] = {"tasks_per_iteration": 2, "progress": False, "route": route}
        for record in mk.train(objective, Tasks(), alpha=0.1, beta=0.01, iterations=300, **settings):
            cast(Any, model)[1].eps = 0.01 * (record.iteration + 1)
            if record.iteration == 30:
                break
        return flat(objective.theta())

    calls = counted(monkeypatch, "recorded")
    assert torch.equal(follow("auto"), follow("vmap"))
    assert len(calls) == 8


def test_a_graph_that_computes_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = graphs.recorded

    def wrong(function: Any, arguments: Any) -> graphs.Graph:
        graph = right(function, arguments)
        return graph._replace(run=lambda *given: [part * 1.01 for part in graph.run(*given)])

    monkeypatch.setattr(graphs, "recorded", wrong)
    with pytest.raises(ValueError, match=r'computes other numbers as a graph .*use route="vmap"'):
        trained("traced")
    monkeypatch.undo()
    plain, _ = trained("vmap")
    monkeypatch.setattr(graphs, "recorded", wrong)
    assert torch.equal(trained("auto")[0], plain)


def test_views_of_what_is_there_already_are_left_out_of_a_graph_and_results_are_no_arguments() -> None:
    def views(x: Tensor) -> list[Tensor]:
        same = x.detach().view(2, 3).expand(2, 3)
        return [(same + 1).view(2, 3).sum(), same.view(6) * 2, same.view(3, 2), same.detach()]

    x = torch.arange(6.0).view(2, 3)
    graph = graphs.recorded(views, [x])
    names = [str(node.target) for node in graph.run.graph.nodes if node.op == "call_function"]
    assert names.count("aten.view.default") == 2  # in another shape
    assert "aten.expand.default" not in names
    found = graph([x])
    assert all(map(torch.equal, found, views(x)))
    assert found[-1] is not x


def test_without_a_compiler_the_graph_runs_as_it_is_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **settings: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch._inductor, "standalone_compile", missing)
    with pytest.warns(UserWarning, match="could not compile the graph, which runs as it is.*No working C") as warned:
        theta, _ = trained("compiled", 30)
    assert len(warned) == 1
    assert torch.equal(theta, trained("vmap", 30)[0])


def test_compiling_shows_that_it_is_at_work_and_how_long_it_took_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor, "standalone_compile", lambda run, *args, **settings: run)
    trained("compiled", 2, progress=True)
    assert "compiling: " in capsys.readouterr().err
    [notes] = tmp_path.glob("mamlkit-*-operations")
    notes.write_text("37")
    trained("compiled", 2, progress=True)
    assert "compiling, 37 s last time: " in capsys.readouterr().err
    assert notes.read_text() == "0"
    trained("compiled", 2)
    assert capsys.readouterr().err == ""


def test_routes_that_there_are_not_are_refused_with_those_that_there_are() -> None:
    objective, theta, batch = sinusoid_problem()
    with pytest.raises(ValueError, match=r"route is 'jit'; it must be one of vmap, .*traced, compiled$"):
        mk.meta_gradient(objective, theta, batch, alpha=0.1, route="jit")
    with pytest.raises(ValueError, match=r"route is 'auto'"):
        mk.meta_gradient(objective, theta, batch, alpha=0.1, route="auto")
    with pytest.raises(ValueError, match=r"one of vmap, .*traced, compiled, auto$"):
        trained("jit")
