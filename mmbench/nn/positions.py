"""Positions of events in their histories."""

from torch import Tensor

from mmbench.data.batch import Batch


def events_after(batch: Batch) -> Tensor:
    """Return how many events of its history follow each event, int64 [R, W]; 0 for padding.

    `batch.position` counts from the oldest kept event; codes that pad on the left count from the newest. Such a
    position changes with each event that is added, so a state differs from that of its prefix.
    """
    length = batch.attention_mask(causal=False).sum(-1)
    return (length - 1 - batch.position) * batch.mask
