"""The kernel of one submission: a process of its own that runs cells and calls functions, and answers in JSON.

It is forked from a process that has loaded PyTorch and the kit once and has never computed. Nothing of the grader's is
in it: no checks, no references, no other submission. The student's code owns this process; what it does to itself costs
the student alone. A fence, made of Python's audit hooks, keeps it from other processes, from the network, from
notebooks and from files outside its own folder. It stops slips and plain attempts; code that breaks out of the
interpreter is stopped by a container, in which the grading of strangers' work belongs.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import threading
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import torch
from IPython.core.interactiveshell import InteractiveShell
from tqdm import tqdm
from traitlets.config import Config

import mamlkit
from mamlkit.assignment import wire

for _name in mamlkit.__all__:  # what the sheets use, loaded before the fork: it is then there in no time
    getattr(mamlkit, _name)
# torch._dynamo: PyTorch loads it with the first step of an optimizer, for a second.
for _name in ("mamlkit.check", "mamlkit.museum", "mamlkit.figures.theme", "mamlkit.figures.charts", "torch._dynamo"):
    importlib.import_module(_name)
tqdm.set_lock(threading.RLock())  # its own lies in the system, where a kernel that is ended would leave it

MEMORY, FILES = 2 * 2**30, 64 * 2**20  # bytes that a submission may hold beyond the kit's own, and write into a file
MEMINFO = "/proc/meminfo"  # `mk.train` asks whether a run will fit
STARTS = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "os.killpg",
          "os.startfile", "pty.spawn", "subprocess.Popen", "socket.connect", "socket.bind", "socket.sendto",
          "signal.pthread_kill", "ctypes.dlopen", "ctypes.dlsym", "ctypes.string_at",
          "ctypes.call_function")  # fmt: skip
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.copytree")  # fmt: skip


def serve(connection: Any, folder: str, closed: tuple[str, ...]) -> None:
    """Answer requests until the connection ends. `closed`: modules of the kit whose functions this sheet asks for."""
    os.setsid() if hasattr(os, "setsid") else None
    os.chdir(folder)
    nothing, ours = os.open(os.devnull, os.O_RDWR), connection.fileno()
    for stream in (0, 1, 2):  # what is printed convinces nobody
        os.dup2(nothing, stream)
    os.closerange(3, ours)  # pipes of the process that it was forked from
    os.closerange(ours + 1, 1024)
    torch.set_num_threads(1)
    InteractiveShell.clear_instance()
    # A traceback, which nobody sees here, would take longer to colour and to quote from its files than most cells take.
    settings = {"colors": "NoColor", "xmode": "Minimal"}
    quiet = Config({"HistoryManager": {"enabled": False}, "InteractiveShell": settings})
    shell = InteractiveShell.instance(config=quiet)
    _limit()
    _fence(folder, _close(closed))
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        answer = ran(shell, request["cell"]) if "cell" in request else answered(shell.user_ns, request)
        connection.send_bytes(json.dumps({"id": request["id"], **answer}).encode())


def ran(shell: InteractiveShell, source: str) -> dict[str, Any]:
    """Run a cell: {} where all is well, else the error's name and words."""
    result = shell.run_cell(source, silent=True)
    error = result.error_before_exec or result.error_in_exec
    return _described(error) if error else {}


def answered(namespace: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Call the function that is asked for, or read the value where no arguments are given, in a namespace."""
    name = request["name"]
    if name not in namespace:
        return {"missing": name}
    try:
        found = namespace[name]
        if "args" in request:
            given = {key: wire.unpacked(value) for key, value in request["kwargs"].items()}
            found = found(*map(wire.unpacked, request["args"]), **given)
        return {"value": wire.packed(found)}
    except BaseException as error:  # SystemExit and KeyboardInterrupt are answers too
        return _described(error)


def _described(error: BaseException) -> dict[str, str]:
    try:
        text = str(error)
    except BaseException:
        text = "its message cannot be read"
    return {"error": type(error).__name__[: wire.LONGEST], "text": text[: wire.LONGEST]}


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on this system; the limit of time remains
        return
    status = Path("/proc/self/status")
    used = int(status.read_text().split("VmData:")[1].split()[0]) * 1024 if status.exists() else 0
    limits = {resource.RLIMIT_DATA: used + MEMORY, resource.RLIMIT_FSIZE: FILES, resource.RLIMIT_CORE: 0}
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(OSError, ValueError):  # a system that knows the limit and does not set it
            resource.setrlimit(kind, (most, most))


def _closed(*_: Any, **__: Any) -> None:
    raise RuntimeError("this function of the kit is closed in this sheet; write it yourself")


def _close(rooms: tuple[str, ...]) -> set[str]:
    """Put a refusal in the place of every function of some modules, under whatever name it is held; their files."""
    found: set[str] = set()
    for room in rooms:
        module = importlib.import_module(f"mamlkit.{room}")
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                function.__code__ = _closed.__code__
                function.__defaults__, function.__kwdefaults__ = None, None
        source = str(module.__file__)
        found |= {os.path.realpath(path) for path in (source, cache_from_source(source))}
    return found


def _fence(folder: str, closed: set[str]) -> None:
    """Refuse, from here on, what a notebook has no need of."""
    own, real, join, fspath = os.path.realpath(folder), os.path.realpath, os.path.join, os.fspath
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def place(path: Any) -> str:
        path = os.fsdecode(fspath(path))
        return real(join(os.getcwd(), path))

    def inside(path: str) -> bool:
        return path == own or path.startswith(own + os.sep) or path == os.devnull

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS:
            raise PermissionError(f"{event} is not for a notebook that is graded")
        if event == "exec" and getattr(arguments[0], "co_filename", None) in closed:
            raise PermissionError("this module of the kit is closed in this sheet")
        if event == "open" and not isinstance(arguments[0], int) and arguments[0] is not None:
            path = place(arguments[0])
            if not inside(path):
                system = path.startswith("/proc/") and path != MEMINFO
                if path in closed or path.endswith(".ipynb") or "/.git/" in path or system:
                    raise PermissionError(f"{Path(path).name} is not for a notebook that is graded")
                if (arguments[2] or 0) & writing:
                    raise PermissionError(f"{path} is outside of the folder in which the notebook runs")
        elif event in CHANGES:
            for path in arguments:
                if isinstance(path, str | bytes | os.PathLike) and not inside(place(path)):
                    raise PermissionError(f"{event} is not for a notebook that is graded, outside of its folder")

    sys.addaudithook(hook)
