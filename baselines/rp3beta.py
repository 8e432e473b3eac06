"""RP3beta: Blockbusters and Wallflowers: Accurate, Diverse, and Scalable Recommendations with Random Walks.
Christoffel, Paudel, Newell, Bernstein, RecSys 2015, doi 10.1145/2792838.2800180;
with beta = 0 P3alpha: Cooper, Lee, Radzik, Siantos, WWW 2014 Companion.  No official code; read:
github.com/MaurizioFD/RecSys2019_DeepLearning_Evaluation @ f5618c6, Elliot @ fc27efe, WarpRec @ e00f8cc.

A walk goes from an item of the history to a user who took it, and on to another item of that user. The score is the
probability that it ends in an item, with each step raised to a power and popular ends pushed down: a closed form.

Axes: U users, N items, B items of a block, T histories, W width. X [U, N+1] holds the training events, d_u = items of
user u, n_i = users of item i.
Follows: walk() is P3alpha's transition matrix, W_ij = n_i^-alpha * sum of d_u^-alpha over users u with both i and j,
and RP3beta's re-ranking W_ij * n_j^-beta; score() sums the rows of W over the history.
Differences that matter, all others in the recipe:
 1. W is pruned once, to k targets of each source; the RecSys 2019 code and Elliot then prune by column too.
 2. The history is the evaluation input, so at test time it holds the validation event, as for sequential models.
 3. alpha = .3 and beta = .2; the usual 1 and .6 are 40 % worse on Amazon data (5-core).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.nn.interactions import Values, user_item_matrix
from mmbench.nn.neighbours import Neighbours, Prune, recency_weight
from mmbench.settings.config import Fraction, NonNegativeFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class RP3betaConfig:
    k: PositiveInt
    alpha: NonNegativeFloat  # power of the user's step 1/d_u, and of the source's 1/n_i
    alpha_source: NonNegativeFloat | None = None  # power of the source's step; None = alpha
    beta: NonNegativeFloat  # power of the target's 1/n_j; 0 = P3alpha
    normalise: bool  # the weights of each source sum to 1 after the pruning
    values: Values = "binary"  # "count": the user's step goes to an item in proportion to its events
    prune: Prune = "source"  # k targets of each history item, or k sources of each candidate
    self_sim: NonNegativeFloat = 0.0  # weight from an item to itself; 1 suits data with repeats
    decay: Fraction  # a history item counts decay^(events after it); 0 = the last item only
    distinct: bool = False  # an item counts once per history
    pop_weight: NonNegativeFloat = 0.0  # adds pop_weight * popularity (1 = the most popular) to every score


def power(counts: np.ndarray, exponent: float) -> np.ndarray:
    """Return counts^-exponent, and 0 where the count is 0: no walk passes there."""
    return np.where(counts > 0, np.maximum(counts, 1.0) ** -exponent, 0.0)


class RP3beta(Recommender[RP3betaConfig]):
    trainable = False
    deterministic = True
    count: Tensor

    def __init__(self, config: RP3betaConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        count = torch.bincount(catalog.train_items, minlength=catalog.n_items + 1)
        self.register_buffer("count", count)
        walk = self.walk(catalog)
        self.neighbours = Neighbours.build(
            # Rounding to float32 before the pruning makes weights equal that differ only in the order of a sum.
            lambda ids: walk(ids).float(),
            n_items=catalog.n_items,
            k=config.k,
            prune=config.prune,
            self_sim=config.self_sim,
            normalise=config.normalise,
        )

    def walk(self, catalog: Catalog) -> Callable[[Tensor], Tensor]:
        """Return the function ids [B] -> unpruned W, float64 [B, N+1].

        The ids are sources and the columns targets, or the reverse when pruning by target.
        """
        config = self.config
        counts = user_item_matrix(
            catalog.histories.users, catalog.train_items,
            n_users=catalog.n_users, n_items=catalog.n_items, values=config.values,
        )  # fmt: skip
        taken, step = counts.copy(), counts.copy()
        taken.data[:] = 1.0
        n_users = taken.sum(0)
        # The power applies to the stored entries, not to the matrix or the result.
        of_user = np.repeat(counts.sum(1), np.diff(counts.indptr))
        step.data = (counts.data / of_user) ** config.alpha
        alpha_source = config.alpha if config.alpha_source is None else config.alpha_source
        source, target = power(n_users, alpha_source), power(n_users, config.beta)
        if config.prune == "source":
            first, second, of_row, of_column = taken.T.tocsr(), step, source, target
        else:
            first, second, of_row, of_column = step.T.tocsr(), taken, target, source

        def rows(ids: Tensor) -> Tensor:
            together = (first[ids.numpy()] @ second).toarray()
            return torch.from_numpy(of_row[ids.numpy()][:, None] * together * of_column)

        return rows

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def score(self, batch: Batch) -> Tensor:
        """Return float64 [T, N]; items that no walk reaches tie at 0 (or at their popularity)."""
        config, count = self.config, self.count.double()
        weight = recency_weight(batch.item_seq, batch.mask, decay=config.decay, distinct=config.distinct)
        scores = self.neighbours.score(batch.item_seq, weight)
        if config.pop_weight:
            scores = scores + config.pop_weight * (count / count.max().clamp(min=1))[1:]
        return scores
