"""The weights of a late fusion, chosen on the validation targets. They never see a test target.

Axes: M members, T targets of a chunk, N items.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mmbench.choices import MaskRule
from mmbench.data.views import TargetView, ranges
from mmbench.evaluation.counting import Seen, count, without
from mmbench.evaluation.evidence import Ranks
from mmbench.evaluation.metrics import mean_value, parse_metric
from mmbench.evaluation.ranking import evaluation_batches
from mmbench.models.late_fusion import LateFused
from mmbench.nn.score_scales import (
    FusionWeights,
    as_shares,
    equal_weights,
    gate_weights,
    simplex_grid,
    weighted_sum,
)

WeightKind = Literal["validation", "equal", "learned", "gated"]
WEIGHT_KINDS: tuple[WeightKind, ...] = get_args(WeightKind)
# With fewer users, what is best for them overfits by more than the differences between a table's rows.
FEWEST_USERS = 2_000
METRIC = "NDCG@10"
MOST_HELD = 2**26  # scores that are held while weights are learned; of more users some are taken, evenly


@dataclass(frozen=True)
class ScaledChunk:
    """Some users of a view, with their members' scores on a common scale.

    index   int64 [T], into the view's users
    scores  float64 [M, T, N]
    knows   bool [M, T], whether a member knows an item of the history
    traits  float64 [T, 2], see FusionWeights
    """

    index: np.ndarray
    scores: Tensor
    knows: Tensor
    traits: Tensor


Scorer = Callable[[TargetView], Iterator[ScaledChunk]]


def choose_weights(
    model: LateFused[Any], view: TargetView, *, mask_seen: MaskRule, device: torch.device | str = "cpu"
) -> None:
    """Weigh a model's members as its setting says, by the validation targets under a mask rule."""

    def scorer(shown: TargetView) -> Iterator[ScaledChunk]:
        return model_chunks(model, shown, torch.device(device))

    kind: WeightKind = model.config.fusion_weights
    weights = find_weights(kind, scorer, view, (len(model.shares), model.n_items), mask_seen=mask_seen)
    model.set_weights(weights)


def model_chunks(model: LateFused[Any], view: TargetView, device: torch.device) -> Iterator[ScaledChunk]:
    """Yield the scores of a model's members, a chunk of users at a time."""
    model.eval()
    for index, batch in evaluation_batches(model, view, device):
        with torch.no_grad():
            yield ScaledChunk(index, *model.scaled(batch), model.traits(batch))


