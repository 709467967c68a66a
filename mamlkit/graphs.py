"""Routes "traced" and "compiled": what "vmap" computes, recorded once as a graph of tensor operations and replayed.

A small meta-gradient spends its time in Python and in autograd's books, which say the same in each iteration. A graph
leaves them out. Replayed ("traced"), it runs the same operations to the same bits; compiled by PyTorch's inductor, it
runs as a few fused loops, equal to rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial, reduce
from types import CellType, FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from tqdm import tqdm

from mamlkit import checks

REPLAYS = ("traced", "compiled")
_KEPT = 8  # graphs of one function, the newest; a training whose model changes more often goes on without
_FIXED = ("torch.", "mamlkit.")  # code that reads nothing from around it
_FLAT = frozenset((bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device))


class Graph(NamedTuple):
    """A function of tensors as operations alone.

    run   tensors → results, one after another
    held  what it reads besides its arguments: buffers, frozen parameters, the weights of a loss. They are arguments of
          `run` too, after the others, so that a change of theirs is never missed
    """

    run: Any
    held: list[Tensor]
    result: pytree.TreeSpec

    def __call__(self, arguments: Sequence[Tensor]) -> Any:
        with torch.no_grad():
            return pytree.tree_unflatten(self.run(*arguments, *self.held), self.result)


class Replayed:
    """An outer gradient that runs as a graph, recorded anew when something changes that the recording depends on.

    outer    a function of `meta_gradient`'s arguments
    how      "traced" or "compiled"
    lenient  compute without a graph what cannot be recorded; otherwise it is refused with a ValueError

    Each graph's first result is held against the function itself.
    """

    def __init__(self, outer: Callable[..., Any], how: str, *, lenient: bool = False, progress: bool = False) -> None:
        self.outer, self.how, self.lenient, self.progress = outer, how, lenient, progress
        self.graphs: dict[Hashable, Graph | None] = {}

    def __reduce__(self) -> Any:  # a copy records for itself
        return partial(Replayed, lenient=self.lenient, progress=self.progress), (self.outer, self.how)

    def __call__(self, objective: Any, theta: Any, batch: Any, *, alpha: Any, **settings: Any) -> Any:
        """The outer gradient; arguments as those of `outer`."""
        eager = partial(self.outer, objective, **settings | {"route": "vmap"})
        alpha = dict(alpha) if isinstance(alpha, Mapping) else alpha
        parts, structure = pytree.tree_flatten((dict(theta), batch, alpha))
        arguments = [part for part in parts if isinstance(part, Tensor)]
        outlines = [outline(part) if isinstance(part, Tensor) else part for part in parts]
        around = torch.get_num_threads(), torch.get_default_dtype(), torch.is_autocast_enabled()
        what = outlines, structure, settings, objective.model, objective.loss, objective.batch_norm, around
        kind = form(what)
        if kind not in self.graphs:
            if self.lenient and len(self.graphs) == _KEPT:
                return eager(theta, batch, alpha=alpha)
            self.graphs = dict(list(self.graphs.items())[1 - _KEPT :])

            def function(*tensors: Tensor) -> Any:
                rest = iter(tensors)
                filled = [next(rest) if isinstance(part, Tensor) else part for part in parts]
                theta, batch, alpha = pytree.tree_unflatten(filled, structure)
                return eager(theta, batch, alpha=alpha)

            try:
                self.graphs[kind] = self._made(function, arguments, objective.model)
            except ValueError:
                if not self.lenient:
                    raise
                self.graphs[kind] = None
        graph = self.graphs[kind]
        return eager(theta, batch, alpha=alpha) if graph is None else graph(arguments)

    def _made(self, function: Callable[..., Any], arguments: Sequence[Tensor], model: nn.Module) -> Graph:
        name = type(model).__name__
        try:
            graph = recorded(function, arguments)
        except Exception as error:  # of whatever kind: a model's Python may do anything with what it finds
            raise ValueError(
                f"{name}, its loss or its inner rule cannot be recorded as a graph, as where their Python asks for the "
                f'value of a tensor: use route="vmap". PyTorch says: {error.__cause__ or error}'
            ) from error
        if self.how == "compiled":
            with tqdm(total=1, desc="compiling", unit="graph", disable=not self.progress) as bar:
                graph = compiled(graph, arguments)
                bar.update()
        pairs = list(zip(*map(pytree.tree_leaves, (function(*arguments), graph(arguments))), strict=True))
        scale = max(torch.linalg.vector_norm(wanted).item() for wanted, _ in pairs)
        for wanted, found in pairs:
            if not checks.close(wanted, found, scale, 0.4):
                raise ValueError(
                    f"{name} computes other numbers as a graph than it does otherwise, so that something in its Python "
                    'changes from pass to pass, or PyTorch compiles it wrongly: use route="vmap"'
                )
        return graph


def recorded(function: Callable[..., Any], arguments: Sequence[Tensor]) -> Graph:
    """The operations of a function on tensors. Raises RuntimeError where its Python asks for a tensor's value."""
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import, and seldom needed

    structure: list[pytree.TreeSpec] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        results, result = pytree.tree_flatten(function(*tensors))
        structure.append(result)
        return results

    traced = make_fx(flat)(*arguments)
    nodes = traced.graph.nodes
    traced.graph.eliminate_dead_code()
    last = [node for node in nodes if node.op == "placeholder"][-1]
    held: dict[int, Any] = {}
    for node in [node for node in nodes if node.op == "get_attr"]:
        tensor = reduce(getattr, str(node.target).split("."), traced)
        if id(tensor) not in held:
            with traced.graph.inserting_after(last):
                last = traced.graph.placeholder(f"held_{len(held)}")
            held[id(tensor)] = tensor, last
        node.replace_all_uses_with(held[id(tensor)][1])
        traced.graph.erase_node(node)
    traced.recompile()
    return Graph(traced, [tensor for tensor, _ in held.values()], structure[0])


