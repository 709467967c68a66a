"""A training from a file of settings: `python -m mamlkit train SETTINGS.yml`, in one process or in many.

    python -m mamlkit train experiments/sinusoids.yml
    torchrun --nproc-per-node 4 -m mamlkit train experiments/sinusoids.yml

Under torchrun each process computes the meta-gradient of its share of an iteration's tasks, and the shares are added
up: the same θ as in one process, to rounding.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

import mamlkit as mk
from mamlkit import files
from mamlkit.meta import unchecked
from mamlkit.pure import Params
from mamlkit.study import RefusedError
from mamlkit.study.result import dumps
from mamlkit.sweeps.spec import mapping, read
from mamlkit.train import repaid

TOP = ("tasks", "model", "loss", "batch_norm", "training", "exam", "device")
TASKS = {"Sinusoids": mk.Sinusoids, "Quadratics": mk.Quadratics, "Glyphs": mk.Glyphs, "Omniglot": mk.Omniglot}
MODELS: dict[str, Callable[..., Any]] = {"mlp": mk.models.mlp, "conv4": mk.models.conv4}
LOSSES = {
    loss.__name__: loss
    for loss in (functional.mse_loss, functional.l1_loss, functional.huber_loss, functional.cross_entropy)
}
# Arguments that no file gives: what this module gives, what is code, and what records.csv has no column for.
OURS = ("objective", "theta", "tasks", "outer", "rule", "checkpoint", "progress", "examine_every", "examine_tasks")
COLUMNS = ("iteration", "loss_before", "loss_after", "grad_norm", "seconds")
EVERY = 100  # iterations that one row of records.csv is the mean of


def experiment(path: Path, out: Path, device: str | None = None) -> Iterator[str]:
    """Train and examine as the settings in `path` say, and tell how it went.

    tasks     {Sinusoids: {shots: 10}}: a distribution of the kit and its fields
    model     {mlp: {inputs: 1, outputs: 1}}: a model of the kit and its arguments
    loss      mse_loss, l1_loss, huber_loss or cross_entropy
    training  the arguments of `mk.train`: alpha, beta, iterations, …
    exam      those of `mk.evaluate`, alpha and steps being the training's where none are given, and the split "test";
              left out, there is no exam
    batch_norm, device  as of `mk.Objective` and `mk.device`; may be left out

    Writes to the folder `out`: `checkpoint`, from which the same settings go on; `records.csv`, whose rows are means
    over the 100 iterations before; at the end `result.json`. Raises RefusedError for settings that cannot be.
    """
    try:
        yield from _experiment(mapping(read(path), "the file", TOP), out, device)
    except (RefusedError, ValueError, TypeError, FloatingPointError) as error:
        raise RefusedError(f"{path.name}: {error}") from error


def _experiment(content: Mapping[str, Any], out: Path, device: str | None) -> Iterator[str]:
    if missing := [name for name in ("tasks", "model", "loss", "training") if name not in content]:
        raise RefusedError(f"there is no {' and no '.join(missing)}; a training needs tasks, model, loss and training")
    tasks, model = _made(content["tasks"], "tasks", TASKS), _made(content["model"], "model", MODELS)
    if content["loss"] not in LOSSES:
        raise RefusedError(f"loss is {content['loss']!r}; it must be one of {', '.join(LOSSES)}")
    training = _arguments(content["training"], "training", mk.train)
    exam = _arguments(content.get("exam", {}), "exam", mk.evaluate)
    place = _place(device or content.get("device", "auto"))
    norm = content.get("batch_norm", "transductive")
    objective = mk.Objective(model.to(place), LOSSES[content["loss"]], norm)
    with _group(place) as (rank, processes):
        if rank == 0:
            yield f"{training.get('iterations')} iterations into {out}" + f", {processes} processes" * (processes > 1)
        _train(objective, tasks, training, out, rank)
        if rank == 0:
            found: dict[str, Any] = {"settings": content}
            if "exam" in content:
                given = {"alpha": training["alpha"], "steps": training.get("steps", 1), "split": "test"} | exam
                curve = mk.evaluate(objective, objective.theta(), tasks, **given)
                found["exam"] = {"loss": curve.mean().tolist(), "half_width": curve.half_width().tolist()}
                if curve.accuracy is not None:
                    found["exam"]["accuracy"] = curve.accuracy.mean(0).tolist()
                yield str(curve)
            finite = json.loads(json.dumps(found), parse_constant=str)  # JSON has no infinity and no NaN
            files.write(out / "result.json", dumps(finite))


def _train(objective: mk.Objective, tasks: Any, training: Mapping[str, Any], out: Path, rank: int) -> None:
    """Train, and keep records of it beside the checkpoint."""
    file, every = out / "records.csv", training.get("checkpoint_every", 1000)
    rows: list[list[Any]] = []
    if file.exists():
        with file.open(newline="", encoding="utf-8") as earlier:
            rows = list(csv.reader(earlier))[1:]
    options: dict[str, Any] = {"checkpoint": out / "checkpoint", "progress": rank == 0, "outer": shared}
    if not dist.is_initialized():
        options["route"] = repaid(training["iterations"])
    waiting = []
    for record in mk.train(objective, tasks, **options | dict(training)):
        waiting.append([record.loss_before, record.loss_after, record.grad_norm])
        done, ends = record.iteration + 1, record.iteration + 1 == training["iterations"]
        if done % EVERY == 0 or ends:
            means = [sum(column) / len(waiting) for column in zip(*waiting, strict=True)]
            rows = [row for row in rows if int(row[0]) < done] + [[done, *means, record.seconds]]
            waiting = []
        if rank == 0 and (done % every == 0 or ends):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
            files.write(file, text.getvalue())


def shared(objective: mk.Objective, theta: Params, batch: mk.TaskBatch, **settings: Any) -> mk.MetaGradient:
    """The meta-gradient of tasks that are dealt out over the processes of a group; in one process, of all of them.

    Process r of m computes tasks r·n/m to (r + 1)·n/m, and gives its gradient the weight of their number.
    """
    if not dist.is_initialized():
        return unchecked(objective, theta, batch, **settings)
    rank, processes, tasks = dist.get_rank(), dist.get_world_size(), batch.size
    if tasks < processes:
        raise ValueError(f"{tasks} tasks an iteration cannot be dealt out to {processes} processes; take fewer")
    first, last = tasks * rank // processes, tasks * (rank + 1) // processes
    found = unchecked(objective, theta, batch.chosen(slice(first, last)), **settings)

    def mean(gradient: Params) -> Params:
        return {name: _summed(part * ((last - first) / tasks)) for name, part in gradient.items()}

    def of_all(losses: Tensor) -> Tensor:
        everyones = losses.new_zeros(tasks)
        everyones[first:last] = losses
        return _summed(everyones)

    return mk.MetaGradient(of_all(found.loss), mean(found.grad), of_all(found.loss_before), mean(found.grad_alpha))


def _summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, which each of them gets."""
    dist.all_reduce(tensor)
    return tensor


