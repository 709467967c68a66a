"""L(θ; D): the loss of a model on examples, as a function of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mamlkit import pure
from mamlkit.pure import Params


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

    def parameters(self) -> Params:
        """The model's own trainable parameters, by name: what training changes in place."""
        found: Params = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not found:
            raise ValueError(
                f"{type(self.model).__name__} has no trainable parameter, so there is nothing to adapt; "
                "give it one, or set requires_grad"
            )
        return found

    def theta(self) -> Params:
        """θ: detached copies of the model's trainable parameters, by name."""
        return {name: p.detach().clone() for name, p in self.parameters().items()}

    def predict(self, theta: Mapping[str, Tensor], x: Tensor, support: Tensor | None = None) -> Tensor:
        """The model's prediction for x [points, ...] with parameters θ; `support` are the support's inputs."""
        try:
            return pure.predict(self.model, theta, x, support if self.batch_norm == "inductive" else None)
        except RuntimeError as error:
            raise self._explained(error, theta, x) from error

    def judged(
        self, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, support: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """L(θ; D) for the examples D = (x, y), a scalar, and the prediction that it judges; `support` as in `predict`.

        Raises ValueError and TypeError on labels that PyTorch would silently broadcast or convert.
        """
        prediction = self.predict(theta, x, support)
        if not isinstance(prediction, Tensor):
            raise TypeError(
                f"{type(self.model).__name__} returned a {type(prediction).__name__}; its forward must return a "
                "tensor: wrap it in a module that picks the one to be judged"
            )
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
        return loss, prediction

    def __call__(self, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, support: Tensor | None = None) -> Tensor:
        """L(θ; D) for the examples D = (x, y): a scalar. Arguments and errors as in `judged`."""
        return self.judged(theta, x, y, support)[0]

    def _explained(self, error: RuntimeError, theta: Mapping[str, Tensor], x: Tensor) -> Exception:
        """PyTorch's error as one that names the cause."""
        model, weights = type(self.model).__name__, next(iter(theta.values()))
        if "randomness" in str(error):  # vmap refuses before anything is drawn
            return ValueError(pure.random_refused(self.model))
        if "vmap" in str(error) or "atching rule" in str(error):
            return ValueError(
                f'PyTorch\'s vmap cannot run {model}, so the tasks must go one at a time: use route="loop". '
                f"PyTorch says: {error}"
            )
        return TypeError(
            f"{model} could not take x of shape {tuple(x.shape)}, {x.dtype} on {x.device} "
            f"(its parameters are {weights.dtype} on {weights.device}). PyTorch says: {error}"
        )
