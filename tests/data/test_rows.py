"""mmbench.data.rows: which rows an epoch has, how they are laid out, and negatives outside the history."""

from collections import Counter, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmbench.data.rows import (
    BIN_WIDTH,
    Batcher,
    NegativeSampler,
    Rows,
    batches,
    last_rows,
    pack,
    plan_rows,
    plan_steps,
)
from mmbench.errors import DataError
from tests.models.toy import history_batch, toy_catalog, toy_model, toy_view, training_batch, view_of

A, B, C, D, E = range(1, 6)
Row = namedtuple("Row", ["user", "start", "length", "loss_from"])


def samples_of(histories: list[list[int]], kind: str, *, max_len: int = 3) -> Counter:
    """Every (user, input, target) that a kind of samples trains on, read back from padded batches."""
    view = view_of(histories)
    rows = plan_rows(view.offsets, kind, max_len)
    batch = Batcher(view.items, view.times, layout="padded", max_len=max_len).training(rows)
    found: Counter = Counter()
    width = batch.item_seq.shape[1]
    for slot, user, target in zip(
        batch.slot.tolist(), batch.user.tolist(), batch.target.tolist(), strict=True
    ):
        row, place = divmod(slot, width)
        found[user, tuple(batch.item_seq[row, : place + 1].tolist()), target] += 1
    return found


def test_plan_rows_as_drawn() -> None:
    history = [[A, B, C, D, E]]
    assert samples_of(history, "prefix") == {
        (0, (A,), B): 1,
        (0, (A, B), C): 1,
        (0, (A, B, C), D): 1,
        (0, (B, C, D), E): 1,
    }
    assert samples_of(history, "all") == samples_of(history, "prefix")
    assert len(plan_rows(np.array([0, 5]), "all", 3)) == 2
    assert samples_of(history, "last-window") == {(0, (B,), C): 1, (0, (B, C), D): 1, (0, (B, C, D), E): 1}


def test_sequence_rows_are_the_newest_events_without_targets() -> None:
    rows = plan_rows(np.array([0, 5, 5, 6]), "sequence", 3)
    assert rows.user.tolist() == [0, 2]
    assert rows.start.tolist() == [2, 5]
    assert rows.length.tolist() == [3, 1]
    assert rows.n_targets.tolist() == [0, 0]


def test_pairs_are_every_event_once() -> None:
    view = view_of([[A, B], [], [C]])
    rows = plan_rows(view.offsets, "pairs", 3)
    batch = Batcher(view.items, view.times, layout="padded", max_len=3).training(rows)
    assert batch.user.tolist() == [0, 0, 2]
    assert batch.target is not None
    assert batch.target.tolist() == [A, B, C]
    assert rows.n_targets.tolist() == [1, 1, 1]


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    max_len=st.integers(1, 6),
)
@settings(max_examples=50, deadline=None)
def test_all_and_prefix_train_on_the_same_samples(lengths: list[int], max_len: int) -> None:
    first = np.cumsum([0, *lengths])
    histories = [list(range(int(s) + 1, int(s) + 1 + n)) for s, n in zip(first, lengths, strict=False)]
    both = samples_of(histories, "prefix", max_len=max_len)
    if sum(max(n - 1, 0) for n in lengths) == 0:
        assert not both
        return
    assert samples_of(histories, "all", max_len=max_len) == both
    assert sum(both.values()) == sum(max(n - 1, 0) for n in lengths)


@given(lengths=st.lists(st.integers(1, 64), max_size=200))
@settings(max_examples=100, deadline=None)
def test_pack_puts_each_row_once_without_overlap(lengths: list[int]) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    bins, place, number = pack(sizes, 64)
    taken = set()
    for one, start, length in zip(bins.tolist(), place.tolist(), lengths, strict=True):
        assert 0 <= start <= 64 - length
        cells = {(one, start + k) for k in range(length)}
        assert not cells & taken
        taken |= cells
    assert len(taken) == sum(lengths)
    for one in set(bins.tolist()):
        assert sorted(number[bins == one].tolist()) == list(range(1, int((bins == one).sum()) + 1))
    # Best fit leaves at most one bin that is not more than half full.
    filled = np.bincount(bins, weights=sizes) if len(lengths) else np.zeros(0)
    assert (filled <= 32).sum() <= 1


def targets_of(rows: Rows) -> list[tuple[int, int, int]]:
    """(user, first event of the input, place of the target) of everything that rows train on."""
    return [
        (int(row.user), int(row.start), int(row.start + place + 1))
        for row in (Row(*values) for values in zip(*vars(rows).values(), strict=True))
        for place in range(row.loss_from, row.length)
    ]


