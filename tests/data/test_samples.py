"""mmbench.data.samples: which rows an epoch has, and how they are cut into steps."""

from collections import Counter, namedtuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data.batcher import Batcher
from mmbench.data.samples import Rows, batches, last_rows, plan_rows, plan_steps
from tests.models.toy import toy_view, view_of

A, B, C, D, E = range(1, 6)
Row = namedtuple("Row", ["user", "start", "length", "loss_from"])


def samples_of(histories: list[list[int]], kind: str, *, max_len: int = 3) -> Counter:
    """Every (user, input, target) that a kind of samples trains on, read back from padded batches."""
    view = view_of(histories)
    rows = plan_rows(view.offsets, kind, max_len)
    batch = Batcher(view.items, view.times, layout="padded", max_len=max_len).training(rows)
    actual: Counter = Counter()
    width = batch.item_seq.shape[1]
    for slot, user, target in zip(
        batch.slot.tolist(), batch.user.tolist(), batch.target.tolist(), strict=True
    ):
        row, place = divmod(slot, width)
        actual[user, tuple(batch.item_seq[row, : place + 1].tolist()), target] += 1
    return actual


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


def test_sequence_prefixes_are_the_beginnings_of_the_newest_events_without_targets() -> None:
    rows = plan_rows(np.array([0, 5, 5, 6]), "sequence-prefix", 3)
    assert rows.user.tolist() == [0, 0, 0, 2]
    assert rows.start.tolist() == [2, 2, 2, 5]
    assert rows.length.tolist() == [1, 2, 3, 1]
    assert rows.n_targets.tolist() == [0, 0, 0, 0]
    steps = plan_steps(rows, batch_size=3, unit="targets", generator=np.random.default_rng(0))
    assert [len(step) for step in steps] == [3, 1]


def test_pairs_are_every_event_once() -> None:
    view = view_of([[A, B], [], [C]])
    rows = plan_rows(view.offsets, "pairs", 3)
    batch = Batcher(view.items, view.times, layout="padded", max_len=3).training(rows)
    assert batch.user.tolist() == [0, 0, 2]
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
    assert sorted(target for step in steps for target in targets_of(step)) == sorted(targets_of(rows))


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


def test_rows_select() -> None:
    rows = plan_rows(np.array([0, 5, 9]), "all", 3)
    part: Rows = rows[np.array([1])]
    assert len(part) == 1
    assert part.user[0] == rows.user[1]
