"""`mk.check` on right and on wrong models, losses and gradient functions: each is named for what it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from zoo import ONE_AT_A_TIME, REFUSED, RIGHT, Functions, Hidden, data, made, scripted_swish

import mamlkit as mk
from mamlkit.__main__ import main
from mamlkit.check import Report
from mamlkit.museum import parts
from mamlkit.pure import Params

ALPHA = parts.ALPHA
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{words}")
    for words in ("weight_norm.*deprecated", "torch.jit.*deprecated", "performance drop")
]


def verdicts(report: Report) -> dict[str, str]:
    return {finding.subject: finding.verdict for finding in report.findings}


def wrong(report: Report) -> str:
    return "\n".join(f"{f.subject}: {f.text}" for f in report.findings if f.verdict == "wrong")


# Modules that write into their input, or keep running statistics, are right here and would not be elsewhere.
HABITS = [name for name in RIGHT if "its input" in name or "running" in name or "cumulative" in name]


@pytest.mark.parametrize("name", [name for name in (*RIGHT, *ONE_AT_A_TIME) if name not in HABITS])
def test_no_fault_is_found_where_there_is_none(name: str) -> None:
    report = mk.check(mk.Objective(made((RIGHT | ONE_AT_A_TIME)[name]), F.mse_loss), data(), alpha=ALPHA, steps=2)
    assert report.ok, report
    assert verdicts(report)["meta-gradient, second order"] == verdicts(report)["meta-gradient, first order"] == "right"
    assert verdicts(report)['route="vmap"' + " against the loop" * (name in RIGHT)] == (
        "right" if name in RIGHT else "note"
    )


def test_no_false_alarm_over_twenty_seeds() -> None:
    for seed in range(20):
        objective = mk.Objective(mk.models.mlp(1, 1, hidden=(8, 8), seed=seed), F.mse_loss)
        tasks = mk.Sinusoids(shots=5, queries=5, seed=seed).batch(0, 3)
        report = mk.check(objective, tasks, alpha=0.01, steps=1 + seed % 3, seed=seed)
        assert report.ok, f"seed {seed}: {report}"


@pytest.mark.parametrize("name", ["padding_idx", "batch norm", "a part without gradient"])
def test_no_false_alarm_over_twenty_draws_of_a_model(name: str) -> None:
    for seed in range(20):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, batch = RIGHT[name]().double(), data(tasks=2, seed=seed)
        report = mk.check(mk.Objective(model, F.mse_loss), batch, alpha=ALPHA, seed=seed)
        assert report.ok, f"seed {seed}: {report}"


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "instance", "none"])
@pytest.mark.parametrize("batch_norm", ["transductive", "inductive"])
def test_conv4_with_every_norm_passes(norm: str, batch_norm: str) -> None:
    if batch_norm == "inductive" and norm != "batch":
        pytest.skip("a mode of batch norm alone")
    model = mk.models.conv4(3, filters=4, norm=norm, downsample="stride")
    objective = mk.Objective(model, F.cross_entropy, batch_norm=batch_norm)  # type: ignore[arg-type]
    report = mk.check(objective, mk.Glyphs(ways=3, shots=2, queries=2).batch(0, 2), alpha=0.1)
    assert report.ok, report
    assert ("queries together" in verdicts(report)) == (norm == "batch" and batch_norm == "transductive")


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_wrong_for_the_same_reason(name: str) -> None:
    build, words = REFUSED[name]
    report = mk.check(mk.Objective(made(build), F.mse_loss), data(), alpha=ALPHA)
    with pytest.raises(AssertionError, match=words):
        assert not (found := wrong(report)), found
    assert not report.ok


class Cube(torch.autograd.Function):
    """x³, whose gradient is right and whose second derivative leaves x out."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.x = x.detach()  # type: ignore[attr-defined]
        return x**3

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        return 3 * slope * ctx.x**2  # type: ignore[attr-defined,no-any-return]


class Doubled(Cube):
    """x³ with twice its gradient."""

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        return 6 * slope * ctx.x**2  # type: ignore[attr-defined,no-any-return]


