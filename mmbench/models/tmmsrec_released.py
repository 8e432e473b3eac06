"""TMMSRec with the slips of its released code, github.com/wangpp0602/TMMSRec @ 7e65e82; the model is in tmmsrec.py.

Each slip has a setting, so that it can be taken back by itself and what it is worth measured. Its validation on test
items is a setting of training (variant leaky).

Axes: as in tmmsrec.py.
Follows: strided parts one after another ConcatenatedTIE(), padding in attention attention_mask(), negatives
first_items().
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
    encoder: Literal["shared", "own"] = "shared"  # for each modality, eq. 10; the code has one for all
    tie_layout: Literal["concatenated", "interleaved"] = "concatenated"
    padding_keys: bool = True  # padding takes part in attention (sasrec backbone)
    owned_items: Literal["first", "history"] = "first"  # never drawn: the user's first item, or all of them

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding_keys and self.backbone != "sasrec":
            raise ValueError(f"padding_keys is about attention; backbone {self.backbone!r} has none")


class ConcatenatedTIE(TimeIntervalEncoder):
    """The six strided parts of a turned vector stand one after another, so the sum of eq. 11 adds different dims."""

    def turn(self, x: Tensor, prepared: Tensor) -> Tensor:
        return super().turn(x, prepared).transpose(-1, -2)


def first_items(view: TrainView) -> Pairs:
    """Return the first training item of each user, which is all that the released sampler excludes."""
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
        if self.config.owned_items == "first" and self.next_item.has_own_negatives:
            needs = replace(needs, extras=(Negatives(k=self.config.n_negatives, exclude=first_items),))
        if not self.config.padding_keys:
            return needs
        # How many empty places a state sees depends on the length of the whole row, so it is not causal.
        return replace(needs, layout="fixed", samples=("last-window", "prefix"), causal=False)

    def attention_mask(self, batch: Batch) -> Tensor:
        """Return which places a place may look at, bool [R, W, W]: padding too, whose keys and values are biases."""
        mask = super().attention_mask(batch)
        return mask | ~batch.mask[:, None, :] if self.config.padding_keys else mask
