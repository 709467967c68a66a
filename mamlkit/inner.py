"""The inner loop, equation (E1): θ'ᵢ = θ − α ∇L(θ; Dᵢ)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import grad

from mamlkit import pure
from mamlkit.pure import Params
from mamlkit.tasks import Batch


@dataclass(frozen=True)
class Objective:
    """L(θ; D): the loss of a model's predictions on examples, as a function of the parameters θ.

    model  any nn.Module, used unchanged; `theta` replaces its trainable parameters on each call
    loss   a function of (prediction, y) that returns a scalar, the mean over examples as a rule
    batch_norm  whose mean and variance a batch norm in training mode uses when the query is judged: "transductive",
                those of the query itself, as in the paper's experiments, or "inductive", those of the support.
                Transductive predictions depend on which other queries are at hand

    Frozen parameters and buffers are read from the model and never written.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    batch_norm: Literal["transductive", "inductive"] = "transductive"

    def __post_init__(self) -> None:
        if self.batch_norm not in ("transductive", "inductive"):
            raise ValueError(f'batch_norm is {self.batch_norm!r}; it must be "transductive" or "inductive"')

    def theta(self) -> Params:
        """θ: detached copies of the model's trainable parameters, by name."""
        theta = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        if not theta:
            raise ValueError(
                f"{type(self.model).__name__} has no trainable parameter, so there is nothing to adapt; "
                "give it one, or set requires_grad"
            )
        return theta

    def predict(self, theta: Mapping[str, Tensor], x: Tensor, support: Tensor | None = None) -> Tensor:
        """The model's prediction for x [points, ...] with parameters θ; `support` are the support's inputs."""
        try:
            return pure.call(self.model, theta, x, support if self.batch_norm == "inductive" else None)
        except RuntimeError as error:
            weights = next(iter(theta.values()))
            raise TypeError(
                f"{type(self.model).__name__} could not take x of shape {tuple(x.shape)}, {x.dtype} on {x.device} "
                f"(its parameters are {weights.dtype} on {weights.device}). PyTorch says: {error}"
            ) from error

    def judge(self, prediction: Tensor, y: Tensor) -> Tensor:
        """The loss of a prediction: a scalar. Raises on labels that PyTorch would silently broadcast or convert."""
        if y.is_floating_point() and prediction.ndim != y.ndim:
            raise ValueError(
                f"the prediction has shape {tuple(prediction.shape)} and y {tuple(y.shape)}; they would be broadcast "
                "against each other. Give y the prediction's number of dimensions"
            )
        if not y.is_floating_point() and prediction.shape == y.shape:
            raise TypeError(f"y holds {y.dtype} where the model predicts {prediction.dtype}; convert y to floats")
        loss = self.loss(prediction, y)
        if not isinstance(loss, Tensor) or loss.ndim:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"type {type(loss).__name__}"
            raise ValueError(f"the loss has {found}; MAML needs a scalar tensor. Use a mean over examples")
        return loss

    def __call__(self, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, support: Tensor | None = None) -> Tensor:
        """L(θ; D) for the examples D = (x, y): a scalar. `support` as in `predict`."""
        return self.judge(self.predict(theta, x, support), y)


def adapt(
    objective: Objective, theta: Params, support: Batch, *, alpha: float, steps: int = 1, order: int = 2
) -> Params:
    """Adapt θ to one task: θ' = θ − α ∇L(θ; D), `steps` times (E1; Finn et al. 2017, Algorithm 1, line 6).

    theta    dict of parameters, each of its own shape
    support  Batch: x [points, ...], y [points, ...]
    alpha    the inner step size α ≥ 0
    steps    the number of gradient steps; with 0, θ' = θ
    order    2 keeps the graph through every inner gradient; 1 treats the gradients as constants (first-order MAML).
             θ' stays a function of θ either way, so the outer derivative is never zero.

    Returns θ', shaped like theta. Raises ValueError on an empty, mismatched or non-finite support, a negative alpha
    or steps, another order, and parameters that are not the model's.
    """
    check_settings(objective, theta, alpha, steps, order)
    check_examples(support, "support")
    return descend(objective, theta, support, alpha, steps, order)


def descend(objective: Objective, theta: Params, support: Batch, alpha: float, steps: int, order: int) -> Params:
    """`adapt` without its checks: equation (E1) alone, which the routes of `meta_gradient` trace through."""
    for _ in range(steps):
        gradient = grad(objective)(theta, support.x, support.y)
        if order == 1:
            gradient = {name: g.detach() for name, g in gradient.items()}
        theta = {name: weight - alpha * gradient[name] for name, weight in theta.items()}
    return theta


def check_settings(objective: Objective, theta: Params, alpha: float, steps: int, order: int) -> None:
    """Refuse an inner loop that makes no sense, and a θ that is not the model's."""
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha is {alpha}; the inner step size must be a finite number of 0 or more")
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}; it must be a whole number of 0 or more")
    if order not in (1, 2):
        raise ValueError(f"order is {order!r}; it must be 1 (first-order MAML) or 2 (MAML)")
    wanted = {name: p.shape for name, p in objective.model.named_parameters() if p.requires_grad}
    found = {name: p.shape for name, p in theta.items()}
    if found != wanted:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(
            f"theta does not fit the model at {', '.join(differing)}: "
            f"found {[_shape(found.get(name)) for name in differing]}, "
            f"wanted {[_shape(wanted.get(name)) for name in differing]}. Start from objective.theta()"
        )


def check_examples(examples: Batch, name: str, dims: int = 1) -> None:
    """Refuse examples that are missing, unequal in number or not finite. `dims`: 1 for a task's, 2 for many tasks'."""
    x, y = examples
    if x.ndim < dims or y.ndim < dims or x.shape[:dims] != y.shape[:dims]:
        raise ValueError(
            f"the {name} has x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}; "
            f"their first {dims} dimension{'s' * (dims > 1)} ({'tasks, ' * (dims > 1)}points) must be the same"
        )
    if 0 in x.shape[:dims]:
        raise ValueError(f"the {name} is empty (x has shape {tuple(x.shape)}); give it at least one example")
    for part, values in (("x", x), ("y", y)):
        if values.is_floating_point() and not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(f"{bad} values of the {name}'s {part} are NaN or infinite; clean the data first")


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else str(tuple(shape))
