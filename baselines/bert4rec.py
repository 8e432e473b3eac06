"""BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer. Sun et al.,
CIKM 2019, doi 10.1145/3357384.3357895.  Official code: github.com/FeiSun/BERT4Rec (TensorFlow 1).
Replication study: Petrov and Macdonald, RecSys 2022, doi 10.1145/3523227.3548487.

A bidirectional Transformer learns to fill in masked items of a history; to recommend, it fills in a [MASK] after the
last item.

Axes: R rows, W width, D hidden, P masked positions of a step, T histories, N items; the mask token is id N + 1.
Follows: paper sec. 3.3-3.4 (layers, embeddings) encode(), sec. 3.5 (output layer) head(), sec. 3.6 (cloze task)
draw_mask() and loss().
Differences: (1) Every step draws new masks, where the official code makes ten copies before training. (2) The training
sequence ends with the last training item; the official code puts the validation item back. (3) A row per user, its
newest max_len items; the official code adds sliding windows over longer histories. (4) No token-type embedding, which
is a constant vector. (5) Inference keeps a history whole when it fits: the mask follows its last item. (6) The softmax
is over items only, without the special tokens. (7) No linear decay of the learning rate; Adam's bias correction is on.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, SlotAfter
from mmbench.models.transformer import TransformerSizes
from mmbench.nn.layers import Dropout, zero_padding
from mmbench.nn.losses import cross_entropy
from mmbench.settings.config import Fraction


@dataclass(frozen=True, kw_only=True)
class BERT4RecConfig(TransformerSizes):
    mask_ratio: Fraction  # rho
    last_only: Fraction  # share of histories with only the last item masked


def draw_mask(batch: Batch, *, mask_ratio: float, last_only: float) -> Tensor:
    """Draw which items become [MASK], bool [R, W]: at least one per history, never padding.

    With probability `last_only` only the last item of a history is masked. Else an item is masked if its uniform draw
    is below `mask_ratio`; the smallest draw of a history always masks, so a short history that would have no mask
    loses an item, chosen uniformly.
    """
    index = batch.mask.flatten().nonzero()[
        :, 0
    ]  # of the real items in order; those of a history are adjacent
    is_first = batch.position.flatten()[index] == 0
    history = is_first.cumsum(0) - 1
    is_last = torch.cat([is_first[1:], is_first.new_ones(1)])[: len(index)]
    n_histories = int(is_first.sum())
    draw = torch.rand(len(index), device=index.device)
    smallest = draw.new_full((n_histories,), 1.0).scatter_reduce(0, history, draw, "amin")
    chosen = (draw < mask_ratio) | (draw == smallest[history])
    only_last = torch.rand(n_histories, device=index.device) < last_only
    chosen = torch.where(only_last[history], is_last, chosen)
    return torch.zeros_like(batch.mask).flatten().index_put((index,), chosen).view_as(batch.mask)


class BERT4Rec(Recommender[BERT4RecConfig]):
    def __init__(self, config: BERT4RecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        if catalog.max_len < 2:
            raise ValueError(
                f"max_len {catalog.max_len} leaves no room for an item beside the [MASK]; use at least 2"
            )
        dim = config.hidden_dim
        self.item_emb = nn.Embedding(catalog.n_items + 2, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.norm, self.drop = nn.LayerNorm(dim, eps=1e-12), Dropout(config.dropout)
        self.encoder = config.encoder()
        self.head_map, self.head_norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-12)
        self.item_bias = nn.Parameter(torch.zeros(catalog.n_items))
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        zero_padding(self.item_emb)

    @property
    def needs(self) -> Needs:
        """Return the needs; not stackable, because a seed's draws decide how many items of a step are masked."""
        return Needs(samples=("sequence",), causal=False, stackable=False, extras=(SlotAfter(1),))

    def encode(self, batch: Batch, masked: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the states [R, W, D], or [T, D] at `slot` only, with the items `masked` bool [R, W] hidden."""
        items = batch.item_seq.masked_fill(masked, self.n_items + 1)
        x = self.drop(self.norm(self.item_emb(items) + self.position_emb(batch.position)))
        return self.encoder(x, batch.attention_mask(causal=False), slot)

    def head(self, hidden: Tensor) -> Tensor:
        """Return the vectors [.., D] that meet the item embeddings, from hidden [.., D]."""
        return self.head_norm(F.gelu(self.head_map(hidden)))

    def query(self, batch: Batch) -> Tensor:
        # In evaluation the engine leaves an empty slot after each history, its only slot without an item.
        hidden = self.encode(batch, batch.mask & (batch.item_seq == 0), batch.slot)
        return F.pad(self.head(hidden), (0, 1), value=1.0)

    def item_table(self) -> Tensor:
        return torch.cat([self.item_emb.weight[1:-1], self.item_bias[:, None]], 1)

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        masked = draw_mask(batch, mask_ratio=self.config.mask_ratio, last_only=self.config.last_only)
        hidden = self.head(self.encode(batch, masked, masked.flatten().nonzero()[:, 0]))  # [P, D]
        return {
            "ce": cross_entropy(hidden, self.item_emb.weight[1:-1], batch.item_seq[masked], self.item_bias)
        }