def cubed(function: type[Cube]) -> Callable[[], nn.Module]:
    return lambda: Hidden(lambda h: function.apply(h))  # type: ignore[no-untyped-call]


WRONG: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor, Tensor], Tensor], str]] = {
    "a second derivative that is wrong": (cubed(Cube), F.mse_loss, "second derivative of the loss: .*order=1"),
    "a first derivative that is wrong": (cubed(Doubled), F.mse_loss, "first derivative of the loss: .*backward pass"),
    "writes into its input": (RIGHT["writes into its input"], F.mse_loss, "inputs: the model writes into its input"),
    "relu in place on its input": (RIGHT["relu in place on its input"], F.mse_loss, "inputs: the model writes into"),
    "running statistics": (
        RIGHT["batch norm with running statistics"],
        F.mse_loss,
        "running statistics: between .*track_running_stats=False",
    ),
    "a sum over examples": (
        lambda: Functions(torch.tanh),
        lambda p, y: F.mse_loss(p, y, reduction="sum"),
        "the loss: it is a sum over examples",
    ),
    "labels that do not matter": (lambda: Functions(torch.tanh), lambda p, y: (p**2).mean(), "labels: other labels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_model_or_loss_is_named_for_what_it_is(name: str) -> None:
    build, loss, words = WRONG[name]
    report = mk.check(mk.Objective(made(build), loss), data(), alpha=ALPHA)
    with pytest.raises(AssertionError, match=words):
        assert not (found := wrong(report)), found


def test_parameters_that_never_adapt_are_named_and_steps_that_are_too_long() -> None:
    class Idle(Functions):
        def __init__(self) -> None:
            super().__init__(torch.relu)
            self.spare = nn.Linear(2, 2)

    model = made(Idle)
    with torch.no_grad():
        model.get_parameter("first.bias")[0] = -100
        model.get_parameter("first.weight")[0] = 0
    report = mk.check(mk.Objective(model, F.mse_loss), data(), alpha=50.0)
    found = {finding.subject: finding.text for finding in report.findings}
    assert "spare.bias, spare.weight: unused, or dead" in found["idle parameters"]
    assert "yours, 50, may overshoot" in found["curvature"]


def test_the_largest_curvature_is_that_of_the_hessian() -> None:
    batch = mk.Quadratics(shots=6, queries=6, scales=(0.5, 1.0, 2.0)).batch(0, 1)
    model = mk.models.mlp(3, 1, hidden=(), dtype=torch.float64)
    model[0].register_parameter("bias", None)
    x = batch.support.x[0]
    largest = torch.linalg.eigvalsh(2 * x.T @ x / len(x)).max().item()
    report = mk.check(mk.Objective(model, F.mse_loss), batch, alpha=ALPHA)
    text = next(finding.text for finding in report.findings if finding.subject == "curvature")
    found = float(text.split(" is ")[1].split(",")[0])
    assert found == pytest.approx(largest, rel=0.05)


# Gradient functions of a reader's own, with plain PyTorch.


def hand(
    model: nn.Module, alpha: float = ALPHA, *, order: int = 2, reduce: str = "mean", skip: int = 0, onto: str = "query"
) -> Callable[[Params, mk.TaskBatch], Params]:
    def gradient(theta: Params, batch: mk.TaskBatch) -> Params:
        theta = {name: weight.requires_grad_() for name, weight in theta.items()}
        losses = []
        for support, query in map(batch.task, range(skip, batch.size)):
            loss = F.mse_loss(functional_call(model, theta, (support.x,)), support.y)
            slope = torch.autograd.grad(loss, list(theta.values()), create_graph=order == 2)
            adapted = {n: w - alpha * g for (n, w), g in zip(theta.items(), slope, strict=True)}
            x, y = query if onto == "query" else support
            losses.append(F.mse_loss(functional_call(model, adapted, (x,)), y))
        total = torch.stack(losses).sum() / (1 if reduce == "sum" else batch.size)
        return dict(zip(theta, torch.autograd.grad(total, list(theta.values())), strict=True))

    return gradient


def nested(model: nn.Module) -> Callable[[Params, mk.TaskBatch], Params]:
    """torch.func's own recipe: vmap of grad, through grad."""
    return lambda theta, batch: parts.by_vmap(cast(parts.Net, model), theta, (*batch.support, *batch.query))


def before(model: nn.Module) -> Callable[[Params, mk.TaskBatch], Params]:
    return hand(model, alpha=0.0)


def cut(model: nn.Module) -> Callable[[Params, mk.TaskBatch], Params]:
    return lambda theta, batch: {name: torch.zeros_like(weight) for name, weight in theta.items()}


def twice_on_biases(model: nn.Module) -> Callable[[Params, mk.TaskBatch], Params]:
    def gradient(theta: Params, batch: mk.TaskBatch) -> Params:
        found = hand(model)(theta, batch)
        return {name: part * (2 if name.endswith("bias") else 1) for name, part in found.items()}

    return gradient


def leaking(model: nn.Module) -> Callable[[Params, mk.TaskBatch], Params]:
    def gradient(theta: Params, batch: mk.TaskBatch) -> Params:
        total = []
        for i in range(batch.size):
            alone = mk.TaskBatch(*(mk.Batch(part.x[i : i + 1], part.y[i : i + 1]) for part in batch))
            total.append(hand(model)(theta, alone))
            theta = {name: (weight - ALPHA * total[-1][name]).detach() for name, weight in theta.items()}
        return {name: torch.stack([part[name] for part in total]).mean(0) for name in theta}

    return gradient


def plain() -> nn.Module:
    return made(lambda: Functions(torch.tanh))


GRADIENTS: dict[
    str, tuple[Callable[[nn.Module], Callable[[Params, mk.TaskBatch], Params]], Callable[[], nn.Module], str]
] = {
    "detached inner step": (lambda m: hand(m, order=1), plain, "it is first order; the Hessian is dropped"),
    "sum over tasks": (lambda m: hand(m, reduce="sum"), plain, "it is the sum over tasks, 3 times the mean"),
    "first order, summed": (lambda m: hand(m, order=1, reduce="sum"), plain, "first order; it is the sum over tasks"),
    "a task left out": (lambda m: hand(m, skip=1), plain, "it leaves out tasks 0"),
    "judged on the support": (lambda m: hand(m, onto="support"), plain, "it is judged on the support"),
    "no adaptation": (before, plain, "it is not adapted"),
    "a cut graph": (cut, plain, "it is zero: the graph to θ is cut"),
    "twice on biases": (twice_on_biases, plain, "off by .* most at .*bias"),
    "another alpha": (lambda m: hand(m, alpha=0.5), plain, "it is off by .*neither first order"),
    "scripted function under nested grad": (nested, lambda: made(lambda: Functions(scripted_swish)), "it is off by"),
    "native batch norm under vmap of grad": (
        nested,
        lambda: made(RIGHT["batch norm"]),
        "it is off by .*look at the inner step, or at a derivative that is wrong",
    ),
    "a sum, each task of which is right": (
        lambda m: hand(m, reduce="sum"),
        plain,
        "one task alone: .* A rule of vmap, or how the tasks are put together",
    ),
    "a task that starts where the last one ended": (
        leaking,
        plain,
        "one task alone: each task by itself is right: .* something is kept from one task to the next",
    ),
    "another structure": (
        lambda m: lambda theta, batch: {"x": torch.zeros(1)},
        plain,
        "the gradient: it cannot be had: ValueError: what the gradient function returned",
    ),
    "an error": (lambda m: lambda theta, batch: {"x": theta["x"]}, plain, "it cannot be had: KeyError: 'x'"),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_wrong_gradient_function_is_named_for_what_it_is(name: str) -> None:
    build, model, words = GRADIENTS[name]
    module = model()
    report = mk.check(mk.Objective(module, F.mse_loss), data(), alpha=ALPHA, gradient=build(module))
    with pytest.raises(AssertionError, match=words):
        assert not (found := wrong(report)), found
    assert not report.ok


@pytest.mark.parametrize("build", [hand, nested])
def test_a_right_gradient_function_of_a_readers_own_passes(build: Callable[[nn.Module], object]) -> None:
    module = plain()
    gradient = build(module)
    report = mk.check(mk.Objective(module, F.mse_loss), data(), alpha=ALPHA, gradient=gradient)  # type: ignore[arg-type]
    assert report.ok, report


def test_nothing_that_is_given_is_changed() -> None:
    model = mk.models.mlp(1, 1)
    theta, drawn = {n: p.detach().clone() for n, p in model.named_parameters()}, torch.get_rng_state()
    batch, same = mk.Sinusoids().batch(0, 2), mk.Sinusoids().batch(0, 2)
    mk.check(mk.Objective(model, F.mse_loss), batch, alpha=0.01)
    assert all(torch.equal(p, theta[n]) and p.dtype == torch.float32 for n, p in model.named_parameters())
    assert torch.equal(batch.support.x, same.support.x)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_model_of_one_type_alone_is_examined_in_that_type() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x) @ torch.eye(6)))  # type: ignore[no-any-return]

    batch = mk.TaskBatch(*(mk.Batch(part.x.float(), part.y.float()) for part in data()))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Single()
    report = mk.check(mk.Objective(model, F.mse_loss), batch, alpha=ALPHA)
    assert report.ok, report
    report = mk.check(mk.Objective(model, F.mse_loss), batch, alpha=0.5, gradient=hand(model, 0.5, order=1))
    assert "first order" in wrong(report)


