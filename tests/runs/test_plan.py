"""What tells two results apart: whatever may change a number changes the configuration, and its protocol the table."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmbench import matrix_units
from mmbench.choices import RULES, SPLITS, MaskRule
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import mean_value
from mmbench.features.use import FeatureUse
from mmbench.models import registry
from mmbench.runs import plan
from mmbench.runs.execute import run_cell
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import Cell, configuration_id, make_cell
from mmbench.runs.rerank import reopen
from mmbench.runs.store import fingerprint_of
from mmbench.settings.config import Layer, Origin
from mmbench.training.checkpoint import load_tensors
from mmbench.training.files import BEST
from tests.prepared import PROTOCOL, add_features, random_histories, write_toy

SMALL = {"hidden_dim": 8, "inner_dim": 8, "max_epochs": 1, "batch_size": 128}


def cell_on(prepared: Prepared, folder: Path, model: str = "sasrec", seed: int = 1, **settings: Any) -> Cell:
    layers = [Layer(Origin.user, settings)] if settings else []
    return make_cell(results_dir=folder, prepared=prepared, model=model, seed=seed, overrides=layers)


def identity(cell: Cell) -> tuple[str, str]:
    return cell.config_id, cell.fingerprint


# One other value of every field of a data protocol that decides what is measured.
OTHER: Mapping[str, Any] = {
    "duplicates": "drop", "min_user": 4, "min_item": 2, "item_counts": "users", "iterate": True,
    "require": ("text",), "ties": "random:1", "split": "time", "valid_share": 0.1, "test_share": 0.2,
}  # fmt: skip
OF_SETTINGS = {"name", "max_len", "mask_seen", "selection_metric", "patience"}


def test_every_field_of_a_protocol_is_in_one_of_the_tests() -> None:
    assert set(OTHER) | OF_SETTINGS == set(PROTOCOL.to_json())
    assert all(OTHER[key] != getattr(PROTOCOL, key) for key in OTHER)


@pytest.mark.parametrize("units", [True, False])
def test_what_matmul_auto_means_is_decided_before_a_run_has_a_name(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: bool
) -> None:
    """The configuration is that of the value written out, for all models and for a single model."""
    monkeypatch.setattr(matrix_units, "has_matrix_units", lambda: units)
    meant = "bfloat16" if units else "float32"

    def planned(**settings: str) -> tuple[str, str]:
        overrides = Overrides.of(settings, device="cpu")
        layers = overrides.layers("sasrec", registry.find("sasrec").known_settings())
        cell = make_cell(results_dir=tmp_path, prepared=toy, model="sasrec", seed=1, overrides=layers)
        return cell.config_id, cell.settings["matmul"].value

    written = planned(matmul=meant)
    assert planned(matmul="auto") == planned(**{"sasrec.matmul": "auto"}) == written
    assert written[1] == meant
    assert (written[0] == planned()[0]) == (not units)


def test_epochs_are_said_once() -> None:
    assert Overrides.of({"max_epochs": 3}, epochs=3).everywhere == {"max_epochs": 3}
    assert Overrides.of({"sasrec.max_epochs": 2}, epochs=3).by_model == {"sasrec": {"max_epochs": 2}}
    with pytest.raises(UsageError, match="3 epochs and max_epochs = 2: give one of them"):
        Overrides.of({"max_epochs": 2}, epochs=3)


@pytest.mark.parametrize("field", OTHER)
@pytest.mark.parametrize("model", ["sasrec", "pop"])
def test_another_protocol_is_another_configuration_and_another_table(
    field: str, model: str, tmp_path: Path
) -> None:
    shares = {"valid_share": 0.3, "test_share": 0.3} if field == "split" else {}  # a split by time needs some
    cells = [
        cell_on(write_toy(tmp_path / name, **shares, **changes), tmp_path / "results", model)
        for name, changes in (("one", {}), ("same", {}), ("other", {field: OTHER[field]}))
    ]
    assert identity(cells[0]) == identity(cells[1])
    assert cells[0].config_id != cells[2].config_id
    assert cells[0].fingerprint != cells[2].fingerprint


def test_other_data_are_another_configuration_and_another_table(tmp_path: Path) -> None:
    items, times, offsets = random_histories()
    changed = items.copy()
    changed[-1] = changed[-1] % 60 + 1
    first, second = (
        cell_on(write_toy(tmp_path / str(at), histories=(events, times, offsets)), tmp_path / "results")
        for at, events in enumerate((items, changed))
    )
    assert first.config_id != second.config_id
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("rule", ["train", "input"])
def test_another_mask_rule_is_another_configuration_and_another_table(
    rule: str, toy: Prepared, tmp_path: Path
) -> None:
    for model in ("sasrec", "pop"):
        first, second = cell_on(toy, tmp_path, model), cell_on(toy, tmp_path, model, mask_seen=rule)
        assert first.config_id != second.config_id
        assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_len", 7), ("selection_metric", "HR@5"), ("patience", 4), ("lr", 0.5), ("hidden_dim", 8),
     ("precision", "float64"), ("validation", "test-item")],
)  # fmt: skip
def test_another_setting_is_another_configuration_of_the_same_table(
    key: str, value: Any, toy: Prepared, tmp_path: Path
) -> None:
    first, second = cell_on(toy, tmp_path), cell_on(toy, tmp_path, **{key: value})
    assert first.config_id != second.config_id
    assert first.fingerprint == second.fingerprint


def test_the_selection_of_a_small_catalogue_has_a_cutoff_that_it_holds(tmp_path: Path) -> None:
    """The protocol's NDCG@20 becomes NDCG@12; a cutoff that somebody chose is refused instead."""
    twelve = write_toy(
        tmp_path, n_items=12, histories=random_histories(n_items=12), selection_metric="NDCG@20"
    )
    cell = cell_on(twelve, tmp_path, **SMALL)
    assert cell.settings["selection_metric"].value == "NDCG@12"
    record = run_cell(cell)
    assert (record.status, record.selection and record.selection.metric) == ("finished", "NDCG@12")
    with pytest.raises(UsageError, match=r"has only 12 items.*selection_metric=HR@12"):
        cell_on(twelve, tmp_path, selection_metric="HR@20")
    assert cell_on(twelve, tmp_path, selection_metric="HR@12").settings["selection_metric"].value == "HR@12"


