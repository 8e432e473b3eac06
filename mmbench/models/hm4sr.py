"""HM4SR: Hierarchical Time-Aware Mixture of Experts for Multi-Modal Sequential Recommendation.
Zhang, Chen, Shen, Wang, Xiong, WWW 2025, doi 10.1145/3696410.3714676.
Official code: github.com/SStarCCat/HM4SR @ f1c0a15 (a RecBole fork); its slips are in hm4sr_released.py.

Three views of each item (id, text, image) are mixed by experts that see all three (Interactive MoE), scaled by experts
that a gate on time weighs (Temporal MoE), and read by a Transformer each. The score is the sum of three dot products.
Three auxiliary losses predict categories (CP), pull user and target ids together (IDCL), and teach the encoders what
time alone tells (PCL).

Axes: R rows, W width, M modalities in use (id first), D hidden, E experts, T targets, N items, C categories.
Follows: eq. 2-3 are the frozen features, 4-5 tables(), 6 fuse(), 7-10 InteractiveMoE(), 11-13 TimeEncoding(),
14-16 TemporalMoE(), 17-18 ModalityEncoder() and encode(), 19 query() and item_table(), 20-27 loss(): 21-22
category_term(), 23 and 25-26 contrast(), 24 with_placeholders().
Differences that matter (hm4sr.toml lists all, with their switches):
(1) samples: a single pass trains all positions of a history, equal to a sample per prefix; PCL draws a mask for each
    prefix, as the code does, or for each history, which is much faster (`pcl_mask = "shared"`).
(2) category loss (eq. 22): the mean over real items x classes, where an item counts once for each prefix that contains
    it; the paper sums (`category_loss = "sum"`).
(3) phase of the absolute time (eq. 13): inside the frequency, as in the code; the paper has it outside (`phase`).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Prefixes
from mmbench.models.next_item import Loss, NextItem
from mmbench.models.transformer import TransformerConfig
from mmbench.nn.calendar import DAY, day_of_year
from mmbench.nn.grouped import GroupedLayerNorm, GroupedLinear, Linear
from mmbench.nn.layers import Dropout, init_normal, take_rows, zero_padding
from mmbench.nn.losses import info_nce
from mmbench.nn.recompute import both_states, states_at
from mmbench.settings.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt

CONTENT = ("text", "image")


@dataclass(frozen=True, kw_only=True)
class HM4SRConfig(TransformerConfig):
    loss: Loss = "ce"
    n_interactive_experts: PositiveInt  # k1
    n_temporal_experts: PositiveInt  # k2
    alpha_id: float  # initial alpha_m of eq. 8
    alpha_text: float
    alpha_image: float
    interval_scale: PositiveFloat  # mu of eq. 12
    frequency: PositiveFloat  # freq of eq. 13
    temperature: PositiveFloat  # tau of eq. 23
    placeholder_share: Fraction  # beta
    category_weight: NonNegativeFloat  # lambda_1
    idcl_weight: NonNegativeFloat  # lambda_2
    pcl_weight: NonNegativeFloat  # lambda_3
    use_interactive_moe: bool = True
    use_temporal_moe: bool = True  # False switches PCL off too
    use_category: bool = True
    use_idcl: bool = True
    use_pcl: bool = True
    use_text: bool = True
    use_image: bool = True
    time_encoding: Literal["both", "interval", "absolute", "day", "day-of-year", "cos"] = "both"  # fig. 5
    interval_log: Literal["log2", "ln"] = "log2"
    phase: Literal["inside", "outside"] = "inside"  # z_i of eq. 13: inside or outside the frequency
    category_loss: Literal["mean", "sum"] = "mean"  # over items and classes
    same_user: Literal["negatives", "removed"] = "negatives"  # how IDCL and PCL treat a user's other targets
    pcl_mask: Literal["exact", "shared"] = "exact"  # draws for each prefix, or for each history


class InteractiveMoE(nn.Module):
    """Eq. 7-10. Every expert reads all modalities; each modality has a gate of its own."""

    def __init__(self, dim: int, n_experts: int, alphas: list[float]) -> None:
        super().__init__()
        n_modalities = len(alphas)
        self.n_experts, self.shape = n_experts, (n_modalities, dim)
        # A single map holds all experts: k1 x (M D -> M D); its M slices are eq. 8's W_{i,m}.
        self.experts = Linear(n_modalities * dim, n_experts * n_modalities * dim)
        self.gates = GroupedLinear(n_modalities, dim, n_experts)
        self.alpha = nn.Parameter(torch.tensor(alphas))

    def forward(self, e: Tensor) -> Tensor:
        """Map e [R, W, M, D] to e' [R, W, M, D]."""
        out = self.experts(e.flatten(-2)).unflatten(-1, (self.n_experts, *self.shape))  # [R, W, E, M, D]
        gate = self.gates(e.movedim(-2, 0)).softmax(-1).movedim(0, -2)  # eq. 9  [R, W, M, E]
        mixed = torch.einsum("rwme,rwemd->rwmd", gate, out)
        return e + self.alpha[:, None] * mixed  # eq. 8, 10


