"""What stored runs can tell apart, from runs whose ranks are written by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.power import pairs_needed, smallest_effect
from mmbench.reporting.power import power_of_runs
from mmbench.runs.execute import run_cell
from mmbench.runs.plan import make_cell
from mmbench.runs.store import RunRecord, read_all
from mmbench.settings.config import Layer, Origin
from tests.prepared import cli, write_toy
from tests.reporting.conftest import all_records, caption_of, fake_run, make_table, ranks_with_hits

NDCG = Metric("NDCG", 10)
SMALL = {"max_epochs": 2, "hidden_dim": 8, "inner_dim": 8, "batch_size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of sasrec and gru4rec, pop once."""
    folder = tmp_path_factory.mktemp("power")
    prepared: Prepared = write_toy(folder / "data")
    write_toy(folder / "data", "empty", created=0.5)
    for model, seeds in (("sasrec", 3), ("gru4rec", 3), ("pop", 1)):
        known = {} if model == "pop" else SMALL if model == "sasrec" else {"max_epochs": 2, "batch_size": 64}
        for seed in range(1, seeds + 1):
            cell = make_cell(
                results_dir=folder / "results", prepared=prepared, model=model, seed=seed,
                overrides=[Layer(Origin.user, known)],
            )  # fmt: skip
            assert run_cell(cell, device="cpu").status == "finished"
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> list[RunRecord]:
    return list(read_all(folder / "results"))


def values(records: list[RunRecord], model: str) -> np.ndarray:
    """NDCG@10 by seed and user, float64 [S, U]."""
    runs = sorted((run for run in records if run.model == model), key=lambda run: run.seed)
    return np.stack([NDCG.values(run.ranking("test").ranks("none")) for run in runs])


def test_deviations_are_those_of_paired_differences(records: list[RunRecord]) -> None:
    actual = power_of_runs(records, "toy", metric=NDCG, a="sasrec", b="gru4rec")
    assert actual is not None
    (contrast,) = actual.contrasts
    d = values(records, "sasrec") - values(records, "gru4rec")
    over_seeds, over_users = d.mean(1), d.mean(0)
    assert contrast.difference == pytest.approx(d.mean())
    for resolution, differences in ((contrast.seeds, over_seeds), (contrast.users, over_users)):
        deviation = differences.std(ddof=1)
        effect = smallest_effect(len(differences))
        assert effect is not None
        assert (resolution.n, resolution.deviation) == (len(differences), pytest.approx(deviation))
        assert resolution.smallest == pytest.approx(effect * deviation)
        assert resolution.needed == pairs_needed(d.mean() / deviation)


