"""Rows over several data sets: what the user chose for one of them only is a row of its own, with a label.

Run: python -m pytest tests/reporting/test_labels.py
"""

from pathlib import Path
from typing import Any

import pytest

from mmbench.evaluation.metrics import Metric
from mmbench.features.use import FeatureUse
from mmbench.reporting.layout import Layout, laid_out
from mmbench.reporting.table import Table
from mmbench.runs.store import write_record
from mmbench.settings.config import Origin, Setting
from tests.reporting.conftest import all_records, caption_of, fake_run, make_table, row_of

HR10 = Metric("HR", 10)


def table_of(results: Path) -> Table:
    return make_table(all_records(results), metrics=[HR10])


def places(table: Table) -> dict[str, list[str]]:
    """Row label -> data sets on which it has a number."""
    return {
        row.label: [
            column.dataset for column, cell in zip(table.columns, row.cells, strict=True) if cell.mean is not None
        ]
        for row in table.rows
    }  # fmt: skip


def test_what_was_chosen_for_one_data_set_only_is_another_row(results: Path) -> None:
    chosen: dict[str, Any] = {"dropout": 0.9, "hidden_dim": 8, "selection_metric": "HR@5"}
    recipe = {"dropout": 0.5, "hidden_dim": 64, "selection_metric": "NDCG@20"}
    fake_run(results, dataset="demo", settings=recipe, max_epochs=2, chosen=("max_epochs",))
    fake_run(results, dataset="toy", settings=chosen, max_epochs=1, chosen=("max_epochs", *chosen))
    assert places(table_of(results)) == {
        "SASRec [max_epochs=2]": ["demo"],
        "SASRec [dropout=0.9, hidden_dim=8, max_epochs=1, selection_metric=HR@5]": ["toy"],
    }


def test_a_leak_on_one_data_set_leaves_the_honest_result_of_another_its_place(results: Path) -> None:
    fake_run(results, "gru4rec", dataset="demo", settings={"validation": "valid"}, skill=0.5)
    fake_run(results, dataset="demo", settings={"validation": "valid"})
    leak = {"validation": "test-item"}
    fake_run(results, dataset="toy", settings=leak, chosen=("validation",), leaky=True)
    table = table_of(results)
    honest = row_of(table, "SASRec")
    assert (honest.leaky, honest.cells[0].place) == (False, 1)
    assert row_of(table, "SASRec [validation=test-item] †").cells[0].mean is None
    assert table.comparisons[0].column == 0


def test_a_choice_that_is_the_other_data_set_s_own_value_shares_its_row(results: Path) -> None:
    fake_run(results, dataset="demo", settings={"dropout": 0.5})
    fake_run(results, dataset="toy", settings={"dropout": 0.5}, chosen=("dropout",))
    assert places(table_of(results)) == {"SASRec [dropout=0.5]": ["demo", "toy"]}
    fake_run(results, dataset="toy", settings={"dropout": 0.2}, chosen=("dropout",))
    assert places(table_of(results)) == {
        "SASRec [dropout=0.5]": ["demo", "toy"],
        "SASRec [dropout=0.2]": ["toy"],
    }


def test_no_two_rows_have_the_same_label(results: Path) -> None:
    """A recipe's values of two data sets are not told, also where one of them is also somebody's choice."""
    for dataset, dropout in (("aa", 0.5), ("bb", 0.3)):
        fake_run(results, dataset=dataset, settings={"dropout": dropout})
    fake_run(results, dataset="cc", settings={"dropout": 0.5}, chosen=("dropout",))
    assert places(table_of(results)) == {
        "SASRec": ["aa", "bb"],
        "SASRec [dropout=0.5]": ["cc"],
    }


def test_recipes_that_changed_between_runs_are_told_apart_by_their_values(results: Path) -> None:
    """Nobody set a value, so without them both rows would be called SASRec."""
    for dropout in (0.2, 0.5):
        fake_run(results, settings={"dropout": dropout})
    fake_run(results, settings={"dropout": 0.9}, chosen=("dropout",))
    assert set(places(table_of(results))) == {
        "SASRec [dropout=0.2]", "SASRec [dropout=0.5]", "SASRec [dropout=0.9]",
    }  # fmt: skip


