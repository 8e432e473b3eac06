"""Rows encoded a few at a time give the states and gradients of all rows together."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.nn import parts
from tests.models.toy import gradients, toy_catalog, toy_model, toy_view, training_batch

MODELS = ["mmmlp", "mlp4rec:left", "dif-sr", "dif-sr:concat"]


def few_at_once(monkeypatch: pytest.MonkeyPatch, n_floats: int) -> list[int]:
    """Make parts of so many floats; return a list that gets the number of slots of each part."""
    sizes: list[int] = []
    original = parts._of_slots

    def recorded(batch: Batch, slot: Tensor, user: Tensor) -> Batch:
        sizes.append(len(slot))
        return original(batch, slot, user)

    monkeypatch.setattr(parts, "FLOATS_AT_ONCE", n_floats)
    monkeypatch.setattr(parts, "_of_slots", recorded)
    return sizes


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_all_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = toy_model(name, toy_catalog(), hidden_dim=8).double().eval()
    batch = training_batch(model, toy_view(n_users=8), samples="prefix")
    expected, of_all = gradients(model, batch)
    sizes = few_at_once(monkeypatch, 2**12)
    actual, of_parts = gradients(model, batch)
    assert len(sizes) > 2
    assert sum(sizes) == len(batch.slot)
    assert actual == pytest.approx(expected, rel=1e-13)
    assert of_parts.keys() == of_all.keys()
    largest = max(float(part.abs().max()) for part in of_all.values())
    for key, part in of_parts.items():
        torch.testing.assert_close(part, of_all[key], rtol=1e-9, atol=1e-13 * largest)


def test_each_slot_gets_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = torch.arange(12).view(3, 4)
    slot = torch.tensor([5, 6, 0, 11, 7])  # three of them in row 1
    batch = Batch(
        item_seq=grid, time_seq=10 * grid, position=grid % 4, segment=grid + 1, slot=slot, user=slot + 100
    )

    def states(part: Batch) -> Tensor:
        sums = torch.stack([part.item_seq.sum(1), part.time_seq.sum(1), part.segment.sum(1)], 1)
        chosen = part.position.flatten()[part.slot]
        item = part.at_slots(part.item_seq[..., None])
        return torch.cat([item, sums, chosen[:, None], part.user[:, None]], 1)

    total = grid.sum(1)[slot // 4]
    expected = torch.stack([slot, total, 10 * total, total + 4, slot % 4, slot + 100], 1)
    sizes = few_at_once(monkeypatch, 2 * 4 * 3)
    assert torch.equal(parts.in_parts(states, batch, 3), expected)
    assert sizes == [2, 2, 1]


def test_few_rows_and_other_devices_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = torch.zeros(2, 4, dtype=torch.int64)
    batch = Batch(item_seq=grid, time_seq=grid, position=grid, segment=grid, slot=grid[0], user=grid[0])
    on_meta = Batch(**{name: tensor.to("meta") for name, tensor in batch.tensors().items()})
    sizes = few_at_once(monkeypatch, 16)
    assert parts.in_parts(lambda part: part.slot, batch, 1) is batch.slot
    assert parts.in_parts(lambda part: part.slot, on_meta, 100) is on_meta.slot
    assert not sizes
