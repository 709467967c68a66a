"""Any nn.Module, unchanged, as a pure function of its parameters: prediction = f(θ, x).

What makes a module impure, or its second derivative wrong, and what is done about it here:
- inputs and buffers: the forward pass reads, and may write into, copies of its own, so that data and model are left as
  they were and no task leaks into another;
- batch norm in training mode may be told whose statistics to use;
- attention: PyTorch's fused kernels have no second derivative, its "math" backend has;
- weight norm, and a norm with a bias and no weight: PyTorch's second derivatives of them are wrong;
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
    state = _state(model, theta, x)
    moments: list[Moments] = []
    with no_randomness(model, x.device):
        if reference is not None:
            _run(model, state, reference, _Pure(record=moments))
        return _run(model, state, x, _Pure(replay=None if reference is None else iter(moments)))


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether a batch norm module of the model normalizes by the batch at hand."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.training or norm.running_mean is None for norm in norms)


@contextmanager
def no_randomness(model: Callable[..., Any], device: torch.device) -> Iterator[None]:
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


def random_refused(model: Callable[..., Any]) -> str:
    """Why a model or a loss that draws random numbers will not do, naming the dropouts that are active."""
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    rates = {name: getattr(module, "p", getattr(module, "dropout", None)) for name, module in modules.items()}
    found = [
        f"an active dropout (p = {rate}) at {name or 'its top'}"
        for name, rate in rates.items()
        if isinstance(rate, float) and rate > 0 and modules[name].training
    ]
    what = ", ".join(found) or "an active dropout, or another random operation, inside it"
    name = getattr(model, "__name__", type(model).__name__)
    return (
        f"{name} draws random numbers: it has {what}. They would make θ' a matter of chance. "
        "Call model.eval(), set p to 0, or leave the randomness out"
    )


def _run(model: nn.Module, state: Params, x: Tensor, mode: _Pure) -> Tensor:
    with mode:
        # The tying of weights is ours (see `_state`): functional_call's own leaves a module that is used twice damaged.
        prediction: Tensor = functional_call(model, state, (x.clone(),), tie_weights=False)
    return prediction


def _state(model: nn.Module, theta: Mapping[str, Tensor], x: Tensor) -> Params:
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
            if buffer is not None and buffer.is_floating_point() and buffer.layout is torch.strided:
                # Made from x, so that under `vmap` each task has a copy of its own to write into.
                state[path + name] = x.new_empty(buffer.shape, dtype=buffer.dtype, device=buffer.device).copy_(buffer)
            elif buffer is not None:
                state[path + name] = buffer.clone()  # a count, whose value a module may ask for, or sparse
    return state


class _Pure(TorchFunctionMode):
    """Stands in for the few functions of PyTorch that lack a right second derivative, and for batch norm.

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
        if func is torch.batch_norm:  # the same in another order: input, weight, bias, mean, variance, …
            args = (args[0], *args[3:5], *args[1:3], *args[5:8])
        if func in (F.batch_norm, torch.batch_norm):
            return self.batch_norm(*args, **kwargs)
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
        if training and self.replay is not None:
            # Native batch norm takes given statistics for constants; here they are functions of θ'.
            mean, variance = next(self.replay)
            channels = (1, -1, *(1,) * (input.ndim - 2))
            normal = (input - mean) * (variance + eps).rsqrt()
            normal = normal if weight is None else normal * weight.view(channels)
            return normal if bias is None else normal + bias.view(channels)
        if training and input.numel() == input.shape[1]:
            raise ValueError(
                f"batch norm was given one value a channel (input {tuple(input.shape)}), whose variance is zero; "
                "use more examples, or another norm"
            )
        if training and self.record is not None:
            others = (0, *range(2, input.ndim))
            self.record.append((input.mean(others, True), input.var(others, correction=0, keepdim=True)))
        found: Tensor = _BATCH_NORM(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return found


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


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """v·g/‖v‖, of operations whose second derivatives are right; that of the fused function is not."""
    others = [d for d in range(v.ndim) if d != dim]  # with −1, the norm is taken over all
    weight: Tensor = v * (g / torch.linalg.vector_norm(v, dim=others, keepdim=True))
    return weight


def _with_weight(function: Callable[..., Any], place: int) -> Callable[..., Any]:
    """A norm whose bias, at `place` + 1, never stands without a weight: PyTorch then leaves a second derivative out."""

    def norm(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(("weight", "bias"), args[place:], strict=False)) | kwargs
        if given.get("weight") is None and (bias := given.get("bias")) is not None:
            weight = torch.ones_like(bias)
            if len(args) > place:
                args = (*args[:place], weight, *args[place + 1 :])
            else:
                kwargs["weight"] = weight
        return function(*args, **kwargs)

    return norm


_BATCH_NORM = _with_weight(F.batch_norm, 3)
_PURE: dict[Any, Callable[..., Any]] = {
    **{norm: _with_weight(norm, 2) for norm in (F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm)},
    F.instance_norm: _with_weight(F.instance_norm, 3),
    torch.instance_norm: _with_weight(torch.instance_norm, 1),
    torch._weight_norm: _weight_norm,
    F.embedding: _embedding,
    torch.embedding: _direct_embedding,
    F.scaled_dot_product_attention: _twice_differentiable(F.scaled_dot_product_attention),
    F.multi_head_attention_forward: _twice_differentiable(F.multi_head_attention_forward),
}
