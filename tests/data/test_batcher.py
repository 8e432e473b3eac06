"""mmbench.data.batcher: what a batch holds, however it is laid out, and many steps at once."""

from typing import Any

import numpy as np
import pytest
import torch

from mmbench.data.batch import TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.packing import BIN_WIDTH
from mmbench.data.samples import Rows, last_rows, plan_rows, plan_steps
from tests.models.toy import history_batch, toy_catalog, toy_model, toy_view, training_batch, view_of

A, B, C, D, E = range(1, 6)


@pytest.mark.parametrize("layout", ["packed", "padded", "fixed"])
def test_batch_fields(layout: str) -> None:
    view = view_of([[A, B, C, D], [E, A, B]], [[10, 10, 40, 50], [65, 68, 69]])
    rows = plan_rows(view.offsets, "all", 8)
    batch = Batcher(view.items, view.times, layout=layout, max_len=8).training(rows)
    assert batch.item_seq.shape == {"packed": (1, BIN_WIDTH), "padded": (2, 3), "fixed": (2, 8)}[layout]
    real = batch.mask
    assert batch.item_seq[real].tolist() == [A, B, C, E, A]
    assert batch.position[real].tolist() == [0, 1, 2, 0, 1]
    assert batch.interval[real].tolist() == [0, 0, 30, 0, 3]
    for field in (batch.item_seq, batch.time_seq, batch.position, batch.interval):
        assert not field[~real].any()
    assert batch.target.tolist() == [B, C, D, A, B]
    assert batch.user.tolist() == [0, 0, 0, 1, 1]
    assert batch.at_slots(batch.item_seq[..., None])[:, 0].tolist() == [A, B, C, E, A]
    seen = batch.attention_mask(causal=True)[real][:, : batch.item_seq.shape[1]].sum(1)
    assert seen.tolist() == [1, 2, 3, 1, 2]
    both = batch.attention_mask(causal=False)[real].sum(1)
    assert both.tolist() == [3, 3, 3, 2, 2]


def test_evaluation_slot_is_the_last_event_or_the_last_extra_place() -> None:
    view = view_of([[A, B, C], [D]])
    rows = last_rows(view.offsets, np.array([4, 7]), 3)
    batcher = Batcher(view.items, view.times, layout="padded", max_len=4)
    batch = batcher.evaluation(rows)
    assert batch.item_seq.flatten()[batch.slot].tolist() == [C, D]
    assert batch.user.tolist() == [4, 7]
    assert not isinstance(batch, TrainBatch)
    extra = batcher.evaluation(rows, slots_after=1)
    assert extra.item_seq.tolist() == [[A, B, C, 0], [D, 0, 0, 0]]
    assert extra.segment.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert extra.position.flatten()[extra.slot].tolist() == [3, 1]
    assert (view.times > 0).all()
    assert not extra.interval.flatten()[extra.slot].any()  # an extra place has no time


def test_empty_history_is_laid_out() -> None:
    view = view_of([[], [A]])
    batcher = Batcher(view.items, view.times, layout="packed", max_len=4)
    batch = batcher.evaluation(last_rows(view.offsets, np.arange(2), 3), slots_after=1)
    assert batch.item_seq.flatten()[batch.slot].tolist() == [0, 0]
    assert batch.position.flatten()[batch.slot].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["sasrec", "sasrec:official"])
def test_layouts_give_equal_states(name: str) -> None:
    view = toy_view()
    model = toy_model(name, toy_catalog()).double().eval()
    rows = plan_rows(view.offsets, "all", 8)
    actual = {}
    for layout in ("packed", "padded", "fixed"):
        batch = Batcher(view.items, view.times, layout=layout, max_len=8).training(rows)
        actual[layout] = model.query(batch).detach()
    torch.testing.assert_close(actual["packed"], actual["padded"], rtol=0, atol=1e-12)
    torch.testing.assert_close(actual["packed"], actual["fixed"], rtol=0, atol=1e-12)


def test_toy_helpers_make_what_the_engine_makes() -> None:
    view, model = toy_view(), toy_model("sasrec", toy_catalog())
    assert (np.diff(view.times) == 0).any(), "the toy data should have tied times"
    assert set(view.items.tolist()) == set(range(1, 31))
    assert len(training_batch(model, view).target) == (np.diff(view.offsets) - 1).sum()
    long = history_batch(model, [list(range(1, 13))])
    assert long.item_seq[long.mask].tolist() == list(range(5, 13))


