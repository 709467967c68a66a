"""Any nn.Module, unchanged, as a pure function of its parameters: prediction = f(θ, x).

What makes a module impure, or its second derivative wrong, and what is done about it here:
- buffers: the forward pass writes into copies, so that the model is left as it was and no task leaks into another;
- batch norm in training mode: its running statistics are left alone, and it may be told whose statistics to use;
- attention: PyTorch's fused kernels have no second derivative, its "math" backend has;
- an embedding's padding row: `vmap` would give it a gradient;
- one parameter under several names: all of them follow θ;
- randomness: a mask drawn in the forward pass would make θ' a matter of chance, so it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

Params = dict[str, Tensor]
Moments = tuple[Tensor, Tensor]  # mean and variance of each channel


def predict(model: nn.Module, theta: Mapping[str, Tensor], x: Tensor, reference: Tensor | None = None) -> Tensor:
    """The model's prediction for x, with θ in place of its trainable parameters.

    Frozen parameters and buffers are the model's own. Batch norm in training mode uses the statistics of x, or those of
    `reference` where it is given: inputs that pass through the model first. In evaluation mode it uses the stored ones.
    Raises ValueError where the model draws random numbers.
    """
    state = _state(model, theta)
    moments: list[Moments] = []
    with _no_randomness(model, x.device):
        if reference is not None:
            _run(model, state, reference, _Pure(record=moments))
        return _run(model, state, x, _Pure(replay=None if reference is None else iter(moments)))


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether a batch norm module of the model normalizes by the batch at hand."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.training or norm.running_mean is None for norm in norms)


@contextmanager
def _no_randomness(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Refuse a pass that drew random numbers: from whatever layer, they move PyTorch's generator, which is put back."""
    accelerator = None if device.type == "cpu" else getattr(torch, device.type, None)  # torch.cuda, and its like
    cpu, there = torch.get_rng_state(), accelerator.get_rng_state(device) if accelerator else torch.empty(0)
    yield
    drawn = not torch.equal(torch.get_rng_state(), cpu)
    if accelerator and not torch.equal(accelerator.get_rng_state(device), there):
        accelerator.set_rng_state(there, device)
        drawn = True
    if drawn:
        torch.set_rng_state(cpu)
        raise ValueError(random_refused(model))


def random_refused(model: nn.Module) -> str:
    """Why a model that draws random numbers will not do, naming the dropouts that are active."""
    rates = {name: getattr(module, "p", getattr(module, "dropout", None)) for name, module in model.named_modules()}
    found = [
        f"an active dropout (p = {rate}) at {name or 'its top'}"
        for name, rate in rates.items()
        if isinstance(rate, float) and rate > 0 and model.get_submodule(name).training
    ]
    what = ", ".join(found) or "an active dropout, or another random operation, inside its forward"
    return (
        f"{type(model).__name__} draws random numbers: it has {what}. They would make θ' a matter of chance. "
        "Call model.eval(), set p to 0, or leave the randomness out"
    )


def _run(model: nn.Module, state: Params, x: Tensor, mode: _Pure) -> Tensor:
    with mode:
        # The tying of weights is ours (see `_state`): functional_call's own leaves a module that is used twice damaged.
        prediction: Tensor = functional_call(model, state, (x,), tie_weights=False)
    return prediction


def _state(model: nn.Module, theta: Mapping[str, Tensor]) -> Params:
    """What stands in each place of the model: θ under every name that a parameter has, and copies of the buffers."""
    state: Params = {}
    first: dict[int, str] = {}  # the name that θ has for a parameter, which is the first of its names
    for prefix, module in model.named_modules():
        path = f"{prefix}." if prefix else ""
        # The public iterators leave a second name out, or take six times as long.
        for name, parameter in module._parameters.items():
            known = first.setdefault(id(parameter), path + name)
            if known in theta:
                state[path + name] = theta[known]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                state[path + name] = buffer.clone()
    return state


class _Pure(TorchFunctionMode):
    """Stands in for the few functions of PyTorch that are impure, or that lack a right second derivative.

    record  where each batch norm notes the statistics of its input
    replay  the statistics to use instead, one pair a batch norm, in the order of the forward pass
    """

    def __init__(self, record: list[Moments] | None = None, replay: Iterator[Moments] | None = None) -> None:
        super().__init__()
        self.record, self.replay = record, replay

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.batch_norm, torch.batch_norm):
            arguments = args if func is F.batch_norm else _functional_order(*args)
            return self.batch_norm(*arguments, **kwargs)
        return _PURE.get(func, func)(*args, **kwargs)

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
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        if self.replay is not None:
            # Native batch norm takes given statistics for constants; here they are functions of θ'.
            mean, variance = next(self.replay)
            channels = (1, -1, *(1,) * (input.ndim - 2))
            normal = (input - mean) * (variance + eps).rsqrt()
            normal = normal if weight is None else normal * weight.view(channels)
            return normal if bias is None else normal + bias.view(channels)
        if input.numel() == input.shape[1]:
            raise ValueError(
                f"batch norm was given one value a channel (input {tuple(input.shape)}), whose variance is zero; "
                "use more examples, or another norm"
            )
        if self.record is not None:
            others = (0, *range(2, input.ndim))
            self.record.append((input.mean(others, True), input.var(others, correction=0, keepdim=True)))
        return F.batch_norm(input, None, None, weight, bias, True, momentum, eps)


def _functional_order(
    input: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    by_batch: bool,
    momentum: float,
    eps: float,
    _: bool,
) -> tuple[Any, ...]:
    """The arguments of torch.batch_norm and torch.instance_norm in the order of torch.nn.functional."""
    return input, mean, variance, weight, bias, by_batch, momentum, eps


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
    """Instance norm that leaves its running statistics alone where it uses the input's."""
    mean, variance = (None, None) if use_input_stats else (running_mean, running_var)
    return F.instance_norm(input, mean, variance, weight, bias, use_input_stats, momentum, eps)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Embedding whose padding row has no gradient under `vmap` either; gradients are dense, whatever `sparse` says."""
    if max_norm is not None:
        raise ValueError(
            f"the model has an embedding with max_norm = {max_norm}, which writes into its weights at each pass; "
            "set max_norm to None"
        )
    rows = F.embedding(input, weight, scale_grad_by_freq=scale_grad_by_freq)
    if padding_idx is None:
        return rows
    return torch.where((input == padding_idx % len(weight)).unsqueeze(-1), rows.detach(), rows)


def _direct_embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """`torch.embedding`, which writes "no padding" as −1."""
    padding = None if padding_idx < 0 else padding_idx
    return _embedding(indices, weight, padding, scale_grad_by_freq=scale_grad_by_freq)


def _twice_differentiable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Attention by the backend whose second derivative PyTorch knows."""

    def by_math(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return function(*args, **kwargs)

    return by_math


_PURE: dict[Any, Callable[..., Any]] = {
    F.instance_norm: _instance_norm,
    torch.instance_norm: lambda *args: _instance_norm(*_functional_order(*args)),
    F.embedding: _embedding,
    torch.embedding: _direct_embedding,
    F.scaled_dot_product_attention: _twice_differentiable(F.scaled_dot_product_attention),
    F.multi_head_attention_forward: _twice_differentiable(F.multi_head_attention_forward),
}
