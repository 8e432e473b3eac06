"""A run beside a printed number: the number is that of its model, and the nearest stored run says what explains it.

Run: python -m pytest tests/reproduce/test_why_printed.py
"""

from pathlib import Path

import numpy as np
import pytest

import mmbench
from mmbench.errors import UsageError
from mmbench.evaluation.evidence import Ranks
from mmbench.evaluation.metrics import parse_metric
from mmbench.reproduce.spec import find_experiment
from mmbench.reproduce.why_printed import why_printed
from mmbench.runs.store import RunRecord
from tests.prepared import cli
from tests.reporting.conftest import N_ITEMS, fake_run

NDCG = parse_metric("NDCG@10")
PRINTED = find_experiment("hm4sr/table1").printed["amazon-beauty", "sasrec", "NDCG@10"]


def ranks_of(value: float) -> Ranks:
    """Ranks of 10,000 users whose NDCG is the value: so many of them are right."""
    greater = np.where(np.arange(10_000) < round(10_000 * value), 0, N_ITEMS - 1)
    return Ranks(np.arange(10_000), greater, np.zeros(10_000, dtype=np.int64), N_ITEMS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SASRec far from the printed number, one with another dropout at it, and another model nearer still."""
    folder = tmp_path_factory.mktemp("results")
    low, right = ranks_of(PRINTED - 0.02), ranks_of(PRINTED)
    fake_run(folder, "sasrec", dataset="amazon-beauty", ranks=low, settings={"dropout": 0.2})
    fake_run(folder, "sasrec", dataset="amazon-beauty", ranks=right, settings={"dropout": 0.5})
    fake_run(folder, "gru4rec", dataset="amazon-beauty", ranks=right)
    return folder


@pytest.fixture
def run(folder: Path) -> RunRecord:
    runs = mmbench.load(models="sasrec", settings={"dropout": 0.2}, results_dir=folder)
    return runs[0]


def test_the_nearest_run_of_the_model_names_the_field(run: RunRecord, folder: Path) -> None:
    shown = mmbench.why(run, "hm4sr/table1", results_dir=folder)
    assert shown.printed == PRINTED
    assert shown.run == pytest.approx(PRINTED - 0.02, abs=1e-4)
    assert shown.nearest.settings["dropout"].value == 0.5
    (field,) = shown.fields
    assert (field.name, field.a, field.b) == ("setting dropout", "0.2", "0.5")
    assert field.effect == "+.0200 (1 pair of runs)"


def test_another_mask_rule_of_the_same_run_may_explain_it(tmp_path: Path) -> None:
    run = fake_run(
        tmp_path, "sasrec", dataset="amazon-beauty", ranks=ranks_of(PRINTED - 0.02),
        under={"input": ranks_of(PRINTED)},
    )  # fmt: skip
    shown = why_printed(run, "hm4sr/table1", [run], metric=NDCG)
    assert shown.rule == "input"
    assert [(field.name, field.effect) for field in shown.fields] == [
        ("mask rule", "+0.0200 on the run's weights")
    ]


@pytest.mark.parametrize(
    ("metric", "table", "reason"),
    [("HR@7", "hm4sr/table1", "prints .*NDCG@10"), ("NDCG@10", "hm4sr/tabel1", "hm4sr/table1")],
)
def test_a_number_that_is_not_printed_is_one_line(
    run: RunRecord, metric: str, table: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        why_printed(run, table, [run], metric=parse_metric(metric))
    assert "\n" not in str(caught.value)


def test_the_command_takes_a_printed_table(run: RunRecord, folder: Path) -> None:
    shown = cli("why", run.path, "hm4sr/table1", results=folder)
    assert shown.returncode == 0, shown.stderr
    assert "setting dropout" in shown.stdout
    assert f"printed  {PRINTED:.4f}".replace("0.", ".") in shown.stdout
