"""Does a library compute meta-gradients? Its own, held against golden.json. This file needs nothing but Python.

    python data/golden.py mine.py:gradient [--tolerance 1e-4]      (of an installed kit: python -m mamlkit.data.golden)

`gradient` is a function of a case, a dict with activation, loss, theta, support, query, alpha and steps; what they mean
is said at the top of golden.json. It returns {name: gradient} for the names of theta, as lists, arrays or tensors, or
None for a case to be passed over. The status is 0 where all that it returns is second order.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Case = dict[str, Any]
SECOND, FIRST, SUM = "second order", "first order", ", a sum over tasks"


def cases() -> Iterator[Case]:
    """Every case with its problem and its answers."""
    golden = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
    yield from (golden["problems"][case["problem"]] | case for case in golden["cases"])


def entries(gradient: Any) -> list[float]:
    """The numbers of lists, arrays or tensors, in order."""
    listed = gradient.tolist() if hasattr(gradient, "tolist") else gradient
    return [entry for part in listed for entry in entries(part)] if isinstance(listed, list) else [float(listed)]


def errors(gradient: Any, case: Case) -> dict[str, float]:
    """How far a gradient is from each thing that it may be, as a share of that."""
    found, second, first = (
        entries([entries(part[name]) for name in case["theta"]])
        for part in (gradient, case["second_order"], case["first_order"])
    )
    known = {SECOND: second, FIRST: first}
    known |= {what + SUM: [len(case["losses"]) * entry for entry in wanted] for what, wanted in known.items()}
    return {what: math.dist(found, wanted) / math.hypot(*wanted) for what, wanted in known.items()}


def compare(gradient: Callable[[Case], Any], tolerance: float = 1e-9) -> list[str]:
    """Print a row a case, and return what the gradients are."""
    verdicts = []
    for case in cases():
        if (found := gradient(case)) is None:
            continue
        off = errors(found, case)
        nearest = min(off, key=off.__getitem__)
        verdicts.append(nearest if off[nearest] <= tolerance else "wrong")
        alpha = "by parameter" if isinstance(case["alpha"], dict) else case["alpha"]
        print(
            f"{case['problem']:<20}alpha {alpha:<14}steps {case['steps']}   off by {off[SECOND]:.1e}   {verdicts[-1]}"
        )
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gradient", metavar="FILE.py:FUNCTION")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="as a share (default: %(default)g)")
    options = parser.parse_args()
    path, _, name = options.gradient.rpartition(":")
    verdicts = compare(runpy.run_path(path)[name], options.tolerance)
    return int(set(verdicts) != {SECOND})


if __name__ == "__main__":
    sys.exit(main())
