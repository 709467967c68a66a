"""Plants small changes in a copy of the kit, one at a time, and counts those that the tests of their room notice.

    make mutants ROOM="inner meta" SAMPLE=30 SEED=0

The changes are cosmic-ray's, and `Without`. A place in the source gets one of those that it can have, so that a sum,
which has eleven, counts once; SAMPLE is how many places of a room are tried, 0 for all. The checkout is never written
to. Survivors are printed and kept in runs/mutants/, but for those of mutants_equivalent.yml, which no test can notice.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from planting import ROOT, copied, outcome
from tqdm import tqdm

# The sources of a room, and the tests that are to notice what changes there; the quick ones first.
ROOMS = {
    "inner": ("inner", "inner meta variants modules"),
    "meta": ("meta", "meta inner variants modules"),
    "cost": ("cost", "cost"),
    "objective": ("objective", "losses inner meta evaluate modules"),
    "pure": ("pure", "pure models losses meta modules"),
    "watch": ("watch", "losses inner pure modules"),
    "checks": ("checks", "inner meta variants losses evaluate models train modules"),
    "curves": ("curves", "evaluate"),
    "evaluate": ("evaluate", "evaluate"),
    "statistics": ("statistics", "evaluate"),
    "tasks": ("tasks", "tasks"),
    "models": ("models", "models"),
    "train": ("train", "train variants"),
    "checkpoint": ("checkpoint", "train variants"),
    "small": ("device files extras", "start_up train sweep_store"),
    "check": ("check", "check"),
    "ledger": ("ledger", "ledger"),
    "images": ("images", "images data"),
    "figures": ("figures", "figures"),
    "study": ("study", "run regenerate notebooks report odd"),
    "sweeps": ("sweeps", "sweep_spec sweep_store sweep_board results key sweep_jobs sweeps report rerun odd"),
}
# `strict` asserts lengths that the line itself makes equal; the encoding is the same where the tests run.
IDLE = ("strict", "encoding")
EQUIVALENT = yaml.safe_load((ROOT / "tests" / "mutants_equivalent.yml").read_text(encoding="utf-8"))


class Without(Operator):  # type: ignore[misc]
    """Leaves out a `raise`, a call whose result nobody takes, or an argument given by name."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        statement = node.type == "raise_stmt" or (
            node.type == "atom_expr" and node.parent.type == "simple_stmt" and node.children[-1].type == "trailer"
        )
        given = node.type == "argument" and node.children[1] == "=" and node.parent.type == "arglist"
        if statement or given:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        if node.type == "argument":
            commas = node.parent.children
            comma = commas[commas.index(node) - 1 if node is not commas[0] else 1]
            comma.value = comma.prefix = ""
            return None
        nothing = get_ast("pass\n").children[0].children[0]
        nothing.prefix = node.get_first_leaf().prefix
        return nothing

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


class Mutant(NamedTuple):
    file: Path
    line: int
    old: str  # the first line that changes, and what it becomes
    new: str
    source: str


def is_idle(node: Any) -> bool:
    """Whether a node is a bare `*` of a signature, or in an annotation, which nothing evaluates, or as `IDLE` says."""
    while (parent := node.parent) is not None:
        if (
            parent.type == "tfpdef"
            or (node.type == "operator" and parent.type == "parameters")
            or (node.type == "argument" and node.children[0].type == "name" and node.children[0].value in IDLE)
            or (parent.type == "annassign" and node is parent.children[1])
            or (parent.type == "funcdef" and node is parent.annotation)
        ):
            return True
        node = parent
    return False


def changed(source: str, operator: Any, occurrence: int) -> str | None:
    """The source after a change; None where that is no Python, or cosmic-ray cannot make it (of `except a.b`)."""
    try:
        new: str = mutate_code(source, operator, occurrence)
        ast.parse(new)
    except (SyntaxError, AttributeError):
        return None
    return new


