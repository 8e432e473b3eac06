"""The weights of a late fusion, chosen by the validation ranking. It never sees a test target."""

from typing import Any

import numpy as np
import torch

from mmbench.choices import MaskRule
from mmbench.data.views import TargetView
from mmbench.evaluation.counting import Seen, count, without
from mmbench.evaluation.evidence import Ranks
from mmbench.evaluation.metrics import mean_value
from mmbench.evaluation.ranking import evaluation_batches
from mmbench.models.late_fusion import LateFused
from mmbench.nn.score_scales import simplex_grid, weighted_sum

FEWEST_USERS = (
    2_000  # with fewer, the best of the grid overfits by more than the differences between tables' rows
)
METRIC = "NDCG@10"


def choose_weights(
    model: LateFused[Any], view: TargetView, *, mask_seen: MaskRule, device: torch.device | str = "cpu"
) -> None:
    """Weigh a model's members as its setting says, by the ranking of the validation targets under a mask rule."""
    if model.config.fusion_weights == "equal" or len(model.shares) == 1:
        return
    if len(view) < FEWEST_USERS:
        model.weights_from = f"equal: {len(view):,} validation users are fewer than {FEWEST_USERS:,}"
        return
    model.set_shares(best_shares(model, view, mask_seen=mask_seen, device=device), f"validation {METRIC}")


def best_shares(
    model: LateFused[Any], view: TargetView, *, mask_seen: MaskRule, device: torch.device | str = "cpu"
) -> list[int]:
    """Return the weights of the grid with the best NDCG@10, in tenths; of equal ones those nearest to equal weights.

    The members score once; each point of the grid is a weighted sum and two counts per user.
    """
    grid = simplex_grid(len(model.shares))
    counts = np.zeros((2, len(grid), len(view)), np.int64)
    seen = None if mask_seen == "none" else Seen(view, model.n_items)
    model.eval()
    with torch.no_grad():
        for index, batch in evaluation_batches(model, view, torch.device(device)):
            scaled, knows = model.scaled(batch)
            target = view.target[index]
            for point, shares in enumerate(grid.to(scaled.device)):
                scores = weighted_sum(scaled, shares, knows)
                counted = count(scores, torch.from_numpy(target).to(scores.device), user=view.user[index])
                pair = counted.greater, counted.equal
                if seen is not None:
                    train, whole = without(counted, scores, target, seen.pairs(index))
                    pair = train if mask_seen == "train" else whole
                counts[:, point, index] = pair
    ranks = [Ranks(view.user, greater, equal, model.n_items) for greater, equal in counts.swapaxes(0, 1)]
    values = [mean_value(point, METRIC) for point in ranks]
    best: list[int] = grid[int(np.argmax(values))].tolist()  # the first of equal ones
    return best
