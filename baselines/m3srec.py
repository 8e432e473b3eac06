"""M3SRec: Multi-modal Mixture of Experts Representation Learning for Sequential Recommendation. Bian, Pan, Zhao, Wang,
Wang, Wen, CIKM 2023, doi 10.1145/3583780.3614978.  A RE-IMPLEMENTATION: the official repository
(github.com/RUCAIBox/M3SRec @ 7d1170f) is a README that promises code, and only the paper's abstract was open to us.

Id, text and picture of an item are three tokens. All tokens of a history pass through the same self-attention; experts
that belong to a modality follow ("specific" layers), then experts that all modalities share ("cross" layers). The score
sums a dot product per modality. In-batch contrasts tie each content state to the target's contents.

Axes: R rows, W width, M modalities in use (id first), D hidden, E experts, I their inner width, T targets, N items.
Follows: no printed equation. tables() makes the item vectors, tokens() the input, MixtureOfExperts, JointAttention and
Layer a layer, states() runs all layers, query()/item_table() and Fusion make the scores, contrasts() the pre-training
tasks.
The three differences that matter: (1) The paper is certain about two kinds of experts inside a Transformer and about a
pre-training that relates the history's modalities to the target; all else is a reconstruction, partly after an
independent re-implementation for click prediction. (2) Tokens see all tokens of the same and of earlier events (that
re-implementation is bidirectional), so that a single pass trains all positions of a history. (3) The pre-training
tasks are terms of the loss by default; `training = "two-stage"` trains on them first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender, Stage
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.grouped import GroupedLayerNorm, GroupedLinear
from mmbench.nn.layers import Attention, Dropout, check_heads, init_normal, take_grouped_slots, zero_padding
from mmbench.nn.losses import info_nce
from mmbench.settings.config import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)

CONTENT = ("text", "image")
PRETRAIN = "pretrain"


@dataclass(frozen=True, kw_only=True)
class M3SRecConfig(Sampling):
    loss: Loss = "ce"
    hidden_dim: PositiveInt
    inner_dim: PositiveInt  # belongs to each expert
    n_heads: PositiveInt
    n_specific_layers: NonNegativeInt
    n_cross_layers: NonNegativeInt
    n_experts: PositiveInt
    dropout: Probability
    attn_dropout: Probability
    score: Literal["sum", "attn"] = "sum"  # "attn": a dot product of fused vectors
    training: Literal["joint", "two-stage"] = "joint"
    contrast_weight: NonNegativeFloat  # lambda; joint training reads it
    temperature: PositiveFloat
    pretrain_epochs: PositiveInt = 30
    masked_share: Fraction = 0.0  # share of events that lose a modality's vector in pre-training
    use_text: bool = True
    use_image: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.hidden_dim, self.n_heads)
        if self.n_specific_layers + self.n_cross_layers == 0:
            raise ValueError("n_specific_layers and n_cross_layers are both 0; set one of them to 1 or more")


class MixtureOfExperts(nn.Module):
    """MoE(y) = sum_e p_e (W'_e gelu(W_e y + b_e) + b'_e), p = softmax(router(y)), with weights for each group.

    All experts run (no top-k), so they are two products: the probabilities scale the inner layers. A single expert is
    an ordinary feed-forward layer without a router.
    """

    def __init__(self, config: M3SRecConfig, n_groups: int) -> None:
        super().__init__()
        dim, n_experts, inner_dim = config.hidden_dim, config.n_experts, config.inner_dim
        self.shape = (n_groups, n_experts, dim)
        self.router = GroupedLinear(n_groups, dim, n_experts) if n_experts > 1 else None
        self.up = GroupedLinear(n_groups, dim, n_experts * inner_dim)
        self.down = GroupedLinear(n_groups, n_experts * inner_dim, dim, bias=False)
        self.down_bias = nn.Parameter(torch.zeros(n_groups * n_experts * dim))
        self.drop = Dropout(config.dropout)

    def forward(self, y: Tensor) -> Tensor:
        """y [G, n, D] -> [G, n, D]."""
        inner, bias = self.drop(F.gelu(self.up(y))), self.down_bias.view(self.shape)
        if self.router is not None:
            share = self.router(y).softmax(-1)  # [G, n, E]
            inner = (inner.unflatten(-1, (self.shape[1], -1)) * share[..., None]).flatten(-2)
            bias = share @ bias
        mixed: Tensor = self.down(inner) + bias
        return mixed


class JointAttention(Attention):
    """Self-attention among the tokens of all modalities in a row, with shared weights."""

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Mix x [M, R, W, D] under mask bool [R, M W, M W]: [M, R, W, D], or [M, T, D] at `slot`, flat in [R W]."""
        n_modalities, _, width, _ = x.shape
        heads = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))  # [M, R, W, 3, H, D/H]
        q, k, v = heads.permute(3, 1, 4, 0, 2, 5).contiguous().flatten(3, 4)  # each [R, H, M W, D/H]
        mixed = self.attend(q, k, v, mask).unflatten(1, (n_modalities, width)).transpose(0, 1)
        out: Tensor = self.out(take_grouped_slots(mixed, slot))
        return out