def test_a_newer_definition_of_metrics_is_another_table(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity(cell_on(toy, tmp_path))
    monkeypatch.setattr(plan, "METRIC_VERSION", plan.METRIC_VERSION + 1)
    after = identity(cell_on(toy, tmp_path))
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_seeds_share_a_configuration_and_not_a_folder(toy: Prepared, tmp_path: Path) -> None:
    first, second = (cell_on(toy, tmp_path, seed=seed) for seed in (1, 2))
    assert identity(first) == identity(second)
    assert first.path.parent == second.path.parent
    assert (first.path.name, second.path.name) == ("seed_1", "seed_2")


def test_features_count_by_what_made_them() -> None:
    """Two kinds of processors give other last digits to what was made in one way; another way is another result."""
    use = FeatureUse("bert", identity="a1", content="c1")

    def named(**uses: FeatureUse) -> str:
        return configuration_id("hm4sr", {"lr": 0.1}, uses, protocol={})

    assert named(text=use) == named(text=replace(use, content="c2"))
    assert named(text=use) == named(text=replace(use, encoder="my-bert")), "a name makes no result"
    others = [named(text=replace(use, identity="a2")), named(image=use), named(text=use, image=use), named()]
    assert len({named(text=use), *others}) == 5


def test_other_features_are_another_configuration(tmp_path: Path) -> None:
    prepared = write_toy(tmp_path)
    for name, seed in (("first", 1), ("second", 2)):
        add_features(prepared, "text", name, seed=seed)
    first, second = (
        cell_on(prepared, tmp_path, "tmmsrec", text_encoder=name) for name in ("first", "second")
    )
    assert first.config_id != second.config_id
    assert first.fingerprint == second.fingerprint


def test_two_models_never_share_a_configuration(toy: Prepared, tmp_path: Path) -> None:
    """Names such as "a:b" and "a-b" may share a folder of models."""
    names = ("a:b", "a-b", "a")
    assert len({configuration_id(name, {"lr": 0.1}, {}, protocol={}) for name in names}) == 3
    assert cell_on(toy, tmp_path, "pop").config_id != cell_on(toy, tmp_path, "random").config_id


def test_the_fingerprint_of_a_record_is_the_cell_s(toy: Prepared, tmp_path: Path) -> None:
    cell = cell_on(toy, tmp_path, "pop")
    record = run_cell(cell, device="cpu")
    assert record.fingerprint == cell.fingerprint == fingerprint_of(record.protocol)
    assert record.data_hash == toy.hash


# -- settings that must have their effect -----------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_the_mask_rule_reaches_selection_and_stored_ranks(
    rule: MaskRule, toy: Prepared, tmp_path: Path
) -> None:
    record = run_cell(cell_on(toy, tmp_path, mask_seen=rule, **SMALL), device="cpu")
    assert record.selection is not None
    values = {
        second: mean_value(record.ranking("valid").ranks(second), record.selection.metric) for second in RULES
    }
    assert record.selection.value == pytest.approx(values[rule], rel=1e-12)
    assert values["none"] != values["train"]
    assert values["train"] == values["input"], "a validation target comes after training events only"
    for split in SPLITS:
        assert np.array_equal(record.ranks(split).greater, record.ranking(split).ranks(rule).greater)
    sums = {int(record.ranking("test").ranks(second).greater.sum()) for second in RULES}
    assert len(sums) == 3, "the rules differ on the test targets"


@dataclass(frozen=True)
class Seen:
    """Types of what a model was asked with and for."""

    parameters: set[torch.dtype]
    scores: torch.dtype
    stored: set[torch.dtype]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_precision_is_that_of_parameters_and_scores(
    precision: str, toy: Prepared, data_dir: Path, tmp_path: Path
) -> None:
    cell = cell_on(toy, tmp_path, precision=precision, **SMALL)
    record = run_cell(cell, device="cpu")
    assert record.status == "finished", record.reason
    model = reopen(record, data_dir=data_dir, device="cpu").model
    stored = {
        tensor.dtype for tensor in load_tensors(cell.path / BEST)[0].values() if tensor.is_floating_point()
    }
    seen = Seen({parameter.dtype for parameter in model.parameters()}, model.item_table().dtype, stored)
    wanted = getattr(torch, precision)
    assert seen == Seen({wanted}, wanted, {wanted})
