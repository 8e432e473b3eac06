"""UniSRec with the slips of its released code, github.com/RUCAIBox/UniSRec @ 05aa5cb; the model is in unisrec.py.

Each slip has a setting, so that it can be undone.

Axes: as in unisrec.py.
Follows: next_item_loss() padding as a class of the softmax, contrast() equal targets that stay in the denominator,
guarded() zero vectors with a gradient of 1e12.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.nn.losses import cross_entropy, info_nce

from .unisrec import UniSRec, UniSRecConfig


@dataclass(frozen=True, kw_only=True)
class UniSRecAsReleasedConfig(UniSRecConfig):
    padding: Literal["class", "no class"] = "class"  # in the softmax
    same_target: Literal["zero-logit", "removed"] = "zero-logit"
    zero_vectors: Literal["steep", "constant"] = "steep"  # gradient 1e12 of a cosine at 0, or none


class UniSRecAsReleased(UniSRec):
    config: UniSRecAsReleasedConfig

    def guarded(self, vectors: Tensor) -> Tensor:
        return vectors if self.config.zero_vectors == "steep" else super().guarded(vectors)

    def next_item_loss(self, query: Tensor, candidates: Tensor, batch: TrainBatch) -> Tensor:
        if self.config.padding == "no class":
            return super().next_item_loss(query, candidates, batch)
        return cross_entropy(query, candidates, batch.target + 1)  # row 0 of the candidates is class 1

    def contrast(self, anchor: Tensor, positive: Tensor, same: Tensor) -> Tensor:
        logit = 0.0 if self.config.same_target == "zero-logit" else None
        return info_nce(anchor, positive, temperature=self.config.temperature, same=same, same_logit=logit)