@given(st.sampled_from(["all", "prefix", "last-window"]), st.integers(1, 40), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_steps_hold_every_target_once_and_exactly_the_wanted_number(kind: str, size: int, seed: int) -> None:
    rows = plan_rows(toy_view(n_users=40).offsets, kind, 8)
    steps = plan_steps(rows, batch_size=size, unit="targets", generator=np.random.default_rng(seed))
    assert [int(step.n_targets.sum()) for step in steps[:-1]] == [size] * (len(steps) - 1)
    assert 0 < steps[-1].n_targets.sum() <= size
    assert all((step.n_targets > 0).all() for step in steps)
    assert sorted(one for step in steps for one in targets_of(step)) == sorted(targets_of(rows))


def test_steps_of_rows_and_of_sequences_count_rows() -> None:
    offsets = toy_view(n_users=200).offsets
    for kind, unit in (("all", "rows"), ("sequence", "targets"), ("pairs", "targets")):
        rows = plan_rows(offsets, kind, 8)
        steps = plan_steps(rows, batch_size=32, unit=unit, generator=np.random.default_rng(0))
        assert [len(step) for step in steps[:-1]] == [32] * (len(steps) - 1)
        for name in ("user", "start", "length", "loss_from"):
            together = np.concatenate([getattr(step, name) for step in steps])
            assert sorted(together.tolist()) == sorted(getattr(rows, name).tolist())


def test_last_rows_and_batches_cover_all_histories() -> None:
    view = toy_view()
    rows = last_rows(view.offsets, np.arange(20), 8)
    assert rows.length.max() == 8
    assert (rows.start + rows.length == view.offsets[1:]).all()
    parts = list(batches(rows, 6))
    assert [len(part) for part in parts] == [6, 6, 6, 2]
    assert np.concatenate([part.user for part in parts]).tolist() == list(range(20))


@pytest.mark.parametrize("layout", ["packed", "padded", "fixed"])
def test_batch_fields(layout: str) -> None:
    view = view_of([[A, B, C, D], [E, A, B]], [[10, 10, 40, 50], [5, 8, 9]])
    rows = plan_rows(view.offsets, "all", 8)
    batch = Batcher(view.items, view.times, layout=layout, max_len=8).training(rows)
    assert batch.item_seq.shape == {"packed": (1, BIN_WIDTH), "padded": (2, 3), "fixed": (2, 8)}[layout]
    real = batch.mask
    assert batch.item_seq[real].tolist() == [A, B, C, E, A]
    assert batch.position[real].tolist() == [0, 1, 2, 0, 1]
    assert batch.interval[real].tolist() == [0, 0, 30, 0, 3]
    for field in (batch.item_seq, batch.time_seq, batch.position, batch.interval):
        assert not field[~real].any()
    assert batch.target is not None
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
    assert batch.target is None
    extra = batcher.evaluation(rows, extra_slots=1)
    assert extra.item_seq.tolist() == [[A, B, C, 0], [D, 0, 0, 0]]
    assert extra.segment.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert extra.position.flatten()[extra.slot].tolist() == [3, 1]


def test_empty_history_is_laid_out() -> None:
    view = view_of([[], [A]])
    batcher = Batcher(view.items, view.times, layout="packed", max_len=4)
    batch = batcher.evaluation(last_rows(view.offsets, np.arange(2), 3), extra_slots=1)
    assert batch.item_seq.flatten()[batch.slot].tolist() == [0, 0]
    assert batch.position.flatten()[batch.slot].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["sasrec", "sasrec:official"])
def test_layouts_give_equal_states(name: str) -> None:
    view = toy_view()
    model = toy_model(name, toy_catalog()).double().eval()
    rows = plan_rows(view.offsets, "all", 8)
    found = {}
    for layout in ("packed", "padded", "fixed"):
        batch = Batcher(view.items, view.times, layout=layout, max_len=8).training(rows)
        found[layout] = model.query(batch).detach()
    torch.testing.assert_close(found["packed"], found["padded"], rtol=0, atol=1e-12)
    torch.testing.assert_close(found["packed"], found["fixed"], rtol=0, atol=1e-12)


def test_negatives_are_uniform_over_the_complement() -> None:
    users, items = np.array([0, 0, 0, 0, 1]), np.array([2, 3, 3, 9, 10])
    sampler = NegativeSampler(users, items, n_users=3, n_items=10, device="cpu")
    generator = torch.Generator().manual_seed(0)
    others = {0: [1, 4, 5, 6, 7, 8, 10], 1: list(range(1, 10)), 2: list(range(1, 11))}
    for user, expected in others.items():
        drawn = sampler.draw(torch.full((200,), user), 50, generator)
        assert drawn.shape == (200, 50)
        count = np.bincount(drawn.flatten().numpy(), minlength=11)
        assert np.flatnonzero(count).tolist() == expected
        assert chisquare(count[expected]).pvalue > 1e-3


@given(
    histories=st.lists(st.lists(st.integers(1, 7), max_size=6, unique=True), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_negatives_are_never_in_the_history(histories: list[list[int]], seed: int) -> None:
    view = view_of(histories)
    sampler = NegativeSampler(view.users, view.items, n_users=len(histories), n_items=7, device="cpu")
    user = torch.arange(len(histories))
    drawn = sampler.draw(user, 40, torch.Generator().manual_seed(seed))
    assert drawn.min() >= 1
    assert drawn.max() <= 7
    for own, row in zip(histories, drawn.tolist(), strict=True):
        assert not set(own) & set(row)


def test_a_user_with_every_item_is_an_error() -> None:
    with pytest.raises(DataError, match="user number 1 has all 3 items"):
        NegativeSampler(np.array([1, 1, 1]), np.array([1, 2, 3]), n_users=2, n_items=3, device="cpu")


def test_rows_select() -> None:
    rows = plan_rows(np.array([0, 5, 9]), "all", 3)
    part: Rows = rows[np.array([1])]
    assert len(part) == 1
    assert part.user[0] == rows.user[1]


def test_toy_helpers_make_what_the_engine_makes() -> None:
    view, model = toy_view(), toy_model("sasrec", toy_catalog())
    assert (np.diff(view.times) == 0).any(), "the toy data should have tied times"
    assert set(view.items.tolist()) == set(range(1, 31))
    assert training_batch(model, view).target is not None
    long = history_batch(model, [list(range(1, 13))])
    assert long.item_seq[long.mask].tolist() == list(range(5, 13))
