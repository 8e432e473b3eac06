"""Matrix units of processors, which multiply in bfloat16 and add in float32: whether there are any, and their use."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def bfloat16_units() -> Iterator[None]:
    """Let a CPU's products of float32 numbers round their inputs to bfloat16 inside, where it has units for that.

    oneDNN does so with AMX. AVX512-BF16 alone gives it nothing: there the products stay float32.
    """
    backend: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # unknown to torch's own types
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before


@cache
def has_matrix_units() -> bool:
    """Return whether products under `bfloat16_units` are rounded here, by a product whose rounding shows."""
    if not torch.backends.mkldnn.is_available():
        return False
    numbers = torch.full((64, 64), 1.001)  # 1 in bfloat16
    with bfloat16_units():
        return bool((numbers @ numbers).max() < 64.01)


def fastest_matmul(device: str) -> str:
    """Return what the setting `matmul = auto` means on a device ("cpu", "cuda", "cuda:1")."""
    if device == "cpu":
        return "bfloat16" if has_matrix_units() else "float32"
    return "tf32" if torch.cuda.get_device_capability(device)[0] >= 8 else "float32"
