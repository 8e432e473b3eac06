"""gSASRec with the loss of the authors' code, github.com/asash/gSASRec-pytorch @7e35028, train_gsasrec.py.

Follows: transformed() the transform of positive scores, loss() binary cross entropy of all K + 1 scores.
Differences from gsasrec.py: (1) a positive below -23.03 or above 23.03 + log beta has no gradient, because the
transform lies between clamps. (2) The mean is over K + 1 terms of each target.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.nn.sampled import gbce_weight

from .gsasrec import GSASRec

CLAMP = 1e-10


def transformed(score: Tensor, beta: float) -> Tensor:
    """Return log( 1 / (sigma(score)^-beta - 1) ) in float64: its sigmoid is sigma(score)^beta, between clamps."""
    most = torch.finfo(torch.float64).max
    probability = torch.sigmoid(score.double()).clamp(CLAMP, 1 - CLAMP)
    power = probability.pow(-beta).clamp(1 + CLAMP, most)
    return (1 / (power - 1)).clamp(CLAMP, most).log()


class GSASRecReleased(GSASRec):
    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        config = self.config
        positive, negative, _ = self.next_item.scores(self.query(batch), self.item_table(), batch)
        beta = gbce_weight(config.n_negatives, self.n_items, config.gbce_t)
        logits = torch.cat([transformed(positive, beta)[:, None], negative.double()], 1)
        label = torch.zeros_like(logits)
        label[:, 0] = 1
        return {"gbce": F.binary_cross_entropy_with_logits(logits, label).to(positive.dtype)}
