"""Controls of multi-modal models: which runs they are, whom they belong to, and when a table says that it has none."""

from pathlib import Path
from typing import Any

import pytest

import mmbench
from mmbench.data.loaded import load_data
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.runs.build import build_model
from mmbench.runs.controls import n_trained, plan_controls
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import Cell
from mmbench.runs.schedule import plan
from tests.prepared import add_features, write_toy

TINY: dict[str, Any] = {"max_epochs": 1, "hidden_dim": 12, "batch_size": 256}


def planned(
    prepared: Prepared, folder: Path, *models: str, seeds: tuple[int, ...] = (1,), **settings: Any
) -> list[Cell]:
    overrides = Overrides.of(settings)
    wanted: dict[str, Any] = {
        "results_dir": folder,
        "datasets": [prepared],
        "seeds": seeds,
        "overrides": overrides,
    }
    cells = plan(models=models, **wanted)
    return plan_controls(cells, models=models, **wanted)


def changes(cell: Cell) -> tuple[str, str]:
    return cell.settings["text_features"].value, cell.settings["image_features"].value


def test_a_model_of_text_and_pictures_has_every_control_once(tmp_path: Path) -> None:
    cells = planned(write_toy(tmp_path), tmp_path, "hm4sr", "sasrec")
    assert [cell.model for cell in cells[:2]] == ["hm4sr", "sasrec"], "what was asked for comes first"
    assert len({cell.path for cell in cells}) == len(cells)
    others = [
        (cell.model, tuple(cell.settings["modalities"].value)) for cell in cells if "late" in cell.model
    ]
    assert others == [
        ("late-fusion:id", ("id",)), ("late-fusion:text", ("text",)), ("late-fusion:image", ("image",)),
        ("late-fusion:id", ("id",)),  # the wide one
        ("late-fusion", ("id", "id", "id")), ("late-fusion", ("id", "text", "image")),
    ]  # fmt: skip
    assert {"ease-text", "itemknn-cbf:text", "itemknn-cbf:image"} < {cell.model for cell in cells}
    own = [changes(cell) for cell in cells if cell.model == "hm4sr"]
    pairs = [(text, text) for text in ("stored", "random:1", "random:2", "random:3")]
    pairs += [(text, text) for text in ("shuffled:1", "shuffled:2", "shuffled:3", "constant")]
    together = ("shuffled-together:1", "shuffled-together:1")
    assert own == [*pairs, ("shuffled:1", "stored"), ("stored", "shuffled:1"), together]


def test_a_data_set_without_pictures_has_no_control_of_them(tmp_path: Path) -> None:
    prepared = write_toy(tmp_path, features=False)
    add_features(prepared, "text", "toy")
    cells = planned(prepared, tmp_path, "hm4sr")
    assert not any("image" in cell.model or "image" in cell.features for cell in cells)
    assert {cell.settings["image_features"].value for cell in cells} == {"stored"}
    assert [len(cell.settings["modalities"].value) for cell in cells if cell.model == "late-fusion"] == [2, 2]
    assert sum(cell.model == "hm4sr" for cell in cells) == 8


def test_controls_have_the_seeds_and_the_settings_of_the_run_and_fixed_models_one_seed(
    tmp_path: Path,
) -> None:
    cells = planned(write_toy(tmp_path), tmp_path, "hm4sr", seeds=(3, 4), max_epochs=7, **{"hm4sr.lr": 0.5})
    by_model: dict[str, list[int]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, []).append(cell.seed)
        assert cell.settings["max_epochs"].value == 7
        assert (cell.settings["lr"].value == 0.5) == (cell.model == "hm4sr")
    assert by_model["late-fusion:id"] == [3, 3, 4, 4]
    assert by_model["ease-text"] == [3]
    assert sorted(by_model["hm4sr"]) == [3] * 11 + [4] * 11


def test_models_that_read_no_features_have_none_and_a_run_of_only_these_says_so(tmp_path: Path) -> None:
    prepared = write_toy(tmp_path)
    with pytest.raises(UsageError, match="--controls: sasrec, pop reads no text or image features here"):
        planned(prepared, tmp_path, "sasrec", "pop")
    with pytest.raises(UsageError, match="--controls: late-fusion reads no text or image"):
        planned(prepared, tmp_path, "late-fusion")


def caption(report: Any) -> list[str]:
    return [text for title, text in report.table.caption if title == "Controls"]


def test_a_table_says_which_model_lacks_its_controls_until_it_has_them(tmp_path: Path) -> None:
    prepared, folder = write_toy(tmp_path / "data"), tmp_path / "results"

    def run(*models: str, **settings: Any) -> Any:
        return mmbench.run(
            list(models), datasets=[prepared], settings={**TINY, **settings}, floors=False,
            data_dir=tmp_path / "data", results_dir=folder, device="cpu",
        )  # fmt: skip

    bare = run("tmmsrec:id+text", "sasrec")
    (text,) = caption(mmbench.report(bare))
    fusion = "no late fusion of independent members beside TMMSRec:id+text: a gain may come from ensembling"
    features = "no shuffled features of TMMSRec:id+text: a gain may come from parameters"
    assert text.startswith(f"{fusion}; {features} (")
    assert "mmbench run tmmsrec:id+text --controls adds them" in text
    assert caption(mmbench.report(run("sasrec", "tmmsrec:id"))) == [], "nobody reads features"
    fused = [*bare, *run("late-fusion")]
    (text,) = caption(mmbench.report(fused))
    assert text.startswith(f"{features} (")
    shuffled = run("tmmsrec:id+text", text_features="shuffled:1")
    assert caption(mmbench.report([*fused, *shuffled])) == []
    (text,) = caption(mmbench.report([*bare, *run("late-fusion:id"), *shuffled]))
    assert text.startswith(fusion), "ids alone are not late fusion"
    assert "shuffled" not in text


@pytest.mark.parametrize("model", ["hm4sr", "tmmsrec"])
def test_the_wide_backbone_has_the_model_s_parameters(model: str, tmp_path: Path) -> None:
    prepared = write_toy(tmp_path)
    settings: dict[str, Any] = {} if model == "hm4sr" else {"tmmsrec.hidden_dim": 48}
    cells = planned(prepared, tmp_path, model, **settings)
    data = load_data(prepared.path, prepared.hash)
    wide = [cell for cell in cells if cell.model == "late-fusion:id"][1]
    counts = [n_trained(build_model(cell, data, "cpu")[0]) for cell in (cells[0], wide)]
    assert abs(counts[1] / counts[0] - 1) < 0.02
    assert wide.settings["inner_dim"].value >= 4 * wide.settings["hidden_dim"].value