def drawn(files: list[Path], rng: random.Random) -> Iterator[Mutant]:
    """Mutants of some files: places by chance, and of the changes that a place can have, one."""
    places: dict[Any, list[tuple[Any, int]]] = {}
    operators = [Without(), *(kind() for kind in map(get_operator, operator_names()) if not kind.arguments())]
    # Small numbers and short strings are themselves: `is` for `==` is seen by no test.
    operators = [op for op in operators if not type(op).__name__.endswith(("Eq_Is", "Eq_IsNot"))]
    for file in files:
        nodes = list(ast_nodes(get_ast(file.read_text(encoding="utf-8"))))
        for operator in operators:
            found = [(node, place) for node in nodes for place in operator.mutation_positions(node)]
            for occurrence, (node, place) in enumerate(found):
                if not is_idle(node):
                    places.setdefault((file, place), []).append((operator, occurrence))
    chosen = sorted(places)
    rng.shuffle(chosen)
    for file, place in chosen:
        old = file.read_text(encoding="utf-8")
        new = changed(old, *rng.choice(places[file, place]))
        if new is None:
            continue
        differing = [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[0] in "-+"]
        before, after = (next((line[2:].strip() for line in differing if line[0] == sign), "") for sign in "-+")
        yield Mutant(file, place[0][0], before, after, new)


def without_mutants(copy: Path, tests: list[str]) -> dict[str, float]:
    """The tests of a room on the kit as it is: all pass. How long each file may take with a mutant."""
    limits, sys.dont_write_bytecode = {}, False
    for test in tests:
        begin = time.monotonic()
        if outcome(copy, test, 3600) != "survived":
            raise SystemExit(f"{test} fails without a mutant:\n{(copy / 'output').read_text(encoding='utf-8')}")
        limits[test] = 20 + 3 * (time.monotonic() - begin)
    sys.dont_write_bytecode = True
    return limits


def examined(copy: Path, name: str, size: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How many mutants of a room were killed, survived, ran out of time or are known as equivalent; the survivors."""
    sources, tests = (part.split() for part in ROOMS[name])
    limits = without_mutants(copy, [f"tests/test_{test}.py" for test in tests])
    package = copy / "mamlkit"
    files = [file for source in sources for file in [package / f"{source}.py", *(package / source).rglob("*.py")]]
    counts, survivors = Counter[str](), []
    for mutant in tqdm(
        list(islice(drawn(sorted(filter(Path.exists, files)), random.Random(seed)), size or None)), desc=name
    ):
        shown = f"{mutant.file.relative_to(copy)}:{mutant.line}\n- {mutant.old}\n+ {mutant.new}\n"
        if any(mutant.file.match(e["file"]) and mutant.old == e["old"] and mutant.new in e["new"] for e in EQUIVALENT):
            counts["equivalent"] += 1
            continue
        kept = shutil.copy2(mutant.file, copy / "kept")
        mutant.file.write_text(mutant.source, encoding="utf-8")
        outcomes = (outcome(copy, test, limit) for test, limit in limits.items())
        found = next((found for found in outcomes if found != "survived"), "survived")
        counts[found] += 1
        shutil.copy2(kept, mutant.file)
        if found == "survived":
            survivors.append(shown)
            tqdm.write(shown)
    return counts, survivors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(ROOMS)}; all of them if none is named")
    parser.add_argument("--sample", type=int, default=30, help="places of each room, 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out = ROOT / "runs" / "mutants"
    out.mkdir(parents=True, exist_ok=True)
    table = [f"{'room':12}{'killed':>8}{'timeout':>9}{'survived':>10}{'equivalent':>12}"]
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copy = copied(Path(scratch))
        for room in arguments.rooms or ROOMS:
            n, survivors = examined(copy, room, arguments.sample, arguments.seed)
            (out / f"{room}.txt").write_text("".join(survivors), encoding="utf-8")
            dead = n["killed"] + n["timeout"]
            share = dead / max(dead + n["survived"], 1)
            table.append(f"{room:12}{n['killed']:8}{n['timeout']:9}{n['survived']:10}{n['equivalent']:12}{share:8.0%}")
            print(table[-1], flush=True)
    print(*table, sep="\n")


if __name__ == "__main__":
    main()
