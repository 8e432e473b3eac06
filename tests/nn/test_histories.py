"""mmbench.nn.histories against lists of events."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmbench.nn.histories import TrainHistories

Events = list[tuple[int, int]]  # (item, seconds)


def histories_of(users: list[Events]) -> TrainHistories:
    flat = [event for events in users for event in events]
    items, times = (torch.tensor([event[k] for event in flat], dtype=torch.int64) for k in (0, 1))
    lengths = torch.tensor([0, *map(len, users)])
    return TrainHistories(items, times, lengths.cumsum(0))


def rows(values: Tensor, index: Tensor, real: Tensor) -> list[list[int]]:
    return [values[own[known]].tolist() for own, known in zip(index, real, strict=True)]


gap = st.integers(0, 10**9)
user = st.lists(st.tuples(st.integers(1, 9), gap), max_size=6).map(
    lambda events: [
        (item, 1_400_000_000 + sum(g for _, g in events[:k])) for k, (item, _) in enumerate(events)
    ]
)


@given(users=st.lists(user, min_size=1, max_size=5), width=st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_everything_that_is_asked_about_events(users: list[Events], width: int) -> None:
    histories = histories_of(users)
    assert histories.n_events.tolist() == [len(events) for events in users]
    assert histories.users.tolist() == [number for number, events in enumerate(users) for _ in events]
    gaps = [[b[1] - a[1] for a, b in pairwise(events)] for events in users]
    assert histories.gaps.tolist() == [
        gap for own, events in zip(gaps, users, strict=True) if events for gap in [*own, 0]
    ]
    assert int(histories.longest_gap) == max((gap for own in gaps for gap in own), default=0)
    assert histories.has_next.tolist() == [
        k + 1 < len(events) for events in users for k in range(len(events))
    ]
    assert histories.has_previous.tolist() == [k > 0 for events in users for k in range(len(events))]

    event = torch.arange(len(histories.items))
    index, real = histories.before(event, width)
    assert real.shape == (len(event), width)
    before = [
        [item for item, _ in events[max(k - width, 0) : k]] for events in users for k in range(len(events))
    ]
    assert rows(histories.items, index, real) == before

    asked = [number for number, events in enumerate(users) if len(events) > 1][::-1]
    if asked:
        index, real = histories.inputs(torch.tensor(asked))
        assert rows(histories.times, index, real) == [
            [time for _, time in users[number][:-1]] for number in asked
        ]


def test_histories_move_with_a_model_but_are_in_no_checkpoint() -> None:
    histories = histories_of([[(1, 5), (2, 9)]])
    assert not histories.state_dict()
    moved = torch.nn.ModuleDict({"histories": histories}).to("meta")["histories"]
    assert {name: buffer.device.type for name, buffer in moved.named_buffers()} == dict.fromkeys(
        ("items", "times", "offsets", "users", "gaps"), "meta"
    )
