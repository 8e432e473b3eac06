"""mmbench.data.batch: what a ranking gets and what a training gets."""

from dataclasses import fields
from typing import Any

import pytest
import torch

from mmbench.data.batch import Batch, TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import last_rows, plan_rows
from tests.models.toy import toy_view


def batches() -> tuple[Batch, TrainBatch]:
    view = toy_view()
    batcher = Batcher(view.items, view.times, layout="packed", max_len=8)
    user = torch.arange(20).numpy()
    training = batcher.training(plan_rows(view.offsets, "all", 8), prefixes=True)
    return batcher.evaluation(last_rows(view.offsets, user, 8)), training


def test_a_batch_goes_through_its_tensors_unchanged() -> None:
    ranked, trained = batches()
    trained = trained.with_drawn(negatives=torch.ones(len(trained.target), 3, dtype=torch.int64))
    for batch in (ranked, trained):
        again = type(batch).of(batch.tensors())
        assert type(again) is type(batch)
        assert again.tensors().keys() == batch.tensors().keys()
        assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in batch.tensors().items())
    names = set(trained.tensors()) - {field.name for field in fields(Batch)}
    assert names == {
        "target", "drawn.negatives", "prefix_rows.source", "prefix_rows.segment", "prefix_rows.slot",
    }  # fmt: skip


def test_a_ranking_has_no_targets() -> None:
    ranked, _ = batches()
    with pytest.raises(AttributeError):
        ranked.target  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("what", ["negatives", "prefixes"])
def test_what_a_model_did_not_ask_for_is_named(what: Any) -> None:
    view = toy_view()
    batch = Batcher(view.items, view.times, layout="packed", max_len=8).training(
        plan_rows(view.offsets, "all", 8)
    )
    with pytest.raises(KeyError, match=f"name {what.capitalize()}"):
        getattr(batch, what)
