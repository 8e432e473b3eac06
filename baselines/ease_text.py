"""EASE and content neighbours in late fusion, without any training: the control that a trained multi-modal model must
beat. Its id member is EASE (Steck, WWW 2019); a content member sums the cosines between an item's text, or picture, and
those of the history. No paper: the fusion is that of late-fusion.

Axes: T targets, W width, N items, F width of the features.
Follows: ContentMember.score() = sum_h decay^(events after h) cos(h, i), without the terms h = i;
mmbench.nn.score_scales holds the scales, mmbench.evaluation.fusion the choice of the weights.
Differences from late-fusion: (1) An item's cosine to itself, 1, is left out: it would put the history first.
(2) All members share `decay`. (3) Members are computed, not trained in stages.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog
from mmbench.models.late_fusion import FusionConfig, LateFused
from mmbench.models.needs import Needs
from mmbench.nn.features import available
from mmbench.nn.neighbours import recency_weight
from mmbench.settings.config import Fraction, PositiveFloat, PositiveInt

from .ease import EASE, EASEConfig


@dataclass(frozen=True, kw_only=True)
class EASETextConfig(FusionConfig):
    modalities: tuple[Literal["id", "text", "image"], ...] = ("id", "text")
    decay: Fraction  # a history item counts decay^(events after it)
    reg_weight: PositiveFloat  # lambda of EASE
    solver: Literal["auto", "dense", "dual", "top", "sparse"] = "auto"  # see ease
    max_items: PositiveInt = 30_000  # see ease

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError("modalities must name at least one of id, text, image, each once")


class ContentMember(nn.Module):
    """Sums of cosines between the features of items."""

    unit: Tensor  # [N + 1, F], features of length 1
    present: Tensor  # bool [N + 1]

    def __init__(self, feat: Tensor, present: Tensor | None, decay: float) -> None:
        super().__init__()
        self.decay = decay
        # Not in checkpoints: the data set has them, and a run names their hash.
        self.register_buffer("unit", F.normalize(feat, dim=1), persistent=False)
        present = feat.ne(0).any(1) if present is None else present
        self.register_buffer("present", present, persistent=False)

    def score(self, batch: Batch) -> Tensor:
        """Return the sums of decayed cosines, float64 [T, N]."""
        weight = recency_weight(batch.item_seq, batch.mask, decay=self.decay, distinct=False)
        unit = self.unit.double()
        similar = torch.einsum("tw,twf->tf", weight, unit[batch.item_seq]) @ unit.T
        of_itself = weight * unit.square().sum(1)[batch.item_seq]
        return similar.scatter_add(1, batch.item_seq, -of_itself)[:, 1:]


class EASEText(LateFused[EASETextConfig]):
    trainable = False
    deterministic = True

    def __init__(self, config: EASETextConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.active: str | None = None
        feats = {"text": catalog.text_feat, "image": catalog.image_feat}
        names = available(config.modalities, text=feats["text"], image=feats["image"])
        self.members = nn.ModuleDict()
        for name in names:
            feat = feats.get(name)
            present = catalog.has_text if name == "text" else catalog.has_image
            self.members[name] = (
                self._ease(catalog) if feat is None else ContentMember(feat, present, config.decay)
            )
        self.init_fusion(len(names), catalog.train_items)

    def _ease(self, catalog: Catalog) -> EASE:
        config = self.config
        ease = EASEConfig(
            reg_weight=config.reg_weight, decay=config.decay, solver=config.solver, max_items=config.max_items
        )
        try:
            return EASE(ease, catalog)
        except ValueError as error:
            raise ValueError(str(error).replace("ease.", "ease-text.")) from error

    @classmethod
    def reads(cls, config: EASETextConfig, modality: str) -> bool:
        return modality in config.modalities

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def score_cost(self, n_items: int) -> int:
        return (2 * len(self.members) + 2) * n_items  # float64 scores of all members, and their sum

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.members) if len(self.members) > 1 else ()

    @contextmanager
    def alone(self, part: str) -> Iterator[None]:
        before, self.active = self.active, part
        try:
            yield
        finally:
            self.active = before

    def is_alone(self) -> bool:
        return self.active is not None or len(self.members) == 1

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        names = self.members if self.active is None else [self.active]
        return {name: self.members[name].score(batch).double() for name in names}  # type: ignore[operator]

    def presence(self) -> Mapping[str, Tensor | None]:
        return {name: getattr(member, "present", None) for name, member in self.members.items()}

    def extra_state(self) -> dict[str, object]:
        return {"members": list(self.members), **self.fusion_state()}