class Layer(nn.Module):
    """Y = LN(X + drop(attention(X))); X = LN(Y + drop(MoE(Y))).

    Experts and second norm belong to a modality (n_groups = M, "specific") or to all (n_groups = 1, "cross").
    """

    def __init__(self, config: M3SRecConfig, n_groups: int) -> None:
        super().__init__()
        dim, self.n_groups = config.hidden_dim, n_groups
        self.attention = JointAttention(dim, config.n_heads, config.attn_dropout)
        self.norm1 = nn.LayerNorm(dim, eps=1e-12)
        self.experts = MixtureOfExperts(config, n_groups)
        self.norm2 = GroupedLayerNorm(n_groups, dim, eps=1e-12)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the next layer's x [M, R, W, D] under mask bool [R, M W, M W], or [M, T, D] at `slot` [T] only."""
        y = self.norm1(take_grouped_slots(x, slot) + self.drop(self.attention(x, mask, slot)))
        grouped = y.reshape(self.n_groups, -1, y.shape[-1])
        out: Tensor = self.norm2(grouped + self.drop(self.experts(grouped))).view(y.shape)
        return out


class Fusion(nn.Module):
    """x [..., M, D] -> sum_m beta_m x_m [..., D], beta = softmax_m(w . tanh(W x_m + b))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map, self.weight = nn.Linear(dim, dim), nn.Linear(dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        share = self.weight(self.map(x).tanh()).softmax(-2)  # [..., M, 1]
        return (share * x).sum(-2)


class M3SRec(Recommender[M3SRecConfig]):
    def __init__(self, config: M3SRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim = config.hidden_dim
        read = {name: getattr(catalog, f"{name}_feat") for name in CONTENT if self.reads(config, name)}
        features = {name: feat for name, feat in read.items() if feat is not None}
        for name, feat in features.items():
            self.register_buffer(f"{name}_feat", feat, persistent=False)
        self.modalities = ("id", *features)
        self.ranked, self.stage = self.modalities, ""
        if config.training == "two-stage" and not features:
            raise ValueError(
                "pre-training relates texts and pictures to targets, and the model reads none; set training = joint, "
                "or make features with `mmbench extract DATASET`"
            )
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.modality_emb = nn.Embedding(len(self.modalities), dim)
        self.projections = nn.ModuleDict({name: nn.Linear(x.shape[1], dim) for name, x in features.items()})
        self.norm, self.drop = nn.LayerNorm(dim, eps=1e-12), Dropout(config.dropout)
        groups = [len(self.modalities)] * config.n_specific_layers + [1] * config.n_cross_layers
        self.layers = nn.ModuleList(Layer(config, n_groups) for n_groups in groups)
        if config.score == "attn":
            self.user_fusion, self.item_fusion = Fusion(dim), Fusion(dim)
        init_normal(self, std=0.02)
        zero_padding(self.item_emb)

    @classmethod
    def reads(cls, config: M3SRecConfig, modality: str) -> bool:
        return config.use_text if modality == "text" else config.use_image

    @property
    def needs(self) -> Needs:
        return Needs(samples=("all", "prefix", "last-window"), extras=self.next_item.extras)

    @property
    def stages(self) -> tuple[Stage, ...]:
        if self.config.training == "joint":
            return (Stage(),)
        return (Stage(name=PRETRAIN, epochs=self.config.pretrain_epochs), Stage())

    def start_stage(self, name: str) -> None:
        self.stage = name

    # -- forward ------------------------------------------------------------------------------------------

    def tables(self, ids: Tensor | None = None) -> Tensor:
        """Return q_m of the items `ids` [...], [..., M, D], or of the whole catalogue, [N + 1, M, D].

        A missing modality's vector is the bias of its projection.
        """
        sources = [self.item_emb.weight, *(getattr(self, f"{name}_feat") for name in self.modalities[1:])]
        vectors = sources if ids is None else [F.embedding(ids, source) for source in sources]
        content = zip(self.modalities[1:], vectors[1:], strict=True)
        return torch.stack([vectors[0], *(self.projections[name](x) for name, x in content)], -2)

    def tokens(self, items: Tensor, batch: Batch) -> Tensor:
        """Return drop(LN(q_m(S_t) + E_pos[t] + z_m)) of item vectors [R, W, M, D], as [M, R, W, D]."""
        x = items + self.position_emb(batch.position)[:, :, None] + self.modality_emb.weight
        dropped: Tensor = self.drop(self.norm(x.movedim(2, 0).contiguous()))
        return dropped

    def states(self, items: Tensor, batch: Batch) -> Tensor:
        """Return u_m at the slots, [M, T, D]; a token sees those of its event and of earlier events of its history."""
        x, n_modalities = self.tokens(items, batch), len(self.modalities)
        mask = batch.attention_mask(causal=True).repeat(1, n_modalities, n_modalities)
        for layer in self.layers[:-1]:
            x = layer(x, mask)
        last: Tensor = self.layers[-1](x, mask, batch.slot)
        return last

    def combine(self, vectors: Tensor, fusion: str) -> Tensor:
        """Return a factor of the score product, from vectors [..., M, D]: side by side, or fused."""
        if self.config.score == "attn":
            fused: Tensor = self.get_submodule(fusion)(vectors)
            return fused
        return torch.cat([vectors[..., self.modalities.index(name), :] for name in self.ranked], -1)

    def query(self, batch: Batch) -> Tensor:
        return self.combine(self.states(self.tables(batch.item_seq), batch).movedim(0, 1), "user_fusion")

    def item_table(self) -> Tensor:
        return self.combine(self.tables()[1:], "item_fusion")

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the modalities whose dot products are summed."""
        return self.modalities if self.config.score == "sum" and len(self.modalities) > 1 else ()

    @contextmanager
    def alone(self, part: str) -> Iterator[None]:
        before, self.ranked = self.ranked, (part,)
        try:
            yield
        finally:
            self.ranked = before

    # -- losses -------------------------------------------------------------------------------------------

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        is_pretraining, weight, tables = self.stage == PRETRAIN, self.config.contrast_weight, self.tables()
        items = F.embedding(batch.item_seq, tables.flatten(1)).unflatten(-1, tables.shape[1:])
        states = self.states(self.without_some(items) if is_pretraining else items, batch)
        if is_pretraining:
            return self.contrasts(states, tables, batch.target)
        query = self.combine(states.movedim(0, 1), "user_fusion")
        candidates = self.combine(tables[1:], "item_fusion")
        terms: dict[str, Tensor] = {self.config.loss: self.next_item(query, candidates, batch)}
        if self.config.training == "joint" and weight:
            terms |= {name: weight * x for name, x in self.contrasts(states, tables, batch.target).items()}
        return terms

    def contrasts(self, states: Tensor, tables: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return in-batch contrasts of the content states u_m [M, T, D] with the contents of the targets.

        "same"   sum over text and image of NCE(u_m, q_m(target))
        "cross"  NCE(u_text, q_image(target)) + NCE(u_image, q_text(target))
        Other targets that are the same item are not negatives.
        """
        n_content = len(self.modalities) - 1
        contents = F.embedding(target, tables.flatten(1)).unflatten(-1, tables.shape[1:]).movedim(1, 0)[1:]
        pairings = {"same": contents, "cross": contents.flip(0)}  # each [M - 1, T, D]
        settings: dict[str, Any] = {
            "temperature": self.config.temperature, "same": target[:, None] == target[None, :]
        }  # fmt: skip
        return {
            name: n_content * info_nce(states[1:], positive, **settings)
            for name, positive in list(pairings.items())[:n_content]
        }

    def without_some(self, items: Tensor) -> Tensor:
        """Zero the vector of a random modality in a random share of the events; items [R, W, M, D]."""
        if not self.config.masked_share:
            return items
        event, n_modalities = items.shape[:2], items.shape[2]
        is_masked = torch.rand(event, device=items.device) < self.config.masked_share
        drawn = (torch.rand(event, device=items.device) * n_modalities).long()
        modality = torch.arange(n_modalities, device=items.device)
        return items * ~(is_masked[..., None] & (drawn[..., None] == modality))[..., None]

    def extra_state(self) -> dict[str, Any]:
        return {"modalities": list(self.modalities)}
