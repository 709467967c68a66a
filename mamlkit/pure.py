"""Any nn.Module, unchanged, as a pure function of its parameters: prediction = f(θ, x).

Three things make a module impure, and each is dealt with here:
- buffers: the forward pass writes into copies, so the model is left as it was and no task leaks into another;
- dropout: its mask would come from the global random state, so an active dropout is refused;
- normalization: PyTorch's native layers give wrong second-order gradients under `vmap`, without a word
  (pytorch/functorch#534), so they are computed from primitives, whose derivatives are right on every route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

Params = dict[str, Tensor]


def call(model: nn.Module, theta: Mapping[str, Tensor], x: Tensor, reference: Tensor | None = None) -> Tensor:
    """The model's prediction for x, with θ in place of its trainable parameters.

    Frozen parameters and buffers are the model's own. Batch norm in training mode leaves its running statistics alone
    and uses those of x, or those of `reference` where it is given: inputs that pass through the model first.
    In evaluation mode it uses the stored ones.
    """
    state = _state(model, theta)
    tape: _Tape = []
    if reference is not None:
        _run(model, state, reference, _Pure(record=tape))
    return _run(model, state, x, _Pure(replay=iter(tape) if reference is not None else None))


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether a batch norm module of the model normalizes by the batch at hand."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.training or norm.running_mean is None for norm in norms)


def _run(model: nn.Module, state: Params, x: Tensor, mode: _Pure) -> Tensor:
    with mode:
        # The tying of weights is ours (see `_state`): functional_call's own leaves a module that is used twice damaged.
        prediction: Tensor = functional_call(model, state, (x,), tie_weights=False)
    return prediction


def _state(model: nn.Module, theta: Mapping[str, Tensor]) -> Params:
    """What stands in each place of the model: θ, tied weights included, and copies of the buffers."""
    state: Params = {}
    tied: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if name in theta:
                tied[id(parameter)] = theta[name]
            if id(parameter) in tied:
                state[name] = tied[id(parameter)]
        for name, buffer in module.named_buffers(prefix, recurse=False):
            state[name] = buffer.clone()
    return state


_Tape = list[tuple[Tensor, Tensor]]  # mean and variance of each batch norm, in the order of the forward pass


class _Pure(TorchFunctionMode):
    """Replaces the impure functions of torch.nn.functional while a model runs.

    record  where each batch norm writes the statistics that it used
    replay  statistics to use instead, one pair a batch norm
    """

    def __init__(self, record: _Tape | None = None, replay: Iterator[tuple[Tensor, Tensor]] | None = None) -> None:
        super().__init__()
        self.record, self.replay = record, replay

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return self.batch_norm(*args, **(kwargs or {}))
        return _PURE.get(func, func)(*args, **(kwargs or {}))

    def batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        shape = (1, -1, *(1,) * (input.ndim - 2))
        if not training and running_mean is not None and running_var is not None:
            mean, variance = running_mean.view(shape), running_var.view(shape)
        elif self.replay is not None:
            mean, variance = next(self.replay)
        else:
            if input.numel() == input.shape[1]:
                raise ValueError(
                    f"batch norm was given one value a channel (input {tuple(input.shape)}), whose variance is zero; "
                    "use more examples, or another norm"
                )
            mean, variance = _moments(input, (0, *range(2, input.ndim)))
            if self.record is not None:
                self.record.append((mean, variance))
        return _scale((input - mean) * (variance + eps).rsqrt(), weight, bias)


def _moments(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mean = x.mean(dims, keepdim=True)
    return mean, (x - mean).square().mean(dims, keepdim=True)


def _standardize(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    mean, variance = _moments(x, dims)
    return (x - mean) * (variance + eps).rsqrt()


def _scale(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Scale and shift channels, the dimension after the first."""
    shape = (1, -1, *(1,) * (x.ndim - 2))
    if weight is not None:
        x = x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats and running_mean is not None and running_var is not None:
        stored = _scale(_scale(input, None, -running_mean), (running_var + eps).rsqrt(), None)
        return _scale(stored, weight, bias)
    return _scale(_standardize(input, tuple(range(2, input.ndim)), eps), weight, bias)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    groups = input.reshape(input.shape[0], num_groups, -1)
    return _scale(_standardize(groups, (2,), eps).reshape(input.shape), weight, bias)


def _layer_norm(
    input: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    normal = _standardize(input, tuple(range(-len(normalized_shape), 0)), eps)
    if weight is not None:
        normal = normal * weight
    return normal if bias is None else normal + bias


def _dropout_refused(function: Callable[..., Tensor], position: int) -> Callable[..., Tensor]:
    """`function` where it does nothing (evaluation mode or p = 0), an error where it would draw a mask."""

    def guarded(*args: Any, **kwargs: Any) -> Tensor:
        p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
        training = args[position] if len(args) > position else kwargs.get("training", True)
        if training and p > 0:
            raise ValueError(
                f"the model has an active dropout (p = {p}): its random mask would make θ' a matter of chance. "
                "Call model.eval(), set p to 0, or leave the dropout out"
            )
        return function(*args, **kwargs)

    return guarded


_PURE: dict[Any, Callable[..., Any]] = {
    F.instance_norm: _instance_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    **{
        function: _dropout_refused(function, 2)
        for function in (
            F.dropout,
            F.dropout1d,
            F.dropout2d,
            F.dropout3d,
            F.alpha_dropout,
            F.feature_alpha_dropout,
            torch.dropout,
        )
    },
}