@contextmanager
def _group(place: torch.device) -> Iterator[tuple[int, int]]:
    """The rank of this process and how many there are: torchrun's, or one alone."""
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    # PyTorch's own patience is half an hour; torchrun starts a group that failed again.
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(minutes=5))
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def _place(name: str) -> torch.device:
    """The device; of several processes on one machine each has a GPU of its own."""
    try:
        place = mk.device(name)
    except RuntimeError as error:  # this machine has none
        raise RefusedError(str(error)) from error
    own = place.type == "cuda" and place.index is None and "LOCAL_RANK" in os.environ
    return mk.device(f"cuda:{os.environ['LOCAL_RANK']}") if own else place


def _made(content: Any, where: str, kinds: Mapping[str, Callable[..., Any]]) -> Any:
    """What `{name: {argument: value}}` stands for."""
    named = mapping(content, where, tuple(kinds))
    if len(named) != 1:
        raise RefusedError(f"{where} holds {len(named)} names; it must hold one of {', '.join(kinds)}")
    ((name, given),) = named.items()
    return kinds[name](**_arguments(given, f"{where}, {name}", kinds[name]))


def _arguments(content: Any, where: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a function, by the names that it has."""
    known = {name: p.annotation for name, p in inspect.signature(function).parameters.items() if name not in OURS}
    given = {name: _value(value) for name, value in mapping(content or {}, where, tuple(known)).items()}
    for name, value in given.items():
        if isinstance(value, str) and "str" not in str(known[name]):
            raise RefusedError(f"{where}: {name} is {value!r}; it must be of type {known[name]}")
    return given


def _value(value: Any) -> Any:
    """A value of YAML as the kit takes it: a list as a tuple, a type by its name, 1e-3 (a text to YAML) as a number."""
    if isinstance(value, list):
        return tuple(map(_value, value))
    if isinstance(value, dict):
        return {name: _value(part) for name, part in value.items()}
    if value in ("float32", "float64"):
        return getattr(torch, value)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
