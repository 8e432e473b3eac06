"""SASRec ensemble: three SASRecs, over ids, texts and images, whose scores are added. A control of TMMSRec (Wang et
al., 2026, manuscript, sec. 3.7.4 and fig. 5), without equations or code; its members are Kang and McAuley's SASRec,
ICDM 2018, doi 10.1109/ICDM.2018.00035, in the form of their code, github.com/kang205/SASRec.

It asks how much of TMMSRec is only the sum of three models. Setting `training` has two readings of that sum: one loss
on it ("joint", as TMMSRec's eq. 14), or members that are trained one after another, each with its own loss and early
stopping ("separate"). modalities = ["id", "id", "id"] is an ensemble without more information.

Axes: R rows, W width, D hidden, M members, T targets, K negatives, N items.
Follows: SASRecMember = SASRec variant B; query()/item_table() = the sum of scores as one product of concatenations;
loss() = TMMSRec eq. 14 (joint) or SASRec's loss of each member (separate).
Differences: (1) Features are divided by their mean norm, pass a linear map unless they are D wide, and are not scaled
by sqrt(D) as ids are (`feature_scale`): nothing is printed. (2) An item without a modality has the zero vector and
score 0 there. (3) Histories lie on the left: the oldest kept item has position 0. (4) Users are shuffled, not drawn
with replacement. (5) Matrices start xavier-normal, as in TMMSRec's code; SASRec's are xavier-uniform (`init`).
(6) The members run one after another, not stacked into one.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmbench.config import PositiveFloat, PositiveInt, Probability
from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Needs, Recommender, Stage
from mmbench.nn.ensemble import Combine, Members, combine_scores, member_names
from mmbench.nn.features import FeatureTable, available
from mmbench.nn.layers import Dropout, PreQueryEncoder
from mmbench.nn.losses import bce


@dataclass(frozen=True, kw_only=True)
class SASRecEnsembleConfig:
    modalities: tuple[Literal["id", "text", "image"], ...] = (
        "id",
        "text",
        "image",
    )  # a repeat is one member more
    training: Literal["joint", "separate"] = "joint"
    combine: Combine = "sum"  # at ranking; TMMSRec: plain sum
    hidden_dim: PositiveInt = 128  # TMMSRec sec. 3.4, of the baselines
    n_layers: PositiveInt = 2  # SASRec
    n_heads: PositiveInt = 1  # SASRec
    dropout: Probability = 0.5  # SASRec, sparse data
    feature_scale: PositiveFloat = (
        1.0  # of text and image vectors at the encoder's input; ids: sqrt(hidden_dim)
    )
    init: Literal["xavier-normal", "xavier-uniform"] = "xavier-normal"

    def __post_init__(self) -> None:
        if self.hidden_dim % self.n_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not divisible by n_heads {self.n_heads}")
        if not self.modalities:
            raise ValueError("modalities must name at least one of id, text, image")


class SASRecMember(nn.Module):
    """One SASRec over one modality's item vectors, with parameters of its own."""

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

    def init_weights(self) -> None:
        draw = nn.init.xavier_normal_ if self.init == "xavier-normal" else nn.init.xavier_uniform_
        for parameter in self.parameters():
            if parameter.dim() == 2:
                draw(parameter)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        if isinstance(self.items, nn.Embedding):
            with torch.no_grad():
                self.items.weight[0].zero_()

    def forward(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Item vectors of the batch [R, W, D] -> states f at its slots [T, D]."""
        x = self.drop(vectors * self.scale + self.position_emb(batch.position))
        return self.encoder(x, batch.attention_mask(causal=True), batch.mask, batch.slot)


class SASRecEnsemble(Recommender[SASRecEnsembleConfig]):
    def __init__(self, config: SASRecEnsembleConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        modalities = available(config.modalities, text=catalog.text_feat, image=catalog.image_feat)
        names = zip(member_names(modalities), modalities, strict=True)
        self.members = Members((name, SASRecMember(config, catalog, modality)) for name, modality in names)
        for _, member in self.members.asked():
            member.init_weights()

    @classmethod
    def reads(cls, config: SASRecEnsembleConfig, modality: str) -> bool:
        return modality in config.modalities

    @property
    def needs(self) -> Needs:
        return Needs(samples=("last-window", "all", "prefix"), n_negatives=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        if self.config.training == "joint":
            return (Stage(),)
        return tuple(Stage(name=name) for name in self.members)

    def start_stage(self, name: str) -> None:
        """A member starts from draws of its stage, which do not depend on what the other members are."""
        if name in self.members:
            self.members.start(name).init_weights()  # type: ignore[operator]

    def start_epoch(self, epoch: int) -> None:
        self.members.start_epoch()

    def extra_state(self) -> dict[str, Any]:
        """The members, and the share of items that have no vector in a member."""
        tables = {name: one.items for name, one in self.members.asked() if hasattr(one.items, "present")}
        absent = {name: 1 - one.present[1:].double().mean().item() for name, one in tables.items()}
        return {"members": list(self.members), "share_without": absent}

    @property
    def is_dot_product(self) -> bool:
        return self.config.combine == "sum"

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        """r of each member, [T, N]; their spread over items says whose opinion decides the sum."""
        every = torch.arange(1, self.n_items + 1, device=batch.item_seq.device)
        return {
            name: member(batch, member.items(batch.item_seq)) @ member.items(every).T
            for name, member in self.members.asked()
        }

    def score(self, batch: Batch) -> Tensor:
        return combine_scores(list(self.member_scores(batch).values()), self.config.combine)

    def query(self, batch: Batch) -> Tensor:
        states = [one(batch, one.items(batch.item_seq)) for _, one in self.members.asked()]
        return torch.cat(states, dim=-1)

    def item_table(self) -> Tensor:
        every = torch.arange(1, self.n_items + 1, device=next(self.parameters()).device)
        return torch.cat([one.items(every) for _, one in self.members.asked()], dim=-1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """-log sigma(r+) - log(1 - sigma(r-)) of the summed scores, or of each member's own."""
        assert batch.target is not None
        assert batch.negatives is not None
        parts = (batch.item_seq, batch.target, batch.negatives)
        ids = torch.cat([one.flatten() for one in parts])
        found = {}
        for name, member in self.members.asked():
            split = member.items(ids).split(
                [one.numel() for one in parts]
            )  # one look-up of all ids of the step
            inputs, positive, negative = (
                one.unflatten(0, part.shape) for one, part in zip(split, parts, strict=True)
            )
            state = member(batch, inputs)
            found[name] = (state * positive).sum(-1), torch.einsum("td,tkd->tk", state, negative)
        if self.config.training == "separate":
            return {f"bce_{name}": bce(*scores) for name, scores in found.items()}
        positive, negative = (torch.stack(one).sum(0) for one in zip(*found.values(), strict=True))
        return {"bce": bce(positive, negative)}
