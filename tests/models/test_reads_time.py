"""A configuration says that it reads times exactly if other times move its numbers; such a model wants data with times.

Run: pytest tests/models/test_reads_time.py -k pop
"""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mmbench.data.views import TrainView
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.runs.plan import make_cell
from tests.models.toy import (
    DAY,
    N_ITEMS,
    START,
    catalog_of,
    history_batch,
    toy_model,
    toy_view,
    training_batch,
)
from tests.prepared import random_histories, write_data_set

NAMES = registry.all_names()


def numbers_of(name: str, view: TrainView) -> list[float]:
    """Return the loss terms of a batch, and all scores after the histories of a few users."""
    model = toy_model(name, catalog_of(view, n_items=N_ITEMS), seed=5)
    terms = []
    if model.trainable:
        model.start_stage(model.stages[-1].name)
        model.start_epoch(1000)
        batch = training_batch(model, view)
        torch.manual_seed(0)
        terms = [term.item() for term in model.loss(batch).values()]
    spans = [slice(*ends) for ends in pairwise(view.offsets.tolist()[:6])]
    histories, times = ([values[span].tolist() for span in spans] for values in (view.items, view.times))
    with torch.no_grad():
        return terms + model.eval().score(history_batch(model, histories, times=times)).flatten().tolist()


def stretched(view: TrainView) -> TrainView:
    """Return the same histories at other times, in the same order, with other proportions of all gaps."""
    age = view.times - START
    return replace(view, times=START + age * age // DAY)


def squeezed(view: TrainView) -> TrainView:
    """Return the same histories within an hour."""
    return replace(view, times=START + (view.times - START) // 20_000)


@pytest.mark.parametrize("name", NAMES)
def test_times_are_read_exactly_if_they_move_a_number(name: str) -> None:
    view = toy_view()
    entry = registry.find(name)
    is_read = "time" in entry.recipe.inputs and entry.load().reads(entry.config("toy"), "time")
    moved = numbers_of(name, stretched(view)) != numbers_of(name, view)
    if is_read:  # a model that cuts long gaps, or counts a window of days, may not notice longer ones
        moved = moved or numbers_of(name, squeezed(view)) != numbers_of(name, view)
    assert moved == is_read


@pytest.mark.parametrize("name", ["hm4sr", "tmmsrec", "tisasrec", "ticoserec", "recent-pop"])
def test_models_that_read_times_want_them(tmp_path: Path, name: str) -> None:
    records = [{"id": f"i{k:02}", "text": "x", "title": "x"} for k in range(60)]
    data = write_data_set(tmp_path, "toy", random_histories(), records, has_times=False)
    with pytest.raises(UsageError, match=f"{name} reads times, but .* only have an order"):
        make_cell(results_dir=tmp_path, prepared=data, model=name, seed=1, overrides=[])
    for model in ("sasrec", "pop", "tmmsrec:id"):
        assert (
            make_cell(results_dir=tmp_path, prepared=data, model=model, seed=1, overrides=[]).features == {}
        )