def find_weights(
    kind: WeightKind, scorer: Scorer, view: TargetView, shape: tuple[int, int], *, mask_seen: MaskRule
) -> FusionWeights:
    """Return the weights of some members on validation targets; `shape` is the number of members and of items.

    They are equal where a single member, or fewer than FEWEST_USERS users leave nothing to choose.
    """
    n_members, n_items = shape
    if kind == "equal" or n_members == 1:
        return equal_weights(n_members)
    if len(view) < FEWEST_USERS:
        return equal_weights(
            n_members, f"equal: {len(view):,} validation users are fewer than {FEWEST_USERS:,}"
        )
    if kind == "validation":
        shares = best_on_grid(scorer(view), view, shape, mask_seen=mask_seen)
        return FusionWeights(tuple(shares), f"validation {METRIC}")
    chosen = some_users(view, MOST_HELD // (n_members * n_items))
    of = "" if len(chosen) == len(view) else f" {len(chosen):,} of"
    source = f"{kind} on{of} {len(view):,} validation users"
    return learned_weights(kind, list(scorer(chosen)), chosen, shape, mask_seen=mask_seen, source=source)


def best_on_grid(
    chunks: Iterable[ScaledChunk], view: TargetView, shape: tuple[int, int], *, mask_seen: MaskRule
) -> list[int]:
    """Return the weights of the grid with the best NDCG@10, in tenths; of equal values, those nearest to equal weights.

    The members score once; each point of the grid is a weighted sum and two counts per user.
    """
    n_members, n_items = shape
    grid = simplex_grid(n_members)
    counts = np.zeros((2, len(grid), len(view)), np.int64)
    seen = None if mask_seen == "none" else Seen(view, n_items)
    for chunk in chunks:
        target = view.target[chunk.index]
        for point, shares in enumerate(grid.to(chunk.scores.device)):
            scores = weighted_sum(chunk.scores, shares, chunk.knows)
            counted = count(scores, torch.from_numpy(target).to(scores.device), user=view.user[chunk.index])
            pair = counted.greater, counted.equal
            if seen is not None:
                train, whole = without(counted, scores, target, seen.pairs(chunk.index))
                pair = train if mask_seen == "train" else whole
            counts[:, point, chunk.index] = pair
    ranks = [Ranks(view.user, greater, equal, n_items) for greater, equal in counts.swapaxes(0, 1)]
    metric = str(parse_metric(METRIC).within(n_items))
    values = [mean_value(point, metric) for point in ranks]
    best: list[int] = grid[int(np.argmax(values))].tolist()  # the first of equal values
    return best


# -- weights of a conditional logit -----------------------------------------------------------------------


def learned_weights(
    kind: WeightKind,
    chunks: list[ScaledChunk],
    view: TargetView,
    shape: tuple[int, int],
    *,
    mask_seen: MaskRule,
    source: str,
) -> FusionWeights:
    """Return the weights that make the targets most likely under a softmax over the candidates of the mask rule.

    "learned" minimises a convex function of weights >= 0; "gated" starts from its weights and lets them depend on the
    traits of the user. A member that knows nothing of a history counts as the mean of its scores does: 0.
    """
    n_members, n_items = shape
    left_out = [_left_out(view, n_items, chunk, mask_seen) for chunk in chunks]

    def loss(weights_of: Callable[[ScaledChunk], Tensor]) -> Tensor:
        return sum(
            (_negative_log_likelihood(chunk, weights_of(chunk), view, out)
             for chunk, out in zip(chunks, left_out, strict=True)), torch.zeros((), dtype=torch.float64),
        ) / len(view)  # fmt: skip

    weights = _minimised(
        lambda a: loss(lambda chunk: a[:, None].expand(-1, len(chunk.index))),
        np.ones(n_members),
        is_positive=True,
    )
    if not weights.any():
        return equal_weights(n_members, f"equal: no member helps ({source})")
    if kind == "learned":
        return FusionWeights(as_shares(weights.tolist()), source)
    start = np.zeros((n_members, 3))
    start[:, 0] = np.log(np.maximum(weights, 1e-3 * weights.max()))
    gates = _minimised(
        lambda g: loss(lambda chunk: gate_weights(g.view(n_members, 3), chunk.traits.cpu())), start.ravel()
    )
    rows = tuple(tuple(row) for row in gates.reshape(n_members, 3).tolist())
    return FusionWeights(as_shares(weights.tolist()), source, rows)


def _left_out(view: TargetView, n_items: int, chunk: ScaledChunk, rule: MaskRule) -> tuple[Tensor, Tensor]:
    """Return (row, item - 1) of the seen items that are not candidates of a chunk's users; targets stay."""
    if rule == "none":
        nothing = torch.zeros(0, dtype=torch.int64)
        return nothing, nothing
    pairs = Seen(view, n_items).pairs(chunk.index)
    keep = pairs.item != view.target[chunk.index][pairs.row] - 1
    if rule == "train":
        keep &= pairs.is_training
    return torch.from_numpy(pairs.row[keep]), torch.from_numpy(pairs.item[keep])


def _negative_log_likelihood(
    chunk: ScaledChunk, weights: Tensor, view: TargetView, left_out: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the sum over a chunk's users, for weights [M, T]."""
    sums = torch.einsum("mt,mtn->tn", weights * chunk.knows.cpu(), chunk.scores.cpu())
    sums = sums.index_put(left_out, sums.new_tensor(-torch.inf))
    target = torch.from_numpy(view.target[chunk.index])[:, None] - 1
    return (sums.logsumexp(1) - sums.gather(1, target)[:, 0]).sum()


def _minimised(
    function: Callable[[Tensor], Tensor], start: np.ndarray, *, is_positive: bool = False
) -> np.ndarray:
    """Return where a function of float64 numbers is smallest, by L-BFGS from `start`."""
    from scipy.optimize import minimize

    def value_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        value = function(point)
        value.backward()
        assert point.grad is not None
        return value.item(), point.grad.numpy()

    bounds = [(0.0, None)] * start.size if is_positive else None
    result = minimize(
        value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 200}
    )
    return np.asarray(result.x)


def some_users(view: TargetView, n: int) -> TargetView:
    """Return a view of n of the users, evenly spaced; of all users if they are not more."""
    if len(view) <= n:
        return view
    chosen = np.unique(np.linspace(0, len(view) - 1, max(n, 1)).astype(np.int64))
    lengths = np.diff(view.offsets)[chosen]
    events = ranges(view.offsets[chosen], lengths)
    return TargetView(
        items=view.items[events], times=view.times[events], offsets=np.concatenate([[0], np.cumsum(lengths)]),
        user=view.user[chosen], target=view.target[chosen], train_len=view.train_len[chosen],
    )  # fmt: skip