class Angle(nn.Module):
    """Eq. 13, cos of a learned linear function of seconds. Seconds are ~1e9, so the phase needs float64."""

    rates: Tensor  # freq^(-i/d), float64 [D]

    def __init__(self, dim: int, *, frequency: float, inside: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))  # l_i, the code's Linear(1 -> d)
        self.bias = nn.Parameter(torch.empty(dim))  # z_i
        self.inside = inside
        rates = frequency ** (-torch.arange(dim, dtype=torch.float64) / dim)
        self.register_buffer("rates", rates, persistent=False)

    def reset(self) -> None:
        """Draw the weights again."""
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def argument(self, seconds: Tensor) -> Tensor:
        """Return the argument of the cosine at seconds int64 [...], modulo 2 pi, float64 [..., D]."""
        return self.linear(seconds, torch.float64).remainder(2 * math.pi)

    def linear(self, seconds: Tensor, precision: torch.dtype) -> Tensor:
        """Return the argument of the cosine at seconds int64 [...], computed in a precision, [..., D]."""
        slope, shift, rates = (part.to(precision) for part in (self.weight, self.bias, self.rates))
        angle = slope * seconds[..., None].to(precision)
        return (angle + shift) * rates if self.inside else angle * rates + shift

    def forward(self, seconds: Tensor) -> Tensor:
        """Return the cosine at seconds int64 [...], [..., D]."""
        return self.argument(seconds).to(self.weight.dtype).cos()


class TimeEncoding(nn.Module):
    """Eq. 11-13 and the four alternatives of fig. 5: times of a batch -> [R, W, `width`].

    Tables are as long as training needs; longer intervals and later days share the last row.
    """

    def __init__(self, config: HM4SRConfig, catalog: Catalog, angle: type[Angle] = Angle) -> None:
        super().__init__()
        dim, kind = config.hidden_dim, config.time_encoding
        self.kind, self.scale = kind, config.interval_scale
        self.log = torch.log2 if config.interval_log == "log2" else torch.log
        times = catalog.train_times
        self.first_day = int(times.min()) // DAY
        if kind in ("both", "interval"):
            n_rows = int(self.interval_row(catalog.histories.longest_gap)) + 1
            self.interval_emb = nn.Embedding(n_rows, dim)  # M_t
        if kind in ("both", "absolute"):
            self.absolute = angle(dim, frequency=config.frequency, inside=config.phase == "inside")
        if kind == "cos":
            self.cosine = angle(dim, frequency=1.0, inside=True)
        if kind in ("day", "day-of-year"):
            n_days = 366 if kind == "day-of-year" else int(times.max()) // DAY - self.first_day + 1
            self.day_emb = nn.Embedding(n_days, dim)
        self.width = 2 * dim if kind == "both" else dim

    def interval_row(self, interval: Tensor) -> Tensor:
        """Eq. 12: pos_i of intervals a_i in seconds, int64 [...]; an interval of 0 has row 0."""
        return (self.scale * self.log(interval.double() + 1)).floor().long()

    def forward(self, batch: Batch) -> Tensor:
        parts = []
        if self.kind in ("both", "interval"):
            row = self.interval_row(batch.interval).clamp(max=self.interval_emb.num_embeddings - 1)
            parts.append(self.interval_emb(row))  # r_1
        if self.kind in ("both", "absolute"):
            parts.append(self.absolute(batch.time_seq))  # r_2
        if self.kind == "cos":
            parts.append(self.cosine(batch.interval))
        if self.kind in ("day", "day-of-year"):
            day = batch.time_seq.div(DAY, rounding_mode="floor")
            day = day_of_year(day) if self.kind == "day-of-year" else day - self.first_day
            parts.append(self.day_emb(day.clamp(0, self.day_emb.num_embeddings - 1)))
        return torch.cat(parts, -1)


