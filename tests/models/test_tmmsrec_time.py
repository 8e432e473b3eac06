"""TMMSRec's time: dates against the calendar, TIE against eq. 7-9, the position tables of table 5.

Run: python -m pytest tests/models/test_tmmsrec_time.py
"""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.tmmsrec import PositionTable, TimeIntervalEncoder
from mmbench.models.tmmsrec_released import ConcatenatedTIE
from mmbench.nn.calendar import civil_date
from tests.models.test_tmmsrec import HISTORIES, batch_of, make, shaken
from tests.models.toy import DAY, START, history_batch

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seconds(*date: int) -> int:
    return int((datetime(*date, tzinfo=UTC) - EPOCH).total_seconds())  # type: ignore[arg-type]


def times_batch(times: list[int]) -> Batch:
    """One history of item 1 at these times, without padding."""
    row = torch.tensor([times])
    return Batch(
        item_seq=torch.ones_like(row), time_seq=row, position=torch.arange(len(times))[None],
        segment=torch.ones_like(row), slot=torch.tensor([len(times) - 1]), user=torch.tensor([0]),
    )  # fmt: skip


def block_diagonal(year: int, month: int, day: int, dim: int) -> Tensor:
    """P of eq. 8, entry by entry."""
    p = torch.zeros(dim, dim, dtype=torch.float64)
    for j in range(1, dim // 6 + 1):
        theta = 10_000 ** (-6 * (j - 1) / dim)
        for k, number in enumerate((year, month, day)):
            at, angle = 6 * (j - 1) + 2 * k, number * theta
            p[at, at] = p[at + 1, at + 1] = math.cos(angle)
            p[at, at + 1], p[at + 1, at] = -math.sin(angle), math.sin(angle)
    return p


def rotate(x: Tensor, times: list[int], layout: Any = "interleaved") -> Tensor:
    kind = TimeIntervalEncoder if layout == "interleaved" else ConcatenatedTIE
    tie = kind(dim=x.shape[-1], dropout=0.0)
    return tie(x, tie.prepare(times_batch(times)))


# Dates


def test_civil_date_equals_the_calendar() -> None:
    rng = np.random.default_rng(0)
    days = [
        EPOCH + timedelta(days=int(d)) for d in rng.integers(-719_162, 2_932_896, 3000)
    ]  # years 1 to 9999
    edges = [
        datetime(y, m, d, tzinfo=UTC)
        for y in (1600, 1899, 1900, 1968, 1969, 1970, 1999, 2000, 2004, 2014, 2100)
        for m, d in ((1, 1), (2, 28), (3, 1), (12, 31))
    ]
    dates = [*days, *edges, *(datetime(y, 2, 29, tzinfo=UTC) for y in (1600, 1968, 2000, 2012, 2400))]
    stamps = torch.tensor([(date - EPOCH) // timedelta(seconds=1) for date in dates])
    for shift in (0, 1, DAY - 1):  # every second of a day is that day, before 1970 too
        year, month, day = civil_date(stamps + shift)
        assert year.tolist() == [date.year for date in dates]
        assert month.tolist() == [date.month for date in dates]
        assert day.tolist() == [date.day for date in dates]


def test_civil_date_keeps_shape_and_integers() -> None:
    parts = civil_date(torch.full((2, 3), -1))
    assert all(part.shape == (2, 3) and part.dtype == torch.int64 for part in parts)
    assert [int(part[0, 0]) for part in parts] == [1969, 12, 31]


# TIE


def test_tie_is_the_product_with_the_block_diagonal_matrix() -> None:
    times = [seconds(2014, 7, 23), seconds(1996, 2, 29), seconds(2018, 12, 1)]
    x = torch.randn(1, 3, 24, dtype=torch.float64)
    expected = torch.stack(
        [
            x[0, i] @ block_diagonal(*date, 24)
            for i, date in enumerate([(2014, 7, 23), (1996, 2, 29), (2018, 12, 1)])
        ]
    )
    torch.testing.assert_close(rotate(x, times)[0], expected, rtol=0, atol=1e-12)
    assert (expected - x[0]).abs().max() > 0.5


def test_concatenated_layout_puts_the_six_strided_parts_one_after_another() -> None:
    times = [seconds(2014, 7, 23)]
    x = torch.randn(1, 1, 24, dtype=torch.float64)
    plain, released = rotate(x, times), rotate(x, times, "concatenated")
    assert torch.equal(released, torch.cat([plain[..., k::6] for k in range(6)], dim=-1))
    assert not torch.equal(released, plain)


def test_the_sign_of_the_angle_only_swaps_the_dims_of_each_pair() -> None:
    """e P (row) and P e (column) differ by a renaming of dims, before and after: the same model."""
    x = torch.randn(24, dtype=torch.float64)
    swap = torch.arange(24).view(-1, 2).flip(1).flatten()
    column = block_diagonal(2014, 7, 23, 24) @ x
    torch.testing.assert_close(rotate(x[None, None, swap], [seconds(2014, 7, 23)])[0, 0][swap], column)


@pytest.mark.parametrize("layout", ["interleaved", "concatenated"])
def test_tie_keeps_norms(layout: str) -> None:
    times = [START + 50 * DAY * k for k in range(8)]
    x = torch.randn(1, 8, 30, dtype=torch.float64)
    torch.testing.assert_close(rotate(x, times, layout).norm(dim=-1), x.norm(dim=-1))


def test_full_years_change_only_the_year_pair() -> None:
    old = [seconds(2010, 3, 1), seconds(2011, 11, 30)]
    new = [seconds(2013, 3, 1), seconds(2014, 11, 30)]
    x = torch.randn(1, 2, 24, dtype=torch.float64)
    moved = (rotate(x, new) - rotate(x, old)).view(1, 2, 4, 6)
    assert moved[..., 2:].abs().max() == 0
    assert moved[..., :2].abs().amin(-1).max() > 1e-3


def test_float32_models_get_angles_of_float64() -> None:
    """2014 rad in float32 is off by up to 6e-5; the stored cosine must not be."""
    tie = TimeIntervalEncoder(dim=768, dropout=0.0)
    x = torch.zeros(1, 1, 768)
    x[..., 0::6] = 1.0
    turned = tie(x, tie.prepare(times_batch([seconds(2014, 7, 23)])))[0, 0, 0::6]
    exact = [math.cos(2014 * 10_000 ** (-6 * j / 768)) for j in range(128)]
    assert (turned.double() - torch.tensor(exact, dtype=torch.float64)).abs().max() < 1e-7


def test_padding_has_angle_zero() -> None:
    batch = batch_of("packed", HISTORIES)
    cos, sin = TimeIntervalEncoder(dim=12, dropout=0.0).prepare(batch)
    padding = ~batch.mask
    assert padding.any()
    assert (cos[padding] == 1).all()
    assert (sin[padding] == 0).all()
    assert (sin[batch.mask] != 0).all()


def test_equal_times_rotate_all_items_alike() -> None:
    model, plain = make("tmmsrec"), make("tmmsrec:np")
    plain.load_state_dict(model.state_dict())
    times = [[START] * len(history) for history in HISTORIES]
    batch = history_batch(model, HISTORIES, times=times)
    date = datetime.fromtimestamp(START, UTC)
    p = block_diagonal(date.year, date.month, date.day, 24)
    rotated = [vector + vector @ p for vector in plain.vectors(batch.item_seq)]
    by_hand = batch.at_slots(plain.encode(batch, rotated)) @ plain.item_table().T
    torch.testing.assert_close(model.score(batch), by_hand)
    assert not torch.allclose(by_hand, plain.score(batch))


def test_time_matters_to_tie_and_to_nothing_else() -> None:
    later = [[START + 400 * DAY * (k + 1) for k in range(len(history))] for history in HISTORIES]
    for name, is_moved in (
        ("tmmsrec", True),
        ("tmmsrec:np", False),
        ("tmmsrec:vp", False),
        ("tmmsrec:rp", False),
    ):
        model = make(name)
        scores = [model.score(history_batch(model, HISTORIES, times=times)) for times in (None, later)]
        assert torch.equal(*scores) is not is_moved


# Positions of table 5


def test_sinusoidal_positions_are_the_transformers() -> None:
    table = PositionTable(dim=12, max_len=8, kind="sinusoidal").table
    for place in range(8):
        for i in range(6):
            angle = place / 10_000 ** (2 * i / 12)
            assert table[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_random_positions_travel_with_the_weights_and_are_not_trained() -> None:
    model, other = make("tmmsrec:rp", seed=0), make("tmmsrec:rp", seed=1)
    batch = history_batch(model, HISTORIES)
    assert not torch.allclose(model.score(batch), other.score(batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.score(batch), other.score(batch))
    assert "time.table" in model.state_dict()
    assert "time.table" not in dict(model.named_parameters())
    drawn = make("tmmsrec:rp", hidden_dim=960).time.table  # 8 positions, as large as sines on average
    assert drawn.square().mean().item() == pytest.approx(0.5, rel=4 * (2 / drawn.numel()) ** 0.5)


@pytest.mark.parametrize(("name", "is_ordered"), [("np", False), ("rp", True), ("vp", True)])
def test_only_position_tables_see_the_order_of_earlier_items(name: str, is_ordered: bool) -> None:
    """With one block and no positions, the last query meets an unordered set of earlier items."""
    model = shaken(make(f"tmmsrec:{name}", n_layers=1))
    a, b = model.query(history_batch(model, [[1, 2, 3, 4], [3, 1, 2, 4]]))
    assert torch.allclose(a, b) is not is_ordered
