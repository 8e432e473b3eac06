"""Item neighbourhoods: prune similarities to k neighbours, score histories with them.

Axes: B items of a block, N items, E kept pairs, T histories, W width. Item ids are 1..N; row and column 0 are padding.
A pair (source, target, value) says: a history that holds `source` adds `value` to the score of `target`.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from mmbench.nn.interactions import members

Prune = Literal["target", "source"]
BLOCK = 1024  # items whose similarities to all others are in memory together
NEAREST_BLOCK = 256  # the same for nearest items, whose ties take more memory


def top_k(values: Tensor, k: int) -> Tensor:
    """Return which are the k largest values of each row, bool [B, N]; ties go to the smaller column, never to -inf."""
    k = min(k, values.shape[1])
    threshold = values.topk(k, dim=1).values[:, -1:]
    above, level = values > threshold, values == threshold
    room = k - above.sum(1, keepdim=True)
    return (above | (level & (level.cumsum(1) <= room))) & (values > float("-inf"))


class Neighbours(nn.Module):
    """Pruned similarities as a sparse matrix, row = source: buffers `offsets` [N+2], `targets` [E], `values` [E]."""

    offsets: Tensor
    targets: Tensor
    values: Tensor

    def __init__(self, source: Tensor, target: Tensor, value: Tensor, *, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        order = (source * (n_items + 1) + target).argsort()
        count = torch.bincount(source, minlength=n_items + 1)
        self.register_buffer("offsets", torch.cat([count.new_zeros(1), count.cumsum(0)]))
        self.register_buffer("targets", target[order])
        # float32 values added in float64 have exact sums, so equal sums are equal numbers.
        self.register_buffer("values", value[order].float())

    @classmethod
    def build(
        cls,
        rows: Callable[[Tensor], Tensor],
        *,
        n_items: int,
        k: int,
        prune: Prune,
        self_sim: float,
        normalise: bool = False,
    ) -> "Neighbours":
        """Build the k neighbours of each target (or source) from a similarity that is computed in blocks.

        rows(ids [B]) -> similarities [B, N+1] of these items (targets, or sources when prune = "source") to all;
        zeros are not neighbours. The similarity of an item to itself is `self_sim` and is none of the k.
        normalise  makes the absolute values of each source sum to 1 after the pruning, `self_sim` apart
        """
        parts = list(_blocks(rows, n_items=n_items, k=k))
        item, neighbour, value = (torch.cat(column) for column in zip(*parts, strict=True))
        source, target = (neighbour, item) if prune == "target" else (item, neighbour)
        if normalise:
            total = value.new_zeros(n_items + 1).index_add_(0, source, value.abs())
            value = value / total[source]
        if self_sim:
            every = torch.arange(1, n_items + 1)
            source, target = torch.cat([source, every]), torch.cat([target, every])
            value = torch.cat([value, value.new_full((n_items,), self_sim)])
        return cls(source, target, value, n_items=n_items)

    def score(self, item_seq: Tensor, weight: Tensor) -> Tensor:
        """Return sums of weight * value over a history, float64 [T, N].

        item_seq int64 [T, W], weight float64 [T, W], 0 = skipped.
        """
        row, column = (weight != 0).nonzero(as_tuple=True)
        event, entry = members(self.offsets, item_seq[row, column])
        added = weight[row, column][event] * self.values[entry].double()
        scores = added.new_zeros(len(item_seq) * (self.n_items + 1))
        scores.index_add_(0, row[event] * (self.n_items + 1) + self.targets[entry], added)
        return scores.view(len(item_seq), -1)[:, 1:]


def _blocks(
    rows: Callable[[Tensor], Tensor], *, n_items: int, k: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (item, neighbour, value) of each block of items."""
    for start in range(1, n_items + 1, BLOCK):
        ids = torch.arange(start, min(start + BLOCK, n_items + 1))
        values = rows(ids)
        if not torch.isfinite(values).all():
            raise ValueError("a similarity is not a finite number; check the features")
        values = values.masked_fill(values == 0, float("-inf"))
        values[:, 0] = values[torch.arange(len(ids)), ids] = float("-inf")
        row, column = top_k(values, k).nonzero(as_tuple=True)
        yield ids[row], column, values[row, column]


def recency_weight(item_seq: Tensor, mask: Tensor, *, decay: float, distinct: bool) -> Tensor:
    """Return the weights of the events of right-padded histories, float64 [T, W]: decay^(events after it); padding 0.

    decay 0 reads the newest event only. With `distinct` only the newest occurrence of an item counts.
    """
    age = mask.sum(1, keepdim=True) - 1 - torch.arange(item_seq.shape[1], device=mask.device)
    weight = torch.where(mask, decay ** age.clamp(min=0).double(), 0.0)
    if not distinct:
        return weight
    later = torch.ones(item_seq.shape[1], item_seq.shape[1], dtype=torch.bool, device=mask.device).triu(1)
    is_repeated = ((item_seq[:, :, None] == item_seq[:, None, :]) & later & mask[:, None, :]).any(2)
    return torch.where(is_repeated, 0.0, weight)


def nearest_by_cosine(feat: Tensor, present: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return for each item with features itself and the k - 1 others that are nearest to it by cosine.

    feat [N + 1, F], present bool [N + 1] -> items int64 [n] and their neighbours int64 [n, min(k, n)]. Items without
    features are nobody's neighbours. Ties go to smaller ids.
    """
    items = present.nonzero()[:, 0]
    unit = nn.functional.normalize(feat[items], dim=1)
    parts = []
    for start in range(0, len(items), NEAREST_BLOCK):
        block = unit[start : start + NEAREST_BLOCK]
        similarity = block @ unit.T
        row = torch.arange(len(block))
        similarity[row, start + row] = float("inf")
        parts.append(top_k(similarity, k).nonzero()[:, 1].view(len(block), -1))
    chosen = torch.cat(parts) if parts else items.new_zeros(0, 0)
    return items, items[chosen]
