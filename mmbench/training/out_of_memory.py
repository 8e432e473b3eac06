"""What a training does about memory: it gives back what is free, and goes on when that of a GPU runs out.

When it runs out, the same step is taken again with less memory at once.

The noise of the step (dropout, weights drawn in the loss) is set back first, so that the result is what enough memory
would have given, up to the order in which sums are formed.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from mmbench.errors import RunError, out_of_memory
from mmbench.nn import losses
from mmbench.runtime import release_memory

T = TypeVar("T")
# Steps between two releases of free memory, after which the next step costs page faults: a fifth of a short epoch.
STEPS_PER_RELEASE = 100


class MemoryLimit:
    """How many rows of logits a run holds at once; fewer after its memory ran out.

    tell  is called with what the run continues with, for its record
    """

    def __init__(self, device: str, advice: str, tell: Callable[[str], None]) -> None:
        self.device, self.advice, self.tell = device, advice, tell
        self.rows_of_logits = losses.ROWS_OF_LOGITS
        self.steps_since_release = 0

    def retry_with_less(self, work: Callable[[], T], clean: Callable[[], None]) -> T:
        """Do `work`; as long as memory runs out, `clean` and do it again with fewer rows of logits at once.

        Raises RunError when that no longer helps.
        """
        set_back = keep_noise(self.device)
        while True:
            try:
                with losses.rows_at_once(self.rows_of_logits):
                    return work()
            except torch.cuda.OutOfMemoryError as error:
                reason = str(error)
            # Outside the handler, whose traceback holds the step's memory.
            clean()
            fewer = losses.fewer_rows(self.rows_of_logits)
            if not fewer:
                raise out_of_memory(reason, self.advice)
            self.rows_of_logits = fewer
            set_back()
            torch.cuda.empty_cache()
            self.tell(continues_with(f"{fewer} rows of logits at once"))

    def fail_if_full(self, work: Callable[[], None]) -> None:
        """Do `work`, which must not be done twice; raise RunError when memory runs out."""
        try:
            work()
        except torch.cuda.OutOfMemoryError as error:
            raise self.error(str(error)) from None

    def count_steps(self, n_steps: int) -> None:
        """Count the steps of an epoch, and release free memory after enough of them."""
        self.steps_since_release += n_steps
        if self.steps_since_release >= STEPS_PER_RELEASE:
            release_memory()
            self.steps_since_release = 0

    def error(self, reason: str) -> RunError:
        return out_of_memory(reason, self.advice)


def continues_with(less: str) -> str:
    """Return the note of a run that continues with less memory at once."""
    return f"out of GPU memory; continued with {less}"


def keep_noise(device: str) -> Callable[[], None]:
    """Remember the state of torch's generators, of the CPU and of `device`; calling the result sets them back."""
    on_host = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.startswith("cuda") else None

    def set_back() -> None:
        torch.set_rng_state(on_host)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)

    return set_back
