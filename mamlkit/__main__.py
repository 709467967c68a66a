"""The command line: see `python -m mamlkit --help` for its commands."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from mamlkit.assignment.command import add_parser as add_assignment
from mamlkit.extras import extra
from mamlkit.images.fetch import add_parser as add_data
from mamlkit.study import RefusedError
from mamlkit.sweeps.command import add_parser as add_rerun


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its status: 0 well, 1 a notebook or a model is at fault, 2 refused, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a claim with θ in it must not end a run where θ cannot be written
    options = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    try:
        return int(options.command(options))
    except (RefusedError, ModuleNotFoundError, OSError) as error:  # an OSError is the machine's fault, a full disk say
        print(f"mamlkit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mamlkit: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mamlkit", description="A study kit for Model-Agnostic Meta-Learning.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    names = argparse.ArgumentParser(add_help=False)
    names.add_argument(
        "notebooks", nargs="*", metavar="NOTEBOOK", help='a number ("06"), a name or a path (default: all)'
    )
    names.add_argument("--timeout", type=float, default=3600, help="seconds a cell may take (default: %(default)g)")

    run = commands.add_parser("run", parents=[names], help="run notebooks and write a report")
    run.add_argument(
        "-p", "--parameter", type=_pair, action="append", default=[], metavar="NAME VALUE", help="set a parameter"
    )
    run.add_argument("--device", help='where tensors live: "auto", "cpu", "cuda" or "cuda:N"')
    run.add_argument("--out", type=Path, default=Path("runs/study"), help="the report's folder (default: %(default)s)")
    run.set_defaults(command=_run)

    add_rerun(commands)

    train = commands.add_parser("train", help="train a start and examine it, as a file of settings says")
    train.add_argument("settings", type=Path, metavar="SETTINGS.yml", help="experiments/ has the paper's sinusoids")
    train.add_argument(
        "--out", type=Path, help="folder; a second run goes on there (default: runs/ and the file's name)"
    )
    train.add_argument("--device", help='where tensors live: "auto", "cpu", "cuda" or "cuda:N" (default: as set there)')
    train.set_defaults(command=_train)

    check = commands.add_parser("check", help="examine the meta-gradient of a model of yours, on tasks of yours")
    check.add_argument(
        "factory",
        help="module:function or path.py:function; it returns (objective, batch), or a dict for mamlkit.check",
    )
    check.add_argument("--alpha", type=float, help="inner step size (default: the factory's, or 0.01)")
    check.add_argument("--steps", type=int, help="inner steps (default: the factory's, or 1)")
    check.set_defaults(command=_check)

    again = commands.add_parser("regenerate", parents=[names], help="rewrite the notebooks' outputs in canonical form")
    again.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    again.set_defaults(command=_regenerate)

    add_data(commands)
    add_assignment(commands)
    return parser


def _joined(words: Sequence[str]) -> Iterator[str]:
    """The command line with `-p NAME VALUE` as one word: argparse takes a value that begins with "-" for an option."""
    rest = iter(words)
    for word in rest:
        yield f"--parameter={'='.join(islice(rest, 2))}" if word in ("-p", "--parameter") else word


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("it takes a name and a value")
    return name, value


def _run(options: argparse.Namespace) -> int:
    with extra("study"):
        from mamlkit.study.run import run

    given = dict(options.parameter)
    results = run(options.notebooks, given, device=options.device, out=options.out, timeout=options.timeout)
    return int(any(result.status != "ok" for result in results))


def _train(options: argparse.Namespace) -> int:
    with extra("sweeps"):
        from mamlkit.experiment import experiment

    for line in experiment(options.settings, options.out or Path("runs", options.settings.stem), options.device):
        print(line, flush=True)
    return 0


def _check(options: argparse.Namespace) -> int:
    from mamlkit.check import check, made

    given = {name: value for name in ("alpha", "steps") if (value := getattr(options, name)) is not None}
    try:
        report = check(**({"alpha": 0.01} | made(options.factory) | given))
    except ValueError as error:
        raise RefusedError(str(error)) from error
    print(report)
    return int(not report.ok)


def _regenerate(options: argparse.Namespace) -> int:
    with extra("study"):
        from mamlkit.study.regenerate import regenerate

    problems = regenerate(options.notebooks, check=options.check, timeout=options.timeout)
    for problem in problems:
        print(f"mamlkit: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
