"""`reproduce --tuned`: the rows of a table with the settings that a search found at the paper's settings."""

from pathlib import Path
from typing import Any

import pytest

from mmbench.data.store import Prepared
from mmbench.reproduce.plan import Plan, Target, make_plan
from mmbench.reproduce.spec import find_experiment
from mmbench.runs.overrides import Overrides
from mmbench.tuning.ledger import Ledger
from mmbench.tuning.records import Trial
from mmbench.tuning.study import Budget, plan_study


@pytest.fixture(autouse=True)
def tiny(papers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_PAPERS", str(papers))


def search(toy: Prepared, results: Path, lr: float, **settings: Any) -> None:
    """Store a study of SASRec whose second trial, with this rate, was the best."""
    plan = plan_study(
        toy, "sasrec", results_dir=results, budget=Budget(trials=2), sampler="random", kind="listed",
        settings=settings, lists={"lr": [lr]},
    )  # fmt: skip
    ledger = Ledger.open(results, plan)
    for number, value in enumerate((0.001, lr)):
        ledger.record(Trial(number=number, status="finished", values={"lr": value}, value=0.1 + number))


def planned(toy: Prepared, results: Path, **options: Any) -> Plan:
    experiment = find_experiment("tiny/table1")
    return make_plan(
        experiment, results_dir=results, targets=[Target("toy", toy)], seeds=[1],
        overrides=Overrides(everywhere=options.pop("settings", {})), **options,
    )  # fmt: skip


def test_a_row_without_a_search_keeps_the_command_that_makes_one(toy: Prepared, tmp_path: Path) -> None:
    plan = planned(toy, tmp_path, tuned=True)
    rows = {row.row.label: row for row in plan.rows}
    assert rows["SASRec (Ours)"].missing["toy"].endswith("run: mmbench tune sasrec --dataset toy")
    assert list(rows["Chance"].cells) == ["toy"]  # nothing to search
    assert not planned(toy, tmp_path).rows[-1].missing


def test_the_tuned_settings_are_those_of_the_row(toy: Prepared, tmp_path: Path) -> None:
    search(toy, tmp_path, lr=0.02)
    (cell,) = planned(toy, tmp_path, tuned=True).rows[-1].cells["toy"]
    assert cell.settings["lr"].value == 0.02
    assert cell.settings["lr"].origin == "tuned"
    (typed,) = planned(toy, tmp_path, settings={"lr": 0.02}).rows[-1].cells["toy"]
    assert cell.config_id == typed.config_id
    (stronger,) = planned(toy, tmp_path, tuned=True, settings={"lr": 0.5}).rows[-1].cells["toy"]
    assert stronger.settings["lr"].value == 0.5


def test_a_search_at_other_settings_than_the_table_s_does_not_count(
    toy: Prepared, tmp_path: Path, papers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline's row is declared with another length than the recipe's: only a search at that length fits."""
    folder = tmp_path / "papers"
    folder.mkdir()
    text = (papers / "tiny.toml").read_text(encoding="utf-8").replace('compare = "sasrec"', 'compare = "pop"')
    (folder / "small.toml").write_text(text)
    monkeypatch.setenv("MMBENCH_PAPERS", str(folder))

    def row() -> Any:
        experiment = find_experiment("small/table1")
        plan = make_plan(
            experiment,
            results_dir=tmp_path,
            targets=[Target("toy", toy)],
            seeds=[1],
            overrides=Overrides(),
            tuned=True,
        )
        return plan.rows[-1]

    search(toy, tmp_path, lr=0.02)
    assert row().missing["toy"].endswith("run: mmbench tune sasrec --dataset toy --set max_len=9")
    search(toy, tmp_path, lr=0.03, max_len=9)
    (cell,) = row().cells["toy"]
    assert (cell.settings["lr"].value, cell.settings["max_len"].value) == (0.03, 9)
