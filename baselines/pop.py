"""Pop: ranks items by how often they were taken in training, the same for every user. No paper.

A model that beats it uses some personalisation or content. Its variant `recent` counts the newest events only; a model
that beats that has learned more than the drift of taste.

Axes: T histories, N items.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.settings.config import NonNegativeFloat

DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class PopConfig:
    count: Literal["events", "users"]  # training events of an item, or its distinct users
    window: Annotated[float, Field(gt=0, le=1)]  # newest share of the training time that counts; 1 = all
    decay_days: NonNegativeFloat = 0.0  # an event counts exp(-age / decay_days); 0 = all count equally

    def __post_init__(self) -> None:
        if self.decay_days and self.count == "users":
            raise ValueError("decay_days weighs events, so it needs count = 'events'")


def popularity(catalog: Catalog, config: PopConfig) -> Tensor:
    """Return the weight of every item, [N]: int64 counts, or float64 with decay_days."""
    events = catalog.histories
    users, items, times = events.users, events.items, events.times
    if len(times) and config.window < 1:
        first, last = int(times.min()), int(times.max())
        kept = times >= last - config.window * (last - first)
        users, items, times = users[kept], items[kept], times[kept]
    size = catalog.n_items + 1
    if config.count == "users":
        items = torch.unique(users * size + items) % size
    if not config.decay_days or not len(times):
        return torch.bincount(items, minlength=size)[1:]
    # Oldest events are added first, so that the sums do not depend on the order of users.
    order = times.argsort()
    age = (times.max() - times[order]).double() / DAY
    return torch.bincount(items[order], weights=torch.exp(-age / config.decay_days), minlength=size)[1:]


class Pop(Recommender[PopConfig]):
    trainable = False
    deterministic = True
    weight: Tensor

    @classmethod
    def reads(cls, config: PopConfig, modality: str) -> bool:
        return config.window < 1 or config.decay_days > 0

    def __init__(self, config: PopConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        # Integer counts stay integers: a change of precision must not create or break ties.
        self.register_buffer("weight", popularity(catalog, config))

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def score(self, batch: Batch) -> Tensor:
        """Return float64 [T, N], a row repeated without a copy; the most popular item has 1."""
        weight = self.weight.double()
        return (weight / weight.max().clamp(min=1e-300)).expand(len(batch.user), -1)
