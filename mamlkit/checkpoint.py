"""Checkpoints: files that are written whole, read whole, and never able to run code.

A file is one line that names the format, one line with the SHA-256 of what follows, and what `torch.save` wrote.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from mamlkit.files import write
from mamlkit.objective import Objective
from mamlkit.pure import Params

_FORMAT = b"mamlkit checkpoint 2\n"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: damaged, cut off, or not one of ours."""


class Run:
    """A training that can be resumed: where its checkpoint lies, and what that must agree with.

    Whatever its numbers depend on besides θ is compared: tasks, settings, the model, the loss, whose statistics batch
    norm uses, the inner rule and the outer gradient. Of step sizes that are learned the shape is compared, as of θ.
    """

    def __init__(
        self, path: str | Path | None, objective: Objective, parts: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        check_writable(self.path)
        model = objective.model
        self.agreement = {
            "settings": " ".join(f"{name}={described(value)}" for name, value in settings.items()),
            "layers": f"{model} {'in training' if model.training else 'in evaluation'} mode",
            "loss function": described(objective.loss),
            "batch norm mode": objective.batch_norm,
            **{name: described(part) for name, part in parts.items()},
        }

    def save(self, theta: Params, learned: Params, optimizer: torch.optim.Optimizer, done: int, seconds: float) -> None:
        """Write θ, the learned step sizes and the optimizer after `done` iterations."""
        if self.path is None:
            return
        weights = {
            part: {name: weight.detach() for name, weight in params.items()}
            for part, params in (("theta", theta), ("alpha", learned))
        }
        state = {"agreement": self.agreement, "iteration": done, "seconds": seconds}
        save(self.path, {**state, **weights, "optimizer": optimizer.state_dict()})

    def resume(self, theta: Params, learned: Params, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Load the checkpoint into them, all or nothing; (iterations done, seconds spent)."""
        if self.path is None or not self.path.exists():
            return 0, 0.0
        state = load(self.path)
        wanted = {"parameters": _outline(theta), "learned step sizes": _outline(learned), **self.agreement}
        found = state.get("agreement", {}) | {
            "parameters": _outline(state.get("theta", {})),
            "learned step sizes": _outline(state.get("alpha", {})),
        }
        for what, value in wanted.items():
            if found.get(what) != value:
                verb = "are" if what.endswith("s") else "is"
                raise ValueError(
                    f"{self.path} belongs to another run: its {what} {verb} {found.get(what)}, "
                    f"this run's {verb} {value}. Use another file, or the settings it was made with"
                )
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for params, stored in ((theta, state["theta"]), (learned, state["alpha"])):
                for name, weight in params.items():
                    weight.copy_(stored[name])
        return int(state["iteration"]), float(state["seconds"])


def described(thing: Any, within: tuple[int, ...] = ()) -> str:
    """A text that is the same in every process for the same thing, and another for a function of other code.

    Of what a function calls by a global name the name alone counts. `within` holds what this is a part of.
    """
    if id(thing) in within:
        return "itself"
    inside = partial(described, within=(*within, id(thing)))
    if isinstance(thing, Tensor):
        what = f"{tuple(thing.shape)} {thing.dtype}"
        return f"learned {what}" if thing.requires_grad else f"{what} {_digest(repr(thing.tolist()))}"
    if isinstance(thing, Mapping):
        return "{" + ", ".join(f"{name}: {inside(value)}" for name, value in thing.items()) + "}"
    if isinstance(thing, set | frozenset):
        return "{" + ", ".join(sorted(map(inside, thing))) + "}"  # in no order, which changes from process to process
    if isinstance(thing, list | tuple):
        return "(" + ", ".join(map(inside, thing)) + ")"
    if isinstance(thing, partial):
        return f"partial{inside((thing.func, thing.args, thing.keywords))}"
    if isinstance(thing, MethodType):
        return f"{inside(thing.__func__)} of {inside(thing.__self__)}"
    if isinstance(thing, CodeType):
        return _digest(inside((thing.co_code.hex(), thing.co_consts, thing.co_names)))
    if isinstance(thing, FunctionType):
        kept = [cell.cell_contents for cell in thing.__closure__ or () if cell != CellType()]
        around = inside((kept, thing.__defaults__ or (), thing.__kwdefaults__ or {}))
        return f"{thing.__module__}.{thing.__qualname__} {inside(thing.__code__)} {around}"
    plain = " object at 0x" in repr(thing)  # an address, which changes from process to process: the type has to do
    name = type(thing).__qualname__ if plain else repr(thing)
    # A loss may be a module or an object that is called: what it holds says more than its name.
    return name + (inside(vars(thing)) if isinstance(thing, nn.Module) or (plain and callable(thing)) else "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _outline(theta: Any) -> dict[str, str]:
    return {name: f"{tuple(weight.shape)} {weight.dtype}" for name, weight in theta.items()}


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) to `path`, atomically."""
    payload = io.BytesIO()
    torch.save(state, payload)
    content = payload.getvalue()
    write(path, _FORMAT + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote to `path`, on the CPU. Raises CheckpointError, naming the file and what is wrong with it."""
    content = path.read_bytes()
    if not content.startswith(_FORMAT):
        raise CheckpointError(
            f"{path} is not a mamlkit checkpoint of this version; name another file, or remove it to start afresh"
        )
    digest, _, payload = content[len(_FORMAT) :].partition(b"\n")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise CheckpointError(f"{path} is damaged or cut off (its checksum does not match); restore it, or remove it")
    try:
        # weights_only admits tensors and plain values, so that a foreign file cannot run code.
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values, and was not read") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__} where a training state is wanted")
    return state


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written before hours are spent on what should go there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
    except OSError as error:
        raise ValueError(f"the checkpoint {path} cannot be written ({error}); choose another place") from error
