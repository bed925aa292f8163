"""Which device to run on: found, not assumed."""

from __future__ import annotations

import torch

from san_cliptrase.errors import OptionError


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        OptionError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.empty(1, device=name)
        found.cpu()  # a device such as meta holds no numbers
        return found.device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise OptionError(f"device {name!r} cannot be used: {error}") from error
