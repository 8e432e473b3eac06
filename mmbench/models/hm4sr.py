"""HM4SR: Hierarchical Time-Aware Mixture of Experts for Multi-Modal Sequential Recommendation.
Zhang, Chen, Shen, Wang, Xiong, WWW 2025.  Official code: github.com/SStarCCat/HM4SR @ f1c0a15 (a RecBole fork).

Three views of each item (id, text, image) are mixed by experts that see all three (Interactive MoE), scaled by
experts that a gate on time chooses (Temporal MoE), and read by one Transformer each. The score is the sum of
three dot products. Three auxiliary losses predict categories (CP), pull user and target ids together (IDCL) and
teach the encoders what time alone says (PCL).

Axes: R rows, W width, M modalities in use (id first), D hidden, E experts, T targets, N items, C categories.
Follows: eq. 4-6 tables()/embed(), 7-10 InteractiveMoE, 11-14 TimeEncoding, 15-16 TemporalMoE, 17-18
ModalityEncoder, 19 query()/item_table(), 20-27 loss(), 24-25 replaced().
Differences from the paper (P) and the released code (C), with the setting that brings the other behaviour back:
 1. Temporal experts are trained (P); C never registers them: `temporal_experts = "frozen"`.
 2. Interval positions use log2 (C); P prints log: `interval_log = "ln"`.
 3. The phase b_j stands inside the frequency (C); P prints it outside: `phase = "outside"`.
 4. CP is the mean over real items x classes (C's intention); P sums: `category_loss = "sum"`; C reads the entry
    (sample number, position number) instead of (item, class): `category_loss = "as-released"`.
 5. Samples with the same target are no negatives of each other: out of the denominator here; C sets their logit
    to 0, which leaves exp(0) in the sum: `same_target = "zero-logit"`. P does not say.
 6. The phase w*t + b is computed in float64 and reduced mod 2 pi; C rounds it in float32 (a step of 128 s
    in t alone): `absolute_time = "float32"`.
 7. Intervals and days are counted over training events; longer ones share the last row. C uses all events.
 8. IDCL and PCL weights are settings (P); C fixes IDCL's at 1.
 9. All positions of a history are trained in one pass, with CP weighted so that an item counts once per prefix;
    `samples = "prefix"` is the literal procedure, "last-window" takes the newest max_len only. PCL draws a mask per
    prefix as C does; `pcl_mask = "shared"` draws one per history, which is much faster. Targets of one user often
    share a step then and are negatives in IDCL and PCL, as in C, where that is rare; `same_user = "removed"`.
10. The padding id is no class of the softmax.  11. A data set without one modality runs without it, and one
    without categories runs without CP; the result says so.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Needs, Recommender
from mmbench.nn.calendar import DAY, day_of_year
from mmbench.nn.grouped import GroupedLayerNorm, GroupedLinear
from mmbench.nn.layers import Dropout, PostNormEncoder, check_heads, init_normal, take_rows, zero_padding
from mmbench.nn.losses import cross_entropy, info_nce
from mmbench.settings.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Probability

CONTENT = ("text", "image")


@dataclass(frozen=True, kw_only=True)
class HM4SRConfig:
    hidden_dim: PositiveInt = 64  # d, sec. 5.1.4
    inner_dim: PositiveInt = 256  # released config
    n_layers: PositiveInt = 2  # released config
    n_heads: PositiveInt = 2  # released config
    dropout: Probability = 0.5  # released config
    attn_dropout: Probability = 0.5  # released config
    n_interactive_experts: PositiveInt = 4  # k1, sec. 5.1.4
    n_temporal_experts: PositiveInt = 4  # k2, sec. 5.1.4
    alpha_id: float = 0.0  # initial alpha_m, released Games config
    alpha_text: float = 1.0
    alpha_image: float = 1.0
    interval_scale: PositiveFloat = 100.0  # mu of eq. 12, released code
    frequency: PositiveFloat = 10_000.0  # freq of eq. 13, released code
    temperature: PositiveFloat = 0.2  # tau of eq. 23, released Games config
    placeholder_share: Fraction = 0.3  # beta, released Games config
    category_weight: NonNegativeFloat = 1.0  # lambda_1
    idcl_weight: NonNegativeFloat = 1.0  # lambda_2, grid .25..1.5
    pcl_weight: NonNegativeFloat = 1.0  # lambda_3, grid .1..1.5
    use_interactive_moe: bool = True
    use_temporal_moe: bool = True
    use_category: bool = True
    use_idcl: bool = True
    use_pcl: bool = True
    use_text: bool = True
    use_image: bool = True
    time_encoding: Literal["both", "interval", "absolute", "day", "day-of-year", "cos"] = "both"
    temporal_experts: Literal["trained", "frozen"] = "trained"
    interval_log: Literal["log2", "ln"] = "log2"
    phase: Literal["inside", "outside"] = "inside"
    absolute_time: Literal["float64", "float32"] = "float64"
    category_loss: Literal["mean", "sum", "as-released"] = "mean"
    same_target: Literal["removed", "zero-logit"] = "removed"
    same_user: Literal["negatives", "removed"] = "negatives"
    pcl_mask: Literal["exact", "shared"] = "exact"

    def __post_init__(self) -> None:
        check_heads(self.hidden_dim, self.n_heads)


class InteractiveMoE(nn.Module):
    """Eq. 7-10. Every expert reads all modalities; each modality has its own gate."""

    def __init__(self, dim: int, n_experts: int, alphas: list[float]) -> None:
        super().__init__()
        n_modalities = len(alphas)
        self.n_experts, self.shape = n_experts, (n_modalities, dim)
        # One map holds all experts: k1 x (M D -> M D); its M slices are eq. 8's W_{i,m}.
        self.experts = nn.Linear(n_modalities * dim, n_experts * n_modalities * dim)
        self.gates = GroupedLinear(n_modalities, dim, n_experts)
        self.alpha = nn.Parameter(torch.tensor(alphas))

    def forward(self, e: Tensor) -> Tensor:
        """e [R, W, M, D] -> [R, W, M, D]."""
        out = self.experts(e.flatten(-2)).unflatten(-1, (self.n_experts, *self.shape))  # [R, W, E, M, D]
        gate = self.gates(e.movedim(-2, 0)).softmax(-1).movedim(0, -2)  # [R, W, M, E]
        mixed = torch.einsum("rwme,rwemd->rwmd", gate, out)
        return e + self.alpha[:, None] * mixed


class Angle(nn.Module):
    """cos of a learned linear function of seconds. Seconds are ~1e9, so the phase needs float64."""

    def __init__(self, dim: int, *, frequency: float, inside: bool, exact: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))  # w_j, the code's Linear(1 -> d)
        self.bias = nn.Parameter(torch.empty(dim))  # b_j
        self.inside, self.exact = inside, exact
        rates = frequency ** (-torch.arange(dim, dtype=torch.float64) / dim)
        self.register_buffer("rates", rates, persistent=False)
        self.rates: Tensor

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, seconds: Tensor) -> Tensor:
        """int64 [...] -> [..., D]."""
        kind = torch.float64 if self.exact else torch.float32
        w, b, rates = self.weight.to(kind), self.bias.to(kind), self.rates.to(kind)
        phase = w * seconds[..., None].to(kind)
        phase = (phase + b) * rates if self.inside else phase * rates + b
        if self.exact:
            phase = phase.remainder(2 * math.pi)
        return phase.to(self.weight.dtype).cos()


class TimeEncoding(nn.Module):
    """Eq. 11-13 and the four alternatives of fig. 5: [R, W] times -> [R, W, `width`]."""

    def __init__(self, config: HM4SRConfig, catalog: Catalog) -> None:
        super().__init__()
        dim, kind = config.hidden_dim, config.time_encoding
        self.kind, self.scale = kind, config.interval_scale
        self.log = torch.log2 if config.interval_log == "log2" else torch.log
        exact = config.absolute_time == "float64"
        times = catalog.train_times
        self.first_day = int(times.min()) // DAY
        if kind in ("both", "interval"):
            self.interval_emb = nn.Embedding(int(self._row(longest_interval(catalog))) + 1, dim)
        if kind in ("both", "absolute"):
            self.absolute = Angle(
                dim, frequency=config.frequency, inside=config.phase == "inside", exact=exact
            )
        if kind == "cos":
            self.cosine = Angle(dim, frequency=1.0, inside=True, exact=exact)
        if kind in ("day", "day-of-year"):
            n_days = 366 if kind == "day-of-year" else int(times.max()) // DAY - self.first_day + 1
            self.day_emb = nn.Embedding(n_days, dim)
        self.width = 2 * dim if kind == "both" else dim

    def _row(self, interval: Tensor) -> Tensor:
        """Eq. 12; an interval of 0 has row 0."""
        return (self.scale * self.log(interval.double() + 1)).floor().long()

    def forward(self, batch: Batch) -> Tensor:
        parts = []
        if self.kind in ("both", "interval"):
            row = self._row(batch.interval).clamp(max=self.interval_emb.num_embeddings - 1)
            parts.append(self.interval_emb(row))  # r1
        if self.kind in ("both", "absolute"):
            parts.append(self.absolute(batch.time_seq))  # r2
        if self.kind == "cos":
            parts.append(self.cosine(batch.interval))
        if self.kind in ("day", "day-of-year"):
            day = batch.time_seq.div(DAY, rounding_mode="floor")
            day = day_of_year(day) if self.kind == "day-of-year" else day - self.first_day
            parts.append(self.day_emb(day.clamp(0, self.day_emb.num_embeddings - 1)))
        return torch.cat(parts, -1)


def longest_interval(catalog: Catalog) -> Tensor:
    """Seconds between neighbours of one user's training events, the largest; int64 scalar."""
    gaps = catalog.train_times.diff()[catalog.train_users.diff() == 0]
    return gaps.max().clamp(min=0) if len(gaps) else torch.zeros((), dtype=torch.int64)