def test_settings_that_a_model_ignores_do_not_split_its_row(results: Path) -> None:
    """`--epochs` is stored with every floor, and `--set text_encoder=...` with models that read no text."""
    for dataset, epochs in (("aa", 2), ("bb", 5)):
        fake_run(
            results, "pop", dataset=dataset, max_epochs=epochs, chosen=("max_epochs",), stopped="closed form"
        )
    fake_run(results, "sasrec", dataset="aa", settings={"text_encoder": "auto"})
    fake_run(results, "sasrec", dataset="bb", settings={"text_encoder": "minilm"}, chosen=("text_encoder",))
    assert places(table_of(results)) == {"SASRec": ["aa", "bb"], "Pop": ["aa", "bb"]}


def test_encoders_chosen_for_one_data_set_are_rows(results: Path) -> None:
    def run(dataset: str, asked: str, used: str) -> None:
        features = {"text": FeatureUse(used, "x")} if used else {}
        chosen = () if asked == "auto" else ("text_encoder",)
        settings = {"text_encoder": asked}
        fake_run(results, "hm4sr", dataset=dataset, settings=settings, chosen=chosen, features=features)

    run("aa", "auto", "tfidf")
    run("bb", "auto", "minilm")  # each data set's own: one row
    assert places(table_of(results)) == {"HM4SR": ["aa", "bb"]}
    run("cc", "none", "")
    run("dd", "clip", "clip")
    assert places(table_of(results)) == {
        "HM4SR": ["aa", "bb"],
        "HM4SR [text encoder=none]": ["cc"],
        "HM4SR [text encoder=clip]": ["dd"],
    }


@pytest.mark.parametrize("origin", Origin)
def test_what_a_user_or_a_search_set_is_told_though_the_model_has_one_configuration(
    origin: Origin, results: Path
) -> None:
    """`--set lr=0.1 --epochs 2` is not a plain SASRec, whatever else the table holds."""
    fake_run(results, settings={"lr": 0.1}, max_epochs=2, chosen=("lr", "max_epochs"), origin=origin)
    fake_run(results, "gru4rec")
    labels = {Origin.user: "SASRec [lr=0.1, max_epochs=2]", Origin.tuned: "SASRec [tuned]"}
    assert sorted(places(table_of(results))) == ["GRU4Rec", labels.get(origin, "SASRec")]


OWN = {"dropout": 0.2, "hidden_dim": 96, "lr": 0.003, "n_heads": 2}
OWN_TEXT = "dropout=0.2, hidden_dim=96, lr=0.003, n_heads=2"


def test_many_settings_that_rows_share_are_counted_and_a_note_lists_them(results: Path) -> None:
    """A label with all of them would be wider than the table, and hide the setting by which the rows differ."""
    fake_run(results)
    for loss in ("bce", "ce"):
        fake_run(results, settings={**OWN, "loss": loss}, chosen=(*OWN, "loss"))
    table = table_of(results)
    assert sorted(row.label for row in table.rows) == [
        "SASRec", "SASRec [loss=bce, 4 settings]", "SASRec [loss=ce, 4 settings]",
    ]  # fmt: skip
    assert caption_of(table, "Settings") == f"4 settings of SASRec: {OWN_TEXT}."
    # Other programs read all of them.
    assert row_of(table, "SASRec [loss=ce, 4 settings]").config == OWN_TEXT.replace("lr", "loss=ce, lr")


def test_the_short_form_of_papers_lists_them(results: Path) -> None:
    fake_run(results, settings=OWN, chosen=tuple(OWN))
    table = table_of(results)
    assert [row.label for row in table.rows] == ["SASRec [4 settings]"]
    (sentence,) = [text for _, text in laid_out(table, Layout(style="paper")).caption]
    assert f" 4 settings of SASRec: {OWN_TEXT}." in sentence


def test_settings_by_which_rows_differ_are_always_told(results: Path) -> None:
    for lr in (0.1, 0.2):
        values = {**OWN, "lr": lr}
        fake_run(results, settings=values, chosen=tuple(values))
    assert sorted(places(table_of(results))) == [
        "SASRec [dropout=0.2, hidden_dim=96, lr=0.1, n_heads=2]",
        "SASRec [dropout=0.2, hidden_dim=96, lr=0.2, n_heads=2]",
    ]


