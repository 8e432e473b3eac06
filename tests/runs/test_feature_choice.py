"""Which stored features a run reads: what the configuration needs, and the kind that the model takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmbench.data.loaded import LoadedData
from mmbench.data.split import make_split
from mmbench.data.store import Prepared
from mmbench.data.views import target_view, training_view
from mmbench.errors import DamagedError, UsageError
from mmbench.features.manifest import MadeBy, Stored
from mmbench.features.store import write_features
from mmbench.models.registry import find
from mmbench.reporting.labels import group_runs, row_keys
from mmbench.runs.build import make_catalog
from mmbench.runs.execute import run_cell
from mmbench.runs.overrides import Overrides, check_overrides
from mmbench.runs.plan import Cell, make_cell
from mmbench.runs.rerank import reopen
from mmbench.runs.schedule import plan
from mmbench.settings.config import Layer, Origin
from tests.prepared import MADE, add_features, write_toy


def test_a_variants_own_needs_decide_which_features_it_wants(tmp_path: Path) -> None:
    prepared = write_toy(tmp_path, features=False)

    def cell(model: str, **overrides: Any) -> Any:
        small = [Layer(Origin.user, {"hidden_dim": 12, **overrides})]
        return make_cell(results_dir=tmp_path, prepared=prepared, model=model, seed=1, overrides=small)

    assert cell("tmmsrec:id").features == cell("tmmsrec:id+tie").features == {}
    for model, reads in (("tmmsrec:id+text", "text"), ("tmmsrec", "text and image")):
        with pytest.raises(UsageError, match=f"tmmsrec reads {reads}, but toy has no features"):
            cell(model)
    add_features(prepared, "image", "one", dim=5)
    assert cell("tmmsrec").notes == ("TMMSRec runs without text: toy has no text features",)
    assert set(cell("tmmsrec:id+image").features) == {"image"}
    assert cell("tmmsrec:id+image").notes == ()
    assert cell("tmmsrec:id").features == {}
    assert run_cell(cell("tmmsrec:id", max_epochs=1)).status == "finished"


def test_states_per_layer_reach_only_models_that_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = write_toy(tmp_path, features=False)
    values = np.random.default_rng(0).normal(size=(prepared.n_items + 1, 3, 5))
    layered = write_features(
        prepared, "text", "deep", values, np.ones(len(values), bool), MADE, dtype="float16"
    )
    overrides = [Layer(Origin.user, {"text_encoder": "deep"})]
    with pytest.raises(
        UsageError, match="hm4sr reads a single vector per item, but deep of toy has 3 layers"
    ):
        make_cell(results_dir=tmp_path, prepared=prepared, model="hm4sr", seed=1, overrides=overrides)
    monkeypatch.setattr(find("hm4sr").load(), "reads_layers", True)
    cell = make_cell(results_dir=tmp_path, prepared=prepared, model="hm4sr", seed=1, overrides=overrides)
    assert cell.features["text"] == layered.use
    split = make_split(prepared.protocol, np.asarray(prepared.times), np.asarray(prepared.offsets))
    views = training_view(prepared, split), target_view(prepared, split, "valid")
    catalog = make_catalog(LoadedData(prepared, split, *views), {"text": layered}, 10)
    assert catalog.text_feat is None
    assert catalog.layer_feat["text"].dtype == torch.float16
    assert catalog.layer_feat["text"].data_ptr() == layered.values.ctypes.data, (
        "a copy of the memory-mapped file"
    )
    np.testing.assert_array_equal(catalog.layer_feat["text"].numpy(), layered.values)


def test_a_result_is_named_by_what_made_its_features_and_not_by_their_last_digits(tmp_path: Path) -> None:
    """Two machines round differently: their runs are of one configuration, and each says which numbers it read."""
    prepared = write_toy(tmp_path, features=False)
    values = np.random.default_rng(0).normal(size=(prepared.n_items + 1, 5))
    present = np.ones(len(values), bool)

    def cell(scale: float, made: MadeBy, dtype: Stored = "float32") -> Cell:
        write_features(prepared, "text", "mine", values * scale, present, made, dtype=dtype)
        write_features(prepared, "image", "other", values, present, MADE)
        return make_cell(
            results_dir=tmp_path,
            prepared=prepared,
            model="hm4sr",
            seed=1,
            overrides=[Layer(Origin.user, {"selection_metric": "NDCG@10"})],
        )

    made = MadeBy(identity={"encoder": 1}, inputs=prepared.manifest.inputs.text)
    first, second = cell(1.0, made), cell(1 + 1e-6, made)
    assert first.config_id == second.config_id
    assert first.features["text"].content != second.features["text"].content
    others = [
        cell(1.0, replace(made, identity={"encoder": 2})),
        cell(1.0, replace(made, preprocessing="other")),
        cell(1.0, replace(made, inputs=None)),
        cell(1.0, made, "float16"),
    ]
    assert len({first.config_id, *(other.config_id for other in others)}) == 5


def test_damaged_features_stop_a_run_and_are_not_left_out(tmp_path: Path) -> None:
    prepared = write_toy(tmp_path)
    (prepared.features_dir / "text" / "toy" / "manifest.json").write_text("{")
    with pytest.raises(DamagedError, match="mmbench extract toy --text toy --force"):
        make_cell(results_dir=tmp_path, prepared=prepared, model="hm4sr", seed=1, overrides=[])


def changed_cell(prepared: Prepared, folder: Path, model: str = "itemknn-cbf", **settings: Any) -> Cell:
    layer = Layer(Origin.user, settings)
    return make_cell(results_dir=folder, prepared=prepared, model=model, seed=1, overrides=[layer])


def test_changed_features_are_another_configuration_that_is_told_in_its_row(tmp_path: Path) -> None:
    prepared = write_toy(tmp_path)
    texts = ("stored", "shuffled:1", "shuffled:2", "random:1", "gauss:1", "constant", "zero")
    cells = [changed_cell(prepared, tmp_path, text_features=text) for text in texts]
    assert len({cell.config_id for cell in cells}) == len(texts)
    assert changed_cell(prepared, tmp_path).config_id == cells[0].config_id
    record = run_cell(cells[1], device="cpu")
    _, labels = row_keys(group_runs([record])[0])
    assert [label.config for label in labels.values()] == ["text_features=shuffled:1"], (
        "also of a closed form"
    )
    catalogs = [reopen(run_cell(cell, device="cpu"), data_dir=tmp_path, device="cpu") for cell in cells[:3]]
    assert len({run.made_by.weights for run in catalogs}) == 3, (
        "another model, also when it is built once more"
    )


def test_a_change_of_what_a_model_does_not_read_is_refused_in_one_line(tmp_path: Path) -> None:
    prepared = write_toy(tmp_path, features=False)
    add_features(prepared, "text", "toy")
    for model, settings in (("sasrec", {}), ("itemknn-cbf", {}), ("itemknn-cbf", {"image_encoder": "none"})):
        with pytest.raises(
            UsageError, match=f"^image_features = constant: {model} reads no image features here; "
        ):
            changed_cell(prepared, tmp_path, model, image_features="constant", **settings)
    with pytest.raises(UsageError, match=r"itemknn-cbf: text_features: must be stored, constant"):
        changed_cell(prepared, tmp_path, text_features="shufled:1")


def test_a_change_for_all_models_is_about_those_that_read_the_modality(tmp_path: Path) -> None:
    prepared = write_toy(tmp_path)
    overrides = Overrides.of({"text_features": "zero"})
    folder, models = tmp_path / "results", ["itemknn-cbf", "pop", "sasrec"]
    cells = plan(results_dir=folder, datasets=[prepared], models=models, seeds=[1], overrides=overrides)
    assert [cell.settings["text_features"].value for cell in cells] == ["zero", "stored", "stored"]
    with pytest.raises(UsageError, match="--set text_features: no model of this run reads text features"):
        check_overrides(overrides, ["pop", "sasrec"])
    with pytest.raises(UsageError, match=r"--set sasrec\.text_features: sasrec has no use for this setting"):
        check_overrides(Overrides.of({"sasrec.text_features": "zero"}), ["sasrec"])
