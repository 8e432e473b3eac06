"""How precisely a training multiplies, and whether its loss is compiled."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, TypeVar

import torch

from mmbench.errors import RunError
from mmbench.matrix_units import bfloat16_units, has_matrix_units
from mmbench.nn import losses

T = TypeVar("T")


@contextmanager
def rounded_products(matmul: str, device: str) -> Iterator[None]:
    """Let float32 products round their inputs inside, as `matmul` asks; nothing else changes.

    tf32 and bfloat16 let a GPU use TF32 (10 bits); bfloat16 lets a CPU with matrix units use them (7 bits). Raises
    RunError for bfloat16 on a CPU without them, whose products would be float32 under another name.
    """
    if device == "cpu":
        if matmul == "bfloat16" and not has_matrix_units():
            raise RunError(
                "matmul = bfloat16: this processor has no matrix units (AMX); leave it out, or take matmul = auto"
            )
        with bfloat16_units() if matmul == "bfloat16" else nullcontext():
            yield
        return
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = matmul != "float32"
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def autocast(matmul: str, device: str) -> AbstractContextManager[Any]:
    """Compute a GPU's products in bfloat16 inside, if `matmul` asks for it."""
    kind = device.partition(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=matmul == "bfloat16" and kind != "cpu")


def compiled(loss: Callable[..., T]) -> Callable[..., T]:
    """Return `loss` compiled for batches of any size; a call raises RunError where compiling fails."""
    from torch._dynamo.exc import TorchDynamoException

    losses.keep_from_compiler()
    inner = torch.compile(loss, dynamic=True)

    def call(*arguments: Any) -> T:
        try:
            return inner(*arguments)
        except TorchDynamoException as error:
            first = " ".join(" ".join(str(error).split("\n")[:2]).split())
            raise RunError(f"compile = true: {first}; run it with compile = false") from error

    return call


@contextmanager
def on_own_stream(device: str) -> Iterator[None]:
    """Run the block on a separate stream, on which a CUDA graph can be captured."""
    if not device.startswith("cuda"):
        yield
        return
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


@cache
def _stream(device: str) -> torch.cuda.Stream:
    """Return the stream that all trainings share, so that each can reuse the memory that its predecessor freed."""
    return torch.cuda.Stream(device)