class TemporalMoE(nn.Module):
    """Eq. 14-16. A gate on time mixes k2 vectors that scale the items' dimensions; no residual."""

    experts: Tensor  # W_i^temp, [k2, M D]

    def __init__(self, time_width: int, n_scaled: int, n_experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(time_width, n_experts)
        self.experts = nn.Parameter(0.1 * torch.randn(n_experts, n_scaled))

    def forward(self, e: Tensor, time: Tensor) -> Tensor:
        """e' [R, W, M, D], time [R, W, time width] -> x^temp [R, W, M, D]."""
        weight = self.gate(time).softmax(-1) @ self.experts  # [R, W, M D]
        return weight.unflatten(-1, e.shape[-2:]) * e


class ModalityEncoder(nn.Module):
    """Eq. 17-18 for several modalities together: each has a norm, dropout and a Transformer."""

    def __init__(self, config: HM4SRConfig, n_modalities: int) -> None:
        super().__init__()
        self.norm = GroupedLayerNorm(n_modalities, config.hidden_dim, eps=1e-12)
        self.drop = Dropout(config.dropout)
        self.transformer = config.encoder(n_groups=n_modalities)

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None) -> Tensor:
        """Return H^m of x [R, W, M, D], mask bool [R, W, W]: [M, T, D] at `slot` [T] of [R W], else [M, R, W, D]."""
        return self.transformer(self.drop(self.norm(x.movedim(2, 0))), mask, slot)


