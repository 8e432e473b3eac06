"""What members of a fusion hit that the others miss, from stored ranks alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmbench.evaluation.evidence import Ranks


@dataclass(frozen=True)
class Complementarity:
    """Hits at K of members and of their fusion, over the same users.

    only       of each member: targets that it alone hits
    every      targets that all members hit
    oracle     share of users whose target some member hits: an upper bound of a gate, never a row
    kept       share of these hits that the fusion keeps
    best       the member with the most hits
    p_mcnemar  of the fusion against the best member: exact, two-sided; 1 where they hit the same users
    """

    only: tuple[int, ...]
    every: int
    oracle: float
    kept: float
    best: int
    p_mcnemar: float


def hits(ranks: Ranks, k: int) -> np.ndarray:
    """Return whether each target is among the first k, bool [n] in ascending order of users.

    A target that ties with others is hit when its expected rank, the middle of them, is among the first k.
    """
    order = np.argsort(ranks.user, kind="stable")
    middle: np.ndarray = (ranks.greater + ranks.equal / 2)[order] < k
    return middle


def complementarity(members: Sequence[Ranks], fused: Ranks, k: int = 10) -> Complementarity:
    """Compare the hits of members and of their fusion."""
    from scipy.stats import binomtest

    table = np.stack([hits(ranks, k) for ranks in members])
    together, n_hits = hits(fused, k), table.sum(0)
    best = int(table.sum(1).argmax())
    gained, lost = int((together & ~table[best]).sum()), int((~together & table[best]).sum())
    union = n_hits > 0
    return Complementarity(
        only=tuple(int((row & (n_hits == 1)).sum()) for row in table),
        every=int((n_hits == len(table)).sum()),
        oracle=float(union.mean()),
        kept=float((together & union).sum() / max(union.sum(), 1)),
        best=best,
        p_mcnemar=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
    )
