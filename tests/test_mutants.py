"""A few small changes of the core are noticed by the tests of their room; `make mutants` tries all kinds of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]

PLANTED = """
import sys, tempfile
from pathlib import Path
from planting import copied, outcome

with tempfile.TemporaryDirectory() as scratch:
    copy = copied(Path(scratch))
    print(outcome(copy, "tests/test_inner.py", 300), flush=True)
    for change in sys.argv[1:]:
        name, old, new, test = change.split("|")
        file = copy / "mamlkit" / name
        source = file.read_text(encoding="utf-8")
        assert source.count(old) == 1, change
        file.write_text(source.replace(old, new), encoding="utf-8")
        print(outcome(copy, f"tests/{test}", 300), flush=True)
        file.write_text(source, encoding="utf-8")
"""
CHANGES = [
    "inner.py|weight - alpha[name] * gradient|weight - alpha[name] * alpha[name] * gradient|test_inner.py",
    "inner.py|for k in range(steps)|for k in range(steps - 1)|test_variants.py",
    "checks.py|isinstance(steps, bool) or not|not|test_inner.py",
    "meta.py|_gradients(loss.mean(), None, theta|_gradients(loss.sum(), None, theta|test_meta.py",
    "meta.py|before = shared(theta, *query|before = shared(theta, *support|test_meta.py",
]


def test_the_copy_passes_and_small_changes_of_the_core_are_noticed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", PLANTED, *CHANGES], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout.split() == ["survived", *["killed"] * len(CHANGES)], found.stderr


def test_what_is_listed_as_equivalent_still_stands_there() -> None:
    for entry in yaml.safe_load((ROOT / "tests" / "mutants_equivalent.yml").read_text(encoding="utf-8")):
        lines = (ROOT / "mamlkit" / entry["file"]).read_text(encoding="utf-8").splitlines()
        assert entry["old"] in map(str.strip, lines), entry
        assert entry["why"]
