"""What the kit adds to the time that PyTorch takes to load, and how long the command line takes to answer.

    python tests/benchmarks/start_up.py

Each command runs in fresh processes, in turn with `import torch`; medians. Quote the ratios: absolute times are the
machine's. The second line touches every name of the core, which is when `import mamlkit` does the work.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import mamlkit as mk

WINGS = {"ClaimError", "Glyphs", "Omniglot", "claim", "figures", "record", "show"}
CORE = f"from mamlkit import {', '.join(sorted(set(mk.__all__) - WINGS))}"
REPETITIONS = 15


def seconds(*arguments: str) -> float:
    """How long one process takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    for name, arguments in (
        ("import mamlkit", ("-c", "import mamlkit")),
        ("every name of the core", ("-c", CORE)),
        ("python -m mamlkit --help", ("-m", "mamlkit", "--help")),
    ):
        pairs = [(seconds(*arguments), seconds("-c", "import torch")) for _ in range(REPETITIONS)]
        kit, torch = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"{name:26} {kit:5.2f} s, {ratio:.2f} times `import torch` ({torch:.2f} s)")


if __name__ == "__main__":
    main()
