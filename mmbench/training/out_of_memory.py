"""A GPU's memory that runs out while a model is trained: what is gone on with, the same noise again, who is told."""

from collections.abc import Callable, Iterable

import torch

from mmbench.training.progress import Progress, StackWatcher, Watcher


def keep_noise(device: str, *own: torch.Generator) -> Callable[[], None]:
    """Remember `own` and torch's generators, of the CPU and of `device`; calling the result sets them back."""
    before = [one.get_state() for one in own]
    on_host = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.startswith("cuda") else None

    def set_back() -> None:
        for one, state in zip(own, before, strict=True):
            one.set_state(state)
        torch.set_rng_state(on_host)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)

    return set_back


def go_on_with(less: str, runs: Iterable[Progress], watcher: Watcher | StackWatcher | None) -> None:
    """After the memory ran out; to be called outside the handler, whose traceback holds the memory."""
    torch.cuda.empty_cache()
    tell(f"out of GPU memory; going on with {less}", runs, watcher)


def tell(text: str, runs: Iterable[Progress], watcher: Watcher | StackWatcher | None) -> None:
    """Say something that a result depends on, and keep it for the records of `runs`."""
    for one in runs:
        one.note(text)
    if watcher is not None:
        watcher.note(text)
