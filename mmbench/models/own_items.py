"""Sanity floors that rank the items of the history first and popular items behind them. No paper.

Axes: T histories, W width, N items. `OwnItemsFirst` builds on the contract of mmbench.models.base; its subclasses are
model files and order the items of a history.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs


@dataclass(frozen=True, kw_only=True)
class OwnItemsConfig:
    """A configuration without settings."""


class OwnItemsFirst(Recommender[OwnItemsConfig]):
    trainable = False
    deterministic = True
    count: Tensor

    def __init__(self, config: OwnItemsConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.register_buffer("count", torch.bincount(catalog.train_items, minlength=catalog.n_items + 1))

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def popular(self, batch: Batch) -> Tensor:
        """Return popularity, float64 [T, N + 1]: count / (largest count + 1), below 1, the same for every history."""
        count = self.count.double()
        return (count / (count.max() + 1)).repeat(len(batch.user), 1)