def tuned(results: Path, *, dataset: str = "toys", **settings: Any) -> None:
    fake_run(results, dataset=dataset, settings=settings, chosen=tuple(settings), origin=Origin.tuned)


def test_tuned_values_of_each_data_set_are_one_row_beside_the_recipe_s(results: Path) -> None:
    for dataset, lr in (("aa", 0.01), ("bb", 0.02)):
        fake_run(results, dataset=dataset)
        tuned(results, dataset=dataset, lr=lr, dropout=0.5)
    assert places(table_of(results)) == {"SASRec": ["aa", "bb"], "SASRec [tuned]": ["aa", "bb"]}


def test_seeds_of_a_recipe_that_a_search_chose_too_are_one_row(results: Path) -> None:
    fake_run(results, seed=1)
    fake_run(results, seed=2, chosen=("lr",), origin=Origin.tuned)
    assert [(row.label, row.cells[0].n) for row in table_of(results).rows] == [("SASRec [tuned]", 2)]


def test_what_was_typed_beside_tuned_values_is_told(results: Path) -> None:
    chosen: dict[str, Any] = {"settings": {"lr": 0.01}, "chosen": ("lr",), "origin": Origin.tuned}
    fake_run(results, seed=1, **chosen)
    record = fake_run(results, seed=1, max_epochs=3, **chosen)
    record.settings["max_epochs"] = Setting(3, Origin.user)
    write_record(record)
    assert sorted(places(table_of(results))) == ["SASRec [tuned, max_epochs=3]", "SASRec [tuned]"]


def test_two_tuned_configurations_are_told_apart_by_their_values(results: Path) -> None:
    fake_run(results)
    for dropout in (0.2, 0.5):
        tuned(results, lr=0.01, dropout=dropout)
    assert set(places(table_of(results))) == {
        "SASRec", "SASRec [dropout=0.2, lr=0.01]", "SASRec [dropout=0.5, lr=0.01]",
    }  # fmt: skip


def test_a_choice_that_is_also_the_recipe_s_value_is_told(results: Path) -> None:
    """Seeds 1 and 2 are one configuration; that somebody typed the value for one of them is told."""
    fake_run(results, seed=1)
    fake_run(results, seed=2, chosen=("lr",))
    table = table_of(results)
    assert [(row.label, row.cells[0].n) for row in table.rows] == [("SASRec [lr=0.001]", 2)]


def test_what_an_experiment_declares_splits_rows_and_is_told_where_it_does(results: Path) -> None:
    fake_run(results, dataset="aa", settings={"max_len": 50})
    declared = {"settings": {"max_len": 9}, "chosen": ("max_len",), "origin": Origin.experiment}
    fake_run(results, dataset="bb", **declared)
    assert places(table_of(results)) == {"SASRec": ["aa"], "SASRec [max_len=9]": ["bb"]}


def test_features_of_two_machines_make_one_row_and_a_note(results: Path) -> None:
    """Made in the same way, they differ in the last digits between kinds of processors."""
    for seed, content in enumerate(("c1" * 8, "c1" * 8, "c2" * 8), start=1):
        use = FeatureUse("tfidf-svd", identity="a1", content=content)
        fake_run(results, "hm4sr", seed=seed, features={"text": use})
    table = make_table(all_records(results))
    assert [(row.label, row.cells[0].n) for row in table.rows] == [("HM4SR", 3)]
    assert (
        "HM4SR on toys: text features made in the same way on different machines, equal up to rounding "
        "(c1c1c1c1: seed 1, 2; c2c2c2c2: seed 3)."
    ) in caption_of(table, "Features")


def test_rows_of_a_model_with_the_same_encoder_are_named_once_in_the_note(results: Path) -> None:
    stored = {"features": {"text": FeatureUse("tfidf", "x")}}
    fake_run(results, "hm4sr", **stored)
    fake_run(results, "hm4sr", settings={"text_features": "random:1"}, chosen=("text_features",), **stored)
    table = table_of(results)
    assert len(table.rows) == 2
    assert "text tfidf (HM4SR)." in "".join(caption_of(table, "Features"))