@pytest.mark.parametrize(("alpha", "steps"), [(0.0, 1), (ALPHA, 0)])
def test_no_step_is_no_fault(alpha: float, steps: int) -> None:
    report = mk.check(mk.Objective(plain(), F.mse_loss), data(), alpha=alpha, steps=steps)
    assert report.ok, report


def test_step_sizes_by_parameter_and_step_are_examined_too() -> None:
    objective = mk.Objective(plain(), F.mse_loss)
    alpha = {n: torch.tensor([0.1, 0.02]).double().requires_grad_("weight" in n) for n in objective.theta()}
    report = mk.check(objective, data(), alpha=alpha, steps=2)
    assert report.ok, report
    report = mk.check(objective, data(), alpha=alpha, steps=2, gradient=hand(objective.model))
    assert "it is off by" in wrong(report)


def test_a_report_is_read_in_a_notebook_as_a_table() -> None:
    report = Report((mk.Finding("a", "right", "x|y"), mk.Finding("b", "wrong", "z")))
    assert report._repr_markdown_().splitlines()[2:] == ["| ✓ | a | x\\|y |", "| ✗ | b | z |"]
    assert not report.ok
    assert str(report) == "✓ a: x|y\n✗ b: z"


FACTORIES = """
import torch.nn.functional as F
import mamlkit as mk

def right():
    return mk.Objective(mk.models.mlp(1, 1, hidden=(4,)), F.mse_loss), mk.Sinusoids(shots=3, queries=3).batch(0, 2)

def summed():
    objective, batch = right()
    return {"objective": mk.Objective(objective.model, lambda p, y: F.mse_loss(p, y, reduction="sum")), "batch": batch}

def nothing():
    return 3

def undrawn():
    return right()[0], mk.Sinusoids(shots=3, queries=3)
"""


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["mine.py:right"], 0, "✓ meta-gradient, second order"),
        (["mine:right", "--alpha", "0.1", "--steps", "2"], 0, "✓ meta-gradient, second order"),
        (["mine.py:summed"], 1, "✗ the loss: it is a sum"),
        (["mine.py:nothing"], 2, "returned int; it should return"),
        (["mine.py:undrawn"], 2, "the tasks are Sinusoids; they must be drawn"),
        (["mine.py:absent"], 2, "names no function"),
        (["absent.py:right"], 2, "names no function"),
        (["mine.py"], 2, "names no function"),
        (["mine.py:right", "--steps", "-1"], 2, "steps is -1"),
    ],
)
def test_the_command_says_by_its_status_what_was_found(
    tmp_path: Path,
    arguments: list[str],
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert main(["check", *arguments]) == status
    said = capsys.readouterr()
    assert words in said.out + said.err


def test_a_factory_is_found_by_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORIES)
    command = [sys.executable, "-m", "mamlkit", "check", "mine:summed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "✗ the loss: it is a sum" in done.stdout
