"""Canaries: chance is exact, honest models stay silent, and models that have seen targets do not.

Run: python -m pytest tests/contract/test_canary.py
"""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from mmbench.contract.canary import Canary, findings, judge, plant, sing, write_canaries
from mmbench.data.split import make_split
from mmbench.data.store import Prepared
from mmbench.models import registry

HONEST = registry.all_names(variants=False)  # collected before the planted ones are registered


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_canaries(tmp_path_factory.mktemp("canaries"), HONEST)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def test_mean_and_deviation_of_chance_are_those_over_all_assignments() -> None:
    rng = np.random.default_rng(0)
    lists = np.array([rng.permutation(7)[:3] + 1 for _ in range(6)])
    lists[2, 1:] = 0  # a short list
    targets = np.array([1, 1, 2, 3, 5, 7])
    hits = [judge(lists, np.array(order), split="test").hits for order in permutations(targets)]
    canary = judge(lists, targets, split="test")
    assert canary.expected == pytest.approx(np.mean(hits), abs=1e-12)
    assert canary.deviation == pytest.approx(np.std(hits), abs=1e-12)


def test_equal_lists_have_no_deviation_and_never_sing() -> None:
    lists = np.tile([1, 2], (10, 1))
    targets = np.array([1, 2, 3] * 3 + [4])
    assert judge(lists, targets, split="test") == Canary("test", 6, 6.0, 0.0)
    assert not judge(lists, targets, split="test").sings


def test_planting_moves_targets_between_users_and_nothing_else(toy: Prepared, tmp_path: Path) -> None:
    copy = plant(toy, tmp_path)
    split = make_split(toy.protocol, np.asarray(toy.times), np.asarray(toy.offsets))
    starts, before, after = np.asarray(toy.offsets[:-1]), np.asarray(toy.items), np.asarray(copy.items)
    is_target = np.zeros(len(before), bool)
    for position in (split.valid_pos, split.test_pos):
        events = (starts + position)[position >= 0]
        is_target[events] = True
        assert sorted(before[events]) == sorted(after[events])
        assert (before[events] != after[events]).mean() > 0.9
    assert (before[~is_target] == after[~is_target]).all()
    assert (np.asarray(copy.times) == np.asarray(toy.times)).all()
    assert (copy.item_records, copy.user_ids) == (toy.item_records, toy.user_ids)


@pytest.mark.parametrize("model", HONEST)
def test_no_registered_model_has_seen_targets(model: str, planted: Prepared, results: Path) -> None:
    for canary in sing(model, planted, results):
        assert not canary.sings, canary


@pytest.mark.parametrize(("model", "split"), [("peeks", "test"), ("trains-on-valid", "valid")])
def test_a_model_that_reads_targets_makes_its_canary_sing(
    model: str, split: str, models_dir: Path, toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = plant(toy, tmp_path)
    monkeypatch.setenv("PLANTED_DATA", str(copy.path))
    singing = {
        canary.split for canary in sing(f"planted-{model}", copy, tmp_path / "results") if canary.sings
    }
    assert singing == {split}


def test_findings_name_the_split_and_a_model_that_raises_gets_a_line(models_dir: Path) -> None:
    assert [(f.check, f.status) for f in findings("planted-good", None)] == [
        ("canary valid", "holds"),
        ("canary test", "holds"),
    ]
    (finding,) = findings("planted-raises", None)
    assert finding.is_fault
