"""How much a device takes at once, and how much of it a run has used."""

import resource
import sys

import torch

from mmbench.errors import UsageError


def stack_size(wanted: str, device: str) -> int:
    """Return the number of seeds that `--stack` asks for.

    "auto" means 16 on a GPU, which small models leave idle, and 1 on a CPU, where stacking gains nothing.
    """
    if wanted == "auto":
        return 16 if device.startswith("cuda") else 1
    if wanted == "off":
        return 1
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    raise UsageError(f"--stack {wanted}: must be auto, off or a number of seeds")


def reset_peak_memory(device: str) -> None:
    """Start measuring a GPU's peak memory anew, for the cell that begins."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> dict[str, int]:
    """Return bytes: this process's largest resident set, and the GPU allocator's peak since the cell began."""
    scale = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale}
    if device.startswith("cuda"):
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak
