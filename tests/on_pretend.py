"""The kit on the pretend accelerator, held against the CPU to the bit; `test_pretend.py` gives this a process."""

from __future__ import annotations

import copy
import io
import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pretend
import pytest
import torch
import torch.nn.functional as F
from oracles import mse
from test_variants import STEPS, TASKS, VARIANTS, momentum, problem
from torch import Tensor, nn

import mamlkit as mk
from mamlkit.meta import ROUTES
from mamlkit.models import NORMS
from mamlkit.pure import Params

torch.set_num_threads(1)
HERE, THERE = PLACES = torch.device("cpu"), pretend.PLACE


def vector(size: int = 3) -> Tensor:
    """A vector on the accelerator."""
    return torch.arange(1.0, size + 1, device=THERE)


def tensors(value: Any) -> list[Tensor]:
    """The tensors of dicts, lists, tuples and objects, in their order."""
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def same(here: Any, there: Any) -> None:
    """The same bits on the CPU and on the accelerator, each where it belongs."""
    pairs = list(zip(tensors(here), tensors(there), strict=True))
    assert pairs
    assert {(one.device, other.device) for one, other in pairs} == {(HERE, THERE)}
    assert all(one.dtype == other.dtype and torch.equal(one, other.cpu()) for one, other in pairs)


# The pretence itself: what CUDA refuses is refused, what it allows is allowed.
REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "sum with the CPU": lambda x: x + torch.ones(3),
    "sum of the CPU": lambda x: torch.ones(3) + x,
    "sum in place": lambda x: x.add_(torch.ones(3)),
    "sum on the CPU with a number from there": lambda x: torch.ones(3) + x.sum(),
    "a number from there added to one on the CPU": lambda x: torch.zeros(()).add_(x.sum()),
    "product": lambda x: torch.outer(x, x) @ torch.ones(3),
    "product with a number as a bias": lambda x: torch.addmm(torch.ones(()), torch.outer(x, x), torch.outer(x, x)),
    "concatenation": lambda x: torch.cat([x, torch.ones(3)]),
    "numbers stacked": lambda x: torch.stack([x.sum(), torch.ones(())]),
    "comparison": lambda x: torch.equal(x, torch.ones(3)),
    "mask": lambda x: x.masked_fill(torch.ones(3) > 0, 0.0),
    "index_select": lambda x: x.index_select(0, torch.tensor([0])),
    "gather": lambda x: x.gather(0, torch.tensor([0])),
    "index from there on the CPU": lambda x: torch.ones(3)[x.long() - 1],
    "values that an index sets": lambda x: x.index_put_((torch.tensor([0, 1]),), torch.ones(2)),
    "loss": lambda x: F.mse_loss(x, torch.ones(3)),
    "labels": lambda x: F.cross_entropy(x[None], torch.tensor([0])),
    "a layer on the CPU": lambda x: nn.Linear(3, 1)(x),
    "under vmap": lambda x: torch.func.vmap(torch.add)(x, torch.ones(3)),
    "from numpy": lambda x: x + torch.from_numpy(np.ones(3)),
    "a gradient": lambda x: setattr(x, "grad", torch.ones(3)),
    "a CPU generator": lambda x: x.uniform_(generator=torch.Generator()),
    "a CPU generator for a new tensor": lambda x: torch.randn(3, generator=torch.Generator(), device=THERE),
}
ALLOWED: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "a number from the CPU": (lambda x: x + torch.tensor(2.0), [3, 4, 5]),
    "the other way round": (lambda x: torch.tensor(2.0) * x, [2, 4, 6]),
    "a number in place": (lambda x: x.mul_(torch.tensor(2.0)), [2, 4, 6]),
    "a number beside where": (lambda x: torch.where(x > 2, x, torch.tensor(0.0)), [0, 0, 3]),
    "a number to fill with": (lambda x: x.masked_fill(x > 2, torch.tensor(7.0)), [1, 2, 7]),
    "an index on the CPU": (lambda x: x[torch.tensor([2, 0])], [3, 1]),
    "a mask on the CPU as an index": (lambda x: x[torch.tensor([True, False, True])], [1, 3]),
    "a copy": (lambda x: x.copy_(torch.ones(3)), [1, 1, 1]),
    "a part that is set from the CPU": (lambda x: (x[:2].copy_(torch.ones(2)), x)[1], [1, 1, 3]),
    "in place in a view": (lambda x: (x[1:].mul_(2), x)[1], [1, 4, 6]),
    "a shape in place": (lambda x: x.unsqueeze_(0)[0], [1, 2, 3]),
    "an output that is empty": (lambda x: torch.add(x, x, out=torch.empty(0, device=THERE)), [2, 4, 6]),
}
MADE: dict[str, Callable[[], Tensor]] = {
    "zeros": lambda: torch.zeros(2, device=THERE),
    "full": lambda: torch.full((2,), 3.0, device=THERE),
    "tensor": lambda: torch.tensor([1.0, 2.0], device=THERE),
    "as_tensor": lambda: torch.as_tensor(np.ones(2), device=THERE),
    "arange": lambda: torch.arange(3, device=THERE),
    "linspace": lambda: torch.linspace(0, 1, 3, device=THERE),
    "eye": lambda: torch.eye(2, device=THERE),
    "randn": lambda: torch.randn(2, device=THERE),
    "zeros_like": lambda: torch.zeros_like(vector()),
    "new_tensor": lambda: vector().new_tensor([1.0]),
    "under its name": lambda: torch.ones(2, device="pretend"),
    "moved": lambda: torch.ones(2).to("pretend:0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"on the same device|different device|device type for generator"):
        REFUSED[name](vector())


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_is_allowed(name: str) -> None:
    act, wanted = ALLOWED[name]
    found = act(vector())
    assert found.device == THERE
    assert found.tolist() == wanted


@pytest.mark.parametrize("name", MADE)
def test_a_tensor_lands_where_it_is_asked_for(name: str) -> None:
    made = MADE[name]()
    assert (made.device, made.is_cpu, type(made.cpu())) == (THERE, False, Tensor)
    assert torch.zeros_like(made, device="cpu").device == HERE


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray, np.array])
def test_numpy_does_not_reach_there(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(TypeError, match="can't convert pretend:0 device type tensor to numpy"):
        read(vector())


def test_values_can_be_read() -> None:
    x = vector()
    assert (x.tolist(), x.sum().item(), f"{x.sum():.2f}", bool(x[0] == 1)) == ([1, 2, 3], 6, "6.00", True)
    assert "pretend:0" in repr(x)
    assert torch.tensor([x[0], x[1]]).tolist() == [1, 2]


def test_randomness_there_is_not_that_of_the_cpu() -> None:
    before = torch.get_rng_state()
    first = torch.randn(3, device=THERE)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first.cpu(), torch.randn(3, device=THERE).cpu())
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(F.dropout(torch.ones(9, device=THERE)).tolist())
    assert draws[0] == draws[1]