class TemporalMoE(nn.Module):
    """Eq. 14-16. A gate on time mixes k2 vectors that scale the items' dimensions; no residual."""

    def __init__(self, width: int, dim: int, n_experts: int, *, trained: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(width, n_experts)
        experts = 0.1 * torch.randn(n_experts, dim)
        if trained:
            self.experts = nn.Parameter(experts)
        else:
            self.register_buffer("experts", experts)

    def forward(self, e: Tensor, time: Tensor) -> Tensor:
        """e [R, W, M, D], time [R, W, width] -> [R, W, M, D]."""
        weight = self.gate(time).softmax(-1) @ self.experts  # [R, W, M D]
        return weight.unflatten(-1, e.shape[-2:]) * e


class ModalityEncoder(nn.Module):
    """Eq. 17-18 for some modalities at once: a norm, dropout and a Transformer for each."""

    def __init__(self, config: HM4SRConfig, n_modalities: int) -> None:
        super().__init__()
        self.norm = GroupedLayerNorm(n_modalities, config.hidden_dim, eps=1e-12)
        self.drop = Dropout(config.dropout)
        self.transformer = PostNormEncoder(
            dim=config.hidden_dim, inner_dim=config.inner_dim, n_layers=config.n_layers, n_heads=config.n_heads,
            dropout=config.dropout, attn_dropout=config.attn_dropout, n_groups=n_modalities,
        )  # fmt: skip

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """x [R, W, M, D], mask bool [R, W, W] -> [M, R, W, D], or at `slot` only [M, T, D]."""
        return self.transformer(self.drop(self.norm(x.movedim(2, 0))), mask, slot)


class HM4SR(Recommender[HM4SRConfig]):
    def __init__(self, config: HM4SRConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim = config.hidden_dim
        read = {name: getattr(catalog, f"{name}_feat") for name in CONTENT if self.reads(config, name)}
        features = {name: feat for name, feat in read.items() if feat is not None}
        self.modalities = ["id", *features]
        for name, feat in features.items():
            self.register_buffer(f"{name}_feat", feat, persistent=False)
        width = len(self.modalities) * dim

        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.projections = nn.ModuleDict(
            {name: nn.Linear(feat.shape[1], dim) for name, feat in features.items()}
        )
        self.use_pcl = config.use_pcl and config.use_temporal_moe and len(self.modalities) > 1
        # All modalities are encoded at once; with PCL the id by itself, because content is encoded a second time.
        self.together = [1, len(self.modalities) - 1] if self.use_pcl else [len(self.modalities)]
        self.encoders = nn.ModuleList(ModalityEncoder(config, n) for n in self.together)
        if config.use_temporal_moe:
            self.time = TimeEncoding(config, catalog)
            trained = config.temporal_experts == "trained"
            self.temporal = TemporalMoE(self.time.width, width, config.n_temporal_experts, trained=trained)
        self._init_weights()
        # The released code initialises what exists at this line; the modules below keep PyTorch's own.
        if config.use_interactive_moe:
            alphas = [getattr(config, f"alpha_{name}") for name in self.modalities]
            self.interactive = InteractiveMoE(dim, config.n_interactive_experts, alphas)
        self.use_category = config.use_category and catalog.n_categories > 0
        if self.use_category:
            self.register_buffer("categories", catalog.category_matrix(), persistent=False)
            self.categories: Tensor
            self.category_head = nn.Linear(width, catalog.n_categories)
        if self.use_pcl:
            self.placeholders = nn.Linear(self.time.width, width - dim)  # of all content at once

    def _init_weights(self) -> None:
        init_normal(self, std=0.02)
        for module in self.modules():
            if isinstance(module, Angle):
                module.reset()
        zero_padding(self.item_emb)

    @classmethod
    def reads(cls, config: HM4SRConfig, modality: str) -> bool:
        return config.use_text if modality == "text" else config.use_image

    @property
    def needs(self) -> Needs:
        prefixes = self.use_pcl and self.config.pcl_mask == "exact"
        return Needs(samples=("all", "prefix", "last-window"), prefixes=prefixes)

    # -- forward ------------------------------------------------------------------------------------------

    def tables(self, ids: Tensor | None = None) -> Tensor:
        """Eq. 4-5: x_m of the items `ids` [...] -> [..., M, D], or of the whole catalogue, [N + 1, M, D]."""
        x = [self.item_emb.weight, *(getattr(self, f"{name}_feat") for name in self.modalities[1:])]
        x = x if ids is None else [F.embedding(ids, one) for one in x]
        x[1:] = [self.projections[name](one) for name, one in zip(self.modalities[1:], x[1:], strict=True)]
        return torch.stack(x, -2)

    def fuse(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Eq. 6-16: x [R, W, M, D] -> x^temp [R, W, M, D] and the time embedding [R, W, width] or None."""
        e = x + self.position_emb(batch.position)[:, :, None]
        if self.config.use_interactive_moe:
            e = self.interactive(e)
        if not self.config.use_temporal_moe:
            return e, None
        return self.temporal(e, time := self.time(batch)), time

    def states(self, x: Tensor, mask: Tensor, slot: Tensor) -> Tensor:
        """Eq. 17-18: x [R, W, M, D] -> H^m at the slots, [M, T, D]."""
        parts = x.split(self.together, 2)
        return torch.cat([run(part, mask, slot) for run, part in zip(self.encoders, parts, strict=True)])

    def query(self, batch: Batch) -> Tensor:
        x, _ = self.fuse(self.tables(batch.item_seq), batch)
        return self.states(x, batch.attention_mask(causal=True), batch.slot).movedim(0, 1).flatten(1)

    def item_table(self) -> Tensor:
        return self.tables()[1:].flatten(1)

    # -- losses -------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 27."""
        config, target, tables = self.config, batch.target, self.tables()
        assert target is not None
        items = F.embedding(batch.item_seq, tables.flatten(1)).unflatten(-1, tables.shape[1:])
        mask = batch.attention_mask(causal=True)
        states, replaced = self.states_twice(*self.fuse(items, batch), mask, batch)
        query = states.movedim(0, 1).flatten(1)
        terms = {"ce": cross_entropy(query, tables[1:].flatten(1), target)}  # eq. 20
        if self.use_category:
            terms["cp"] = config.category_weight * self.category_term(tables, items, mask, batch)
        same = target[:, None] == target[None, :]
        if config.same_user == "removed":
            same |= batch.user[:, None] == batch.user[None, :]
        if config.use_idcl:  # eq. 23
            ids = self.item_emb(target)
            terms["idcl"] = config.idcl_weight * self.contrast(states[0], ids, same, config.temperature)
        if replaced is not None:  # eq. 26
            terms["pcl"] = config.pcl_weight * self.contrast(states[1:], replaced, same, 1.0)
        return terms

    def contrast(self, anchor: Tensor, positive: Tensor, same: Tensor, temperature: float) -> Tensor:
        logit = 0.0 if self.config.same_target == "zero-logit" else None
        return info_nce(anchor, positive, temperature=temperature, same=same, same_logit=logit)

    def category_term(self, tables: Tensor, items: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Eq. 21-22 over every item of every prefix, `items` [R, W, M, D]; it counts once per prefix it stands in."""
        if self.config.category_loss == "as-released":
            return self._category_as_released(tables, batch)
        slots = torch.zeros_like(batch.item_seq, dtype=tables.dtype).flatten().scatter(0, batch.slot, 1.0)
        weight = (slots.view_as(batch.item_seq)[:, None] @ mask.to(tables.dtype))[:, 0] * batch.mask  # [R, W]
        logits = self.category_head(items.flatten(-2))
        each = F.binary_cross_entropy_with_logits(logits, self.categories[batch.item_seq], reduction="none")
        if self.config.category_loss == "sum":
            return (each.sum(-1) * weight).sum() / len(batch.slot)
        return (each.mean(-1) * weight).sum() / weight.sum()

    def _category_as_released(self, tables: Tensor, batch: Batch) -> Tensor:
        """The released slip: for sample b and position l it reads row b of the flattened [B L, C] scores, class l."""
        n_samples, last = len(batch.slot), batch.position.view(-1)[batch.slot]
        row = torch.arange(n_samples, device=last.device)
        sample, place = row // self.max_len, row % self.max_len
        flat = batch.slot[sample] - last[sample] + place
        inside = place <= last[sample]
        item = torch.where(inside, batch.item_seq.view(-1)[torch.where(inside, flat, 0)], 0)
        logits = self.category_head(F.embedding(item, tables.flatten(1)))  # [B, C]
        each = F.binary_cross_entropy_with_logits(logits, self.categories[item], reduction="none")
        read = torch.arange(each.shape[1], device=last.device)[None] <= last[:, None]
        return (each * read).sum() / read.sum()

    def states_twice(
        self, x: Tensor, time: Tensor | None, mask: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor | None]:
        """H^m [M, T, D], and for PCL content's states when time stands in for a part of each history [M - 1, T, D]."""
        if not self.use_pcl or time is None:
            return self.states(x, mask, batch.slot), None
        x_id, x = x.split(self.together, 2)
        rows, masks, slot = self.replaced(x, time, mask, batch)
        # Both kinds of rows go through one pass.
        slots = torch.cat([batch.slot, slot + batch.item_seq.numel()])
        both = self.encoders[1](torch.cat([x, rows]), torch.cat([mask, masks]), slots)
        content, replaced = both.chunk(2, 1)
        return torch.cat([self.encoders[0](x_id, mask, batch.slot), content]), replaced

    def replaced(self, x: Tensor, time: Tensor, mask: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Eq. 24-25: beta of each history's content x [R, W, M - 1, D] becomes what time alone says.

        -> rows, their attention mask and slots; "exact": the histories up to each target, each with its own draw.
        """
        said, share = self.placeholders(time).unflatten(-1, x.shape[2:]), self.config.placeholder_share
        if self.config.pcl_mask == "shared":
            chosen = choose_share(batch.segment, share)[..., None, None]
            return torch.where(chosen, said, x), mask, batch.slot
        again = batch.prefixes
        assert again is not None
        places = torch.cat([x.flatten(0, 1), said.flatten(0, 1)])  # [2 R W, M - 1, D]
        source = again.source + choose_share(again.segment, share) * batch.item_seq.numel()
        return take_rows(places, source), again.attention_mask(), again.slot

    def extra_state(self) -> dict[str, object]:
        return {"modalities": self.modalities, "category_prediction": self.use_category, "pcl": self.use_pcl}


def choose_share(segment: Tensor, share: float) -> Tensor:
    """Choose floor(len * share) places of every history at random; segment int64 [R, W] -> bool [R, W]."""
    same = (segment[:, :, None] == segment[:, None, :]) & (segment > 0)[:, None, :]
    length = same.sum(-1)
    draw = torch.rand(segment.shape, device=segment.device)
    before = (same & (draw[:, None, :] < draw[:, :, None])).sum(-1)  # rank of each place in its own history
    # 1e-9: 0.3 * 10 must be 3 although 0.3 has no exact binary form.
    return (segment > 0) & (before < (length.double() * share + 1e-9).floor())