class HM4SR(Recommender[HM4SRConfig]):
    def __init__(self, config: HM4SRConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim = config.hidden_dim
        features = {name: getattr(catalog, f"{name}_feat") for name in CONTENT if self.reads(config, name)}
        features = {name: feat for name, feat in features.items() if feat is not None}
        self.modalities = ["id", *features]
        for name, feat in features.items():
            self.register_buffer(f"{name}_feat", feat, persistent=False)
        n_modalities = len(self.modalities)

        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.projections = nn.ModuleDict(
            {name: Linear(feat.shape[1], dim) for name, feat in features.items()}
        )
        self.use_pcl = config.use_pcl and config.use_temporal_moe and n_modalities > 1
        # All modalities are encoded together; with PCL the id is apart, because content is encoded a second time.
        self.group_sizes = [1, n_modalities - 1] if self.use_pcl else [n_modalities]
        self.encoders = nn.ModuleList(ModalityEncoder(config, n) for n in self.group_sizes)
        if config.use_temporal_moe:
            self.time = self.make_time(catalog)
            self.temporal = self.make_temporal(n_modalities * dim)
        self._init_weights()
        # The released code initialises the modules above; those below keep PyTorch's defaults.
        if config.use_interactive_moe:
            alphas = [getattr(config, f"alpha_{name}") for name in self.modalities]
            self.interactive = InteractiveMoE(dim, config.n_interactive_experts, alphas)
        self.use_category = config.use_category and catalog.n_categories > 0
        if self.use_category:
            self.register_buffer("categories", catalog.category_matrix(), persistent=False)
            self.categories: Tensor
            self.category_head = nn.Linear(n_modalities * dim, catalog.n_categories)
        if self.use_pcl:
            self.placeholders = nn.Linear(self.time.width, (n_modalities - 1) * dim)  # W_{P,m} of all content

    def make_time(self, catalog: Catalog) -> TimeEncoding:
        return TimeEncoding(self.config, catalog)

    def make_temporal(self, n_scaled: int) -> TemporalMoE:
        return TemporalMoE(self.time.width, n_scaled, self.config.n_temporal_experts)

    def _init_weights(self) -> None:
        init_normal(self, std=0.02)
        for module in self.modules():
            if isinstance(module, Angle):
                module.reset()
        zero_padding(self.item_emb)

    @classmethod
    def reads(cls, config: HM4SRConfig, modality: str) -> bool:
        if modality == "time":
            return config.use_temporal_moe
        return config.use_text if modality == "text" else config.use_image

    @property
    def needs(self) -> Needs:
        extras = (Prefixes(),) if self.use_pcl and self.config.pcl_mask == "exact" else ()
        return Needs(samples=("all", "prefix", "last-window"), extras=(*extras, *self.next_item.extras))

    # -- score --------------------------------------------------------------------------------------------

    def tables(self, ids: Tensor | None = None) -> Tensor:
        """Return x_m (eq. 4-5) of the items `ids` [...], [..., M, D], or of the whole catalogue, [N + 1, M, D]."""
        x = [self.item_emb.weight, *(getattr(self, f"{name}_feat") for name in self.modalities[1:])]
        x = x if ids is None else [F.embedding(ids, table) for table in x]
        content = zip(self.modalities[1:], x[1:], strict=True)
        return torch.stack([x[0], *(self.projections[name](feat) for name, feat in content)], -2)

    def fuse(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return x^temp [R, W, M, D] (eq. 6-16) of x [R, W, M, D], and [r_1; r_2] [R, W, width] or None."""
        e = x + self.position_emb(batch.position)[:, :, None]  # eq. 6
        if self.config.use_interactive_moe:
            e = self.interactive(e)
        if not self.config.use_temporal_moe:
            return e, None
        time = self.time(batch)
        return self.temporal(e, time), time

    def encode(self, x: Tensor, mask: Tensor, slot: Tensor) -> Tensor:
        """Return H^m at the slots (eq. 17-18), [M, T, D], of x^temp [R, W, M, D]."""
        parts = zip(self.encoders, x.split(self.group_sizes, 2), strict=True)
        return torch.cat([encoder(part, mask, slot) for encoder, part in parts])

    def query(self, batch: Batch) -> Tensor:
        """Return H^m of all modalities side by side, [T, M D]: a single product then sums the modalities (eq. 19)."""
        x, _ = self.fuse(self.tables(batch.item_seq), batch)
        return side_by_side(self.encode(x, batch.attention_mask(causal=True), batch.slot))

    def item_table(self) -> Tensor:
        return self.tables()[1:].flatten(1)

    # -- losses -------------------------------------------------------------------------------------------

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return the weighted terms of eq. 27."""
        config, tables = self.config, self.tables()
        items = F.embedding(batch.item_seq, tables.flatten(1)).unflatten(-1, tables.shape[1:])
        mask = batch.attention_mask(causal=True)
        x, time = self.fuse(items, batch)
        states, placeholder_states = self.encode_for_loss(x, time, mask, batch)
        terms: dict[str, Tensor] = {
            config.loss: self.next_item(side_by_side(states), tables[1:].flatten(1), batch)  # eq. 20
        }
        if self.use_category:
            terms["cp"] = config.category_weight * self.category_term(tables, items, mask, batch)
        same = self.not_negatives(batch)
        if config.use_idcl:  # eq. 23
            ids = self.item_emb(batch.target)
            terms["idcl"] = config.idcl_weight * self.contrast(states[0], ids, same, config.temperature)
        if placeholder_states is not None:  # eq. 25-26
            terms["pcl"] = config.pcl_weight * self.contrast(states[1:], placeholder_states, same, 1.0)
        return terms

    def category_term(self, tables: Tensor, items: Tensor, mask: Tensor, batch: TrainBatch) -> Tensor:
        """Return eq. 21-22 over the items of every prefix, `items` [R, W, M, D]; an item counts once per prefix."""
        # The weight of an event is the number of prefixes, one for each target, that contain it.
        slots = torch.zeros_like(batch.item_seq, dtype=tables.dtype).flatten().scatter(0, batch.slot, 1.0)
        weight = (slots.view_as(batch.item_seq)[:, None] @ mask.to(tables.dtype))[:, 0] * batch.mask  # [R, W]
        logits = self.category_head(items.flatten(-2))  # eq. 21
        entropy = F.binary_cross_entropy_with_logits(
            logits, self.categories[batch.item_seq], reduction="none"
        )
        if self.config.category_loss == "sum":
            return (entropy.sum(-1) * weight).sum() / len(batch.slot)
        return (entropy.mean(-1) * weight).sum() / weight.sum()

    def not_negatives(self, batch: TrainBatch) -> Tensor:
        """Return which pairs of targets are not negatives of each other: equal, or of one user; bool [T, T]."""
        same = batch.target[:, None] == batch.target[None, :]
        if self.config.same_user == "removed":
            same |= batch.user[:, None] == batch.user[None, :]
        return same

    def contrast(self, anchor: Tensor, positive: Tensor, same: Tensor, temperature: float) -> Tensor:
        """Return InfoNCE of states [T, D] (eq. 23), or of [M - 1, T, D], averaged over modalities (eq. 25-26)."""
        return info_nce(anchor, positive, temperature=temperature, same=same)

    def encode_for_loss(
        self, x: Tensor, time: Tensor | None, mask: Tensor, batch: TrainBatch
    ) -> tuple[Tensor, Tensor | None]:
        """Return H^m [M, T, D], and the content's H^{m,1} with placeholders, [M - 1, T, D], or None without PCL."""
        if not self.use_pcl or time is None:
            return self.encode(x, mask, batch.slot), None
        x_id, content = x.split(self.group_sizes, 2)
        augmented = self.with_placeholders(content, time, mask, batch)
        original, placeholder_states = both_states(self.encoders[1], (content, mask, batch.slot), augmented)
        return torch.cat([states_at(self.encoders[0], x_id, mask, batch.slot), original]), placeholder_states

    def with_placeholders(
        self, content: Tensor, time: Tensor, mask: Tensor, batch: TrainBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Replace a share beta of each history's content [R, W, M - 1, D] by placeholders that read time alone, eq. 24.

        Return rows, their attention mask and slots. With "exact" a row is the history of a target, with separate draws.
        """
        placeholder = self.placeholders(time).unflatten(-1, content.shape[2:])
        share = self.config.placeholder_share
        if self.config.pcl_mask == "shared":
            is_replaced = choose_share(batch.segment, share)[..., None, None]
            return torch.where(is_replaced, placeholder, content), mask, batch.slot
        prefixes = batch.prefixes
        # The first half holds the contents, the second the placeholders of the same positions.
        both = torch.cat([content.flatten(0, 1), placeholder.flatten(0, 1)])  # [2 R W, M - 1, D]
        source = prefixes.source + choose_share(prefixes.segment, share) * batch.item_seq.numel()
        return take_rows(both, source), prefixes.attention_mask(), prefixes.slot

    def extra_state(self) -> dict[str, object]:
        return {"modalities": self.modalities, "category_prediction": self.use_category, "pcl": self.use_pcl}


def side_by_side(states: Tensor) -> Tensor:
    """Return [T, M D] of states [M, T, D]."""
    return states.movedim(0, 1).flatten(1)


def choose_share(segment: Tensor, share: float) -> Tensor:
    """Draw floor(length * share) positions of every history; segment int64 [R, W] -> bool [R, W]."""
    same = segment[:, :, None] == segment[:, None, :]
    draw = torch.rand(segment.shape, device=segment.device)
    rank = (same & (draw[:, None, :] < draw[:, :, None])).sum(-1)  # of each draw within its history
    # 1e-9: 0.3 * 10 must be 3 although 0.3 has no exact binary form.
    return (segment > 0) & (rank < (same.sum(-1).double() * share + 1e-9).floor())
