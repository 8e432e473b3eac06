"""The stored mask rules in tables: the numbers of the rule that was asked for, and words on the one that was not."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmbench.choices import MaskRule
from mmbench.errors import ProtocolMismatchError, UsageError
from mmbench.evaluation.evidence import TopLists
from mmbench.evaluation.metrics import Metric
from mmbench.runs.shelves import FOLDER
from tests.reporting.conftest import (
    N_ITEMS,
    all_records,
    caption_of,
    fake_run,
    make_table,
    ranks_with_hits,
    row_of,
)
from tests.reporting.test_cli_report import mmbench

HR10 = Metric("HR", 10)


def two_models(results: Path, *, other: tuple[int, int], selected: MaskRule = "none") -> None:
    """hm4sr has 40 hits and sasrec 30 under "none" and "train"; `other` are their hits under "input"."""
    for model, hits, masked in (("hm4sr", 40, other[0]), ("sasrec", 30, other[1])):
        fake_run(
            results, model, seed=1, ranks=ranks_with_hits(hits), under={"input": ranks_with_hits(masked)},
            protocol={"mask_seen": selected},
        )  # fmt: skip


@pytest.mark.parametrize(("asked", "expected"), [(None, 0.4), ("none", 0.4), ("train", 0.4), ("input", 0.5)])
def test_the_numbers_are_those_of_the_rule(asked: MaskRule | None, expected: float, results: Path) -> None:
    two_models(results, other=(50, 45))
    table = make_table(all_records(results), metrics=[HR10], mask_seen=asked)
    assert row_of(table, "HM4SR").cells[0].mean == pytest.approx(expected)
    words = {"train": "training items are masked", "input": "input items are masked"}
    assert words.get(asked or "none", "no seen item is masked") in caption_of(table, "Metrics")


def test_without_a_rule_that_of_the_selection_counts(results: Path) -> None:
    two_models(results, other=(50, 45), selected="input")
    table = make_table(all_records(results), metrics=[HR10])
    assert row_of(table, "SASRec").cells[0].mean == pytest.approx(0.45)
    assert "input items are masked" in caption_of(table, "Metrics")
    assert caption_of(table, "Selected") == ""


def test_a_rule_that_did_not_select_is_told(results: Path) -> None:
    two_models(results, other=(50, 45))
    table = make_table(all_records(results), metrics=[HR10], mask_seen="input")
    assert caption_of(table, "Selected") == "under none, not input: HM4SR, SASRec."
    assert caption_of(make_table(all_records(results), mask_seen="none"), "Selected") == ""


def test_a_model_without_a_selection_was_selected_under_no_rule(results: Path) -> None:
    fake_run(results, "pop", ranks=ranks_with_hits(3), deterministic=True, best_epoch=0)
    assert caption_of(make_table(all_records(results), mask_seen="input"), "Selected") == ""


def test_runs_selected_under_two_rules_share_a_table_of_one_rule(results: Path) -> None:
    fake_run(results, "hm4sr", ranks=ranks_with_hits(4), protocol={"mask_seen": "none"})
    fake_run(results, "sasrec", ranks=ranks_with_hits(3), protocol={"mask_seen": "train"})
    with pytest.raises(ProtocolMismatchError, match="mask_seen"):
        make_table(all_records(results), metrics=[HR10])
    table = make_table(all_records(results), metrics=[HR10], mask_seen="input")
    assert caption_of(table, "Selected") == "under none, not input: HM4SR. under train, not input: SASRec."


@pytest.mark.parametrize(("other", "changes"), [((50, 45), False), ((40, 40), True), ((35, 45), True)])
def test_another_winner_under_the_other_rule_is_told(
    other: tuple[int, int], changes: bool, results: Path
) -> None:
    two_models(results, other=other)
    text = caption_of(make_table(all_records(results), metrics=[HR10, Metric("MRR", 5)]), "Other rule")
    assert bool(text) is changes
    if other == (35, 45):
        assert text == (
            "if input items are masked, SASRec and not HM4SR is best in HR@10, MRR@5 on toys "
            "(--mask-seen input prints it)."
        )
    back = make_table(all_records(results), metrics=[HR10], mask_seen="input")
    assert ("--mask-seen none prints it" in caption_of(back, "Other rule")) is changes


def test_auc_is_for_the_rule_without_a_mask_only(results: Path) -> None:
    two_models(results, other=(35, 45), selected="train")
    auc = Metric("AUC")
    with pytest.raises(UsageError, match="AUC needs a fixed number of candidates"):
        make_table(all_records(results), metrics=[auc])
    table = make_table(all_records(results), metrics=[auc], mask_seen="none")
    assert "AUC" not in caption_of(table, "Other rule")


def as_lists(items: np.ndarray) -> TopLists:
    return TopLists(items.astype(np.int32), np.zeros(items.shape, np.float16))


def test_coverage_is_a_column_that_follows_the_rule(results: Path) -> None:
    """Under "none" every list holds the items 1..5 of 200; under "input" each user has 2 items of their own."""
    same, own = np.tile(np.arange(1, 6), (100, 1)), np.tile(np.arange(1, 6), (100, 1))
    own[:, :2] = 1 + np.arange(200).reshape(100, 2) % N_ITEMS
    lists: dict[MaskRule, TopLists] = {"none": as_lists(same), "input": as_lists(own)}
    for seed in (1, 2):
        fake_run(results, "hm4sr", seed=seed, ranks=ranks_with_hits(40), lists=lists)
    fake_run(results, "pop", ranks=ranks_with_hits(3), deterministic=True, best_epoch=0, lists={
        rule: as_lists(np.tile([7, 9, 8, 6, 5], (100, 1))) for rule in ("none", "input")
    })  # fmt: skip
    for rule, k, expected in (("none", 5, 5 / 200), ("none", 2, 2 / 200), ("input", 2, 1.0)):
        table = make_table(
            all_records(results), metrics=[HR10, Metric("Coverage", k)], mask_seen=rule, compare="hm4sr"
        )
        assert row_of(table, "HM4SR").cells[1].mean == expected
        assert row_of(table, "Pop").cells[1].mean == k / 200
        assert f"share of all items that appear in some user's list of the first {k}" in caption_of(
            table, "Lists"
        )
    with pytest.raises(UsageError, match="--test users: Coverage@2 has a value for the catalogue"):
        make_table(all_records(results), metrics=[Metric("Coverage", 2)], test="users")


def test_lists_under_a_rule_that_has_none_are_refused(results: Path) -> None:
    lists: dict[MaskRule, TopLists] = {
        rule: as_lists(np.tile(np.arange(1, 6), (100, 1))) for rule in ("none", "input")
    }
    record = fake_run(results, "hm4sr", ranks=ranks_with_hits(40), lists=lists)
    with pytest.raises(UsageError) as error:
        make_table(all_records(results), metrics=[Metric("Coverage", 2)], mask_seen="train")
    assert "lists are stored under none and input, not under mask rule train" in str(error.value)
    assert "mmbench evaluate" not in str(error.value), "no command stores lists under this rule"
    with pytest.raises(UsageError, match=r"lists are stored for the test targets only, not for valid$"):
        make_table(all_records(results), metrics=[Metric("Coverage", 2)], split="valid")
    with pytest.raises(UsageError, match=f"run: mmbench evaluate {record.path} --lists 9"):
        make_table(all_records(results), metrics=[Metric("Coverage", 9)])


def test_the_command_line_prints_the_other_rule_and_computes_nothing(tmp_path: Path) -> None:
    results = tmp_path / "r"
    two_models(results, other=(35, 45))
    before = {file: file.read_bytes() for file in results.rglob("*") if file.is_file()}
    args = ("report", "--mask-seen", "input", "--metric", "HR@10", "-f", "json")
    done = mmbench(*args, results=results)  # there is no data folder
    assert done.returncode == 0, done.stderr
    means = {row["name"]: row["cells"][0]["mean"] for row in json.loads(done.stdout)["rows"]}
    assert means == pytest.approx({"SASRec": 0.45, "HM4SR": 0.35})
    after = {file: file.read_bytes() for file in results.rglob("*") if file.is_file()}
    shelves = set(results.glob(f"{FOLDER}/**/*.json"))
    assert set(after) - set(before) - shelves == {results / "toys" / "looks.jsonl"}, (
        "a look at the test is noted"
    )
    assert {file: after[file] for file in before} == before
    bad = mmbench("report", "--mask-seen", "inputs", results=results)
    assert (bad.returncode, bad.stdout) == (2, "")
