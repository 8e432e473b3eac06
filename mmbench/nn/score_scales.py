"""Scores of several members on a common scale, and the weights of their sum.

Axes: M members, T targets, N items. All candidates of a ranking count, even those that a mask rule removes later, so
that all mask rules share a scale. Everything is float64: the mean of a million float32 scores is not exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor

Scale = Literal["raw", "zscore", "minmax", "prob", "logit", "rank"]
SCALES: tuple[Scale, ...] = get_args(Scale)
RANK_OFFSET = 60
STEPS = 10  # divide a weight in the grid, from 0 to 1


def rescale(scores: Tensor, scale: Scale, present: Tensor | None = None) -> Tensor:
    """Return scores [T, N] of a member on a scale, float64.

    raw     unchanged
    zscore  (r - mean) / deviation, which divides by N; a row of equal scores is 0
    minmax  (r - min) / (max - min); a row of equal scores is 0
    prob    softmax
    logit   log softmax
    rank    1 / (60 + rank), rank = 1 + the number of items with a higher score, so equal scores stay equal
    present bool [N]: the items that the member knows; the formulas skip the others, which get the mean of its scores
    """
    wide = scores.double()
    if present is None or bool(present.all()):
        return _on_scale(wide, scale)
    if not present.any():
        return torch.zeros_like(wide)
    known = _on_scale(wide[:, present], scale)
    rescaled = known.mean(1, keepdim=True).expand_as(wide).clone()
    rescaled[:, present] = known
    return rescaled


def _on_scale(scores: Tensor, scale: Scale) -> Tensor:
    if scale == "zscore":
        return _ratio(scores - scores.mean(1, keepdim=True), scores.std(1, keepdim=True, correction=0))
    if scale == "minmax":
        low, high = scores.aminmax(dim=1, keepdim=True)
        return _ratio(scores - low, high - low)
    if scale == "prob":
        return scores.softmax(1)
    if scale == "logit":
        return scores.log_softmax(1)
    return 1 / (RANK_OFFSET + _ranks(scores)) if scale == "rank" else scores


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below [T, 1], 0 where all scores of a row are equal up to rounding."""
    is_flat = below <= 1e-12 * (1 + above.abs().amax(1, keepdim=True))
    return torch.where(is_flat, 0.0, above / torch.where(is_flat, 1.0, below))


def _ranks(scores: Tensor) -> Tensor:
    """Return 1 + the number of higher scores in each row, float64 [T, N]."""
    ordered = scores.sort(dim=1).values
    not_higher = torch.searchsorted(ordered, scores.contiguous(), right=True)
    return (1 + scores.shape[1] - not_higher).double()


def weighted_sum(scaled: Tensor, shares: Tensor, knows: Tensor | None = None) -> Tensor:
    """Return the sum [T, N] of members' scores [M, T, N], weighted by shares int64 [M] of their total.

    knows  bool [M, T]: whether a member knows an item of a target's history; if not, it is left out, and the weights
           of the others sum to 1. Where only members of weight 0 remain, they count equally.
    """
    knows = scaled.new_ones(scaled.shape[:2], dtype=torch.bool) if knows is None else knows
    left = shares[:, None] * knows
    left = torch.where(left.sum(0) > 0, left, knows.long())
    return torch.einsum("mt,mtn->tn", left.double() / left.sum(0).clamp(min=1), scaled)


@dataclass(frozen=True)
class FusionWeights:
    """How members are weighted, and who decided it.

    shares  whole numbers in proportion to the weights, so that no precision rounds them
    gates   of each member three numbers: its weight is exp(g0 + g1 log(1 + length) + g2 log(1 + popularity)), of a
            user's history and of its last item; () where all users share the weights
    """

    shares: tuple[int, ...]
    source: str
    gates: tuple[tuple[float, ...], ...] = ()

    def combine(self, scaled: Tensor, knows: Tensor, traits: Tensor) -> Tensor:
        """Return the sum [T, N] of scores [M, T, N] of members that know something of a history, knows [M, T].

        traits  float64 [T, 2], the logarithms of 1 + length and of 1 + popularity
        """
        if not self.gates:
            return weighted_sum(scaled, torch.tensor(self.shares, device=scaled.device), knows)
        weights = gate_weights(torch.tensor(self.gates, dtype=torch.float64, device=scaled.device), traits)
        left = weights * knows
        return torch.einsum("mt,mtn->tn", left / left.sum(0).clamp(min=1e-300), scaled)


def gate_weights(gates: Tensor, traits: Tensor) -> Tensor:
    """Return the weights [M, T] of gates [M, 3] for traits [T, 2]."""
    constant = torch.ones(len(traits), 1, dtype=traits.dtype, device=traits.device)
    return (gates @ torch.cat([constant, traits], 1).T).exp()


def equal_weights(n_members: int, source: str = "equal") -> FusionWeights:
    return FusionWeights((1,) * n_members, source)


def as_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Return weights of which one is above 0 as billionths of their sum."""
    return tuple(round(1e9 * weight / sum(weights)) for weight in weights)


def simplex_grid(n_members: int) -> Tensor:
    """Return all weights in steps of .1 as tenths, int64 [G, M], those nearest to equal weights first.

    Ties go to the larger weight of an earlier member.
    """
    parts = (part for part in product(range(STEPS + 1), repeat=n_members) if sum(part) == STEPS)

    def distance(part: tuple[int, ...]) -> int:
        return sum((n_members * steps - STEPS) ** 2 for steps in part)

    ordered = sorted(parts, key=lambda part: (distance(part), [-steps for steps in part]))
    return torch.tensor(ordered)