def test_what_cannot_be_pretended() -> None:
    """A generator of the device's own: PyTorch makes one in C++ alone."""
    with pytest.raises(NotImplementedError):
        torch.Generator(THERE)


def test_a_mixture_in_a_backward_pass_is_refused_after_it() -> None:
    x = vector().requires_grad_()
    x.register_hook(lambda g: g + torch.ones(3))
    x.sum().backward()
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        x.sum()
    x.sum()


def test_modules_move_are_copied_and_are_saved() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    one.weight = tied = other.weight
    model = nn.Sequential(one, other).to(THERE)
    assert one.weight is other.weight is tied
    assert isinstance(tied, nn.Parameter)
    assert tied.device == THERE
    assert torch.equal(copy.deepcopy(model).state_dict()["0.weight"], tied)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    for place, wanted in (("cpu", HERE), (None, THERE)):
        file.seek(0)
        stored = torch.load(file, weights_only=True, map_location=place)["0.weight"]
        assert (stored.device, stored.tolist()) == (wanted, tied.tolist())


# The kit.
@dataclass(frozen=True)
class Case:
    """A model on tasks; made anew on each device."""

    model: Callable[[], nn.Module]
    tasks: Any
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    batch_norm: Any = "transductive"

    def on(self, place: torch.device) -> mk.Objective:
        return mk.Objective(self.model().to(place), self.loss, self.batch_norm)


