"""The outer loop, equation (E4): θ ← θ − β ∇F(θ), with Adam's step on the meta-gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mamlkit import checkpoint as store
from mamlkit.inner import Objective
from mamlkit.meta import meta_gradient
from mamlkit.pure import Params
from mamlkit.tasks import TaskDistribution


@dataclass(frozen=True)
class Iteration:
    """One iteration of the outer loop; losses and gradient are those of θ before the iteration's update.

    loss_before, loss_after  mean query loss over the iteration's tasks, before and after adaptation
    grad_norm                Euclidean norm of the meta-gradient
    seconds                  training time up to here, that of the runs it was resumed from included
    """

    iteration: int
    loss_before: float
    loss_after: float
    grad_norm: float
    seconds: float


def train(
    objective: Objective,
    tasks: TaskDistribution,
    *,
    alpha: float,
    beta: float,
    iterations: int,
    steps: int = 1,
    order: int = 2,
    tasks_per_iteration: int = 25,
    route: str = "vmap",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
) -> Iterator[Iteration]:
    """Meta-train the objective's model in place and yield one Iteration an iteration (Finn et al. 2017, Algorithm 2).

    Iteration i draws tasks i·n to (i + 1)·n of the "train" split, n = `tasks_per_iteration`, so no task comes twice.
    The model's parameters are θ, on the device and in the type that they have; `objective.theta()` copies them.

    alpha, steps, order, route  as in `meta_gradient`
    beta         step size β of Adam, the optimizer of the paper's experiments
    iterations   outer steps in all, those of a resumed checkpoint included
    checkpoint   file to resume from if it exists, and to save to every `checkpoint_every` iterations and at the end;
                 a resumed run ends with the same bits as one left alone
    progress     show the time left, once a run takes longer than two seconds

    Raises ValueError on bad settings and on a checkpoint of another run, CheckpointError on a damaged one, and
    FloatingPointError at the first meta-loss or meta-gradient that is not finite: θ is then as it was before that
    iteration, and the last checkpoint stays.
    """
    counts = {"tasks_per_iteration": tasks_per_iteration, "checkpoint_every": checkpoint_every}
    for name, count, least in (*((name, count, 1) for name, count in counts.items()), ("iterations", iterations, 0)):
        if count < least:
            raise ValueError(f"{name} is {count}; it must be {least} or more")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta is {beta}; the meta step size must be a finite number above 0")
    objective.theta()  # refuses a model with nothing to train

    theta: Params = {name: p for name, p in objective.model.named_parameters() if p.requires_grad}
    place = next(iter(theta.values())).device
    optimizer = torch.optim.Adam(list(theta.values()), lr=beta)
    run = _Run(
        tasks=_name(tasks),
        settings=f"{alpha=} {beta=} {steps=} {order=} {tasks_per_iteration=}",
        path=None if checkpoint is None else Path(checkpoint),
    )
    first, past = run.resume(theta, optimizer)
    began = time.perf_counter() - past

    with tqdm(
        total=iterations, initial=first, desc="meta-training", delay=2, mininterval=1, disable=not progress
    ) as bar:
        for iteration in range(first, iterations):
            batch = tasks.batch(iteration * tasks_per_iteration, tasks_per_iteration, "train").to(place)
            result = meta_gradient(objective, theta, batch, alpha=alpha, steps=steps, order=order, route=route)
            norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in result.grad.values()]))
            before, after, grad_norm = torch.stack([result.loss_before.mean(), result.loss.mean(), norm]).tolist()
            if not (math.isfinite(after) and math.isfinite(grad_norm)):
                raise FloatingPointError(
                    f"iteration {iteration}: the meta-loss is {after} and the meta-gradient's norm {grad_norm}; "
                    f"θ is left as it was before. Lower alpha (now {alpha}) or beta (now {beta})"
                )
            for name, weight in theta.items():
                weight.grad = result.grad[name]
            optimizer.step()
            optimizer.zero_grad()

            record = Iteration(iteration, before, after, grad_norm, time.perf_counter() - began)
            done = iteration + 1
            if done % checkpoint_every == 0 or done == iterations:
                run.save(theta, optimizer, done, record.seconds)
            bar.update()
            yield record


@dataclass(frozen=True)
class _Run:
    """What a checkpoint must agree with before training goes on from it, and where it lies."""

    tasks: str
    settings: str
    path: Path | None

    def save(self, theta: Params, optimizer: torch.optim.Optimizer, done: int, seconds: float) -> None:
        if self.path is None:
            return
        weights = {name: weight.detach() for name, weight in theta.items()}
        state = {"tasks": self.tasks, "settings": self.settings, "iteration": done, "seconds": seconds}
        store.save(self.path, {**state, "theta": weights, "optimizer": optimizer.state_dict()})

    def resume(self, theta: Params, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Load the checkpoint into θ and the optimizer, all or nothing; (iterations done, seconds spent)."""
        if self.path is None:
            return 0, 0.0
        store.check_writable(self.path)
        if not self.path.exists():
            return 0, 0.0
        state = store.load(self.path)
        found = _outline(state.get("theta", {}))
        for what, stored, wanted in (
            ("tasks", state.get("tasks"), self.tasks),
            ("settings", state.get("settings"), self.settings),
            ("parameters", found, _outline(theta)),
        ):
            if stored != wanted:
                raise ValueError(
                    f"{self.path} belongs to another run: its {what} are {stored}, this run's are {wanted}. "
                    "Use another file, or the settings it was made with"
                )
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, weight in theta.items():
                weight.copy_(state["theta"][name])
        return int(state["iteration"]), float(state["seconds"])


def _outline(theta: Any) -> dict[str, str]:
    return {name: f"{tuple(weight.shape)} {weight.dtype}" for name, weight in theta.items()}


def _name(tasks: TaskDistribution) -> str:
    """The distribution's repr, or its type where the repr is an address, which changes from run to run."""
    return type(tasks).__qualname__ if type(tasks).__repr__ is object.__repr__ else repr(tasks)
