"""Keep what all chunks of a ranking share - propagated nodes, projected items - so that it is computed once."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import nn

T = TypeVar("T")
Versions = tuple[tuple[int, int], ...]


class Memo(Generic[T]):
    """The last result of a function of a model, kept until a tensor of the model is written to.

    Nothing is kept while gradients are recorded. Fused optimisers and replayed CUDA graphs write parameters without
    raising torch's version counters, so a model must also call `forget` in its `train()`, which begins every ranking.
    """

    def __init__(self) -> None:
        self._versions: Versions | None = None
        self._result: T | None = None

    def forget(self) -> None:
        self._versions = self._result = None

    def __call__(self, model: nn.Module, work: Callable[[], T]) -> T:
        """Return work(), or its last result."""
        if torch.is_grad_enabled():
            return work()
        versions = tuple((x.data_ptr(), x._version) for x in (*model.parameters(), *model.buffers()))
        if self._result is None or versions != self._versions:
            self._result, self._versions = work(), versions
        return self._result
