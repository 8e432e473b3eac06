"""Random: a fixed pseudo-random score for each seed, user and item. No paper.

Expectation over seeds: HR@K = K / N, NDCG@K = (1 / N) sum of 1 / log2(r + 1) over r = 1..K, MRR@K = H_K / N.
If a report shows other values, its evaluation is wired wrongly.

Axes: T histories, N items.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs


@dataclass(frozen=True, kw_only=True)
class RandomConfig:
    """A configuration without settings."""


# Constants of the splitmix64 generator, as signed 64-bit integers (torch has no unsigned arithmetic).
STEP = 0x9E3779B97F4A7C15 - 2**64
FACTOR_1 = 0xBF58476D1CE4E5B9 - 2**64
FACTOR_2 = 0x94D049BB133111EB - 2**64


def mix_(x: Tensor) -> Tensor:
    """Apply the output function of splitmix64 to int64, in place; it is a bijection, overflow wraps around."""
    for shift, factor in ((30, FACTOR_1), (27, FACTOR_2), (31, 1)):
        low = (x >> shift).bitwise_and_(2 ** (64 - shift) - 1)  # a logical shift: no copies of the sign
        x.bitwise_xor_(low)
        if factor != 1:
            x.mul_(factor)
    return x


class Random(Recommender[RandomConfig]):
    trainable = False
    key: Tensor

    def __init__(self, config: RandomConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        # This is the only draw; torch's generator was seeded with the run's seed.
        self.register_buffer("key", torch.empty(1, dtype=torch.int64).random_(-(2**63), None))

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def score(self, batch: Batch) -> Tensor:
        """Return float64 [T, N] in [0, 1), multiples of 2^-53 that depend only on the key, the user and the item."""
        user = mix_(self.key + STEP * (batch.user + 1))
        item = mix_(STEP * torch.arange(1, self.n_items + 1, device=self.key.device))
        mixed = mix_(user[:, None] + item)
        return (mixed >> 11).bitwise_and_(2**53 - 1).double() * 2.0**-53