def steps_of_epoch(kind: str, size: int, seed: int = 0) -> list[Rows]:
    rows = plan_rows(toy_view(n_users=40).offsets, kind, 8)
    return plan_steps(rows, batch_size=size, unit="targets", generator=np.random.default_rng(seed))


@pytest.mark.parametrize("layout", ["packed", "padded", "fixed"])
@pytest.mark.parametrize("kind", ["all", "prefix", "last-window", "sequence", "sequence-prefix", "pairs"])
def test_many_steps_at_once_are_the_steps_one_by_one(layout: Any, kind: str) -> None:
    view, prefixes = toy_view(n_users=40), kind in ("all", "prefix", "last-window")
    batcher = Batcher(view.items, view.times, layout=layout, max_len=8)
    steps = steps_of_epoch(kind, 12)
    together = batcher.training_steps(steps, prefixes=prefixes)
    assert len(together) == len(steps) > 2
    for step, batch in zip(steps, together, strict=True):
        alone, actual = batcher.training(step, prefixes=prefixes).tensors(), batch.tensors()
        assert alone.keys() == actual.keys()
        assert all(torch.equal(actual[name], value) for name, value in alone.items())


@pytest.mark.parametrize("layout", ["packed", "padded", "fixed"])
@pytest.mark.parametrize("kind", ["all", "prefix", "pairs"])
def test_a_group_of_steps_is_one_batch_with_a_leading_axis(layout: Any, kind: str) -> None:
    """Of every member its own slots show what the step by itself shows."""
    view, prefixes = toy_view(n_users=40), kind != "pairs"
    batcher = Batcher(view.items, view.times, layout=layout, max_len=8, is_even=True)
    seeds = [steps_of_epoch(kind, 32, seed) for seed in range(3)]
    mixed = [step for steps in zip(*seeds, strict=True) for step in steps]
    grouped = batcher.training_steps(mixed, prefixes=prefixes, group=3)
    assert len(grouped) == len(seeds[0])
    for number, batch in enumerate(grouped):
        tensors = batch.tensors()
        assert all(len(value) == 3 for value in tensors.values())
        for k in range(3):
            own = TrainBatch.of({name: value[k] for name, value in tensors.items()})
            alone = batcher.training(seeds[k][number], prefixes=prefixes)
            assert torch.equal(own.user, alone.user)
            assert torch.equal(own.target, alone.target)
            assert seen(own) == seen(alone)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("group", [0, 2])
def test_rows_without_targets_have_ends(layout: Any, group: int) -> None:
    view = toy_view(n_users=40)
    batcher = Batcher(view.items, view.times, layout=layout, max_len=8)
    rows = plan_rows(view.offsets, "sequence-prefix", 8)
    steps = [rows[low : low + 25] for low in range(0, 100, 25)]
    batches = batcher.training_steps(steps, group=group)
    ends = torch.cat([batch.ends.view(-1, 25) for batch in batches])
    grids = [grid for batch in batches for grid in batch.item_seq.view(-1, *batch.item_seq.shape[-2:])]
    for step, end, grid in zip(steps, ends, grids, strict=True):
        assert grid.flatten()[end].tolist() == view.items[step.start + step.length - 1].tolist()
        assert len(set(end.tolist())) == 25
    with pytest.raises(KeyError, match="has targets"):
        _ = batcher.training(steps_of_epoch("all", 12)[0]).ends


def seen(batch: TrainBatch) -> list[list[list[int]]]:
    """What each slot may look at, in the batch and in its prefixes: items, times and positions."""
    if not batch.slot.numel():
        return []
    views = [(batch.item_seq, batch.time_seq, batch.position, batch.segment, batch.slot)]
    if batch.prefix_rows is not None:
        again = batch.prefix_rows
        copies = [again.gather(grid) for grid in (batch.item_seq, batch.time_seq, batch.position)]
        views.append((*copies, again.segment, again.slot))
    answer = []
    for items, times, position, segment, slots in views:
        for slot in slots.tolist():
            row, place = divmod(slot, items.shape[1])
            chosen = segment[row, : place + 1] == segment[row, place]
            answer.append([grid[row, : place + 1][chosen].tolist() for grid in (items, times, position)])
    return answer


def test_prefixes_hold_the_history_of_each_target() -> None:
    view = view_of([[A, B, C, D], [E, A, B]])
    rows = plan_rows(view.offsets, "all", 8)
    for layout in ("packed", "padded", "fixed"):
        batch = Batcher(view.items, view.times, layout=layout, max_len=8).training(rows, prefixes=True)  # type: ignore[arg-type]
        histories = [items for items, _, _ in seen(batch)]
        assert histories == [[A], [A, B], [A, B, C], [E], [E, A]] * 2
