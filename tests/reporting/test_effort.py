"""Tables say how the settings of their rows came about, and give no star where the effort differs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmbench.errors import UsageError
from mmbench.reporting import TableRequest, build_table
from mmbench.reporting.table import Table
from mmbench.runs.store import RunRecord
from mmbench.settings.config import Origin
from mmbench.tuning.ledger import Ledger
from mmbench.tuning.origin import settings_origin
from mmbench.tuning.records import Plan, Trial
from tests.reporting.conftest import fake_run


def records(results: Path, **of_sasrec: Any) -> list[RunRecord]:
    """Two trained rows, the first far better, and a floor; three seeds."""
    made = []
    for model, skill, options in (("sasrec", 1.5, of_sasrec), ("gru4rec", 0.8, {})):
        made += [fake_run(results, model, seed=seed, skill=skill, **options) for seed in (1, 2, 3)]
    return [*made, fake_run(results, "pop", skill=0.1, deterministic=True, best_epoch=0)]


def study(
    record: RunRecord, n_trials: int, *, unit: Any = "trials", hours: float = 1.0, **values: Any
) -> None:
    """Write a study whose best trial has these values."""
    plan = Plan(
        dataset=record.dataset, model=record.model, metric="NDCG@20", sampler="random", unit=unit, n_seeds=1,
        prunes=True, space={"lr": {"own": 0.001, "searched": {"values": [0.001], "source": "test"}}}, fixed={},
        protocol=record.protocol, features={},
    )  # fmt: skip
    ledger = Ledger.open(record.path.parents[3], plan)
    for number in range(n_trials):
        value = 0.5 if number == 0 else 0.1
        ledger.record(
            Trial(
                number=number, status="finished", values=values, value=value, seconds=3600 * hours / n_trials
            )
        )


def caption(table: Table, key: str) -> list[str]:
    return [text for name, text in table.caption if name == key]


def has_star(table: Table) -> bool:
    return any(cell.star for row in table.rows for cell in row.cells)


def test_without_a_study_nothing_is_said(tmp_path: Path) -> None:
    table = build_table(records(tmp_path))
    assert caption(table, "Settings") == []
    assert not any("budgets" in text for text in table.warnings)
    assert has_star(table)


def test_a_tuned_row_beside_an_untuned_row(tmp_path: Path) -> None:
    runs = records(tmp_path)
    study(runs[0], 30, lr=0.001)
    table = build_table(runs)
    assert caption(table, "Settings") == [
        "toys: tuned (30 trials, 1.0 h): SASRec (as the recipe); recipe: GRU4Rec."
    ]
    assert [text for text in table.warnings if "different budgets" in text]
    assert not has_star(table)
    free = build_table(runs, TableRequest(unequal_budgets=True))
    assert has_star(free)
    assert "no star" not in " ".join(free.warnings)


def test_the_note_on_settings_says_what_the_search_changed(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"settings": {"lr": 0.003}, "chosen": ("lr",), "origin": Origin.tuned}
    runs = records(tmp_path, **chosen)
    study(runs[0], 30, lr=0.003)
    note = "toys: tuned (30 trials, 1.0 h): SASRec [tuned] (lr=0.003); recipe: GRU4Rec."
    assert caption(build_table(runs), "Settings") == [note]


@pytest.mark.parametrize(("trials", "is_equal"), [(30, True), (12, False)])
def test_budgets_are_compared(trials: int, is_equal: bool, tmp_path: Path) -> None:
    runs = records(tmp_path)
    study(runs[0], 30, lr=0.001)
    study(runs[3], trials, lr=0.001)
    table = build_table(runs)
    assert has_star(table) == is_equal
    assert any("different budgets" in text for text in table.warnings) != is_equal


@pytest.mark.parametrize(("hours", "is_equal"), [((1.49, 1.52), True), ((0.2, 0.45), False), ((2, 3), False)])
def test_budgets_in_hours_are_compared_up_to_the_epochs_under_way(
    hours: tuple[float, float], is_equal: bool, tmp_path: Path
) -> None:
    runs = records(tmp_path)
    for record, of_row in zip((runs[0], runs[3]), hours, strict=True):
        study(record, 10, unit="seconds", hours=of_row, lr=0.001)
    table = build_table(runs)
    assert has_star(table) == is_equal
    assert any("different budgets" in text for text in table.warnings) != is_equal
    assert settings_origin(runs[0]).budget == f"{hours[0]:.2g} h"


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({"lr": 0.003}, {}),  # another value won
        ({"lr": 0.001}, {"settings": {"dropout": 0.1}, "chosen": ("dropout",)}),  # something else was typed
    ],
)
def test_other_settings_are_not_those_of_the_study(values: Any, options: Any, tmp_path: Path) -> None:
    runs = records(tmp_path, **options)
    study(runs[0], 30, **values)
    assert caption(build_table(runs), "Settings") == []


def test_a_study_on_other_data_is_not_that_of_the_run(tmp_path: Path) -> None:
    runs = records(tmp_path)
    study(replace(runs[0], protocol={"data": "other"}), 30, lr=0.001)
    assert caption(build_table(runs), "Settings") == []


def both(results: Path) -> list[RunRecord]:
    """Runs of two models with the recipe's settings, with tuned ones and with typed ones, and a floor."""
    runs = records(results)
    for model, skill in (("sasrec", 1.8), ("gru4rec", 0.9)):
        tuned = [
            fake_run(
                results,
                model,
                seed=seed,
                skill=skill,
                settings={"lr": 0.003},
                chosen=("lr",),
                origin=Origin.tuned,
            )
            for seed in (1, 2, 3)
        ]
        study(tuned[0], 30, lr=0.003)
        runs += tuned
    return [*runs, fake_run(results, "sasrec", seed=1, skill=3.0, settings={"lr": 0.5}, chosen=("lr",))]