def compiled(graph: Graph, arguments: Sequence[Tensor]) -> Graph:
    """The same graph as PyTorch's inductor compiles it; as it is, with a warning, where there is no compiler."""
    given: list[Any] = [tensor.detach() for tensor in (*arguments, *graph.held)]  # no backward pass is wanted
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)  # of PyTorch about itself, as it loads
            from torch._inductor import standalone_compile  # takes a second

            return graph._replace(run=standalone_compile(graph.run, given, dynamic_shapes="from_example_inputs"))
    except Exception as error:
        warnings.warn(
            f'PyTorch could not compile the graph, which runs as it is (route="traced"): {error}', stacklevel=2
        )
        return graph


def form(thing: Any, within: tuple[int, ...] = ()) -> Hashable:
    """What a recording depends on, to be compared: tensors by what they are and not by their values, code by itself.

    Of a module and of what else is called the attributes count, of a function what it has from around it. `within`
    holds what this is a part of.
    """
    kind = type(thing)
    if kind in _FLAT:
        return kind, thing
    if isinstance(thing, Tensor):
        return id(thing), *outline(thing)
    if id(thing) in within:
        return "itself"
    inside = partial(form, within=(*within, id(thing)))
    if isinstance(thing, Mapping):
        return kind, *[(name, inside(value)) for name, value in thing.items()]
    if isinstance(thing, list | tuple | set | frozenset):
        return kind, *map(inside, thing)
    if isinstance(thing, MethodType):
        return inside(thing.__func__), inside(thing.__self__)
    if isinstance(thing, FunctionType) and not thing.__module__.startswith(_FIXED):
        cells = [cell.cell_contents for cell in thing.__closure__ or () if cell != CellType()]
        used = [thing.__globals__.get(name) for name in thing.__code__.co_names]
        known = [value for value in used if type(value) in _FLAT or isinstance(value, Tensor)]
        return thing, *map(inside, (cells, known, thing.__defaults__, thing.__kwdefaults__))
    if callable(thing) and hasattr(thing, "__dict__") and not isinstance(thing, type):
        written = None if kind.__module__.startswith(_FIXED) else inside(getattr(kind, "forward", kind.__call__))
        held = [item for item in vars(thing).items() if not (isinstance(item[1], dict) and not item[1])]
        return kind, written, *[(n, type(v), v) if type(v) in _FLAT else (n, inside(v)) for n, v in held]
    return thing if isinstance(thing, Hashable) else id(thing)


def outline(tensor: Tensor) -> tuple[Any, ...]:
    """What of a tensor a recording depends on."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad
