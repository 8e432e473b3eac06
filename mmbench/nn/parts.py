"""Histories that do not see each other, encoded a few at a time.

The C library maps blocks of 32 MB and more anew each time they are made (mmbench.runtime), and then the system clears
every page, which takes longer than the arithmetic of a mixer's inner layers. The tensors of a few rows stay below that
size.
"""

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from mmbench.data.batch import Batch

FLOATS_AT_ONCE = 2**22  # of the largest tensor of a part: 16 MiB in single precision


def is_eager_cpu(x: Tensor) -> bool:
    """Return whether operations on x are computed at once on a CPU, and not compiled into a step of a fixed shape."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def on_gpu(x: Tensor) -> bool:
    """Return whether x lies on no CPU: the number of kernels counts there, and sums want a fixed order."""
    return x.device.type != "cpu"


def has_gpu_memory(x: Tensor) -> bool:
    """Return whether x may be worked on in the large parts of a GPU; a stack hides how many models it has."""
    return on_gpu(x) and not is_stacked(x)


def has_values(x: Tensor) -> bool:
    """Return whether the values of x may decide what is computed: on an eager CPU, outside a stack of seeds."""
    return is_eager_cpu(x) and not is_stacked(x)


def is_stacked(x: Tensor) -> bool:
    """Return whether x stands for the tensors of several seeds, under vmap."""
    return not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x)


def in_parts(states: Callable[[Batch], Tensor], batch: Batch, floats_per_place: int) -> Tensor:
    """Return `states(batch)` [T, ...], made from a few rows at a time where there are many.

    The state of a slot must depend on its row only. Each slot gets its row for itself.

    floats_per_place  size of the largest tensor that `states` makes, divided by rows times width
    """
    n_slots, width = len(batch.slot), batch.item_seq.shape[1]
    n_parts = -(-n_slots * width * floats_per_place // FLOATS_AT_ONCE)
    if n_parts <= 1 or not is_eager_cpu(batch.item_seq):
        return states(batch)
    size = -(-n_slots // n_parts)
    parts = (slot.split(size) for slot in (batch.slot, batch.user))
    return torch.cat([states(_of_slots(batch, *part)) for part in zip(*parts, strict=True)])


def _of_slots(batch: Batch, slot: Tensor, user: Tensor) -> Batch:
    """Return a batch of some slots [n] of `batch` and their users, with a row for each."""
    width = batch.item_seq.shape[1]
    names = {field.name for field in fields(Batch)} - {"slot", "user"}
    rows = {name: getattr(batch, name).index_select(0, slot // width) for name in names}
    first = torch.arange(len(slot), device=slot.device) * width
    return Batch(**rows, slot=first + slot % width, user=user)
