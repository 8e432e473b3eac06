"""Scores -> target ranks over the full catalogue, by counting. Masking and ties are decided here, metrics not.

For each user: greater = number of other candidates scored above the target, equal = number scored alike.
No list is sorted, no candidate sampled. Scores are float32 or float64; TF32 is off (mmbench.runtime).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.data.batcher import Batcher
from mmbench.data.samples import Rows, batches, last_rows
from mmbench.data.views import TargetView, ranges
from mmbench.errors import RunError, out_of_memory
from mmbench.models.base import Recommender
from mmbench.nn.losses import logits_buffer
from mmbench.runs.store import Ranks

# Scores held at once, by device. The chunk depends on the catalogue only, so that the same model always meets the
# same matrix shapes and gives the same last bits.
SCORES_AT_ONCE = {"cpu": 2**22, "cuda": 2**25}
# A chunk has so many users however large the catalogue, because an encoder is slow on a few histories; fewer only where
# a score needs more than a number for each item.
FEWEST_USERS = 64
# And at most, however small it is: histories of a chunk should be of like length, because they are padded alike.
MOST_USERS = {"cpu": 256, "cuda": 4_096}
# Scores compared at once: on a CPU so few that the passes over them read the cache, not the memory.
COMPARED_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}
EXACT_SUM = 2**24  # a float32 sum of so many ones is still exact


def rank(
    model: Recommender[Any],
    view: TargetView,
    *,
    mask_seen: str = "none",
    device: torch.device | str = "cpu",
    chunk: int | None = None,
    on_scores: Callable[[Tensor], None] | None = None,
) -> Ranks:
    """Ranks of every target of `view`, in the view's user order.

    mask_seen  "none"; "train": the user's training items are no candidates; "input": nothing of the input is.
               The target itself is always a candidate.
    on_scores  is given each chunk's scores [T, N].
    Raises RunError when a score is not a number, naming the user, and when the GPU's memory runs out.
    """
    try:
        return _rank(model, view, mask_seen, torch.device(device), chunk, on_scores)
    except torch.cuda.OutOfMemoryError as error:
        reason = str(error)
    # Outside the handler, whose traceback holds the scores. No smaller chunk: its last bits would be others.
    raise out_of_memory(reason, "the ranking needs more: fewer seeds at once (--stack), or --device cpu")


def _rank(
    model: Recommender[Any],
    view: TargetView,
    mask_seen: str,
    device: torch.device,
    chunk: int | None,
    on_scores: Callable[[Tensor], None] | None,
) -> Ranks:
    was_training = model.training
    model.eval()
    needs = model.needs
    batcher = Batcher(view.items, view.times, layout=needs.layout, max_len=model.max_len, device=device)
    rows = last_rows(view.offsets, view.user, model.max_len - needs.places_after)
    size = chunk or chunk_size(model, device.type)
    greater, equal = np.zeros(len(view), np.int64), np.zeros(len(view), np.int64)
    with torch.no_grad():
        table = model.item_table() if model.is_dot_product else None
        buffer = None if table is None else logits_buffer(min(size, len(view)), len(table), table)
        for index, part in _in_order_of_length(rows, size):
            batch = batcher.evaluation(part, places_after=needs.places_after)
            if table is None or buffer is None:
                scores = model.score(batch)
            else:
                scores = torch.mm(model.query(batch), table.T, out=buffer[: len(part), : len(table)])
            if on_scores is not None:
                on_scores(scores)
            target = torch.from_numpy(view.target[index]).to(device)
            above, tied = count(
                scores, target, seen=_seen(view, index, mask_seen, device), user=view.user[index]
            )
            greater[index], equal[index] = above.cpu().numpy(), tied.cpu().numpy()
    model.train(was_training)
    return Ranks(user=view.user, greater=greater, equal=equal, n_candidates=model.n_items)


def chunk_size(model: Recommender[Any], device_type: str) -> int:
    """Return how many users are scored at once, so that what a score holds fits (`Recommender.score_cost`)."""
    cost = max(model.score_cost(model.n_items), 1)
    fewest = max(1, FEWEST_USERS * model.n_items // max(cost, model.n_items))
    return min(max(fewest, SCORES_AT_ONCE[device_type] // cost), MOST_USERS[device_type])


def _in_order_of_length(rows: Rows, size: int) -> Iterator[tuple[np.ndarray, Rows]]:
    """Chunks of histories of like length, so that padded layouts waste little; (index into rows, chunk)."""
    order = np.argsort(rows.length, kind="stable")
    for start, part in zip(range(0, len(rows), size), batches(rows[order], size), strict=True):
        yield order[start : start + size], part


def _seen(
    view: TargetView, index: np.ndarray, rule: str, device: torch.device | str
) -> tuple[Tensor, Tensor] | None:
    """(row, item - 1) of every candidate that the rule takes out; targets are put back by `count`."""
    if rule == "none":
        return None
    length = view.train_len[index] if rule == "train" else np.diff(view.offsets)[index]
    row = np.repeat(np.arange(len(index)), length)
    item = view.items[ranges(view.offsets[:-1][index], length)] - 1
    return torch.from_numpy(row).to(device), torch.from_numpy(item).to(device)


def count(
    scores: Tensor,
    target: Tensor,
    *,
    seen: tuple[Tensor, Tensor] | None = None,
    user: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """scores [T, N], target int64 [T] in 1..N -> (greater, equal), int64 [T].

    A NaN compares false with everything and would rank first, so any non-finite target score and any NaN
    or +inf is an error; -inf for other candidates is allowed (they are out of the race).
    """
    if scores.dtype not in (torch.float32, torch.float64):
        raise RunError(f"scores are {scores.dtype}: too coarse to rank by; return float32 or float64")
    own = scores.gather(1, target[:, None] - 1)
    greater, equal, top = _compare(scores, own)
    bad = ~torch.isfinite(own[:, 0]) | torch.isnan(top) | torch.isposinf(top)
    if bad.any():
        first = int(bad.nonzero()[0])
        who = f"user number {user[first]}" if user is not None else f"row {first}"
        raise RunError(
            f"the model's score for {who} is not a finite number; lower the learning rate or check the features"
        )
    equal -= 1  # the target itself
    if seen is not None:
        pair = torch.unique(seen[0] * scores.shape[1] + seen[1])  # an item may stand in a history twice
        row, item = pair // scores.shape[1], pair % scores.shape[1]
        rival, mine = scores[row, item], own[row, 0]
        greater.index_add_(0, row, -(rival > mine).long())
        equal.index_add_(0, row, -((rival == mine) & (item != target[row] - 1)).long())
    return greater, equal


def _compare(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """scores [T, N], own [T, 1] -> how many of a row are above and how many alike, int64 [T]; the largest, [T].

    A largest of NaN means that the row holds one. On a CPU a comparison that is written as numbers of the scores'
    own type and summed as such takes a fifth of the time of one that is written as bool and summed as int64.
    """
    n_items = scores.shape[1]
    size = max(1, COMPARED_AT_ONCE[scores.device.type] // n_items)
    flags = torch.empty_like(scores[:size])
    kind = torch.float64 if n_items > EXACT_SUM else None
    found = []
    for part, mine in zip(scores.split(size), own.split(size), strict=True):
        flag = flags[: len(part)]
        above = torch.gt(part, mine, out=flag).sum(1, dtype=kind)
        alike = torch.eq(part, mine, out=flag).sum(1, dtype=kind)
        found.append((above.long(), alike.long(), part.amax(1)))
    above, alike, top = (torch.cat(one) for one in zip(*found, strict=True))
    return above, alike, top
