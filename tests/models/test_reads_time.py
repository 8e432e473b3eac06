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
        model.start_epoch(2)
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
    return replace(view, times=START + age + age * age // (40 * DAY))


@pytest.mark.parametrize("name", NAMES)
def test_times_are_read_exactly_if_they_move_a_number(name: str) -> None:
    view = toy_view()
    entry = registry.find(name)
    is_read = "time" in entry.recipe.inputs and entry.load().reads(entry.config("toy"), "time")
    assert (numbers_of(name, stretched(view)) != numbers_of(name, view)) == is_read


@pytest.mark.parametrize("name", ["hm4sr", "tmmsrec:id", "tisasrec", "ticoserec", "recent-pop"])
def test_models_that_read_times_want_them(tmp_path: Path, name: str) -> None:
    records = [{"id": f"i{k:02}", "text": "x", "title": "x"} for k in range(60)]
    data = write_data_set(tmp_path, "toy", random_histories(), records, has_times=False)
    for model, is_refused in ((name, True), ("sasrec", False)):
        if not is_refused:
            assert (
                make_cell(results_dir=tmp_path, prepared=data, model=model, seed=1, overrides=[]).features
                == {}
            )
            continue
        with pytest.raises(UsageError, match=f"{name.split(':')[0]} reads times, but .* only have an order"):
            make_cell(results_dir=tmp_path, prepared=data, model=model, seed=1, overrides=[])
