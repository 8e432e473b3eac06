"""BPR-MF: Bayesian Personalized Ranking from Implicit Feedback. Rendle et al., UAI 2009, arXiv:1205.2618.
No official code; MyMediaLite is by the authors' group.

A vector per user and per item; a user's training items should score above other items. The order of events is ignored.

Axes: T triples (user u, training item i, negative j), K negatives, D width, N items, U users.
Follows: paper sec. 4.3.1 query()/item_table(), sec. 4.1 (BPR-Opt) loss().
Differences: (1) an epoch visits every training event once, shuffled; the paper draws triples with replacement.
(2) Adam instead of plain stochastic gradient descent (`optimizer = "sgd"`). (3) Fresh uniform negatives per visit;
they exclude the user's training items only, so a validation or test item may be drawn: excluding it would leak.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Negatives
from mmbench.nn.losses import bpr, dots, pairs
from mmbench.settings.config import NonNegativeFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class BPRMFConfig:
    hidden_dim: PositiveInt
    n_negatives: PositiveInt
    use_bias: bool
    init: Literal["normal", "xavier"]  # "normal" is N(0, 0.01^2), whatever the numbers of users and items
    reg: Literal["l2", "paper", "mmrec"]
    reg_weight: NonNegativeFloat  # lambda; "l2" and "mmrec" read it
    user_reg: NonNegativeFloat = 0.0  # lambda_W; "paper" reads it
    positive_reg: NonNegativeFloat = 0.0  # lambda_H+; "paper" reads it
    negative_reg: NonNegativeFloat = 0.0  # lambda_H-; "paper" reads it

    def __post_init__(self) -> None:
        separate = self.user_reg or self.positive_reg or self.negative_reg
        if separate and self.reg != "paper":
            raise ValueError(
                f"user_reg, positive_reg and negative_reg belong to reg = 'paper', not {self.reg!r}"
            )
        if self.reg == "paper" and self.reg_weight:
            raise ValueError(
                "reg = 'paper' takes user_reg, positive_reg and negative_reg instead of reg_weight"
            )


class BPRMF(Recommender[BPRMFConfig]):
    def __init__(self, config: BPRMFConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.user_emb = nn.Embedding(catalog.n_users, config.hidden_dim)
        self.item_emb = nn.Embedding(catalog.n_items + 1, config.hidden_dim, padding_idx=0)
        self.item_bias = nn.Embedding(catalog.n_items + 1, 1, padding_idx=0) if config.use_bias else None
        self._init_weights(catalog)

    def _init_weights(self, catalog: Catalog) -> None:
        for table in (self.user_emb, self.item_emb):
            if self.config.init == "xavier":
                nn.init.xavier_normal_(table.weight)
            else:
                nn.init.normal_(table.weight, std=0.01)
        if self.item_bias is not None:
            nn.init.zeros_(self.item_bias.weight)
        with torch.no_grad():
            self.item_emb.weight[0].zero_()
            # Users without a training event get no gradient: a zero vector ranks by the bias alone, not by noise.
            self.user_emb.weight[catalog.histories.n_events == 0] = 0.0

    @property
    def needs(self) -> Needs:
        extras = (Negatives(k=self.config.n_negatives),)
        return Needs(layout="padded", samples=("pairs",), causal=False, extras=extras)

    def query(self, batch: Batch) -> Tensor:
        state = self.user_emb(batch.user)
        return state if self.item_bias is None else F.pad(state, (0, 1), value=1.0)

    def item_table(self) -> Tensor:
        table = self.item_emb.weight[1:]
        return table if self.item_bias is None else torch.cat([table, self.item_bias.weight[1:]], 1)

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        ids = pairs(batch)  # [T, 1 + K]
        user, items = self.user_emb(batch.user), self.item_emb(ids)
        bias = None if self.item_bias is None else self.item_bias(ids)[..., 0]
        scores = dots(user, items) if bias is None else dots(user, items) + bias
        terms = {"bpr": bpr(scores[:, 0], scores[:, 1:])}
        penalty = self._penalty(user, items, bias)
        return terms if penalty is None else terms | {"reg": penalty}

    def _penalty(self, user: Tensor, items: Tensor, bias: Tensor | None) -> Tensor | None:
        """Return the penalty of user [T, D], and of items [T, 1 + K, D] and bias [T, 1 + K], targets first."""
        config, n = self.config, max(len(user), 1)
        if config.reg == "mmrec":  # plain norms, whose gradient has a constant length
            if not config.reg_weight:
                return None
            return config.reg_weight * (user.norm() + items[:, 0].norm() + items[:, 1:].norm()) / n
        separate = (config.user_reg, config.positive_reg, config.negative_reg)
        weights = separate if config.reg == "paper" else (config.reg_weight,) * 3
        if not any(weights):
            return None
        squares = items.square().sum(-1)  # [T, 1 + K]
        if bias is not None:
            squares = squares + bias.square()
        parts = (user.square().sum(), squares[:, 0].sum(), squares[:, 1:].sum())
        total = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum()
        return total / (2 * n)
