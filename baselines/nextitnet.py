"""NextItNet: A Simple Convolutional Generative Network for Next Item Recommendation. Yuan et al., WSDM 2019,
doi 10.1145/3289600.3290975.  Official code: github.com/fajieyuan/WSDM2019-nextitnet (TensorFlow 1).

A stack of dilated causal convolutions with residuals reads the item ids of a history, without position
embeddings. Two output layers go by this name: "toolbox" (default; RecBole's: a linear map, then the input table)
and "official" (a separate output table with a bias).

Axes: R rows, W width, D channels, T targets, N items, S sampled items.
Follows: the paper's dilated layers and residual blocks `mmbench.nn.convolution`, its output layer query() and
item_table(), its training loss().
Differences: (1) states are read at the last real item; RecBole pads on the right and reads position L - 1, which is
padding for most histories. (2) Padding is not a class of the softmax, and convolutions never read it; the official
code treats the zeros on the left as tokens and targets. (3) toolbox: trained on all positions of a history in a single
pass, like the official code; equal in loss and gradient to RecBole's prefixes (`samples = "prefix"`).
(4) sampled-ce draws items uniformly and without replacement; the official code leaves this to TensorFlow, whose
default is log-uniform over ids and so supposes ids sorted by popularity. (5) No copies of sequences shifted to the
right: all prefixes are trained on anyway. (6) The rate `dropout` (on the embeddings) is added here; 0 as published.
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
from mmbench.nn.convolution import BlockKind, CausalConvEncoder
from mmbench.nn.layers import Dropout, take_slots, zero_padding
from mmbench.nn.losses import item_scores
from mmbench.settings.config import NonNegativeFloat, PositiveInt, Probability


@dataclass(frozen=True, kw_only=True)
class NextItNetConfig(Sampling):
    network: Literal["toolbox", "official"] = "toolbox"
    loss: Loss | Literal["sampled-ce"] = "ce"  # "bce": SASRec's, for TMMSRec fig. 6
    hidden_dim: PositiveInt
    kernel_size: PositiveInt
    dilations: tuple[PositiveInt, ...]
    n_blocks: PositiveInt  # how often the list of dilations is repeated
    block: BlockKind  # "bottleneck" is block (a), the other block (b)
    dropout: Probability = 0.0  # applies to the embeddings
    sampled_share: Probability = 0.2  # share of the items that sampled-ce draws
    reg_weight: NonNegativeFloat  # weighs plain norms: table, output map, convolutions, LayerNorms

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dilations:
            raise ValueError("dilations must list at least one dilation, e.g. [1, 4]")
        if self.block == "bottleneck" and self.hidden_dim % 2:
            raise ValueError(f"block = 'bottleneck' halves hidden_dim, which is odd: {self.hidden_dim}")


class NextItNet(Recommender[NextItNetConfig]):
    def __init__(self, config: NextItNetConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim = config.hidden_dim
        self.is_official = config.network == "official"
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.drop = Dropout(config.dropout)
        self.encoder = CausalConvEncoder(
            dim=dim, n_blocks=config.n_blocks, dilations=config.dilations, kernel_size=config.kernel_size,
            kind=config.block,
        )  # fmt: skip
        if self.is_official:
            self.out_table = nn.Parameter(torch.empty(catalog.n_items, dim))
            self.item_bias = nn.Parameter(torch.empty(catalog.n_items))
        else:
            self.out = nn.Linear(dim, dim)
        kind: Loss = "ce" if config.loss == "sampled-ce" else config.loss
        self.next_item = NextItem(kind, config, catalog)
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw weights; toolbox: torch's default for convolutions, official: normal within two deviations of 0.02."""
        if self.is_official:
            truncated = [self.item_emb.weight]
            for linear in (module for module in self.encoder.modules() if isinstance(module, nn.Linear)):
                truncated.append(linear.weight)
                nn.init.zeros_(linear.bias)
            if self.config.loss == "sampled-ce":
                nn.init.normal_(self.out_table, std=0.01)
                nn.init.constant_(self.item_bias, 0.1)
            else:  # the full softmax is another convolution in the official code
                truncated.append(self.out_table)
                nn.init.zeros_(self.item_bias)
            for weight in truncated:
                nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)
        else:
            bound = (self.n_items + 1) ** -0.5
            nn.init.uniform_(self.item_emb.weight, -bound, bound)
            nn.init.xavier_normal_(self.out.weight)
            nn.init.constant_(self.out.bias, 0.1)
        zero_padding(self.item_emb)

    @property
    def needs(self) -> Needs:
        return Needs(samples=("all", "prefix", "last-window"), extras=self.next_item.extras)

    def encode(self, batch: Batch) -> Tensor:
        """Return the states of all positions, [R, W, D]."""
        return self.encoder(self.drop(self.item_emb(batch.item_seq)), batch.position)

    def state(self, batch: Batch) -> Tensor:
        """Return the states at the slots that item vectors meet, [T, D]."""
        hidden = take_slots(self.encode(batch), batch.slot)
        if not self.is_official:
            return self.out(hidden)
        return hidden if self.config.loss == "sampled-ce" else F.relu(hidden)

    def query(self, batch: Batch) -> Tensor:
        state = self.state(batch)
        return F.pad(state, (0, 1), value=1.0) if self.is_official else state

    def item_table(self) -> Tensor:
        if self.is_official:
            return torch.cat([self.out_table, self.item_bias[:, None]], 1)
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        kind, query, table = self.config.loss, self.query(batch), self.item_table()
        if kind == "sampled-ce":
            terms = {"sampled-ce": self._sampled(query, table, batch.target)}
        else:
            terms = {kind: self.next_item(query, table, batch)}
        if self.config.reg_weight:
            terms["reg"] = self.config.reg_weight * self._norms()
        return terms

    def _sampled(self, query: Tensor, table: Tensor, target: Tensor) -> Tensor:
        """Return the cross entropy against S items that the step's targets share; a target is not its own negative."""
        n_sampled = max(int(self.config.sampled_share * self.n_items), 1)
        drawn = torch.randperm(self.n_items, device=query.device)[:n_sampled]
        positive = item_scores(query, table, target[:, None])  # [T, 1]
        others = (query @ F.embedding(drawn, table).T).masked_fill(
            drawn == target[:, None] - 1, float("-inf")
        )
        return (torch.cat([positive, others], 1).logsumexp(1) - positive[:, 0]).mean()

    def _norms(self) -> Tensor:
        """Return the sum of the plain Frobenius norms of tables, output map, convolutions and LayerNorms."""
        outputs = [self.out_table] if self.is_official else [self.out.weight]
        weights = [self.item_emb.weight, *outputs]
        weights += [
            parameter for name, parameter in self.encoder.named_parameters() if name.endswith("weight")
        ]
        return torch.stack([weight.norm() for weight in weights]).sum()