def test_both_kinds_of_rows_stand_side_by_side(tmp_path: Path) -> None:
    table = build_table(both(tmp_path), TableRequest(rows="both"))
    assert [row.label for row in table.rows] == [
        "SASRec [recipe]", "SASRec [tuned, 30 trials]", "GRU4Rec [recipe]", "GRU4Rec [tuned, 30 trials]", "Pop",
    ]  # fmt: skip
    assert [len(row.cells[0].values) for row in table.rows] == [3, 3, 3, 3, 1]
    assert len(table.left_out) == 1
    assert "its settings were given by --set, and --rows both has none of these" in table.left_out[0]


@pytest.mark.parametrize("rows", ["recipe", "tuned", "both"])
def test_every_configuration_of_a_model_without_a_training_is_a_row(rows: Any, tmp_path: Path) -> None:
    """A floor that was searched too is not dropped for its own recipe, and nothing is said to be left out."""
    runs = both(tmp_path)[:-1]
    for k, skill in ((5, 0.2), (100, 0.3)):
        runs.append(
            fake_run(
                tmp_path, "itemknn", skill=skill, deterministic=True, best_epoch=0, stopped="closed form",
                settings={"k": k}, chosen=("k",) if k == 100 else (), origin=Origin.tuned,
            )
        )  # fmt: skip
    table = build_table(runs, TableRequest(rows=rows))
    plain = build_table([run for run in runs if run.model in ("itemknn", "pop")], TableRequest())
    labels = [row.label for row in table.rows if row.model in ("itemknn", "pop")]
    assert sorted(labels) == sorted(row.label for row in plain.rows)
    assert len(labels) == 3
    assert table.left_out == ()


def test_a_second_tuned_configuration_is_named_with_the_one_that_is_shown(tmp_path: Path) -> None:
    runs = both(tmp_path)[:-1]
    other = fake_run(tmp_path, "sasrec", seed=1, settings={"lr": 0.01}, chosen=("lr",), origin=Origin.tuned)
    study(other, 5, unit="seconds", lr=0.01)
    shown = next(run for run in runs if run.model == "sasrec" and run.settings["lr"].value == 0.003)
    (line,) = build_table([*runs, other], TableRequest(rows="both")).left_out
    assert line == (
        f"sasrec on toys, configuration {other.config_id}: --rows both has a single tuned row of a model, here "
        f"configuration {shown.config_id}; mmbench report without --rows has both"
    )


@pytest.mark.parametrize(("rows", "config"), [("recipe", "recipe"), ("tuned", "tuned, 30 trials")])
def test_one_kind_of_rows(rows: Any, config: str, tmp_path: Path) -> None:
    table = build_table(both(tmp_path), TableRequest(rows=rows))
    assert [(row.name, row.config) for row in table.rows] == [
        ("SASRec", config), ("GRU4Rec", config), ("Pop", ""),
    ]  # fmt: skip


def test_a_search_that_ends_with_the_recipe_is_one_row(tmp_path: Path) -> None:
    runs = records(tmp_path)
    study(runs[0], 12, lr=0.001)
    table = build_table(runs, TableRequest(rows="both"))
    labels = [row.label for row in table.rows]
    assert labels == ["SASRec [tuned, 12 trials: the recipe's]", "GRU4Rec [recipe]", "Pop"]
    assert build_table(runs, TableRequest(rows="recipe")).rows[0].label == "SASRec [recipe]"


def test_on_another_data_set_the_recipe_s_row_refers_to_the_tuned_one(tmp_path: Path) -> None:
    runs = [
        *both(tmp_path),
        *(fake_run(tmp_path, seed=seed, dataset="games", skill=1.5) for seed in (1, 2, 3)),
    ]
    study(runs[-1], 30, lr=0.001)
    table = build_table(runs, TableRequest(rows="both"))
    by_label = {row.label: row for row in table.rows}
    cell = by_label["SASRec [recipe]"].cells[0]  # games
    assert cell.mean is None
    assert "ended with the recipe's settings" in table.footnotes[cell.footnotes[0]]
    assert by_label["SASRec [tuned]"].cells[0].mean is not None


def test_without_tuned_runs_there_is_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--rows tuned: no stored run"):
        build_table(records(tmp_path), TableRequest(rows="tuned"))
