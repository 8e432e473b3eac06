"""Scores -> target ranks over the full catalogue, by counting, and the lists of the best items.

For each user: greater = number of other candidates scored above the target, equal = number with its score.
No candidate is sampled. Scores are float32 or float64; TF32 is off (mmbench.runtime).
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.choices import RULES, MaskRule
from mmbench.data.batch import Batch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import Rows, batches, last_rows
from mmbench.data.views import TargetView
from mmbench.errors import RunError, out_of_memory
from mmbench.evaluation.counting import Counts, Pairs, Seen, count, without
from mmbench.evaluation.evidence import LIST_RULES, UNKNOWN, MadeBy, Ranking, Ranks, TopLists
from mmbench.evaluation.lists import Unseen, best
from mmbench.models.base import Recommender
from mmbench.nn.losses import logits_buffer

# Scores held at once, by device. The chunk depends on the catalogue only, so that the same model always meets the
# same matrix shapes and gives the same last bits.
SCORES_AT_ONCE = {"cpu": 2**22, "cuda": 2**25}
# A chunk has so many users however large the catalogue, because an encoder is slow on a few histories; fewer only where
# a score needs more than a number for each item.
FEWEST_USERS = 64
# And at most, however small it is: histories of a chunk should have similar lengths, as all are padded to the longest.
MOST_USERS = {"cpu": 256, "cuda": 4_096}
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


def rank(
    model: Recommender[Any],
    view: TargetView,
    *,
    mask_seen: MaskRule = "none",
    device: torch.device | str = "cpu",
    chunk: int | None = None,
) -> Ranks:
    """Return the rank of every target of `view` under a mask rule, in the view's order of users.

    Raises RunError when a score is NaN, naming the user, when the model's scores are not a value per item,
    and when the GPU's memory runs out.
    """
    collected = _Collected(view, model.n_items, rules={mask_seen})
    _score_all(model, view, torch.device(device), chunk, collected)
    return Ranks(view.user, *collected.counts[mask_seen], model.n_items)


def rank_fully(
    model: Recommender[Any],
    view: TargetView,
    *,
    name: str,
    lists: int = 0,
    shown: TargetView | None = None,
    with_spread: bool = False,
    device: torch.device | str = "cpu",
    chunk: int | None = None,
    made_by: MadeBy = UNKNOWN,
) -> Ranking:
    """Rank every target of `view` under every mask rule in a single pass; errors as in `rank`.

    lists  length of the lists of best items; 0 makes none
    shown  what the model reads instead of the view's histories; the mask rules stay about the view's
    """
    collected = _Collected(
        view, model.n_items, rules=RULES, lists=min(lists, model.n_items), with_spread=with_spread
    )
    _score_all(model, view if shown is None else shown, torch.device(device), chunk, collected)
    return Ranking(
        name=name, user=view.user, target=view.target, counts=collected.counts, n_items=model.n_items,
        lists=collected.top_lists(), spread=collected.spread, made_by=made_by,
    )  # fmt: skip


def rank_scores(
    chunks: Iterable[tuple[np.ndarray, Tensor]],
    view: TargetView,
    n_items: int,
    *,
    name: str,
    lists: int = 0,
    made_by: MadeBy = UNKNOWN,
) -> Ranking:
    """Rank every target by scores that come as (index into the view's users, scores [T, N]), under every mask rule."""
    collected = _Collected(view, n_items, rules=RULES, lists=min(lists, n_items))
    for index, scores in chunks:
        collected.add(index, scores)
    return Ranking(
        name=name, user=view.user, target=view.target, counts=collected.counts, n_items=n_items,
        lists=collected.top_lists(), made_by=made_by,
    )  # fmt: skip


def _score_all(
    model: Recommender[Any],
    view: TargetView,
    device: torch.device,
    chunk: int | None,
    collected: "_Collected",
) -> None:
    """Give the scores of all histories to `collected`, a chunk at a time."""
    was_training = model.training
    model.eval()
    reason = ""
    try:
        with torch.no_grad():
            for index, scores in _chunks(model, view, device, chunk):
                collected.add(index, scores)
    except torch.cuda.OutOfMemoryError as error:
        reason = str(error)  # raised outside the handler, whose traceback holds the scores
    finally:
        model.train(was_training)
    if reason:  # a smaller chunk would have other last bits
        raise out_of_memory(reason, "the ranking needs more: fewer seeds at once (--stack), or --device cpu")


def _chunks(
    model: Recommender[Any], view: TargetView, device: torch.device, chunk: int | None
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield (index into the view's users, scores [T, N])."""
    n_items, size = model.n_items, chunk or chunk_size(model, device.type)
    table = _item_table(model) if model.is_dot_product else None
    buffer = None if table is None else logits_buffer(min(size, len(view)), n_items, table)
    for index, batch in evaluation_batches(model, view, device, size):
        if table is None or buffer is None:
            scores = model.score(batch)
        else:
            query = model.query(batch)
            _check_shape(model, "query()", query, (len(index), table.shape[1]))
            scores = torch.mm(query, table.T, out=buffer[: len(index), :n_items])
        _check_shape(model, "score()", scores, (len(index), n_items))
        yield index, scores


def evaluation_batches(
    model: Recommender[Any], view: TargetView, device: torch.device, chunk: int | None = None
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield (index into the view's users, their histories as the model reads them), so many users at once."""
    needs = model.needs
    batcher = Batcher(view.items, view.times, layout=needs.layout, max_len=model.max_len, device=device)
    rows = last_rows(view.offsets, view.user, model.max_len - needs.slots_after)
    for index, part in _in_order_of_length(rows, chunk or chunk_size(model, device.type)):
        yield index, batcher.evaluation(part, slots_after=needs.slots_after)


def _item_table(model: Recommender[Any]) -> Tensor:
    table = model.item_table()
    padding = ", so leave out its row of padding: [1:]" if len(table) == model.n_items + 1 else ""
    if table.dim() != 2 or len(table) != model.n_items:
        raise RunError(
            f"{type(model).__name__}.item_table() has the shape {list(table.shape)}, but there are "
            f"{model.n_items} items; row i - 1 belongs to item i{padding}"
        )
    return table


def _check_shape(model: Recommender[Any], name: str, values: Tensor, shape: tuple[int, int]) -> None:
    if tuple(values.shape) != shape:
        raise RunError(
            f"{type(model).__name__}.{name} has the shape {list(values.shape)}, but {list(shape)} is needed; "
            "a row per target, and a column per item in scores"
        )


def chunk_size(model: Recommender[Any], device_type: str) -> int:
    """Return how many users are scored at once, so that what a score holds fits (`Recommender.score_cost`)."""
    cost = max(model.score_cost(model.n_items), 1)
    fewest = max(1, FEWEST_USERS * model.n_items // max(cost, model.n_items))
    return min(max(fewest, SCORES_AT_ONCE[device_type] // cost), MOST_USERS[device_type])


def _in_order_of_length(rows: Rows, size: int) -> Iterator[tuple[np.ndarray, Rows]]:
    """Yield chunks of histories of like length, so that padded layouts waste little: (index into rows, chunk)."""
    order = np.argsort(rows.length, kind="stable")
    for start, part in zip(range(0, len(rows), size), batches(rows[order], size), strict=True):
        yield order[start : start + size], part


class _Collected:
    """What is kept of the scores of a view."""

    def __init__(
        self,
        view: TargetView,
        n_items: int,
        *,
        rules: Collection[MaskRule],
        lists: int = 0,
        with_spread: bool = False,
    ) -> None:
        self.view, self.n_items, self.length, self.with_spread = view, n_items, lists, with_spread
        n = len(view)
        self.counts: dict[MaskRule, tuple[np.ndarray, np.ndarray]] = {
            rule: (np.zeros(n, np.int64), np.zeros(n, np.int64)) for rule in RULES if rule in rules
        }
        self.seen = Seen(view, n_items) if set(rules) - {"none"} or lists else None
        self.unseen = Unseen(n_items)
        self.items = {rule: np.zeros((n, lists), np.int32) for rule in LIST_RULES if lists}
        self.scores = {rule: np.zeros((n, lists), np.float16) for rule in LIST_RULES if lists}
        self.spreads = np.zeros(n)

    def add(self, index: np.ndarray, scores: Tensor) -> None:
        """Count, and list, the users `index` of the view, whose scores these are."""
        target = self.view.target[index]
        counts = count(
            scores, torch.from_numpy(target).to(scores.device), user=self.view.user[index],
            with_maxima=self.length > 0,
        )  # fmt: skip
        self._keep("none", index, (counts.greater, counts.equal))
        if self.seen is not None:
            pairs = self.seen.pairs(index)
            if set(self.counts) - {"none"}:
                train, whole = without(counts, scores, target, pairs)
                self._keep("train", index, train)
                self._keep("input", index, whole)
            if self.length:
                self._list(index, scores, counts, pairs, target)
        if self.with_spread:
            self.spreads[index] = scores.double().std(1).cpu().numpy()

    def _keep(self, rule: MaskRule, index: np.ndarray, counted: tuple[np.ndarray, np.ndarray]) -> None:
        if rule in self.counts:
            self.counts[rule][0][index], self.counts[rule][1][index] = counted

    def _list(
        self, index: np.ndarray, scores: Tensor, counts: Counts, pairs: Pairs, target: np.ndarray
    ) -> None:
        """Make both lists from a list that is longer by what the second leaves out, seldom more than its length."""
        assert self.seen is not None
        assert counts.maxima is not None
        n_seen = np.bincount(pairs.row, minlength=len(index))
        longer = min(self.length + min(int(n_seen.max()), self.length), self.n_items)
        items, values = best(scores, longer, counts.maxima)
        self._store("none", index, items[:, : self.length], values[:, : self.length])
        items, values, is_short = self.unseen.first(items, values, self.length, pairs, target)
        self._store("input", index, items, values)
        if is_short.any() and longer < self.n_items:
            rows = np.flatnonzero(is_short)
            longer = min(self.length + int(n_seen[rows].max()), self.n_items)
            items, values = best(scores[rows], longer, counts.maxima[rows])
            pairs, target = self.seen.pairs(index[rows]), target[rows]
            self._store(
                "input", index[rows], *self.unseen.first(items, values, self.length, pairs, target)[:2]
            )

    def _store(self, rule: MaskRule, index: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
        """Keep a list; what scores -inf is out of the race and leaves its slot empty."""
        self.items[rule][index] = np.where(np.isneginf(scores), 0, items + 1)
        held = np.clip(scores, -LARGEST_FLOAT16, LARGEST_FLOAT16)
        self.scores[rule][index] = np.where(np.isneginf(scores), -np.inf, held)

    def top_lists(self) -> dict[MaskRule, TopLists]:
        return {rule: TopLists(items, self.scores[rule]) for rule, items in self.items.items()}

    @property
    def spread(self) -> float | None:
        return float(self.spreads.mean()) if self.with_spread else None
