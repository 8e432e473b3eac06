"""gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative Sampling. Petrov and Macdonald,
RecSys 2023, arXiv 2308.07192.  Official code: github.com/asash/gSASRec-pytorch @7e35028 (PyTorch),
github.com/asash/gsasrec @9dd47e8 (TensorFlow).

SASRec with two changes: inputs and scores have separate item tables, and the loss is gBCE, a binary cross entropy with
many negatives whose positive term has a weight beta <= 1.

Axes: R rows, W width, D hidden, T targets, N items, K negatives.
Follows: paper sec. 3 (SASRec) encode(), query()/item_table(); sec. 5 (gBCE) loss() by mmbench.models.next_item,
beta by gbce_weight of mmbench.nn.sampled.
Differences: (1) gBCE uses softplus. The codes transform the positive score in float64 between clamps, beyond which it
has no gradient; so does GSASRecReleased, the variant as-released. (2) The sum over negatives is not
divided by K + 1, as in all losses here. (3) The oldest kept item has position 0; the codes pad on the left, so that the
newest has the last position (`positions = "left-padded"`).
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Samples
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.layers import Dropout, PreQueryEncoder, check_heads, init_normal, zero_padding
from mmbench.nn.positions import events_after
from mmbench.settings.config import PositiveInt, Probability


@dataclass(frozen=True, kw_only=True)
class GSASRecConfig(Sampling):
    loss: Loss
    reuse_item_embeddings: bool = False  # True: inputs and scores share a table
    positions: Literal["oldest-first", "left-padded"] = "oldest-first"
    hidden_dim: PositiveInt
    inner_dim: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    dropout: Probability  # is the rate everywhere

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.hidden_dim, self.n_heads)


class GSASRec(Recommender[GSASRecConfig]):
    def __init__(self, config: GSASRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim = config.hidden_dim
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.drop = Dropout(config.dropout)
        self.encoder = PreQueryEncoder(
            dim=dim, inner_dim=config.inner_dim, n_layers=config.n_layers, n_heads=config.n_heads,
            dropout=config.dropout, project_out=False, eps=1e-5,
        )  # fmt: skip
        if not config.reuse_item_embeddings:
            self.output_emb = nn.Embedding(catalog.n_items, dim)  # row i - 1 = item i
        self.next_item = NextItem(config.loss, config, catalog)
        init_normal(self, std=0.02)
        zero_padding(self.item_emb)

    @property
    def needs(self) -> Needs:
        samples: tuple[Samples, ...] = ("last-window", "all", "prefix")
        if self.config.positions == "left-padded":  # a state differs from that of its prefix
            samples = ("last-window", "prefix")
        return Needs(samples=samples, extras=self.next_item.extras)

    def encode(self, batch: Batch, slot: Tensor | None = None) -> Tensor:
        """Return the states of all positions [R, W, D], or only those at `slot` (flat in [R W]), [T, D]."""
        position = batch.position
        if self.config.positions == "left-padded":
            position = self.max_len - 1 - events_after(batch)
        x = self.drop(self.item_emb(batch.item_seq) + self.position_emb(position))
        return self.encoder(x, batch.attention_mask(causal=True), batch.mask, slot)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch, batch.slot)

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:] if self.config.reuse_item_embeddings else self.output_emb.weight

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        return {self.config.loss: self.next_item(self.query(batch), self.item_table(), batch)}
