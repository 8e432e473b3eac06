"""Item vectors from frozen features. Axes: N items, F width of the features, D hidden width."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.losses import dots

FeatureNorm = Literal["scale", "l2", "none"]


def rescaled(feat: Tensor, present: Tensor | None, kind: FeatureNorm, *, mean_norm: float = 1.0) -> Tensor:
    """Return features [N + 1, F] as their consumer wants them long; rows of zeros stay zero.

    kind     "scale": divided by one number, after which those that items have are `mean_norm` long on average;
             "l2": each by its own norm; "none": as they are
    present  bool [N + 1], which items have them; None = those whose row is not zero
    """
    if kind == "none":
        return feat
    if kind == "l2":
        return F.normalize(feat, dim=1)
    present = feat.ne(0).any(1) if present is None else present
    norms = feat.norm(dim=1)[present]
    mean = norms.sum().div(max(len(norms), 1)).clamp(min=1e-12)
    return feat / (mean / mean_norm)


def feature_margins(
    state: Tensor, matrix: Tensor, feat: Tensor, ids: Tensor, *, bias: Tensor | None = None
) -> Tensor:
    """Return how far the first of the ids [T, 1 + K] is above each other one, [T, K], where an id scores
    state . (feat[id] @ matrix) + feat[id] . bias; state [T, D], matrix [F, D], feat [N + 1, F], bias [F].

    The features are subtracted before they are mapped, which saves one of two products.
    """
    rows = F.embedding(ids, feat)
    apart = rows[:, :1] - rows[:, 1:]
    margins = dots(state, apart @ matrix)
    return margins if bias is None else margins + apart @ bias


def check_modalities(modalities: Sequence[str], *, may_be_empty: bool = False) -> None:
    """Raise ValueError when a modality is named twice, or none is."""
    if len(set(modalities)) < len(modalities) or not (modalities or may_be_empty):
        how_many = "at most once each" if may_be_empty else "or both, each once"
        raise ValueError(f"modalities {list(modalities)} must name text, image, {how_many}")


def chosen(
    modalities: Sequence[str], *, text: Tensor | None, image: Tensor | None, otherwise: str = ""
) -> dict[str, Tensor]:
    """Return those features of the named modalities that there are, text first.

    ValueError when some are named and there are none of them; `otherwise` says what else may be done.
    """
    feats = {"text": text, "image": image}
    named = {name: feat for name, feat in feats.items() if name in modalities and feat is not None}
    if modalities and not named:
        raise ValueError(
            f"the model reads {' and '.join(modalities)} features, but there are none; "
            f"make them with `mmbench extract DATASET`{otherwise}"
        )
    return named


class FeatureTable(nn.Module):
    """ids [...] -> vectors [..., D]: frozen features through one trained linear map; zero where an item has none.

    `keep_width`: features that are D wide already are used as they are, without a map.
    `unit_norm`: features are divided by the mean norm of the items that have them.
    """

    feat: Tensor
    present: Tensor

    def __init__(
        self, feat: Tensor, present: Tensor | None, dim: int, *, keep_width: bool, unit_norm: bool
    ) -> None:
        super().__init__()
        present = feat.ne(0).any(1) if present is None else present
        if unit_norm:
            feat = rescaled(feat, present, "scale")
        # Not in checkpoints: the data set has them, and a run names their hash.
        self.register_buffer("feat", feat, persistent=False)
        self.register_buffer("present", present, persistent=False)
        is_kept = keep_width and feat.shape[1] == dim
        self.map: nn.Linear | None = None if is_kept else nn.Linear(feat.shape[1], dim)

    def forward(self, ids: Tensor) -> Tensor:
        if self.map is None:
            return F.embedding(ids, self.feat)
        if ids.numel() > len(self.feat):  # map whichever has fewer rows: the catalogue or the look-ups
            return F.embedding(ids, self.map(self.feat) * self.present[:, None])
        return self.map(F.embedding(ids, self.feat)) * self.present[ids][..., None]


class LayerFeatures(nn.Module):
    """ids [...] -> states [..., L, D]: frozen features with one state per layer, in the model's precision.

    They stay as they are stored, float16 as a rule and in a memory-mapped file on a CPU; only what is looked up is
    converted. Two modalities of 60,000 items with 13 layers of 768 dims are 2.4 GB of file, and 4.8 GB as float32.

    layers  which of the layers are read; a slice, so that the others are skipped without a copy
    """

    bits: (
        Tensor  # [N+1, L, D], the numbers as integers of their size, which a change of precision leaves alone
    )
    like: Tensor  # [0], has the precision of the model

    def __init__(self, feat: Tensor, layers: slice = slice(None)) -> None:
        super().__init__()
        self.stored = feat.dtype
        # Not in checkpoints: the data set has them, and a run names their hash.
        integers = torch.int16 if feat.itemsize == 2 else torch.int32
        self.register_buffer("bits", feat.view(integers)[:, layers], persistent=False)
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.bits[ids].view(self.stored).to(self.like.dtype)


def look_up(table: Callable[[Tensor], Tensor], *ids: Tensor) -> list[Tensor]:
    """Vectors of several tensors of ids by one call of `table`: each [...] -> [..., D]."""
    vectors = table(torch.cat([one.flatten() for one in ids])).split([one.numel() for one in ids])
    return [part.unflatten(0, one.shape) for part, one in zip(vectors, ids, strict=True)]


def available(wanted: Iterable[str], *, text: Tensor | None, image: Tensor | None) -> list[str]:
    """The wanted modalities that there are features for, in the project's order; repeats stay.

    ValueError when features are wanted and there are none at all: the model would be another one.
    """
    found = {"id": True, "text": text is not None, "image": image is not None}
    wanted = sorted(wanted, key=list(found).index)
    content = [one for one in wanted if one != "id"]
    if content and not any(found[one] for one in content):
        raise ValueError(
            f"modalities {', '.join(dict.fromkeys(content))} are wanted, but there are no such features; "
            'make them with `mmbench extract DATASET`, or set modalities = ["id"]'
        )
    return [one for one in wanted if found[one]]
