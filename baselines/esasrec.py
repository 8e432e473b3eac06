"""eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion. Tikhonovich et al., RecSys 2025,
doi 10.1145/3705328.3759317, arXiv 2508.06450; LiGR layers of Borisyuk et al., arXiv 2502.03417.
Official code: github.com/blondered/transformer_benchmark @2b03992, on github.com/MobileTeleSystems/RecTools @41a5a63.

SASRec's shifted sequence, gated LiGR layers, and a sampled softmax with 256 uniform negatives for each target.

Axes: R rows, W width, D hidden, F inner width, T targets, N items, K negatives.
Follows: the code, because the paper prints no equations of its layers: encode() x = Drop(E'[s] + P),
LiGRBlock.forward() a LiGR layer, SwiGLU.forward() its SwiGLU, table() E', query()/item_table() the score, loss() the
sampled softmax of mmbench.models.next_item.
Differences: (1) the oldest kept item has position 0. The code counts from the newest, so that each new event moves all
others and no pass over a history gives the states of its prefixes (`positions = "newest-first"`, exact with
`samples` last-window and prefix only). (2) Negatives of the mixed variants are drawn by popularity instead of from the
distinct items of the batch, and logq is corrected with the probability of being drawn. (3) Steps count targets.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Samples
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.layers import Attention, Dropout, check_heads, dropout, take_slots, zero_padding
from mmbench.nn.positions import events_after
from mmbench.settings.config import PositiveInt, Probability


@dataclass(frozen=True, kw_only=True)
class ESASRecConfig(Sampling):
    loss: Loss
    positions: Literal["oldest-first", "newest-first"] = "oldest-first"
    use_dropped_table: bool = True  # dropout hides entries of the item table, the same in inputs and scores
    hidden_dim: PositiveInt
    inner_dim: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    dropout: Probability  # is the rate everywhere

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.hidden_dim, self.n_heads)


class SwiGLU(nn.Module):
    """W_2 drop( SiLU(W_1 h) * (W_3 h) ), without biases."""

    def __init__(self, dim: int, inner_dim: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * inner_dim, bias=False)  # W_1 above W_3
        self.down = nn.Linear(inner_dim, dim, bias=False)
        self.drop = Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        gate, value = self.up(h).chunk(2, -1)
        mixed: Tensor = self.down(self.drop(F.silu(gate) * value))
        return mixed


class LiGRBlock(nn.Module):
    """Pre-norm attention and SwiGLU, each behind a gate that reads its input without normalisation.

    x = x + sigma(x W_g1 + b_g1) * drop(attention(LN(x)));  x = x + sigma(x W_g2 + b_g2) * drop(SwiGLU(LN(x)))
    """

    def __init__(self, config: ESASRecConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, config.n_heads, config.dropout)
        self.feed_forward = SwiGLU(dim, config.inner_dim, config.dropout)
        self.gate1, self.gate2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the next layer's x [R, W, D] under mask bool [R, W, W], or [T, D] at `slot` [T] only."""
        mixed = self.drop(self.attention(self.norm1(x), mask, slot))
        x = take_slots(x, slot)
        x = x + torch.sigmoid(self.gate1(x)) * mixed
        return x + torch.sigmoid(self.gate2(x)) * self.drop(self.feed_forward(self.norm2(x)))


class ESASRec(Recommender[ESASRecConfig]):
    def __init__(self, config: ESASRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.item_emb = nn.Embedding(catalog.n_items + 1, config.hidden_dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, config.hidden_dim)
        self.drop = Dropout(config.dropout)
        self.blocks = nn.ModuleList(LiGRBlock(config) for _ in range(config.n_layers))
        self.next_item = NextItem(config.loss, config, catalog)
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw Xavier-normal matrices as the code does, W_1 and W_3 separately; biases are torch's."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                for matrix in parameter.data.chunk(2 if name.endswith("up.weight") else 1):
                    nn.init.xavier_normal_(matrix)
            elif name.endswith(("qkv.bias", "out.bias")):
                nn.init.zeros_(parameter)
        zero_padding(self.item_emb)

    @property
    def needs(self) -> Needs:
        samples: tuple[Samples, ...] = ("last-window", "all", "prefix")
        if self.config.positions == "newest-first":  # a state differs from that of its prefix
            samples = ("last-window", "prefix")
        return Needs(samples=samples, extras=self.next_item.extras)

    def table(self) -> Tensor:
        """Return E' [N + 1, D], the vectors of this step."""
        rate = self.config.dropout if self.config.use_dropped_table else 0.0
        return dropout(self.item_emb.weight, rate, self.training)

    def encode(self, batch: Batch, table: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the states of all positions [R, W, D], or only those at `slot` (flat in [R W]), [T, D]."""
        position = batch.position if self.config.positions == "oldest-first" else events_after(batch)
        x = self.drop(F.embedding(batch.item_seq, table) + self.position_emb(position))
        mask = batch.attention_mask(causal=True)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        state: Tensor = self.blocks[-1](x, mask, slot)
        return state

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch, self.table(), batch.slot)

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        table = self.table()
        state = self.encode(batch, table, batch.slot)
        return {self.config.loss: self.next_item(state, table[1:], batch)}
