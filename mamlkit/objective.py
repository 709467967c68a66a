"""L(θ; D): the loss of a model on examples, as a function of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

from mamlkit import pure, watch
from mamlkit.pure import Params

ALONE = 'route="loop" or "flat-loop"'  # what takes a model that vmap does not


@dataclass(frozen=True)
class Objective:
    """L(θ; D): the loss of a model's predictions on examples, as a function of the parameters θ.

    model  an nn.Module, used unchanged; `theta` replaces its trainable parameters on each call
    loss   a function of (prediction, y) that returns a scalar, the mean over examples as a rule
    batch_norm  whose mean and variance a batch norm in training mode uses when the query is judged: "transductive",
                those of the query itself, as in the paper's experiments, or "inductive", those of the support.
                Transductive predictions depend on which other queries are at hand

    Frozen parameters and buffers are read from the model and never written.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    batch_norm: Literal["transductive", "inductive"] = "transductive"
    seen: set[Any] = field(default_factory=set, init=False, repr=False, compare=False)  # what was watched: see `checks`
    replays: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)  # see `graphs`

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
        if lazy := [name for name, p in found.items() if isinstance(p, nn.UninitializedParameter)]:
            raise ValueError(f"{', '.join(lazy)} have no shape yet; run the model once on an input of the right shape")
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

    def judge(self, prediction: Tensor, y: Tensor) -> Tensor:
        """The loss of a prediction on labels y: a scalar.

        Raises ValueError and TypeError on labels that PyTorch would silently broadcast or convert.
        """
        if not isinstance(prediction, Tensor):
            raise TypeError(
                f"{type(self.model).__name__} returned a {type(prediction).__name__}; its forward must return a "
                "tensor: wrap it in a module that picks the one to be judged"
            )
        if prediction.shape == y.shape and not (y.is_floating_point() or y.is_complex()):
            raise TypeError(f"y holds {y.dtype} where the model predicts {prediction.dtype}; convert y to floats")
        with pure.no_randomness(self.loss, y.device):
            kind = (prediction.shape, prediction.dtype, y.shape, y.dtype)
            if kind not in self.seen:
                if how := watch.broadcasts(self.loss, prediction, y):
                    raise ValueError(
                        f"the prediction has shape {tuple(prediction.shape)} and y {tuple(y.shape)}; in the loss they "
                        f"would be broadcast against each other ({how}). Give y the prediction's shape"
                    )
                self.seen.add(kind)
            loss = self.loss(prediction, y.clone())
        if not isinstance(loss, Tensor) or loss.ndim:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"type {type(loss).__name__}"
            raise ValueError(f"the loss has {found}; MAML needs a scalar tensor. Use a mean over examples")
        return loss

    def judged(
        self, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, support: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """L(θ; D) for the examples D = (x, y), a scalar, and the prediction that it judges; `support` as in `predict`.

        Errors as in `judge`.
        """
        prediction = self.predict(theta, x, support)
        return self.judge(prediction, y), prediction

    def __call__(self, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, support: Tensor | None = None) -> Tensor:
        """L(θ; D) for the examples D = (x, y): a scalar. Arguments and errors as in `judged`."""
        return self.judged(theta, x, y, support)[0]

    def _explained(self, error: RuntimeError, theta: Mapping[str, Tensor], x: Tensor) -> Exception:
        """PyTorch's error as one that names the cause."""
        model, weights = type(self.model).__name__, next(iter(theta.values()))
        if "randomness" in str(error):  # vmap refuses before anything is drawn
            return ValueError(pure.random_refused(self.model))
        if is_batchedtensor(x):
            return ValueError(
                f"PyTorch's vmap cannot run {model}, so the tasks must go one at a time: use {ALONE}. "
                f"PyTorch says: {error}"
            )
        if "stateless API" in str(error):
            return TypeError(f"θ cannot take the place of the weights of {model}: give the plain module that it wraps")
        return TypeError(
            f"{model} could not take x of shape {tuple(x.shape)}, {x.dtype} on {x.device} "
            f"(its parameters are {weights.dtype} on {weights.device}). PyTorch says: {error}"
        )
