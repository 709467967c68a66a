"""The notebooks on every instruction set and thread count that this processor offers, each within its tolerances.

    python tests/matrix.py            all of the walkthrough, in half an hour or more
    python tests/matrix.py 02 05      these alone

Each combination is a process of its own, since PyTorch settles on one when it computes for the first time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CAPABILITIES = ("default", "avx2", "avx512")
THREADS = (1, 2)


def offered(capability: str) -> bool:
    """Whether PyTorch computes with an instruction set when it is told to."""
    command = [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"]
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return found.strip().lower() == capability


def run(paths: list[Path], capability: str, threads: int) -> tuple[str, bool]:
    """The notebooks' cells against their committed outputs: what pytest says in the end, and whether all passed."""
    environment = os.environ | {
        "ATEN_CPU_CAPABILITY": capability,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT / "tests"),  # whose conftest.py says what counts as the same output
    }
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "conftest", *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    words = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing was said"])[-1]
    return "\n".join([words, *failed]), done.returncode == 0


def main(names: list[str]) -> int:
    paths = sorted(p for p in (ROOT / "notebooks").glob("*.ipynb") if not names or p.name[:2] in names)
    kinds = [(capability, threads) for capability in CAPABILITIES if offered(capability) for threads in THREADS]
    print(f"{len(paths)} notebooks, {len(kinds)} combinations", flush=True)
    well, began = True, time.monotonic()
    for done, (capability, threads) in enumerate(kinds, 1):
        words, passed = run(paths, capability, threads)
        well &= passed
        left = (time.monotonic() - began) / done * (len(kinds) - done)
        print(
            f"{capability}, {threads} thread{'s' * (threads > 1)}: {words} (about {left / 60:.0f} min left)", flush=True
        )
    return int(not well)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
