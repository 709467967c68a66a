"""Where the numbers are computed."""

from __future__ import annotations

import torch


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
