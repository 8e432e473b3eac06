"""TMMSRec with the slips of its released code, github.com/wangpp0602/TMMSRec @ 7e65e82; the model is in tmmsrec.py.

Each slip has a setting, so that it can be undone and its effect measured. The validation on test items is a training
setting (variant leaky).

Axes: as in tmmsrec.py.
Follows: ConcatenatedTIE() strided parts that are concatenated, attention_mask() padding in attention, first_items()
negatives.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.data.views import TrainView
from mmbench.models.base import Catalog
from mmbench.models.needs import Needs, Negatives, Pairs
from mmbench.models.tmmsrec import PositionTable, TimeIntervalEncoder, TMMSRec, TMMSRecConfig


@dataclass(frozen=True, kw_only=True)
class TMMSRecAsReleasedConfig(TMMSRecConfig):
    encoder: Literal["shared", "own"] = "shared"  # "own": for each modality, eq. 10
    tie_layout: Literal["concatenated", "interleaved"] = "concatenated"
    padding_keys: bool = True  # padding takes part in attention (sasrec backbone)
    owned_items: Literal["first", "history"] = "first"  # items of a user that are never drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding_keys and self.backbone != "sasrec":
            raise ValueError(f"padding_keys is about attention; backbone {self.backbone!r} has none")


class ConcatenatedTIE(TimeIntervalEncoder):
    """TIE that concatenates the six strided parts of a turned vector, so that eq. 11 adds different dims."""

    def turn(self, x: Tensor, prepared: Tensor) -> Tensor:
        return super().turn(x, prepared).transpose(-1, -2)


def first_items(view: TrainView) -> Pairs:
    """Return the first training item of each user, the only item that the released sampler excludes."""
    first = view.offsets[:-1][np.diff(view.offsets) > 0]
    return view.users[first], view.items[first]


class TMMSRecAsReleased(TMMSRec):
    config: TMMSRecAsReleasedConfig

    @property
    def shares_encoder(self) -> bool:
        return self.config.encoder == "shared"

    def make_time(self, catalog: Catalog) -> TimeIntervalEncoder | PositionTable | None:
        if self.config.position != "tie" or self.config.tie_layout == "interleaved":
            return super().make_time(catalog)
        return ConcatenatedTIE(dim=self.config.hidden_dim, dropout=self.config.tie_dropout)

    @property
    def needs(self) -> Needs:
        needs = super().needs
        if self.config.owned_items == "first" and self.next_item.has_target_negatives:
            needs = replace(needs, extras=(Negatives(k=self.config.n_negatives, exclude=first_items),))
        if not self.config.padding_keys:
            return needs
        # A state sees the padding of its row, whose size depends on later events: it is not causal.
        return replace(needs, layout="fixed", samples=("last-window", "prefix"), causal=False)

    def attention_mask(self, batch: Batch) -> Tensor:
        """Return the attention mask, bool [R, W, W], in which padding is visible; its keys and values are biases."""
        mask = super().attention_mask(batch)
        return mask | ~batch.mask[:, None, :] if self.config.padding_keys else mask
