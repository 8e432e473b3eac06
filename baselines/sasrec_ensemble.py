"""SASRec ensemble: three SASRecs, over ids, texts and images, whose scores are added. A control of TMMSRec (Wang et
al., 2026, manuscript, sec. 3.7.4 and fig. 5), without equations or code; its members are Kang and McAuley's SASRec,
ICDM 2018, doi 10.1109/ICDM.2018.00035, in the form of their code, github.com/kang205/SASRec.

It asks how much of TMMSRec is only the sum of three models. The setting `training` reads that sum in two ways: a loss
of the summed score ("joint", as TMMSRec's eq. 14), or members that are trained in turn, each with a loss and early
stopping of its own ("separate"). modalities = ["id", "id", "id"] is an ensemble without additional information.

Axes: R rows, W width, D hidden, M members, T targets, K negatives, N items.
Follows: SASRecMember = SASRec variant B; query()/item_table() = the sum of scores as a product of concatenations;
loss() = TMMSRec eq. 14 (joint) or SASRec's loss of each member (separate).
Differences: (1) Features are divided by their mean norm, pass a linear map unless they are D wide, and are not scaled
by sqrt(D) as ids are (`feature_scale`): nothing is printed. (2) An item without a modality has the zero vector and
score 0 in it. (3) Histories lie on the left: the oldest kept item has position 0. (4) Users are shuffled, not drawn
with replacement. (5) Matrices start xavier-normal, as in TMMSRec's code; SASRec's are xavier-uniform (`init`).
(6) The members run in turn, not stacked.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog
from mmbench.models.ensemble import Ensemble, EnsembleConfig
from mmbench.models.needs import Needs, Negatives
from mmbench.nn.features import FeatureTable, look_up
from mmbench.nn.layers import Dropout, PreQueryEncoder, check_heads, zero_padding
from mmbench.nn.losses import bce, dots, pairs
from mmbench.settings.config import PositiveFloat, PositiveInt, Probability


@dataclass(frozen=True, kw_only=True)
class SASRecEnsembleConfig(EnsembleConfig):
    hidden_dim: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    dropout: Probability
    feature_scale: PositiveFloat = 1.0  # scales text and image vectors as inputs; ids have sqrt(hidden_dim)
    init: Literal["xavier-normal", "xavier-uniform"] = "xavier-normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.hidden_dim, self.n_heads)


class SASRecMember(nn.Module):
    """A SASRec over the item vectors of a modality."""

    def __init__(self, config: SASRecEnsembleConfig, catalog: Catalog, modality: str) -> None:
        super().__init__()
        dim, self.init = config.hidden_dim, config.init
        if modality == "id":
            self.items: nn.Module = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        else:
            feat, present = getattr(catalog, f"{modality}_feat"), getattr(catalog, f"has_{modality}")
            self.items = FeatureTable(feat, present, dim, keep_width=True, unit_norm=True)
        self.scale = dim**0.5 if modality == "id" else config.feature_scale
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.drop = Dropout(config.dropout)
        self.encoder = PreQueryEncoder(
            dim=dim, inner_dim=dim, n_layers=config.n_layers, n_heads=config.n_heads,
            dropout=config.dropout, project_out=False,
        )  # fmt: skip

    def restart(self) -> None:
        """Draw all weights again."""
        draw = nn.init.xavier_normal_ if self.init == "xavier-normal" else nn.init.xavier_uniform_
        for parameter in self.parameters():
            if parameter.dim() == 2:
                draw(parameter)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        if isinstance(self.items, nn.Embedding):
            zero_padding(self.items)

    def forward(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Return the states f at the slots of the batch, [T, D], from its item vectors [R, W, D]."""
        x = self.drop(vectors * self.scale + self.position_emb(batch.position))
        return self.encoder(x, batch.attention_mask(causal=True), batch.mask, batch.slot)


class SASRecEnsemble(Ensemble[SASRecEnsembleConfig]):
    def __init__(self, config: SASRecEnsembleConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog, SASRecMember)
        for _, member in self.members.active():
            member.restart()

    @property
    def needs(self) -> Needs:
        return Needs(samples=("last-window", "all", "prefix"), extras=(Negatives(),))

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        every = torch.arange(1, self.n_items + 1, device=batch.item_seq.device)
        return {
            name: member(batch, member.items(batch.item_seq)) @ member.items(every).T
            for name, member in self.members.active()
        }

    def query(self, batch: Batch) -> Tensor:
        states = [member(batch, member.items(batch.item_seq)) for _, member in self.members.active()]
        return torch.cat(states, dim=-1)

    def item_table(self) -> Tensor:
        every = torch.arange(1, self.n_items + 1, device=next(self.parameters()).device)
        return torch.cat([member.items(every) for _, member in self.members.active()], dim=-1)

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return -log sigma(r+) - log(1 - sigma(r-)) of the summed scores, or of each member's."""
        ids, scores = pairs(batch), {}
        for name, member in self.members.active():
            inputs, items = look_up(member.items, batch.item_seq, ids)
            scores[f"bce_{name}"] = dots(member(batch, inputs), items)  # [T, 1 + K]
        if self.config.training == "joint":
            scores = {"bce": torch.stack(list(scores.values())).sum(0)}
        return {term: bce(score[:, 0], score[:, 1:]) for term, score in scores.items()}
