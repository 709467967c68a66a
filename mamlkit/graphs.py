"""Routes "traced" and "compiled": what "vmap" computes, recorded once as a graph of tensor operations and replayed.

A small meta-gradient spends its time in Python and in autograd's books, which say the same in each iteration. A graph
leaves them out. Replayed ("traced"), it runs the same operations to the same bits; compiled by PyTorch's inductor, it
runs as a few fused loops, equal to rounding.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from tqdm import tqdm

from mamlkit import checks, files, watch
from mamlkit.dependence import Dependence, outline
from mamlkit.tasks import Batch, TaskBatch

REPLAYS = ("traced", "compiled")
_KEPT = 8  # graphs of one function, the newest; a training whose model changes more often goes on without


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
        self.rests_on: Dependence | None = None  # what the last call rested on

    def __reduce__(self) -> Any:  # a copy records for itself
        return partial(Replayed, lenient=self.lenient, progress=self.progress), (self.outer, self.how)

    def __call__(self, objective: Any, theta: Any, batch: Any, *, alpha: Any, **settings: Any) -> Any:
        """The outer gradient; arguments as those of `outer`."""
        eager = partial(self.outer, objective, **settings | {"route": "vmap"})
        sizes = alpha if isinstance(alpha, Mapping) else {"": alpha}
        inputs = [*theta.values(), *batch.support, *batch.query, *sizes.values()]
        place: dict[int, int] = {}  # of each tensor among the arguments, where one may stand twice
        slots = [place.setdefault(id(part), len(place)) if isinstance(part, Tensor) else (part,) for part in inputs]
        arguments = [*{id(part): part for part in inputs if isinstance(part, Tensor)}.values()]
        kind = batch.query.x.device.type
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        around = torch.get_num_threads(), torch.get_default_dtype(), *autocast
        given = (*theta, *sizes, *slots, *map(outline, arguments), around)
        roots = self.outer, objective.model, objective.loss, objective.batch_norm, *settings, *settings.values()
        if self.rests_on is None or not self.rests_on.holds(*roots):
            self.rests_on = Dependence(*roots)
        if (self.rests_on, given) not in self.graphs:
            if self.lenient and len(self.graphs) == _KEPT:
                return eager(theta, batch, alpha=alpha)
            self.graphs = dict(list(self.graphs.items())[1 - _KEPT :])

            def function(*tensors: Tensor) -> Any:
                parts = iter([tensors[place[id(part)]] if isinstance(part, Tensor) else part for part in inputs])
                start = {name: next(parts) for name in theta}
                support, query = (Batch(next(parts), next(parts)) for _ in range(2))
                step_sizes = {name: next(parts) for name in sizes}
                return eager(start, TaskBatch(support, query), alpha=step_sizes if sizes is alpha else step_sizes[""])

            try:
                made = self._made(function, arguments, objective.model)
            except ValueError:
                if not self.lenient:
                    raise
                made = None
            self.rests_on = Dependence(*roots)  # a counter has moved, say; as a graph runs, it stands
            self.graphs[self.rests_on, given] = made
        graph = self.graphs[self.rests_on, given]
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
            graph = compiled(graph, arguments, progress=self.progress)
        wanted = pytree.tree_leaves_with_path(function(*arguments))
        scales: dict[Hashable, float] = {}  # of the losses, and of each gradient as a whole
        for path, part in wanted:
            scales[path[:-1]] = max(scales.get(path[:-1], 0.0), torch.linalg.vector_norm(part).item())
        for (path, part), found in zip(wanted, pytree.tree_leaves(graph(arguments)), strict=True):
            if not checks.close(part, found, scales[path[:-1]], 0.4):
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
        with watch.unread():
            results, result = pytree.tree_flatten(function(*tensors))
        structure.append(result)
        return results

    traced = make_fx(flat)(*arguments)
    nodes = traced.graph.nodes
    _leave_out_idle_views(traced.graph)
    traced.graph.eliminate_dead_code()
    last = [node for node in nodes if node.op == "placeholder"][-1]
    held: dict[int, Any] = {}
    for node in [node for node in nodes if node.op == "get_attr"]:
        tensor = reduce(getattr, str(node.target).split("."), traced)
        if id(tensor) not in held:
            with traced.graph.inserting_after(last):
                last = traced.graph.placeholder(f"held_{len(held)}")
            last.meta = node.meta  # its shape and type, for the compiler
            held[id(tensor)] = tensor, last
        node.replace_all_uses_with(held[id(tensor)][1])
        traced.graph.erase_node(node)
    traced.recompile()
    return Graph(traced, [tensor for tensor, _ in held.values()], structure[0])


def _leave_out_idle_views(graph: Any) -> None:
    """Take out the views that show what they are given, of which autograd and vmap leave one for every other operation.

    Results stay views, so that none is an argument itself.
    """
    aten = torch.ops.aten
    views = aten.detach.default, aten.view.default, aten._unsafe_view.default, aten.expand.default
    for node in graph.nodes:
        if node.target in views and not any(user.op == "output" for user in node.users):
            shown, given = (part.meta["val"].shape for part in (node, node.args[0]))
            if shown == given:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)


def compiled(graph: Graph, arguments: Sequence[Tensor], *, progress: bool = False) -> Graph:
    """The same graph as PyTorch's inductor compiles it; as it is, with a warning, where there is no compiler."""
    given: list[Any] = [tensor.detach() for tensor in (*arguments, *graph.held)]  # no backward pass is wanted
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)  # of PyTorch about itself, as it loads
            from torch._inductor import config, standalone_compile  # takes a second
            from torch._inductor.runtime.cache_dir_utils import cache_dir

            notes = Path(cache_dir(), f"mamlkit-{len(graph.run.graph.nodes)}-operations")  # seconds that they took
            last = f", {notes.read_text()} s last time" if notes.exists() else ""
            with tqdm(total=1, desc=f"compiling{last}", unit="graph", disable=not progress) as bar:
                began = time.perf_counter()
                with config.patch(cpp_wrapper=all(tensor.device.type == "cpu" for tensor in given)):
                    run = standalone_compile(graph.run, given, dynamic_shapes="from_example_inputs")
                bar.update()
        with suppress(OSError):
            files.write(notes, f"{time.perf_counter() - began:.0f}", synced=False)
        return graph._replace(run=run)
    except Exception as error:
        warnings.warn(
            f'PyTorch could not compile the graph, which runs as it is (route="traced"): {error}', stacklevel=2
        )
        return graph
