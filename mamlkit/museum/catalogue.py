"""The exhibits, bugs of public code and of this kit: a right line, a wrong line, and what catches it."""

from __future__ import annotations

import inspect
import linecache
import math
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlkit.check import Report, check
from mamlkit.museum import parts, plain
from mamlkit.objective import Objective
from mamlkit.tasks import Batch, TaskBatch


class Exhibit(NamedTuple):
    """A bug that can be planted.

    wing         the part of the museum: "gradient", "tasks", "exam", "derivatives", "nets" or "around"
    room         the right run, in which `right` stands once and makes room for `wrong`
    seen         where: threads in which it was met or asked about, or papers and code
    check        a run → what is wrong with it, in words; nothing, "", if it is right
    finding      what those words must hold (a regular expression), so that it is caught for what it is
    named        whether those words say what was done wrong, and not only that a number is off
    """

    wing: str
    room: ModuleType
    right: str
    wrong: str
    seen: str
    check: Callable[[Any], str]
    finding: str
    named: bool = True

    @property
    def judge(self) -> str:
        """What catches it, by name."""
        name: str = getattr(self.check, "__name__", "the part")
        return "mk.check" if name in ("the_gradient", "the part") else name.replace("_", " ")


def plant(name: str) -> ModuleType:
    """The run of an exhibit of the catalogue, with its wrong line in place of the right one."""
    return planted(CATALOGUE[name], name)


def planted(exhibit: Exhibit, name: str) -> ModuleType:
    """The run of an exhibit under a name. Raises ValueError where the right line does not stand just once."""
    source, file = inspect.getsource(exhibit.room), f"<{name}>"
    if (times := source.count(exhibit.right)) != 1:
        raise ValueError(f"{exhibit.right!r} stands {times} times in {exhibit.room.__name__}; it must stand once")
    source = source.replace(exhibit.right, exhibit.wrong)
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file  # for tracebacks and TorchScript
    run = ModuleType(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, which is still in many people's code
        exec(compile(source, file, "exec"), vars(run))
    return run


def lines(name: str) -> tuple[str, str]:
    """The right and the wrong line of an exhibit, as they stand in their runs."""
    exhibit = CATALOGUE[name]
    source = inspect.getsource(exhibit.room)
    before, _, after = source.partition(exhibit.right)
    start, end = before[before.rfind("\n") + 1 :], after.partition("\n")[0]
    right, wrong = (textwrap.dedent(f"{start}{part}{end}").strip() for part in (exhibit.right, exhibit.wrong))
    return right, wrong


def words(name: str) -> str:
    """What the check of an exhibit says of it, once it is planted."""
    return CATALOGUE[name].check(plant(name))


# --- the checks of a whole run


def judged(report: Report, *more: str) -> str:
    """The findings that are wrong, and the notes on subjects named in `more`."""
    return "; ".join(f"{f.subject}: {f.text}" for f in report.findings if f.verdict == "wrong" or f.subject in more)


def the_gradient(run: Any) -> str:
    """`mk.check`, given the run's network, its loss, its tasks and its meta-gradient."""
    support, query = (
        Batch(*(torch.stack(part) for part in zip(*points, strict=True)))
        for points in zip(*run.draw(0, 3), strict=True)
    )

    def gradient(theta: plain.Theta, batch: TaskBatch) -> plain.Theta:
        tasks = [tuple(map(tuple, batch.task(i))) for i in range(batch.size)]
        return run.meta_gradient(theta, tasks)[1]  # type: ignore[no-any-return]

    objective = Objective(run.Net(), run.mse)
    objective.model.load_state_dict(plain.start())
    settings = {"alpha": run.ALPHA, "steps": run.STEPS}
    return judged(check(objective, TaskBatch(support, query), gradient=gradient, **settings))


def no_example_is_shared(run: Any) -> str:
    shared = [i for i, (support, query) in enumerate(run.draw(0, 50)) if torch.isin(support[0], query[0]).any()]
    return f"{len(shared)} of 50 tasks share points between support and query" if shared else ""


def every_point_is_dealt_as_asked(run: Any) -> str:
    (x, _), (query_x, _) = run.draw(0, 1)[0]
    wanted, dealt = (run.SHOTS, run.QUERIES), (len(x), len(query_x))
    return "" if dealt == wanted else f"{dealt} support and query points were dealt for {wanted}"


def _labels(run: Any, split: str, count: int = 200) -> set[tuple[float, ...]]:
    return {tuple(query[1].flatten().tolist()) for _, query in run.draw(0, count, split)}


def no_task_comes_twice(run: Any) -> str:
    different = len(_labels(run, "train"))
    return "" if different == 200 else f"200 training tasks hold {different} different ones"


def no_task_is_in_two_splits(run: Any) -> str:
    shared = _labels(run, "train") & _labels(run, "test")
    return f"{len(shared)} test tasks are training tasks" if shared else ""


def every_task_is_a_sinusoid(run: Any) -> str:
    """A sin(x − φ) is a sin x + b cos x, for some a and b: a straight fit that leaves nothing over."""
    worst = 0.0
    for _, (x, y) in run.draw(0, 50):
        waves = torch.cat([torch.sin(x), torch.cos(x)], 1)
        worst = max(worst, (waves @ torch.linalg.lstsq(waves, y).solution - y).abs().max().item())
    return "" if worst < 1e-9 else "the labels are no sinusoid of frequency 1"


def adapting_changes_the_loss(run: Any) -> str:
    curves = run.examine(plain.start(), size=5, steps=1)
    return "" if (curves[:, 0] != curves[:, 1]).all() else "the loss after a step is the loss before it"


def every_test_step_is_taken(run: Any) -> str:
    taken = run.examine(plain.start(), size=2, steps=8).shape[1] - 1
    return "" if taken == 8 else f"{taken} inner steps were examined for 8"


def the_exam_keeps_no_graph(run: Any) -> str:
    return "the exam's losses carry their graphs" if run.examine(plain.start(), size=2).requires_grad else ""


def training_never_asks_for_the_test_split(run: Any) -> str:
    asked, draw = set(), run.draw

    def guarded(start: int, size: int, split: str = "train", seed: int = 0) -> list[plain.Task]:
        asked.add(split)
        return draw(start, size, split, seed)  # type: ignore[no-any-return]

    run.draw = guarded
    run.train(plain.start(), run.PERIOD)
    run.draw = draw
    return "training asks for the test split" if "test" in asked else ""


def intervals_cover_what_they_claim_to(run: Any) -> str:
    """Of 1,000 exams on 50 tasks each, about 95% of the intervals must hold the true mean, 0."""
    exams = torch.randn(1000, 50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reports = [run.report(exam) for exam in exams]
    covered = sum(abs(mean) <= half for mean, half in reports) / len(reports)
    if abs(covered - 0.95) < 5 * math.sqrt(0.95 * 0.05 / len(reports)):
        return ""
    return f"the intervals cover too {'much' if covered > 0.95 else 'little'}: {covered:.0%} for 95%"


# --- the checks of a part


@dataclass(frozen=True)
class ThePart:
    """`mk.check`, given a small net and its meta-gradient by a recipe that many use; `notes` count as well."""

    net: str
    recipe: str
    notes: tuple[str, ...] = ()

    def gradient(self, run: Any) -> parts.Theta:
        """The meta-gradient at the net's own weights, on its own tasks."""
        net = run.made(self.net)
        theta = {name: w.detach() for name, w in net.named_parameters()}
        with torch.random.fork_rng(devices=[]):  # for the part that draws
            torch.manual_seed(0)
            return getattr(run, self.recipe)(net, theta, run.tasks())  # type: ignore[no-any-return]

    def __call__(self, run: Any) -> str:
        net = run.made(self.net)
        x, y, query_x, query_y = run.tasks()

        def gradient(theta: parts.Theta, batch: TaskBatch) -> parts.Theta:
            return getattr(run, self.recipe)(net, theta, (*batch.support, *batch.query))  # type: ignore[no-any-return]

        objective, batch = Objective(net, F.mse_loss), TaskBatch(Batch(x, y), Batch(query_x, query_y))
        return judged(check(objective, batch, alpha=run.ALPHA, gradient=gradient), *self.notes)


def the_implicit_gradient(run: Any) -> str:
    """On a quadratic task the proximal problem has a closed form, and so has the gradient through it."""
    a, g = (torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (25, 5))
    hessian = a.view(5, 5) @ a.view(5, 5).T
    right = torch.linalg.solve(torch.eye(5, dtype=torch.float64) + hessian / 2, g)
    error = ((run.implicit(hessian, g) - right).norm() / right.norm()).item()
    return "" if error < 1e-6 else f"it is {error:.0%} away from the closed form"


def perfect_logits_are_right(run: Any) -> str:
    y = torch.arange(20).view(4, 5) // 2 % 5
    share = run.accuracy(F.one_hot(y, 5).transpose(1, 2).double(), y)
    return "" if share == 1 else f"logits that are all right are given an accuracy of {share:.2f}"


def a_class_has_one_label(run: Any) -> str:
    apart = [i for i in range(50) if dict(run.episode(i)[0]) != dict(run.episode(i)[1])]
    return f"a class has two labels in {len(apart)} of 50 tasks" if apart else ""


def the_split_is_the_same_in_any_order(run: Any) -> str:
    names = ["Greek", "Latin", "Korean", "Tagalog"]
    return "" if run.split(names) == run.split(names[::-1]) else "another order of the listing, another split"


CATALOGUE: dict[str, Exhibit] = {
    "no create_graph": Exhibit(
        "gradient",
        plain,
        "list(theta.values()), create_graph=create_graph)",
        "list(theta.values()))",
        "dragen1860/MAML-Pytorch #17, #26, #32, #63",
        the_gradient,
        "the gradient: it is first order",
    ),
    "parameters detached": Exhibit(
        "gradient",
        plain,
        "theta_prime = {name: w - ALPHA * slopes[name] for name, w in theta_prime.items()}",
        "theta_prime = {name: (w - ALPHA * slopes[name]).detach().requires_grad_() for name, w in theta_prime.items()}",
        "higher #63, #102, #128, #129",
        the_gradient,
        "the gradient: it is zero: the graph to θ is cut",
    ),
    "graph of the first step only": Exhibit(
        "gradient",
        plain,
        "slopes = slope(theta_prime, support)",
        "slopes = slope(theta_prime, support, create_graph=theta_prime is theta)",
        "public code",
        the_gradient,
        "the gradient: it is off by .* neither first order",
        named=False,
    ),
    "slopes of the start at every step": Exhibit(
        "gradient",
        plain,
        "slopes = slope(theta_prime, support)",
        "slopes = slope(theta, support)",
        "public code",
        the_gradient,
        "the gradient: it is off by .* look at the inner step",
        named=False,
    ),
    "judged on the support": Exhibit(
        "gradient",
        plain,
        "losses.append(loss(theta_prime, query))",
        "losses.append(loss(theta_prime, support))",
        "cbfinn/maml #20, #80",
        the_gradient,
        "the gradient: it is judged on the support",
    ),
    "outputs from before adapting": Exhibit(
        "gradient",
        plain,
        "losses.append(loss(theta_prime, query))",
        "losses.append(loss(theta, query))",
        "learn2learn #420",
        the_gradient,
        "the gradient: it is not adapted",
    ),
    "starts where the last task ended": Exhibit(
        "gradient",
        plain,
        "theta_prime = adapt(theta, support)",
        "theta = theta_prime = adapt(theta, support)",
        "clone and adapt mixed up: learn2learn #152, #169",
        the_gradient,
        "one task alone: .*kept from one task to the next",
    ),
    "sum over tasks": Exhibit(
        "gradient",
        plain,
        "value = torch.stack(losses).mean()",
        "value = torch.stack(losses).sum()",
        "higher #92",
        the_gradient,
        "the gradient: it is the sum over tasks",
    ),
    "sum over examples": Exhibit(
        "gradient",
        plain,
        "return (prediction - y).square().mean()",
        "return (prediction - y).square().sum()",
        "public code; α of another size in cbfinn/maml",
        the_gradient,
        "the loss: it is a sum over examples",
    ),
    "x written in place": Exhibit(
        "gradient",
        plain,
        "x = 0.8 * (x - 0.5)",
        "x = 0.8 * x.sub_(0.5)",
        "this kit",
        the_gradient,
        "inputs: the model writes into its input",
    ),
    "labels without their last dimension": Exhibit(
        "gradient",
        plain,
        "y = amplitude * torch.sin(x - phase)",
        "y = (amplitude * torch.sin(x - phase))[:, 0]",
        "this kit",
        the_gradient,
        "one pass, watched: .*would be broadcast",
    ),
    "support points in the query": Exhibit(
        "tasks",
        plain,
        "support, query = slice(SHOTS), slice(SHOTS, None)",
        "support, query = slice(SHOTS), slice(QUERIES)",
        "public code",
        no_example_is_shared,
        "share points between support and query",
    ),
    "even and odd points": Exhibit(
        "tasks",
        plain,
        "support, query = slice(SHOTS), slice(SHOTS, None)",
        "support, query = slice(0, None, 2), slice(1, None, 2)",
        "public code",
        every_point_is_dealt_as_asked,
        "support and query points were dealt for",
    ),
    "tasks from a pool": Exhibit(
        "tasks",
        plain,
        "place = 1_000_000 * SPLITS.index(split) + index",
        "place = 1_000_000 * SPLITS.index(split) + index % 20",
        "public code",
        no_task_comes_twice,
        "200 training tasks hold 20 different ones",
    ),
    "test tasks are training tasks": Exhibit(
        "tasks",
        plain,
        "place = 1_000_000 * SPLITS.index(split) + index",
        "place = index",
        "public code",
        no_task_is_in_two_splits,
        "test tasks are training tasks",
    ),
    "phase as frequency": Exhibit(
        "tasks",
        plain,
        "torch.sin(x - phase)",
        "torch.sin(phase * x)",
        "public code",
        every_task_is_a_sinusoid,
        "no sinusoid of frequency 1",
    ),
    "exam without adapting": Exhibit(
        "exam",
        plain,
        "curve.append(loss(theta_prime, query).detach())",
        "curve.append(loss(theta, query).detach())",
        "public code",
        adapting_changes_the_loss,
        "the loss after a step is the loss before it",
    ),
    "test steps cut to those of training": Exhibit(
        "exam",
        plain,
        "for _ in range(steps + 1):",
        "for _ in range(min(steps, STEPS) + 1):",
        "public code",
        every_test_step_is_taken,
        "2 inner steps were examined for 8",
    ),
    "exam keeps the graph": Exhibit(
        "exam",
        plain,
        "curve.append(loss(theta_prime, query).detach())",
        "curve.append(loss(theta_prime, query))",
        "higher #6, #37; learn2learn #88",
        the_exam_keeps_no_graph,
        "carry their graphs",
    ),
    "chosen on the test tasks": Exhibit(
        "exam",
        plain,
        'examine(theta, "validation", 20, STEPS, seed)',
        'examine(theta, "test", 20, STEPS, seed)',
        "public code",
        training_never_asks_for_the_test_split,
        "training asks for the test split",
    ),
    "interval without the root of n": Exhibit(
        "exam",
        plain,
        "half = 1.96 * last.std() / len(last) ** 0.5",
        "half = 1.96 * last.std()",
        "public code",
        intervals_cover_what_they_claim_to,
        "cover too much",
        named=False,
    ),
    "interval over all examples": Exhibit(
        "exam",
        plain,
        "half = 1.96 * last.std() / len(last) ** 0.5",
        "half = 1.96 * last.std() / (QUERIES * len(last)) ** 0.5",
        "public code",
        intervals_cover_what_they_claim_to,
        "cover too little",
        named=False,
    ),
    "batch norm under vmap": Exhibit(
        "derivatives",
        parts,
        "return self.gain * standard(h, 0) + self.bias",
        "return F.batch_norm(h, None, None, self.gain, self.bias, training=True)",
        "pytorch/functorch #534",
        ThePart("BatchNorm", "by_vmap"),
        "the gradient: it is off by",
        named=False,
    ),
    "layer norm under vmap": Exhibit(
        "derivatives",
        parts,
        "return self.gain * standard(h, 1) + self.bias",
        "return torch.layer_norm(h, (6,), self.gain, self.bias)",
        "pytorch/functorch #534; this kit",
        ThePart("LayerNorm", "by_vmap"),
        "the gradient: it is off by",
        named=False,
    ),
    "TorchScript under nested grad": Exhibit(
        "derivatives",
        parts,
        "function = staticmethod(product)",
        "function = staticmethod(torch.jit.script(product))",
        "this kit",
        ThePart("Swish", "by_vmap"),
        "the gradient: it is off by",
        named=False,
    ),
    "weight norm": Exhibit(
        "derivatives",
        parts,
        "weight: Tensor = self.v * (self.g / self.v.norm(dim=1, keepdim=True))",
        "weight = torch._weight_norm(self.v, self.g)",
        "this kit",
        ThePart("WeightNorm", "by_loop"),
        "the gradient: it is off by",
        named=False,
    ),
    "a norm with a bias alone": Exhibit(
        "derivatives",
        parts,
        "x = F.layer_norm(x, (4,)) + self.bias",
        "x = F.layer_norm(x, (4,), bias=self.bias)",
        "pytorch #79705",
        ThePart("BiasAlone", "by_loop"),
        "the gradient: it is off by",
        named=False,
    ),
    "once_differentiable": Exhibit(
        "derivatives",
        parts,
        "    def backward(ctx: Any, slope: Tensor) -> Tensor:",
        "    @once_differentiable\n    def backward(ctx: Any, slope: Tensor) -> Tensor:",
        "PyTorch's autograd.grad; .backward() raises",
        ThePart("Cubed", "by_loop"),
        "one pass, watched: .*marked once_differentiable",
    ),
    "second name left behind": Exhibit(
        "nets",
        parts,
        "loss = F.mse_loss(functional_call(net, theta, (x,)), y)",
        "loss = F.mse_loss(functional_call(net, theta, (x,), tie_weights=False), y)",
        "this kit",
        ThePart("Tied", "by_loop"),
        "the gradient: it is off by",
        named=False,
    ),
    "padding row under vmap": Exhibit(
        "nets",
        parts,
        "h = torch.where((words == 0)[:, None], rows.detach(), rows)",
        "h = F.embedding(words, self.table, padding_idx=0)",
        "this kit",
        ThePart("Padded", "by_vmap"),
        "one task alone: .*A rule of vmap",
    ),
    "dropout inside a layer": Exhibit(
        "nets",
        parts,
        "nn.LSTM(6, 6, num_layers=2, dropout=0.0)",
        "nn.LSTM(6, 6, num_layers=2, dropout=0.5)",
        "this kit",
        ThePart("Recurrent", "by_loop"),
        "one pass, watched: .*draws random numbers",
    ),
    "batch norm answers all queries at once": Exhibit(
        "nets",
        parts,
        "return F.layer_norm(h, (6,))\n",
        "return F.batch_norm(h, None, None, training=True)\n",
        "higher #55, learn2learn #207",
        ThePart("PerExample", "by_loop", ("queries together",)),
        "queries together: .*transductive",
    ),
    "batch norm remembers other tasks": Exhibit(
        "nets",
        parts,
        "nn.BatchNorm1d(6, track_running_stats=False)",
        "nn.BatchNorm1d(6)",
        "pytorch-maml #8, #19",
        ThePart("Stored", "by_loop"),
        "running statistics: norm would mix the statistics of all tasks",
    ),
    "implicit MAML as published": Exhibit(
        "around",
        parts,
        "return v + hessian @ v / strength",
        "return (1 + 1.0) * v + hessian @ v / (strength + 10.0)",
        "aravindr93/imaml_dev, its default arguments",
        the_implicit_gradient,
        "away from the closed form",
        named=False,
    ),
    "accuracy along the wrong dimension": Exhibit(
        "around",
        parts,
        "chosen = logits.argmax(1)",
        "chosen = logits.argmax(-1)",
        "this kit",
        perfect_logits_are_right,
        "are given an accuracy of",
        named=False,
    ),
    "support and query number their classes apart": Exhibit(
        "around",
        parts,
        "query = {name: support[name] for name in sorted(classes)}",
        "query = {name: label for label, name in enumerate(sorted(classes))}",
        "public code",
        a_class_has_one_label,
        "a class has two labels",
    ),
    "split in the order of a listing": Exhibit(
        "around",
        parts,
        "names = sorted(listing)",
        "names = list(listing)",
        "cbfinn/maml's Omniglot",
        the_split_is_the_same_in_any_order,
        "another order of the listing, another split",
    ),
}


def gap(found: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """How far one gradient is from another, as a share of the other's size."""
    difference = torch.cat([(found[name] - right[name]).flatten() for name in right])
    return float(difference.norm() / torch.cat([part.flatten() for part in right.values()]).norm())
