"""TriMLP: A Foundational MLP-Like Architecture for Sequential Recommendation. Jiang, Xu, Yang, Yang, Wang, Li, Zhuang,
Xiong, ACM TOIS 42(6), 2024, doi 10.1145/3670995.  Official code: github.com/jiangyiheng1/TriMLP@999e23d.

Two triangular kernels mix a history along time, first all of it, then each of its sessions (stretches of equal length),
with the same weights for all channels, without LayerNorm, residuals or positions. A separate linear layer scores items.

Axes: R rows, W width, L = max_len, D hidden, T targets, N items.
Follows: the official code; TriangularMixer (mmbench/nn/mlp.py) is its mixer, query()/item_table() its output layer.
Differences: (1) The padding id is not a class of the softmax. (2) Kernel entries that are fixed at weight 0 are not
parameters; the official code keeps them at -1e9. (3) Every target of a history is trained on once, those beyond the
first L positions with a separate window; the official code cuts long histories into windows of L without overlap.
(4) Histories are shuffled, not sorted by length inside blocks of 100 batches. (5) Early stopping looks at the
validation item; the official code has no validation part and looks at the evaluation set. (6) L is the protocol's 50,
not 32, and so a session has 25 positions, not 16.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.layers import Dropout
from mmbench.nn.mlp import Activation, TriangularMixer
from mmbench.settings.config import PositiveInt, Probability


@dataclass(frozen=True, kw_only=True)
class TriMLPConfig(Sampling):
    loss: Loss = "ce"
    hidden_dim: PositiveInt
    n_sessions: PositiveInt  # must divide max_len
    dropout: Probability
    activation: Activation  # follows both kernels
    align: Literal["right", "left-pad"] = "right"  # "left-pad" ends every history at position L - 1


class TriMLP(Recommender[TriMLPConfig]):
    def __init__(self, config: TriMLPConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        # torch's initialisation everywhere: N(0, 1) for the table, uniform for the output; kernels start uniform.
        self.item_emb = nn.Embedding(catalog.n_items + 1, config.hidden_dim, padding_idx=0)
        self.drop = Dropout(config.dropout)
        self.mixer = TriangularMixer(
            max_len=catalog.max_len,
            n_sessions=config.n_sessions,
            activation=config.activation,
            align=config.align,
        )
        self.out = nn.Linear(config.hidden_dim, catalog.n_items)

    @property
    def needs(self) -> Needs:
        extras = self.next_item.extras
        if self.config.align == "left-pad":  # positions, and so kernels, depend on the row's length
            return Needs(layout="fixed", samples=("prefix", "last-window"), causal=False, extras=extras)
        return Needs(layout="padded", samples=("all", "prefix", "last-window"), extras=extras)

    def encode(self, batch: Batch) -> Tensor:
        """Return Z, the states of all positions [R, W, D]."""
        return self.mixer(self.drop(self.item_emb(batch.item_seq)), batch.mask)

    def query(self, batch: Batch) -> Tensor:
        """Return [T, D + 1], the last column of ones for the bias."""
        return F.pad(batch.at_slots(self.encode(batch)), (0, 1), value=1.0)

    def item_table(self) -> Tensor:
        return torch.cat([self.out.weight, self.out.bias[:, None]], 1)

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return the loss; only slots reach the output layer, because most of a padded batch predicts nothing."""
        state = batch.at_slots(self.encode(batch))
        return {self.config.loss: self.next_item(state, self.out.weight, batch, self.out.bias)}
