"""Where the numbers are computed."""

from __future__ import annotations

import torch


def device(name: str | torch.device = "auto") -> torch.device:
    """The device called "auto", "cpu", "cuda" or "cuda:1". "auto" is a GPU where there is one and the CPU elsewhere.

    Raises ValueError for another name, and RuntimeError for a GPU that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'device is {name!r}; it must be "auto", "cpu", "cuda" or "cuda:N"') from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f'device is {name!r}; the kit runs on "cpu" and "cuda" (or "auto", "cuda:N")')
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if (found.index or 0) >= count:
            raise RuntimeError(
                f'device is {str(name)!r} but this machine offers {count} CUDA devices; use "auto" or "cpu", '
                "or install a CUDA build of PyTorch if the machine has a GPU"
            )
    return found
