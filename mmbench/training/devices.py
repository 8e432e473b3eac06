"""How much a device takes at once, and how much of it a run has used."""

import sys

import torch

from mmbench.choices import whole_number
from mmbench.errors import UsageError


def stack_size(wanted: str, device: str) -> int:
    """Return the number of seeds that `--stack` asks for.

    "auto" means 16 on a GPU, which small models leave idle, and 1 on a CPU, where stacking gains nothing.
    """
    if wanted == "auto":
        return 16 if device.startswith("cuda") else 1
    if wanted == "off":
        return 1
    if number := whole_number(wanted):
        return number
    raise UsageError(f"--stack {wanted}: must be auto, off or a number of seeds")


def reset_peak_memory(device: str) -> None:
    """Reset a GPU's peak memory, so that it is that of the cell that begins."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> dict[str, int]:
    """Return bytes: this process's largest resident set, and the GPU allocator's peak since the cell began."""
    peaks = _host_peak()
    if device.startswith("cuda"):
        peaks["device"] = torch.cuda.max_memory_allocated(device)
    return peaks


def _host_peak() -> dict[str, int]:
    """Return the largest resident set of this process; nothing on Windows, whose Python does not know it."""
    if sys.platform == "win32":
        return {}
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale}