def conv4(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: mk.models.conv4(3, filters=4, **settings)


GLYPHS = mk.Glyphs(ways=3, shots=1, queries=2)
CASES = {
    "mlp": Case(lambda: mk.models.mlp(1, 1), mk.Sinusoids(shots=5, queries=6), mse),
    **{f"conv4, {norm}": Case(conv4(norm=norm), GLYPHS) for norm in NORMS},
    "conv4, inductive": Case(conv4(), GLYPHS, batch_norm="inductive"),
    "conv4, stride": Case(conv4(downsample="stride"), GLYPHS),
}


def plain(theta: Params, steps: int) -> dict[str, Any]:
    return {"alpha": 0.1}


def by_parameter_and_step(theta: Params, steps: int) -> dict[str, Any]:
    sizes = [0.1 / (k + 1) for k in range(steps)]
    return {"alpha": {name: torch.tensor(sizes, device=weight.device) for name, weight in theta.items()}}


def learned(theta: Params, steps: int) -> dict[str, Any]:
    return {"alpha": {name: torch.full_like(weight, 0.1).requires_grad_() for name, weight in theta.items()}}


def learned_numbers_on_the_cpu(theta: Params, steps: int) -> dict[str, Any]:
    return {"alpha": {name: torch.tensor(0.1, requires_grad=True) for name in theta}}


def with_momentum(theta: Params, steps: int) -> dict[str, Any]:
    return {"alpha": 0.1, "rule": momentum}


INNER = [plain, by_parameter_and_step, learned, with_momentum]


# Each model with plain descent, and each way of adapting with a model without and one with statistics of its batch: the
# norm is in the forward pass, the step sizes and the rule are outside of it.
ADAPTED = [(name, plain) for name in CASES] + [(name, inner) for name in ("mlp", "conv4, batch") for inner in INNER[1:]]


@pytest.mark.parametrize(("name", "inner"), ADAPTED, ids=lambda value: getattr(value, "__name__", value))
def test_adapted_parameters_and_gradients(name: str, inner: Callable[..., dict[str, Any]]) -> None:
    case = CASES[name]
    for order, steps in itertools.product((1, 2), (1, 3) if name == "mlp" else (2,)):
        found = []
        for place in PLACES:
            objective, batch = case.on(place), case.tasks.batch(0, 2).to(place)
            theta = objective.theta()
            options = {"steps": steps, "order": order, **inner(theta, steps)}
            adapted = mk.adapt(objective, theta, batch.task(0).support, **options)
            found.append([adapted, *(mk.meta_gradient(objective, theta, batch, route=r, **options) for r in ROUTES)])
        same(*found)


def exam(case: Case, place: torch.device, **options: Any) -> Any:
    objective = case.on(place)
    theta = objective.theta()
    return mk.evaluate(objective, theta, case.tasks, steps=3, split="test", size=7, chunk=3, **options)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["mlp", "conv4, batch", "conv4, inductive"])
def test_exams(name: str, route: str) -> None:
    here, there = (exam(CASES[name], place, alpha=0.1, route=route) for place in PLACES)
    same(here, there)
    assert str(here) == str(there)
    same([here.mean(), here.half_width()], [there.mean(), there.half_width()])
    assert mk.paired_difference(there, there) == mk.paired_difference(here, here)


def trained(name: str, inner: Callable[..., dict[str, Any]], place: torch.device, file: Path | None = None) -> Any:
    """θ, learned step sizes and the records of a training."""
    case = CASES[name]
    objective = case.on(place)
    options = {"steps": 2, **inner(objective.theta(), 2)}
    records = training(objective, case.tasks, 5, file, **options)
    sizes = options["alpha"] if inner in (learned, learned_numbers_on_the_cpu) else {}
    return objective.theta(), sizes, list(records)


def training(objective: mk.Objective, tasks: Any, iterations: int, file: Path | None, **options: Any) -> Any:
    return mk.train(
        objective, tasks, beta=0.01, tasks_per_iteration=2, checkpoint=file, checkpoint_every=2, examine_every=2,
        examine_tasks=3, iterations=iterations, progress=False, **options,
    )  # fmt: skip


def numbers(records: list[mk.Iteration]) -> list[tuple[float, ...]]:
    return [(record.loss_before, record.loss_after, record.grad_norm) for record in records]


