"""ItemKNN: item-based collaborative filtering. Sarwar et al., WWW 2001, doi 10.1145/371920.372071; form of
F. Aiolli, RecSys 2013, doi 10.1145/2507157.2507189, as in RecBole.

Items are similar if the same users took them; an item's score is the sum of its similarities to the history's items.

Axes: U users, N items, B items of a block, T histories, W width. R [U, N+1] holds the training events.
Differences from RecBole: (1) R is binary (`values = "count"` keeps repeats). (2) The history is the evaluation input,
so at test time it holds the validation event, as for sequential models; RecBole reads training events only.
(3) Ties at rank k go to the smaller id, not to an arbitrary neighbour.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.nn.interactions import Values, user_item_matrix
from mmbench.nn.neighbours import Neighbours, Prune, recency_weight
from mmbench.settings.config import Fraction, NonNegativeFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class ItemKNNConfig:
    k: PositiveInt
    shrink: NonNegativeFloat  # is added to the product of the norms
    asymmetry: Fraction = 0.5  # a: |R_target|^(2a) |R_source|^(2 - 2a); .5 = cosine
    values: Values
    use_idf: bool = False  # events weigh log(U / users of the item), in the similarity and in the history
    prune: Prune  # keeps k neighbours for each candidate, or of each history item
    self_sim: NonNegativeFloat = 0.0  # similarity of an item to itself; 1 suits data with repeats
    decay: Fraction  # lambda: a history item counts lambda^(events after it); 0 = the last item only
    distinct: bool = False  # an item counts once per history
    pop_weight: NonNegativeFloat = 0.0  # adds pop_weight * popularity (1 = the most popular) to every score


class ItemKNN(Recommender[ItemKNNConfig]):
    trainable = False
    deterministic = True
    count: Tensor
    idf: Tensor

    def __init__(self, config: ItemKNNConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        count = torch.bincount(catalog.train_items, minlength=catalog.n_items + 1)
        self.register_buffer("count", count)
        self.register_buffer("idf", self._idf(catalog).float())
        self.neighbours = Neighbours.build(
            self._similarity(catalog),
            n_items=catalog.n_items,
            k=config.k,
            prune=config.prune,
            self_sim=config.self_sim,
        )

    def _idf(self, catalog: Catalog) -> Tensor:
        """Return log(U / users of the item), float64 [N+1]; 1 with use_idf off, 0 for items that nobody took."""
        size = catalog.n_items + 1
        if not self.config.use_idf:
            return torch.ones(size, dtype=torch.float64)
        events = catalog.histories
        item = torch.unique(events.users * size + events.items) % size
        n_users = torch.bincount(item, minlength=size).double()
        return torch.where(n_users > 0, (catalog.n_users / n_users.clamp(min=1)).log(), 0.0)

    def _similarity(self, catalog: Catalog) -> Callable[[Tensor], Tensor]:
        """Return the function ids [B] -> similarities [B, N+1]: co-occurrence / (norms + shrink + 1e-6)."""
        config = self.config
        matrix = user_item_matrix(
            catalog.histories.users, catalog.train_items,
            n_users=catalog.n_users, n_items=catalog.n_items, values=config.values,
        )  # fmt: skip
        matrix = (matrix * self._idf(catalog).numpy()[None, :]).tocsc()
        by_item = matrix.T.tocsr()
        norm = torch.from_numpy(matrix.power(2).sum(0)).sqrt()
        # The block's items are the targets, or the sources when pruning per source.
        power = 2 * config.asymmetry if config.prune == "target" else 2 - 2 * config.asymmetry
        row_norm, column_norm = norm**power, norm ** (2 - power)

        def rows(ids: Tensor) -> Tensor:
            together = torch.from_numpy((by_item[ids.numpy()] @ matrix).toarray())
            return together / (row_norm[ids][:, None] * column_norm + config.shrink + 1e-6)

        return rows

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def score(self, batch: Batch) -> Tensor:
        """Return float64 [T, N]; items that share no user with the history tie at 0 (or at their popularity)."""
        config, count = self.config, self.count.double()
        weight = recency_weight(batch.item_seq, batch.mask, decay=config.decay, distinct=config.distinct)
        scores = self.neighbours.score(batch.item_seq, weight * self.idf[batch.item_seq].double())
        if config.pop_weight:
            scores = scores + config.pop_weight * (count / count.max().clamp(min=1))[1:]
        return scores
