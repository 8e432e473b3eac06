"""How precisely a training multiplies, and whether its loss is compiled."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, TypeVar

import torch

from mmbench.errors import RunError

T = TypeVar("T")


@contextmanager
def tf32(matmul: str) -> Iterator[None]:
    """Inside, a GPU may round the inputs of float32 products to 10 bits, unless `matmul` is "float32"."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [one.allow_tf32 for one in backends]
    for one in backends:
        one.allow_tf32 = matmul != "float32"
    try:
        yield
    finally:
        for one, value in zip(backends, before, strict=True):
            one.allow_tf32 = value


def autocast(matmul: str, device: str) -> AbstractContextManager[Any]:
    """Products in bfloat16 inside, if `matmul` says so."""
    wanted = matmul == "bfloat16"
    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16, enabled=wanted)


def compiled(loss: Callable[..., T]) -> Callable[..., T]:
    """`loss` through torch.compile, for batches of any size; what the compiler says of its failure is a RunError."""
    from torch._dynamo.exc import TorchDynamoException

    inner = torch.compile(loss, dynamic=True)

    def call(*given: Any) -> T:
        try:
            return inner(*given)
        except TorchDynamoException as error:
            first = " ".join(" ".join(str(error).split("\n")[:2]).split())
            raise RunError(f"compile = true: {first}; run it with compile = false") from error

    return call


@contextmanager
def on_own_stream(device: str) -> Iterator[None]:
    """Run what is inside on a stream of its own, which a CUDA graph can be captured on."""
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
    """Return the stream of all trainings: memory that one of them frees is found again by the next."""
    return torch.cuda.Stream(device)
