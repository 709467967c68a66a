"""A pretend accelerator: tensors that compute on the CPU, say they are elsewhere, and refuse to meet CPU tensors.

What goes wrong on a GPU and nowhere else is a tensor in the wrong place. `import pretend` gives PyTorch a device more,
"pretend:0", with CUDA's rules of which tensors may meet, random numbers of its own, and the CPU's arithmetic, so that
results can be held against the CPU's to the bit. It needs no GPU and no compiler. A process that has it cannot get rid
of it again: import it in a process of its own.

What it cannot do: generators (`torch.Generator("pretend")`), which PyTorch makes in C++ alone; more devices than one;
the float arithmetic of a GPU, its speed, its memory and its streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration

NAME = "pretend"
aten = torch.ops.aten

# Operations that move values from one device to another.
MOVES = {aten._to_copy.default, aten.copy_.default}
# Operations whose second argument, a list of indices, may lie on the CPU.
INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# Operations, besides those that go element by element, that take a number as a CPU tensor without dimensions.
NUMBERS = {aten.fill_.Tensor, aten.fill.Tensor, aten.masked_fill_.Tensor, aten.masked_fill.Tensor}


class Accelerator(backend_registration._DummyBackendModule):
    """What `torch.cuda` is for CUDA, as far as anyone here asks."""

    late: Exception | None = None

    def __init__(self) -> None:
        self.manual_seed_all(0)

    def manual_seed_all(self, seed: int) -> None:
        self.state = torch.Generator().manual_seed(seed).get_state()

    def get_rng_state(self, device: Any = NAME) -> Tensor:
        return self.state.clone()

    def set_rng_state(self, state: Tensor, device: Any = NAME) -> None:
        self.state = state.clone()

    @contextmanager
    def draws(self) -> Iterator[None]:
        """What is drawn within comes from here, and the CPU's generator is left as it was."""
        cpu = torch.get_rng_state()
        torch.set_rng_state(self.state)
        try:
            yield
        finally:
            self.state = torch.get_rng_state()
            torch.set_rng_state(cpu)


backend_registration._setup_privateuseone_for_python_backend(NAME, Accelerator())
# A module that moves keeps its Parameter objects, as it does on the way to CUDA, so that tied weights stay tied.
torch.__future__.set_swap_module_params_on_conversion(True)
accelerator: Accelerator = torch.get_device_module(NAME)
PLACE = torch.device(NAME, 0)


class Pretend(Tensor):
    """A tensor on the accelerator: `held` holds its values. Autograd and vmap see the outside alone."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretend:
        made: Pretend = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=PLACE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return computed(func, args, kwargs or {})

    # What follows reads memory that a tensor like this does not have.
    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {PLACE} device type tensor to numpy. Use Tensor.cpu() to copy it to host memory"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{repr(self.held).removesuffix(')')}, device='{PLACE}')"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        parts = self.detach().cpu(), self.dtype, str(self.device), self.requires_grad
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, parts


def computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation, computed on the CPU, as a GPU would give it."""
    place = kwargs.get("device") or PLACE
    if "device" in kwargs and place.type == NAME:
        kwargs = kwargs | {"device": torch.device("cpu")}
    given: dict[int, Tensor] = {}  # by the identity of what computes for it

    def opened(value: Any) -> Any:
        if isinstance(value, Tensor):
            held = value.held if isinstance(value, Pretend) else value
            given[id(held)] = value
            return held
        return type(value)(map(opened, value)) if isinstance(value, list | tuple) else value

    def closed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return given[id(value)] if written and id(value) in given else Pretend(value)
        return type(value)(map(closed, value)) if isinstance(value, list | tuple) else value

    plain, named = [opened(value) for value in args], {name: opened(value) for name, value in kwargs.items()}
    strangers = [tensor for tensor in given.values() if not isinstance(tensor, Pretend)]
    if strangers or accelerator.late:
        refuse(func, args, strangers)
    if _draws(func) and kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    with accelerator.draws() if _draws(func) else nullcontext():
        found = func(*plain, **named)
    written = func._schema.is_mutable
    for tensor in given.values() if written else ():
        if isinstance(tensor, Pretend) and (tensor.shape, tensor.stride()) != (tensor.held.shape, tensor.held.stride()):
            tensor.data = Pretend(tensor.held)  # unsqueeze_, say, or what wrote into an `out` that was empty
    return closed(found) if place.type == NAME else found


def refuse(func: Any, args: tuple[Any, ...], strangers: list[Tensor]) -> None:
    """Raise a RuntimeError where CUDA would refuse the CPU tensors that an operation was given.

    PyTorch aborts on an error in a backward pass of a device written in Python: it is raised after the pass instead.
    """
    backward = torch._C._current_graph_task_id() >= 0
    if accelerator.late and not backward:
        error, accelerator.late = accelerator.late, None
        raise error
    if func in MOVES:
        return
    if func in INDEXES and isinstance(args[0], Pretend):
        indices = [id(index) for index in args[1]]
        strangers = [tensor for tensor in strangers if id(tensor) not in indices]
    into_cpu = func._schema.is_mutable and not isinstance(args[0], Pretend)
    numbers = not into_cpu and (func in NUMBERS or func in INDEXES or _is_elementwise(func))
    if any(tensor.ndim or not numbers for tensor in strangers):
        error = RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {PLACE} and cpu! "
            f"({func} was given CPU tensors of shape {[tuple(tensor.shape) for tensor in strangers]})"
        )
        if not backward:
            raise error
        accelerator.late = accelerator.late or error


@cache
def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


@cache
def _is_elementwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags


def _factory(func: Any) -> Callable[..., Tensor]:
    """An operation that makes a tensor from none."""

    def make(*args: Any, **kwargs: Any) -> Tensor:
        made: Tensor = computed(func, args, kwargs | {"device": PLACE})
        return made

    return make


def _factories() -> Iterator[Any]:
    """The operations that are told where to make a tensor, and are given none."""
    for schema in torch._C._jit_get_all_schemas():
        kinds = {argument.name: str(argument.type) for argument in schema.arguments}
        if schema.name.startswith("aten::") and "device" in kinds and "Tensor" not in " ".join(kinds.values()):
            packet = getattr(aten, schema.name.removeprefix("aten::"), None)
            func = getattr(packet, schema.overload_name or "default", None)
            if func is not None and torch._C._dispatch_has_kernel(func.name()):
                yield func


def _copied(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    aten.copy_.default(*(tensor.held if isinstance(tensor, Pretend) else tensor for tensor in (target, source)))
    return target


# Kernels for where PyTorch does not ask the class of a tensor: it has none to ask, or is in the middle of making one.
LIBRARY = torch.library.Library("aten", "IMPL")
LIBRARY.impl("_copy_from", _copied, "PrivateUse1")
LIBRARY.impl("_local_scalar_dense", lambda tensor: tensor.held.item(), "PrivateUse1")
for _func in _factories():
    # PyTorch's zeros without memory, which forward mode makes, have no values to compute with here.
    _made = aten.zeros.default if _func is aten._efficientzerotensor.default else _func
    LIBRARY.impl(_func, _factory(_made), "PrivateUse1")
