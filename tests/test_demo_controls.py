"""Controls on the demo, whose styles are in the pictures only: other features must cost all that pictures gave.

Nothing is trained. The bounds leave room for the standard error of HR@10 over 1,000 users, below .011.
"""

from pathlib import Path
from typing import Any

from mmbench.data import demo, prepare
from mmbench.data.store import Prepared
from mmbench.evaluation.metrics import mean_value
from mmbench.features.extract import extract_default
from mmbench.runs.execute import run_cell
from mmbench.runs.plan import make_cell
from mmbench.settings.config import Layer, Origin


def hit_rate(prepared: Prepared, results: Path, model: str, **settings: Any) -> float:
    layers = [Layer(Origin.user, settings)]
    cell = make_cell(results_dir=results, prepared=prepared, model=model, seed=1, overrides=layers)
    return mean_value(run_cell(cell, device="cpu", debug=True).ranks("test"), "HR@10")


def test_other_features_cost_neighbours_by_picture_all_that_they_knew(tmp_path: Path) -> None:
    demo.write_raw(tmp_path / "raw")
    prepared = prepare.prepare("demo", tmp_path / "data", raw=tmp_path / "raw").prepared
    extract_default(prepared)
    assert (prepared.n_users, prepared.n_items) == (1_000, 499)
    alone = hit_rate(prepared, tmp_path, "itemknn-cbf:image")
    chance = 10 / prepared.n_items
    changed = {text: hit_rate(prepared, tmp_path, "itemknn-cbf:image", image_features=text)
               for text in ("shuffled:1", "random:1", "gauss:1", "constant", "zero")}  # fmt: skip
    assert alone > 3 * chance
    assert all(value < chance + 0.02 for value in changed.values())
