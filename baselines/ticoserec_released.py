"""TiCoSeRec with slips of its official code, github.com/KingGugu/TiCoSeRec; the model itself is in ticoserec.py.

The code of August 2022 (41598ed) has both; the last commit, of 2023-04-02 (302b295), corrected the use of ranks.

Each slip has a setting, so that it can be undone and its effect measured.

Axes: as in ticoserec.py.
Follows: released_positions() ranks used as positions, ReleasedSimilarItems() similarities on wrong scales.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmbench.models.base import Catalog
from mmbench.nn.augmentation import Choose, choose_positions, sort_positions

from .ticoserec import SimilarItems, TiCoSeRec, TiCoSeRecConfig


@dataclass(frozen=True, kw_only=True)
class TiCoSeRecAsReleasedConfig(TiCoSeRecConfig):
    gap_choice: Literal["as-released", "ranked"] = "as-released"
    similarity_scale: Literal["as-released", "min-max"] = "as-released"  # neighbours = "hybrid" only


def released_positions(values: Tensor, length: Tensor, count: Tensor, *, largest: bool) -> Tensor:
    """Return the positions whose entry in the sorted list of positions is below `count`, bool [R, W]."""
    is_real = torch.arange(values.shape[1], device=values.device) < length[:, None]
    return (sort_positions(values, length, largest=largest) < count[:, None]) & is_real


class ReleasedSimilarItems(SimilarItems):
    """Similar items by the released code: it reverses offline similarities and rescales online ones from -1..100."""

    def score_offline(self, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (high - value) / (high - low).clamp(min=1e-12)

    def score_online(self, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (1 + value) / 101


class TiCoSeRecAsReleased(TiCoSeRec):
    config: TiCoSeRecAsReleasedConfig

    @property
    def choose(self) -> Choose:
        return released_positions if self.config.gap_choice == "as-released" else choose_positions

    def make_similar(self, catalog: Catalog) -> SimilarItems:
        is_released = self.config.similarity_scale == "as-released"
        return ReleasedSimilarItems(catalog) if is_released else SimilarItems(catalog)
