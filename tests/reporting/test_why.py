"""Why two runs differ: planted differences, each with the effect that the stored ranks have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.errors import RunError
from mmbench.evaluation.metrics import Metric
from mmbench.reporting.why import NOT_MEASURED, why
from mmbench.runs.execute import run_cell
from mmbench.runs.plan import make_cell
from mmbench.runs.store import RunRecord, read_all
from mmbench.settings.config import Layer, Origin
from tests.prepared import cli, write_toy

NDCG = Metric("NDCG", 10)
SMALL = {"max_epochs": 2, "hidden_dim": 8, "inner_dim": 8, "batch_size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sasrec with two rates, two seeds each; one run that differs in two settings; one under another mask rule."""
    folder = tmp_path_factory.mktemp("why")
    toy = write_toy(folder / "data")
    for seed in (1, 2):
        run(folder, toy, seed, lr=0.01)
        run(folder, toy, seed, lr=0.001)
    run(folder, toy, 1, lr=0.001, weight_decay=0.1)
    run(folder, toy, 1, lr=0.01, mask_seen="input")
    return folder


def run(folder: Path, toy: Prepared, seed: int, **settings: Any) -> RunRecord:
    layers = [Layer(Origin.user, {**SMALL, **settings})]
    cell = make_cell(
        results_dir=folder / "results", prepared=toy, model="sasrec", seed=seed, overrides=layers
    )
    record = run_cell(cell, device="cpu")
    assert record.status == "finished", record.reason
    return record


@pytest.fixture(scope="module")
def records(folder: Path) -> list[RunRecord]:
    return list(read_all(folder / "results"))


def find(records: list[RunRecord], seed: int = 1, **settings: Any) -> RunRecord:
    wanted = {"weight_decay": 0.0, "mask_seen": "none", **settings}
    (record,) = (
        record
        for record in records
        if record.seed == seed and all(record.settings[key].value == value for key, value in wanted.items())
    )
    return record


def value(record: RunRecord) -> float:
    return float(NDCG.values(record.ranking("test").ranks(record.mask_seen)).mean())


def test_a_setting_s_effect_is_the_mean_over_pairs_that_differ_in_it_alone(records: list[RunRecord]) -> None:
    fast, slow = find(records, lr=0.01), find(records, lr=0.001)
    actual = why(fast, slow, records, metric=NDCG)
    (field,) = actual.fields
    changes = [value(find(records, seed, lr=0.001)) - value(find(records, seed, lr=0.01)) for seed in (1, 2)]
    assert (field.name, field.a, field.b) == ("setting lr", "0.01", "0.001")
    assert field.effect == f"{np.mean(changes):+.4f} (2 pairs of runs)".replace("0.", ".", 1)
    assert (actual.a, actual.b) == (value(fast), value(slow))


def test_two_differences_are_taken_apart_where_runs_exist(records: list[RunRecord]) -> None:
    fast, other = find(records, 2, lr=0.01), find(records, lr=0.001, weight_decay=0.1)
    actual = {field.name: field for field in why(fast, other, records, metric=NDCG).fields}
    assert list(actual) == ["setting lr", "setting weight_decay", "seed"]
    assert actual["setting lr"].effect.endswith("(2 pairs of runs)")
    decay = value(other) - value(find(records, lr=0.001))
    assert actual["setting weight_decay"].effect.startswith(f"{decay:+.4f}".replace("0.", ".", 1))
    seeds = np.std([value(find(records, seed, lr=0.01)) for seed in (1, 2)], ddof=1)
    assert actual["seed"].effect == f"± {seeds:.4f} over 2 seeds of the first".replace("0.", ".", 1)
    alone = why(fast, other, [], metric=NDCG)
    assert {field.effect for field in alone.fields} == {NOT_MEASURED}


def test_the_mask_rule_comes_first_and_is_measured_on_the_same_weights(records: list[RunRecord]) -> None:
    none, masked = find(records, lr=0.01), find(records, lr=0.01, mask_seen="input")
    first, *_ = why(none, masked, records, metric=NDCG).fields
    ranking = none.ranking("test")
    change = NDCG.values(ranking.ranks("input")).mean() - NDCG.values(ranking.ranks("none")).mean()
    assert change > 0
    assert (first.name, first.a, first.b) == ("mask rule", "none", "input")
    assert first.effect == f"{change:+.4f} on the first run's weights".replace("0.", ".", 1)


def test_fields_stand_in_the_order_in_which_they_matter(records: list[RunRecord]) -> None:
    first = find(records, lr=0.01)
    settings = {
        key: replace(setting, value="other") if key in ("samples", "loss", "lr") else setting
        for key, setting in first.settings.items()
    }
    environment = {**first.environment, "python": "2.7", "device": "abacus"}
    protocol = {**first.protocol, "ties": "random:1", "data": "f" * 64, "min_user": 4}
    second = replace(first, settings=settings, environment=environment, protocol=protocol)
    names = [field.name for field in why(first, second, records, metric=NDCG).fields]
    assert names == [
        "tie order", "data", "samples", "loss", "protocol min_user", "setting lr", "version python",
        "machine device",
    ]  # fmt: skip


def test_a_failed_run_has_no_number(records: list[RunRecord]) -> None:
    failed = replace(records[0], status="failed", reason="lost")
    with pytest.raises(RunError, match=r"did not finish \(lost\); run it again first"):
        why(failed, records[1], records, metric=NDCG)


def test_the_command(folder: Path, records: list[RunRecord]) -> None:
    fast, slow = find(records, lr=0.01), find(records, lr=0.001)
    done = cli("why", fast.path, slow.path, data=folder / "data", results=folder / "results")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2].split()[:4] == ["setting", "lr", "0.01", "0.001"]
    same = cli("why", fast.path, fast.path, data=folder / "data", results=folder / "results")
    assert "no field differs: A and B are the same run" in same.stdout
    wrong = cli("why", fast.path, folder / "data", data=folder / "data", results=folder / "results")
    assert (wrong.returncode, len(wrong.error_lines)) == (1, 1)
    assert "is not a finished run" in wrong.stderr