@pytest.mark.parametrize(
    ("name", "inner"),
    [*(("mlp", inner) for inner in INNER), ("conv4, batch", plain), ("conv4, inductive", learned)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_training(name: str, inner: Callable[..., dict[str, Any]]) -> None:
    here, there = (trained(name, inner, place) for place in PLACES)
    same(here[:2], there[:2])
    assert numbers(here[2]) == numbers(there[2])
    same(*([[record.training, record.validation] for record in records] for records in (here[2], there[2])))


@pytest.mark.parametrize(("before", "after"), [(THERE, THERE), (HERE, THERE), (THERE, HERE)])
@pytest.mark.parametrize(
    ("name", "inner"),
    [("mlp", plain), ("mlp", learned), ("conv4, batch", plain)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_training_that_stops_goes_on_elsewhere(
    name: str, inner: Callable[..., dict[str, Any]], before: torch.device, after: torch.device, tmp_path: Path
) -> None:
    case = CASES[name]
    objective = case.on(before)
    records = training(objective, case.tasks, 5, tmp_path / "run", steps=2, **inner(objective.theta(), 2))
    for _ in range(3):  # the checkpoint holds two of them
        next(records)
    theta, sizes, _ = trained(name, inner, after, tmp_path / "run")
    wanted = trained(name, inner, after)
    assert all(
        torch.equal(one.cpu(), other.cpu())
        for one, other in zip(tensors([theta, sizes]), tensors(wanted[:2]), strict=True)
    )


@pytest.mark.parametrize(("before", "after"), [(THERE, HERE), (HERE, THERE)])
def test_a_training_on_images_goes_on_elsewhere_with_its_images(
    before: torch.device, after: torch.device, tmp_path: Path
) -> None:
    for place, iterations in ((before, 2), (after, 4)):
        loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], device=place))
        objective = replace(CASES["conv4, batch"], loss=loss).on(place)
        tasks = replace(GLYPHS, device=place)
        assert len(list(training(objective, tasks, iterations, tmp_path / "run", alpha=0.1))) == 2


ELSEWHERE = """
import sys
from pathlib import Path
from mamlkit.checkpoint import load
print({str(weight.device) for weight in load(Path(sys.argv[1]))["theta"].values()})
"""


def test_a_checkpoint_is_read_where_there_is_no_accelerator(tmp_path: Path) -> None:
    list(training(CASES["mlp"].on(THERE), CASES["mlp"].tasks, 1, tmp_path / "run", alpha=0.1))
    read = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "run")]
    done = subprocess.run(read, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{'cpu'}\n", "")


class Turned(mk.Glyphs):
    """Glyphs whose classes are also used turned."""

    def rotated(self, split: str) -> bool:
        return True


@pytest.mark.parametrize("kind", [mk.Glyphs, Turned])
@pytest.mark.parametrize("alphabets", ["across", "within"])
def test_episodes(kind: type[mk.Glyphs], alphabets: str) -> None:
    here, there = (kind(device=place, alphabets=alphabets).batch(3, 4, "validation") for place in ("cpu", "pretend"))
    same(here, there)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_eight_variants(name: str) -> None:
    variant, found = VARIANTS[name], []
    for place in PLACES:
        for route in ROUTES:
            objective = problem()
            objective.model.to(place)
            alpha = variant.alpha(objective.theta())
            records = list(training(objective, TASKS, 3, None, alpha=alpha, steps=STEPS, route=route, **variant.others))
            found.append((objective.theta(), alpha, [[r.training, r.validation] for r in records]))
    same(found[: len(ROUTES)], found[len(ROUTES) :])


def test_learned_numbers_may_stay_on_the_cpu() -> None:
    here, there = (trained("mlp", learned_numbers_on_the_cpu, place) for place in PLACES)
    same(here[0], there[0])
    assert tensors(here[1]) == tensors(there[1])


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # PyTorch's own
def test_forward_derivatives() -> None:
    """Hessians by forward over reverse mode, of the loss and of θ', as the notebooks take them."""
    found = []
    for place in PLACES:
        objective, batch = problem(), TASKS.batch(0, 1).task(0)
        objective.model.to(place)
        support = mk.Batch(*(part.to(place) for part in batch.support))
        found.append(torch.func.hessian(lambda theta, o=objective, s=support: o(theta, *s))(objective.theta()))
    same(*found)


@pytest.mark.parametrize("route", ROUTES)
def test_a_model_that_draws_on_the_device_is_refused(route: str) -> None:
    objective = mk.Objective(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)).to(THERE, torch.float64), mse)
    before = pretend.accelerator.get_rng_state()
    with pytest.raises(ValueError, match="draws random numbers"):
        mk.meta_gradient(objective, objective.theta(), TASKS.batch(0, 2).to(THERE), alpha=0.1, route=route)
    assert torch.equal(pretend.accelerator.get_rng_state(), before)


@pytest.mark.parametrize(("model", "data"), [(HERE, THERE), (THERE, HERE)])
def test_tasks_that_are_elsewhere_are_refused_in_words(model: torch.device, data: torch.device) -> None:
    objective, batch = CASES["mlp"].on(model), CASES["mlp"].tasks.batch(0, 2).to(data)
    with pytest.raises(TypeError, match=f"on {data} .its parameters are torch.float32 on {model}"):
        mk.meta_gradient(objective, objective.theta(), batch, alpha=0.1)


def test_devices_by_name() -> None:
    assert mk.device("pretend").type == "pretend"
    assert mk.device("pretend:0") == THERE
    assert mk.device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(RuntimeError, match="'pretend:1' but this machine offers 1 PRETEND devices"):
        mk.device("pretend:1")
