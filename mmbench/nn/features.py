"""Item vectors from frozen features. Axes: N items, F width of the features, D hidden width."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.losses import dots

FeatureNorm = Literal["scale", "l2", "none"]


def rescaled(feat: Tensor, present: Tensor | None, kind: FeatureNorm, *, mean_norm: float = 1.0) -> Tensor:
    """Return features [N + 1, F] rescaled; rows of zeros stay zero.

    kind     "scale" divides all by the same number, such that the norms of items that have features are `mean_norm` on
             average; "l2" divides each by its norm; "none" returns them unchanged
    present  bool [N + 1], which items have features; None = those whose row is not zero
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
    """Return by how much the first of the ids [T, 1 + K] outscores each of the others, [T, K], where the score is
    state . (feat[id] @ matrix) + feat[id] . bias; state [T, D], matrix [F, D], feat [N + 1, F], bias [F].

    Subtracting features before they are mapped halves the products.
    """
    rows = F.embedding(ids, feat)
    apart = rows[:, :1] - rows[:, 1:]
    margins = dots(state, apart @ matrix)
    return margins if bias is None else margins + apart @ bias


def check_modalities(modalities: Sequence[str], *, may_be_empty: bool = False) -> None:
    """Raise ValueError when a modality is named twice, or no modality is named."""
    if len(set(modalities)) < len(modalities) or not (modalities or may_be_empty):
        how_many = "at most once each" if may_be_empty else "or both, each once"
        raise ValueError(f"modalities {list(modalities)} must name text, image, {how_many}")


def chosen(
    modalities: Sequence[str], *, text: Tensor | None, image: Tensor | None, otherwise: str = ""
) -> dict[str, Tensor]:
    """Return the features of the named modalities that the data set has, text first.

    Raises ValueError when it has none of those named; `otherwise` ends the message with an alternative.
    """
    feats = {"text": text, "image": image}
    named = {name: feat for name, feat in feats.items() if name in modalities and feat is not None}
    if modalities and not named:
        raise ValueError(
            f"the model reads {' and '.join(modalities)} features, and the data set has none; "
            f"make them with `mmbench extract DATASET`{otherwise}"
        )
    return named


class FeatureTable(nn.Module):
    """Item vectors, ids [...] -> [..., D]: frozen features through a trained linear map; zero where an item has none.

    keep_width  uses features that are D wide already without a map
    unit_norm   divides features by the mean norm of the items that have them
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
    """Frozen features with a state per layer, ids [...] -> [..., L, D], in the model's precision.

    They stay as they are stored, usually float16, and on a CPU in a memory-mapped file; only looked-up rows are
    converted. Two modalities of 60,000 items with 13 layers of 768 dims are 2.4 GB of file, and 4.8 GB as float32.

    layers  selects the layers to read; a slice skips the others without a copy
    """

    bits: Tensor  # [N+1, L, D], the floats' bits as integers, which a change of precision leaves alone
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
    """Look up several tensors of ids by a single call of `table`, each [...] -> [..., D]."""
    vectors = table(torch.cat([tensor.flatten() for tensor in ids]))
    parts = vectors.split([tensor.numel() for tensor in ids])
    return [part.unflatten(0, tensor.shape) for part, tensor in zip(parts, ids, strict=True)]


def available(wanted: Iterable[str], *, text: Tensor | None, image: Tensor | None) -> list[str]:
    """Return the wanted modalities that the data set has, in the project's order; repeats stay.

    Raises ValueError when features are wanted and the data set has none of them: it would be a different model.
    """
    has = {"id": True, "text": text is not None, "image": image is not None}
    wanted = sorted(wanted, key=list(has).index)
    content = [modality for modality in wanted if modality != "id"]
    if content and not any(has[modality] for modality in content):
        raise ValueError(
            f"the model reads {' and '.join(dict.fromkeys(content))} features, and the data set has none; "
            'make them with `mmbench extract DATASET`, or set modalities = ["id"]'
        )
    return [modality for modality in wanted if has[modality]]
