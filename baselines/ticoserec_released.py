"""TiCoSeRec with slips of its official code, github.com/KingGugu/TiCoSeRec; the model itself is in ticoserec.py.

The code of August 2022 (41598ed) has both; ranks were used as places until 2023-04-02 (302b295), the last commit.

Each slip has a setting, so that it can be taken back by itself and what it is worth measured.

Axes: as in ticoserec.py.
Follows: ranks used as places released_places(), similarities on wrong scales ReleasedSimilarItems().
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmbench.models.base import Catalog

from .ticoserec import Choose, SimilarItems, TiCoSeRec, TiCoSeRecConfig, chosen_places, sorted_places


@dataclass(frozen=True, kw_only=True)
class TiCoSeRecAsReleasedConfig(TiCoSeRecConfig):
    gap_choice: Literal["as-released", "ranked"] = "as-released"
    similarity_scale: Literal["as-released", "min-max"] = "as-released"  # neighbours = "hybrid" only


def released_places(values: Tensor, length: Tensor, count: Tensor, *, largest: bool) -> Tensor:
    """Return the places whose entry in the sorted list of places is below `count`, bool [R, W]."""
    is_real = torch.arange(values.shape[1], device=values.device) < length[:, None]
    return (sorted_places(values, length, largest=largest) < count[:, None]) & is_real


class ReleasedSimilarItems(SimilarItems):
    """The offline similarity is turned around, the online one scaled by limits that stay at -1 and 100."""

    def score_offline(self, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (high - value) / (high - low).clamp(min=1e-12)

    def score_online(self, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (1 + value) / 101


class TiCoSeRecAsReleased(TiCoSeRec):
    config: TiCoSeRecAsReleasedConfig

    @property
    def choose(self) -> Choose:
        return released_places if self.config.gap_choice == "as-released" else chosen_places

    def make_similar(self, catalog: Catalog) -> SimilarItems:
        is_released = self.config.similarity_scale == "as-released"
        return ReleasedSimilarItems(catalog) if is_released else SimilarItems(catalog)
