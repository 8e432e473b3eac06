"""Brands of items reach the models that read what items are labelled with."""

from pathlib import Path

from mmbench.data.loaded import load_data
from mmbench.runs import execute
from mmbench.runs.plan import make_cell
from mmbench.settings.config import Layer, Origin
from tests.prepared import random_histories, write_data_set


def test_brands_are_numbered_by_name_and_reach_models_that_read_categories(tmp_path: Path) -> None:
    names = ["b", "", "a", "b", "c", *[""] * 15]
    histories = random_histories(n_items=20)
    records = [{"id": f"i{k}", "brand": name} for k, name in enumerate(names)]
    prepared = write_data_set(tmp_path, "shop", histories, records)
    data = load_data(prepared.path, prepared.hash)
    assert data.brand_ids.tolist() == [0, 2, 0, 1, 2, 3, *[0] * 15]
    settings = {"hidden_dim": 12, "inner_dim": 16, "attribute_min_count": 2}
    cell = make_cell(
        results_dir=tmp_path,
        prepared=prepared,
        model="s3rec",
        seed=1,
        overrides=[Layer(Origin.user, settings)],
    )
    model, _ = execute.build_model(cell, data, "cpu")
    assert model.extra_state() == {"n_attributes": 1, "n_items_with_attributes": 2}  # the brand of two items
