"""What a model and a loss do, operation by operation, seen in one pass before many are computed.

PyTorch says of each of its operations whether it draws random numbers, what it writes into, and whether it works entry
by entry. So whole kinds of faults are seen, whatever layer, function or library they come from.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_FLAT = re.compile("special_(airy_ai|.*bessel|.*polynomial)")  # to PyTorch they are constants
_WRONG = "_weight_norm_interface"  # its second derivative, that is


class Watch(TorchDispatchMode):
    """Notes whether a pass draws random numbers, and refuses what no pure function of θ does with what is held.

    drew  whether it drew, by whatever generator of PyTorch's
    """

    def __init__(self, model: nn.Module, loss: Any, theta: Mapping[str, Tensor], order: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.order, self.drew = type(model).__name__, order, False
        held: list[tuple[str, Tensor]] = []
        for module in (part for part in (loss, model) if isinstance(part, nn.Module)):
            held += [*module.named_buffers(), *module.named_parameters(remove_duplicate=False)]
        self.trainable = {_storage(tensor) for _, tensor in held if tensor.requires_grad}
        self.held = {_storage(tensor): name for name, tensor in (*theta.items(), *held)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        # An eval mode's leaky slope comes from an operation that draws in training mode.
        idle = name.startswith("rrelu") and not any(part is True for part in args)
        self.drew |= torch.Tag.nondeterministic_seeded in func.tags and not idle
        tensors = _tensors(args)
        for storage in map(_storage, tensors):
            if storage in self.trainable:
                raise ValueError(
                    f"{self.model} or its loss uses {self.held[storage]} by another way than as its parameter "
                    "(a list, a closure, an alias, one of the loss), where θ does not reach it; use the "
                    "model's parameter itself, or detach it"
                )
        if (name == _WRONG and self.order == 2) or (_FLAT.match(name) and any(part.requires_grad for part in tensors)):
            raise ValueError(
                f"{self.model} or its loss lacks a derivative: that of {name} PyTorch has wrong, or takes for zero. "
                "Use other operations"
            )
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for part in _tensors(given.get(argument.name)):
                    if (storage := _storage(part)) in self.held:
                        raise ValueError(
                            f"{self.model} or its loss writes into {self.held[storage]} ({func}), which is the same "
                            "for all tasks; compute a new tensor instead, or make it a buffer of the model, of which "
                            "each pass has a copy"
                        )
        return func(*args, **kwargs)


@contextmanager
def unread() -> Iterator[None]:
    """Let no value of a tensor out into Python, where a recording would keep it as it is now."""
    with _NoNumbers(), _NoArrays():  # type: ignore[no-untyped-call]
        yield


class _NoArrays(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        copies = func in (torch.tensor, torch.as_tensor) and _tensors(args) and not isinstance(args[0], Tensor)
        if copies or func in (Tensor.numpy, Tensor.tolist, Tensor.__array__):
            raise RuntimeError(f"{func.__name__} asks for the values of a tensor")
        return func(*args, **(kwargs or {}))


class _NoNumbers(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number asks for the value of a tensor")
        return func(*args, **(kwargs or {}))


def unreached(results: Sequence[Tensor], known: Iterable[Tensor]) -> Tensor | None:
    """A tensor that results have a derivative by and that is none of those known, if there is one."""
    ids = {id(tensor) for tensor in known}
    leaves = (node.variable for node in _nodes(results) if hasattr(node, "variable"))
    return next((leaf for leaf in leaves if id(leaf) not in ids), None)


def is_once_differentiable(gradients: Sequence[Tensor]) -> bool:
    """Whether a function in it was marked `once_differentiable`, whose second derivative PyTorch takes for zero."""
    return any(node.name() == "torch::autograd::Error" for node in _nodes(gradients))


def written_by_hand(loss: Tensor) -> set[str]:
    """The functions that a loss was computed by and whose backward pass somebody wrote."""
    return {node.name().removesuffix("Backward") for node in _nodes([loss]) if hasattr(node, "_forward_cls")}


def _nodes(tensors: Sequence[Tensor]) -> Iterator[Any]:
    """The nodes of the graph that tensors were computed by."""
    seen: set[Any] = set()
    left: list[Any] = [tensor.grad_fn for tensor in tensors]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            left += [function for function, _ in node.next_functions]


def broadcasts(loss: Callable[[Tensor, Tensor], Tensor], prediction: Tensor, y: Tensor) -> str | None:
    """How a loss broadcasts its prediction against its labels, tried on tensors like them; None if it does not.

    PyTorch aligns shapes at their ends, so that with [points, 1] and [points] every example meets every label. What
    a loss does with labels is its own affair (an index of a class, one of two columns): entry by entry they must fit.
    """
    if not prediction.is_floating_point():
        return None
    with torch.enable_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        like = torch.full(prediction.shape, 0.5, dtype=prediction.dtype, device=prediction.device, requires_grad=True)
        labels = torch.zeros(y.shape, dtype=y.dtype, device=y.device)
        watch = _Broadcasts(labels)
        try:
            with watch:
                loss(like.clone(), labels)
        except Exception:  # whatever ails it will show when it is called in earnest
            return watch.found
    # PyTorch's own losses say so in a warning.
    return watch.found or next((text for w in said if "target size" in (text := str(w.message))), None)


class _Broadcasts(TorchDispatchMode):
    def __init__(self, y: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.y, self.follows = y, {id(y): y}  # the tensors that were computed from the labels, kept for their ids' sake
        self.found: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found, tensors = func(*args, **(kwargs or {})), _tensors(args)
        labels = [part for part in tensors if id(part) in self.follows]
        if labels:
            self.follows |= {id(part): part for part in _tensors(found)}
        if torch.Tag.pointwise in func.tags:
            for y in (part for part in labels if part.shape == self.y.shape):
                for other in (part for part in tensors if part.requires_grad):
                    if _meets_askew(y.shape, other.shape):
                        self.found = f"a tensor of shape {tuple(other.shape)} meets labels of shape {tuple(y.shape)}"
        return found


def _meets_askew(labels: torch.Size, other: torch.Size) -> bool:
    """Whether the dimension of points of the one is aligned with another dimension of the other."""
    if not labels or not other:
        return False
    both = torch.broadcast_shapes(labels, other).numel()
    return both > max(labels.numel(), other.numel()) or (len(labels) != len(other) and other[0] == labels[0] > 1)


def _tensors(args: Any) -> list[Tensor]:
    return [part for part in pytree.tree_leaves(args) if isinstance(part, Tensor)]


def _storage(tensor: Tensor) -> int:
    strided = tensor.layout is torch.strided  # a sparse tensor has no storage of its own
    return int(tensor.untyped_storage()._cdata) if strided else -id(tensor)
