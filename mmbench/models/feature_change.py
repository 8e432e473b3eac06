"""Catalogues whose features were replaced: how much of a model's accuracy comes from its texts or pictures?

The settings `text_features` and `image_features` change a catalogue before a training and before each ranking of its
weights. They measure what content is worth; a knock-out of a trained model measures what that model relies on.
Presence flags, widths, row 0 and the rows of items without the modality stay as they are. Random fixed vectors are not
useless: a trained map makes ids of them, so a model that keeps its accuracy with them gains from capacity, not from
content.

Axes: N items, P of them have the modality, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmbench.models.base import Catalog
from mmbench.runtime import derive_seed
from mmbench.settings.feature_change import FeatureChange

BLOCK = 4096  # rows that are converted to float64 together
Rows = Callable[[Tensor, torch.Generator], Tensor]  # stored vectors [P, D] -> [P, D]


def change_features(catalog: Catalog, modality: str, change: FeatureChange) -> Catalog:
    """Return the catalogue with changed features of a modality; unchanged where no item has the modality.

    Of features with a state per layer, `shuffled` moves an item's states together; the others treat each layer
    separately. `shuffled` permutes texts and pictures independently of each other; `shuffled-together`
    permutes both in the same way, among the items that have both and among those that have only either.

    Raises ValueError where fewer than two items have a modality that is to be shuffled.
    """
    present: Tensor | None = getattr(catalog, f"has_{modality}")
    if change.kind == "stored" or present is None or not present.any():
        return catalog
    changed: dict[str, Any] = {}
    features: Tensor | None = getattr(catalog, f"{modality}_feat")
    if features is not None:
        changed[f"{modality}_feat"] = _changed(features, catalog, modality, change)
    if modality in catalog.layer_feat:
        layers = _changed(catalog.layer_feat[modality], catalog, modality, change)
        changed["layer_feat"] = {**catalog.layer_feat, modality: layers}
    return replace(catalog, **changed)


def _changed(features: Tensor, catalog: Catalog, modality: str, change: FeatureChange) -> Tensor:
    """Return features [N + 1, ...], in the same precision, with changed rows of the items that have them."""
    present: Tensor = getattr(catalog, f"has_{modality}")
    ids, changed = present.nonzero()[:, 0], features.clone()
    if change.kind == "shuffled-together":
        source = permuted_together(catalog, change.seed, modality)
        changed[ids] = features[source[ids]]
        return changed
    generator = torch.Generator().manual_seed(derive_seed(change.seed, "features", change.kind, modality))
    if change.kind == "shuffled":
        changed[ids] = features[permuted(ids, generator, modality)]
        return changed
    rows = ROWS[change.kind]
    for stored, new in zip(_layers(features), _layers(changed), strict=True):
        new[ids] = rows(stored[ids], generator).to(features.dtype)
    return changed


def _layers(features: Tensor) -> Sequence[Tensor]:
    """Return views [N + 1, D] of each layer of [N + 1, layers, D]; [N + 1, D] is a single layer."""
    return [features] if features.dim() == 2 else features.unbind(1)


def permuted(ids: Tensor, generator: torch.Generator, modality: str) -> Tensor:
    """Return whose vector each of the ids [P] gets: a permutation that moves every id.

    It is a single cycle through all ids in a random order.
    """
    if len(ids) < 2:
        raise ValueError(
            f"{modality}_features = shuffled needs two items with {modality}; the data set has {len(ids)}"
        )
    order = torch.randperm(len(ids), generator=generator)
    source = torch.empty_like(ids)
    source[order] = ids[order.roll(1)]
    return source


def permuted_together(catalog: Catalog, seed: int, modality: str) -> Tensor:
    """Return whose vectors each item gets, int64 [N + 1], the same for every modality.

    Items that have both modalities form a cycle, and so are those that have only the text or only the picture: no
    presence changes. The only item of such a kind keeps its vector.
    """
    kinds = torch.zeros(catalog.n_items + 1, dtype=torch.int64)
    for number, present in enumerate((catalog.has_text, catalog.has_image)):
        if present is not None:
            kinds += present.long().cpu() << number
    generator = torch.Generator().manual_seed(derive_seed(seed, "features", "shuffled-together"))
    source = torch.arange(len(kinds))
    for kind in (1, 2, 3):
        ids = (kinds == kind).nonzero()[:, 0]
        if len(ids) > 1:
            source[ids] = permuted(ids, generator, modality)
    return source


def random_directions(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return draws of N(0, 1), float64 [P, D], each scaled to the norm of the row it replaces."""
    drawn = _normal(rows.shape, generator)
    return drawn * (_norms(rows) / _norms(drawn).clamp(min=1e-300))[:, None]


def gaussian(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return draws of N(mean, covariance) of the rows, float64 [P, D]; the covariance divides by P.

    With the centred rows X = Q R, the covariance is R^T R / P, so draws z R / sqrt(P) have it, whatever its rank.
    """
    wide = rows.double()
    mean = wide.mean(0)
    factor = torch.linalg.qr(wide - mean, mode="r").R / len(rows) ** 0.5
    return mean + _normal((len(rows), len(factor)), generator) @ factor


def mean_rows(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean row P times, float64 [P, D]."""
    return rows.mean(0, dtype=torch.float64).expand(rows.shape)


def zero_rows(rows: Tensor, generator: torch.Generator) -> Tensor:
    return torch.zeros_like(rows)


ROWS: dict[str, Rows] = {
    "random": random_directions, "gauss": gaussian, "constant": mean_rows, "zero": zero_rows
}  # fmt: skip


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _norms(rows: Tensor) -> Tensor:
    """Return the norms of rows [P, D], float64 [P], converting a block of rows at a time."""
    return torch.cat([part.double().norm(dim=1) for part in rows.split(BLOCK)])
