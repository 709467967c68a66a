"""Where the numbers are computed."""

from __future__ import annotations

import os
import platform

import torch

# The widest instruction set that every x86 processor of the last ten years has.
REFERENCE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}


def device(name: str | torch.device = "auto") -> torch.device:
    """The device called "auto", "cpu", "cuda" or "cuda:1". "auto" is a GPU where there is one and the CPU elsewhere.

    Another accelerator that PyTorch finds here, "xpu" or "mps" say, is taken where it is named, and never by "auto":
    not all of them have float64, which the notebooks' proofs are computed in.

    Raises ValueError for another name, and RuntimeError for a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        count = torch.get_device_module(found).device_count()
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f'device is {name!r}; it must be "auto", "cpu", "cuda" or "cuda:N"') from error
    if (found.index or 0) >= count:
        raise RuntimeError(
            f'device is {str(name)!r} but this machine offers {count} {found.type.upper()} devices; use "auto" or '
            '"cpu", or install a build of PyTorch for that device if the machine has one'
        )
    return found


def reference_numerics() -> None:
    """Pin how the CPU computes, so that the number of threads and the x86 processor no longer change a bit.

    Instruction set, the mode of MKL, and one thread: with more, PyTorch splits large sums and products among them, and
    their order depends on their number. Call it before anything is computed. Large matrix products take three to six
    times as long. Raises RuntimeError where PyTorch has computed already, and on a processor without AVX2.
    """
    os.environ.update(REFERENCE)
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()  # PyTorch reads its setting here, or has read it before
    if platform.machine() not in ("x86_64", "AMD64") or capability != "AVX2":
        raise RuntimeError(
            f"the numbers of this process are those of {platform.machine()} with {capability}; reference numerics need "
            "an x86 processor with AVX2, and must be asked for before the first operation: restart, and ask first"
        )