def test_many_tests_need_more_and_an_asked_difference_counts(records: list[RunRecord]) -> None:
    every = power_of_runs(records, "toy", metric=NDCG, a="pop")
    assert every is not None
    assert (every.n_tests, every.alpha) == (2, 0.025)
    alone = power_of_runs(records, "toy", metric=NDCG, a="pop", correction="none")
    assert alone is not None
    assert every.contrasts[0].seeds.n == 3, "one run of pop stands for all seeds"
    for strict, plain in zip(every.contrasts, alone.contrasts, strict=True):
        assert (strict.users.smallest or 0) > (plain.users.smallest or 0) > 0
    asked = power_of_runs(records, "toy", metric=NDCG, a="pop", difference=0.001)
    assert asked is not None
    assert {contrast.difference for contrast in asked.contrasts} == {0.001}


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("sasrc", None, "did you mean 'sasrec'"),
        ("pop", "pop", "--b pop is the row --a"),
        ("pop", "gru4rec/x", "unknown row"),
    ],
)
def test_wrong_rows_are_one_line(records: list[RunRecord], a: str, b: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        power_of_runs(records, "toy", metric=NDCG, a=a, b=b)


def test_rows_of_a_model_are_told_apart_as_in_tables(tmp_path: Path) -> None:
    for index, lr in enumerate((0.001, 0.01, 0.1)):
        fake_run(
            tmp_path,
            "sasrec",
            ranks=ranks_with_hits(4_000 + 10 * index, 10_000),
            settings={"lr": lr},
            chosen=("lr",),
        )
    records = all_records(tmp_path)
    actual = power_of_runs(records, "toys", metric=Metric("HR", 10))
    assert actual is not None
    names = {"SASRec [lr=0.001]", "SASRec [lr=0.01]", "SASRec [lr=0.1]"}
    assert {name for contrast in actual.contrasts for name in contrast.names} == names
    with pytest.raises(UsageError, match=r"sasrec has 3 configurations .*sasrec/\w+ \(SASRec \[lr=0\.1\]\)"):
        power_of_runs(records, "toys", metric=Metric("HR", 10), a="sasrec")


def test_the_command(folder: Path) -> None:
    done = cli("power", "--dataset", "toy", data=folder / "data", results=folder / "results")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = [lines[0].partition(" [")[0].partition(" on ")[0], *(line.split()[0] for line in lines[2:4])]
    assert sorted(names) == ["GRU4Rec", "Pop", "SASRec"]
    assert "level 0.025 (2 tests)" in done.stdout
    empty = cli("power", "--dataset", "empty", data=folder / "data", results=folder / "results")
    assert "by assumptions" in empty.stdout
    three = next(line for line in empty.stdout.splitlines() if line.startswith("3 "))
    effect = smallest_effect(3)
    assert effect is not None
    assert f"{effect:.1f} %" in three  # a deviation of 1 %
    wrong = cli("power", "--dataset", "tyo", data=folder / "data", results=folder / "results")
    assert (wrong.returncode, len(wrong.error_lines)) == (2, 1)
    far = cli(
        "power", "--dataset", "toy", "--difference", "3", data=folder / "data", results=folder / "results"
    )
    assert "--difference 3.0: must be between 0 and 1" in far.stderr


def _power_caption(root: Path, gain: float, n: int, **request: Any) -> str:
    """The caption about power of rows whose differences over seeds have the deviation .01 around a gain."""
    noise = np.random.default_rng(0).permutation(np.linspace(-0.0147, 0.0147, 6))[:n]
    for seed in range(n):
        fake_run(root, "sasrec", seed=seed, ranks=ranks_with_hits(4_000, 10_000))
        fake_run(
            root,
            "hm4sr",
            seed=seed,
            ranks=ranks_with_hits(round(10_000 * (0.4 + gain + noise[seed])), 10_000),
        )
    return caption_of(make_table(all_records(root), metrics=[Metric("HR", 10)], **request), "Power")


def test_a_table_with_fewer_seeds_than_its_difference_needs_says_so(tmp_path: Path) -> None:
    text = _power_caption(tmp_path / "a", 0.004, 6)
    power = power_of_runs(all_records(tmp_path / "a"), "toys", metric=Metric("HR", 10))
    assert power is not None
    resolution = power.contrasts[0].seeds
    assert f"6 seeds show a difference of {resolution.smallest:.3g}".replace("0.", ".") in text
    assert f"needs about {resolution.needed:,}" in text
    assert _power_caption(tmp_path / "b", 0.1, 6) == ""
    assert _power_caption(tmp_path / "c", 0.004, 6, test="users") == ""
    assert _power_caption(tmp_path / "d", 0.004, 1) == "", "one run has no deviation, as the first line says"


def test_two_seeds_show_nothing_where_they_would_need_more_than_a_metric_can_differ(tmp_path: Path) -> None:
    for seed, hits in ((0, 0), (1, 60)):
        fake_run(tmp_path, "sasrec", seed=seed, ranks=ranks_with_hits(30, 100))
        fake_run(tmp_path, "hm4sr", seed=seed, ranks=ranks_with_hits(10 + hits, 100))
    text = caption_of(make_table(all_records(tmp_path), metrics=[Metric("HR", 10)]), "Power")
    assert "2 seeds show no difference, however large, with power .8" in text
