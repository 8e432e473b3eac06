"""S3-Rec_ITV: S3-Rec with ids, texts and pictures, a baseline of TMMSRec (Wang et al., 2026, manuscript), which says
only that "the image modality adopts the same fusion method as the text modality". S3-Rec is Zhou et al., CIKM 2020,
arXiv 2008.07873.  No code; the S3-Rec part follows github.com/RUCAIBox/CIKM2020-S3Rec @ 2a81540.

In S3-Rec what is known of items enters by two losses of pre-training: AAP for visible items, MAP for masked ones. So a
picture adds two more. Fine-tuning and scores are those of S3-Rec.

Axes: R rows, W width, P = R W events, D hidden, F features, G blocks of a vector, C codes of a block, M pool, N items.
Follows: CodeTerms predicts codes of a vector as S3-Rec predicts attributes; VectorTerms tells an item's vector from
those of other items of the step; side_terms() adds both modalities to s3rec.py's losses.
Differences: the paper prints no equation, so the whole form is a reading: (1) pictures are classes, product codes of
their vectors; (2) texts are categories and brands, as in S3-Rec; (3) terms of pictures weigh what those of texts do.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.models.base import Catalog
from mmbench.nn.clusters import effective_number, principal_components, product_codes
from mmbench.nn.layers import init_normal
from mmbench.settings.config import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .s3rec import ClassTerms, Labels, S3Rec, S3RecConfig, attribute_labels, masked_sum

Contrast = Literal["info_nce", "bce"]
LLOYD_PASSES = 25
MIXER = 0x5851F42D4C957F2D  # an odd number whose multiples have well mixed upper bits


@dataclass(frozen=True, kw_only=True)
class S3RecITVConfig(S3RecConfig):
    text: Literal["attributes", "codes", "dense"]
    image: Literal["codes", "dense"]
    image_weight: NonNegativeFloat  # multiplies AAP and MAP of pictures; 0 is S3-Rec
    n_blocks: PositiveInt  # of a vector, each with its own codes
    n_codes: PositiveInt  # of a block; fewer in catalogues below 20 n_codes items
    n_components: NonNegativeInt  # a vector is reduced to so many dims before it is coded; 0 = not at all
    max_code_share: Fraction  # a code shared by more than this fraction of the items is dropped
    class_mean: bool  # divides AAP and MAP by the number of classes
    contrast: Contrast  # is the loss of "dense"
    temperature: PositiveFloat  # of "info_nce"
    pool: PositiveInt  # at most so many other items are contrasted with an event's item


def codes_per_block(config: S3RecITVConfig, n_items: int) -> int:
    """Return C: at least 20 items for each code, at least 2 codes."""
    return min(config.n_codes, max(2, n_items // 20))


def code_labels(config: S3RecITVConfig, feat: Tensor, present: Tensor) -> Labels:
    """Return the product codes of features [N + 1, F] as classes g C + code; items not `present` have none.

    Vectors have length 1. Nothing is drawn, so that codes do not depend on the seed.
    """
    n_items, n_codes = len(feat) - 1, codes_per_block(config, len(feat) - 1)
    items = present.nonzero()[:, 0]
    vectors = F.normalize(feat[items].double(), dim=1)
    if config.n_components:
        vectors = principal_components(vectors, config.n_components)
    if vectors.shape[1] < config.n_blocks:
        raise ValueError(f"n_blocks = {config.n_blocks} is more than the {vectors.shape[1]} dims of a vector")
    codes = product_codes(vectors, config.n_blocks, n_codes, LLOYD_PASSES)
    label = codes + n_codes * torch.arange(config.n_blocks, device=codes.device)
    n_classes = config.n_blocks * n_codes
    count = torch.bincount(label.flatten(), minlength=n_classes)
    is_kept = (count <= config.max_code_share * len(items))[label]
    if n_codes < 4:  # of two or three codes some always exceed the limit
        is_kept = torch.ones_like(is_kept)
    item = items[:, None].expand_as(label)
    return Labels(item[is_kept], label[is_kept], n_items, 0, n_classes)


class CodeTerms(ClassTerms):
    """AAP and MAP of codes of vectors; items without the modality have neither."""

    present: Tensor  # bool [N + 1]

    def __init__(self, config: S3RecITVConfig, feat: Tensor, present: Tensor) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.labels = code_labels(config, feat, present)
        self.attribute_emb = nn.Embedding(self.labels.n_classes, dim)
        self.aap, self.map = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.register_buffer("present", present, persistent=False)

    def terms(
        self, states: Tensor, items: Tensor, is_visible: Tensor, is_masked: Tensor
    ) -> tuple[Tensor, Tensor]:
        has = self.present[items]
        return super().terms(states, items, is_visible & has, is_masked & has)


class VectorTerms(nn.Module):
    """AAP and MAP of vectors: the state of an event selects its item's vector among those of other items.

    "info_nce": among the distinct items of the step that have the same term, at most `pool` of them. "bce": with a
    label for each, against `pool` items of the catalogue. An item with the same features is never another.
    """

    feat: Tensor  # float32 [N + 1, F]
    present: Tensor  # bool [N + 1]
    known: Tensor  # int64 [n], the items that have the modality
    kind: Tensor  # int64 [N + 1], equal for items of equal features

    def __init__(self, config: S3RecITVConfig, feat: Tensor, present: Tensor) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.contrast, self.temperature, self.pool = config.contrast, config.temperature, config.pool
        self.key = nn.Linear(feat.shape[1], dim)
        self.aap, self.map = nn.Linear(dim, dim), nn.Linear(dim, dim)
        # Not in checkpoints: the data set has them, and a run names their hash.
        self.register_buffer("feat", feat, persistent=False)
        self.register_buffer("present", present, persistent=False)
        self.register_buffer("known", present.nonzero()[:, 0], persistent=False)
        self.register_buffer("kind", feat.unique(dim=0, return_inverse=True)[1], persistent=False)

    def terms(
        self, states: Tensor, items: Tensor, is_visible: Tensor, is_masked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sums of AAP and MAP; states [R, W, D], items int64 [R, W], masks bool [R, W]."""
        has = self.present[items]
        query = torch.where(is_masked[..., None], self.map(states), self.aap(states)).flatten(0, 1)
        keys, items = self.key(F.embedding(items, self.feat)).flatten(0, 1), items.flatten()
        aap, map_ = (
            self.contrasts(query, keys, items, (mask & has).flatten()) for mask in (is_visible, is_masked)
        )
        return aap, map_

    def contrasts(self, query: Tensor, keys: Tensor, items: Tensor, is_chosen: Tensor) -> Tensor:
        """Return the sum of the losses of chosen events; query, keys [P, D], items int64 [P], is_chosen bool [P]."""
        others, is_real = self.draw_others(items, is_chosen)
        is_other = is_real & (self.kind[others] != self.kind[items][:, None])
        other_keys = self.key(F.embedding(others, self.feat))
        if self.contrast == "bce":
            positive, logits = (query * keys).sum(1), query @ other_keys.T
            count = is_other.sum(1).clamp(min=1)
            negative = torch.where(is_other, F.softplus(logits), 0.0).sum(1) / count
            return masked_sum(F.softplus(-positive) + negative, is_chosen)
        query, keys, other_keys = (F.normalize(x, dim=1) for x in (query, keys, other_keys))
        positive = (query * keys).sum(1) / self.temperature
        logits = (query @ other_keys.T / self.temperature).masked_fill(~is_other, float("-inf"))
        return masked_sum(torch.cat([positive[:, None], logits], 1).logsumexp(1) - positive, is_chosen)

    def draw_others(self, items: Tensor, is_chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the items to tell a step's chosen ones from, int64 [M], and which of them are real, bool [M].

        The draw is a hash of the step's chosen items and uses no generator, so that with image_weight = 0 a training
        equals that of S3-Rec.
        """
        chosen = items.masked_fill(~is_chosen, 0)
        salt = (mixed(chosen) * is_chosen).sum()
        if self.contrast == "bce":
            number = torch.arange(1, self.pool + 1, device=items.device)
            others = self.known[mixed(number + salt) % len(self.known)]
            return others, torch.ones_like(others, dtype=torch.bool)
        ordered = chosen.sort().values
        is_first = ordered != F.pad(ordered[:-1], (1, 0))
        if len(ordered) <= self.pool:
            return ordered, is_first
        priority = mixed(ordered + salt).masked_fill(~is_first, -1)
        top = priority.topk(self.pool)
        return ordered[top.indices], top.values >= 0


def mixed(numbers: Tensor) -> Tensor:
    """Return integers of 0 .. 2^31 - 1 that depend on the numbers as if drawn at random; int64 to int64."""
    x = numbers * MIXER
    x = (x ^ (x >> 32)) * MIXER
    return (x >> 32) & 0x7FFFFFFF


class S3RecITV(S3Rec):
    config: S3RecITVConfig

    def __init__(self, config: S3RecITVConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        # These draw their weights after S3-Rec has drawn its own: image_weight = 0 trains what s3rec does.
        self.sides = nn.ModuleDict()
        if config.pretrain_epochs:
            if config.text != "attributes":
                self.sides["text"] = side_of(config, catalog, "text", config.text)
            self.sides["image"] = side_of(config, catalog, "image", config.image)
        init_normal(self.sides, std=0.02)

    @staticmethod
    def labels_of(config: S3RecConfig, catalog: Catalog) -> Labels | None:
        is_side = isinstance(config, S3RecITVConfig) and config.text != "attributes"
        return None if is_side else attribute_labels(config, catalog)

    @classmethod
    def reads(cls, config: S3RecConfig, modality: str) -> bool:
        if modality == "text" and isinstance(config, S3RecITVConfig):
            return config.text != "attributes" and config.pretrain_epochs > 0
        return modality != "image" or config.pretrain_epochs > 0

    def side_terms(
        self, states: Tensor, items: Tensor, is_visible: Tensor, is_masked: Tensor
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, weight in (("text", 1.0), ("image", self.config.image_weight)):
            side = dict(self.sides.items()).get(name, self.parts_of_pretraining)
            if not isinstance(side, ClassTerms | VectorTerms):
                raise TypeError(f"{type(side).__name__} has no terms")
            if self.config.class_mean and isinstance(side, ClassTerms) and side.labels is not None:
                weight = weight / side.labels.n_classes
            aap, masked = side.terms(states, items, is_visible, is_masked)
            suffix = "" if name == "text" else "_image"
            terms[f"aap{suffix}"] = weight * self.config.aap_weight * aap
            terms[f"map{suffix}"] = weight * self.config.map_weight * masked
        return terms

    def extra_state(self) -> dict[str, Any]:
        facts = super().extra_state()
        for name, side in self.sides.items():
            if isinstance(side, CodeTerms) and side.labels is not None:
                used = side.labels.ids[side.labels.is_real]
                facts[f"{name}_codes"] = side.labels.n_classes
                facts[f"{name}_codes_effective"] = effective_number(used, side.labels.n_classes)
                facts[f"n_items_with_{name}"] = int(side.present.sum())
        return facts


def side_of(config: S3RecITVConfig, catalog: Catalog, modality: str, mode: str) -> CodeTerms | VectorTerms:
    """Return the terms of a modality; raise ValueError when the data set has no features of it."""
    feat, present = getattr(catalog, f"{modality}_feat"), getattr(catalog, f"has_{modality}")
    if feat is not None:
        present = feat.ne(0).any(1) if present is None else present
    if feat is None or not present.any():
        instead = "train s3rec instead" if modality == "image" else 'set text = "attributes"'
        raise ValueError(
            f"no item of the data set has {modality} features; make them with `mmbench extract DATASET`, or {instead}"
        )
    return CodeTerms(config, feat, present) if mode == "codes" else VectorTerms(config, feat, present)
