"""Rows over several data sets: what the user chose for one of them only is a row of its own, with a label.

Run: python -m pytest tests/reporting/test_labels.py
"""

from pathlib import Path
from typing import Any

from mmbench.evaluation.metrics import Metric
from mmbench.reporting import build_table
from mmbench.reporting.table import Table
from tests.reporting.conftest import all_records, fake_run, row_of

HR10 = Metric("HR", 10)


def table_of(results: Path) -> Table:
    return build_table(all_records(results), metrics=[HR10])


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
        "SASRec [dropout=0.5, hidden_dim=64, max_epochs=2, selection_metric=NDCG@20]": ["demo"],
        "SASRec [dropout=0.9, hidden_dim=8, max_epochs=1, selection_metric=HR@5]": ["toy"],
    }


def test_a_leak_on_one_data_set_leaves_the_honest_result_of_another_its_place(results: Path) -> None:
    fake_run(results, "gru4rec", dataset="demo", settings={"validation": "valid"}, skill=0.5)
    fake_run(results, dataset="demo", settings={"validation": "valid"})
    leak = {"validation": "test-item"}
    fake_run(results, dataset="toy", settings=leak, chosen=("validation",), leaky=True)
    table = table_of(results)
    honest = row_of(table, "SASRec [validation=valid]")
    assert (honest.leaky, honest.cells[0].place) == (False, 1)
    assert row_of(table, "SASRec [validation=test-item] †").cells[0].mean is None
    assert table.comparisons[0].column == 0


def test_a_choice_that_is_the_other_data_set_s_own_value_shares_its_row(results: Path) -> None:
    fake_run(results, dataset="demo", settings={"dropout": 0.5})
    fake_run(results, dataset="toy", settings={"dropout": 0.5}, chosen=("dropout",))
    assert places(table_of(results)) == {"SASRec": ["demo", "toy"]}
    fake_run(results, dataset="toy", settings={"dropout": 0.2}, chosen=("dropout",))
    assert places(table_of(results)) == {
        "SASRec [dropout=0.5]": ["demo", "toy"],
        "SASRec [dropout=0.2]": ["toy"],
    }


def test_no_two_rows_have_one_label(results: Path) -> None:
    """The recipe's values of two data sets are called so, also where one of them is also somebody's choice."""
    for dataset, dropout in (("aa", 0.5), ("bb", 0.3)):
        fake_run(results, dataset=dataset, settings={"dropout": dropout})
    fake_run(results, dataset="cc", settings={"dropout": 0.5}, chosen=("dropout",))
    assert places(table_of(results)) == {
        "SASRec [dropout=recipe]": ["aa", "bb"],
        "SASRec [dropout=0.5]": ["cc"],
    }


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
        features = {"text": {"encoder": used, "identity": "x", "content": "y"}} if used else {}
        chosen = () if asked == "auto" else ("text_encoder",)
        settings = {"text_encoder": asked}
        fake_run(results, "hm4sr", dataset=dataset, settings=settings, chosen=chosen, features=features)

    run("aa", "auto", "tfidf")
    run("bb", "auto", "minilm")  # each data set's own: one row
    assert places(table_of(results)) == {"HM4SR": ["aa", "bb"]}
    run("cc", "none", "")
    run("dd", "clip", "clip")
    assert places(table_of(results)) == {
        "HM4SR [text encoder=recipe]": ["aa", "bb"],
        "HM4SR [text encoder=none]": ["cc"],
        "HM4SR [text encoder=clip]": ["dd"],
    }


def test_settings_that_came_after_a_result_was_stored_do_not_split_rows(results: Path) -> None:
    fake_run(results, dataset="aa")
    fake_run(results, dataset="bb", settings={"compile": False})
    fake_run(results, dataset="cc", settings={"compile": True}, chosen=("compile",))
    assert places(table_of(results)) == {
        "SASRec [compile=false]": ["aa", "bb"],
        "SASRec [compile=true]": ["cc"],
    }
