"""Studies with damaged files, dead workers and wrong wishes."""

from pathlib import Path
from typing import Any

import pytest

from mmbench import sealed
from mmbench.data.store import Prepared
from mmbench.errors import DamagedError, OtherVersionError, UsageError
from mmbench.tuning.ledger import TRIALS, Ledger
from mmbench.tuning.records import Trial
from mmbench.tuning.study import Budget, run_study
from tests.tuning.making import facts, open_study


def test_a_trial_that_workers_did_not_give_back_fails_after_the_second_time(
    toy: Prepared, tmp_path: Path
) -> None:
    ledger = open_study(toy, tmp_path)
    for number in (0, 1, 2):
        with ledger.claim(None, is_worker=True) as claimed:
            assert claimed is not None
            assert (claimed.number, claimed.n_begun) == (0, number + 1)
            (claimed.folder / "kept").write_bytes((claimed.folder / "begun").read_bytes())
        (claimed.folder / "kept").rename(claimed.folder / "begun")  # as if the process had died
    assert ledger.begun() == [0]
    ledger.forget_marks()
    assert ledger.begun() == []
    with ledger.claim(None, is_worker=True) as claimed:
        assert claimed is not None
        ledger.record(Trial(number=0, status="finished", values=claimed.values, value=0.1))
        claimed.folder.mkdir()  # as if the process had died while it removed the folder
        (claimed.folder / "begun").write_text("x")
        assert ledger.begun() == []
        ledger.tidy()
        assert not claimed.folder.exists()


def test_damage_says_how_to_keep_the_trials(toy: Prepared, tmp_path: Path) -> None:
    ledger = open_study(toy, tmp_path)
    trials = run_study(ledger, toy, Budget(trials=3))
    file, study = ledger.path / TRIALS, ledger.path / "study.json"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text(lines[0] + lines[1].replace("finished", "finishes") + lines[2])
    with pytest.raises(DamagedError, match="remove line 2 and run the same mmbench tune command again"):
        ledger.trials()
    file.write_text(lines[0] + lines[2])
    assert facts(run_study(ledger, toy, Budget(trials=3))) == facts(trials)
    content = study.read_text(encoding="utf-8")
    study.write_text(content[:-20])
    with pytest.raises(DamagedError, match=r"remove .*study.json and run the same mmbench tune command"):
        open_study(toy, tmp_path)
    study.unlink()
    assert facts(run_study(open_study(toy, tmp_path), toy, Budget(trials=3))) == facts(trials)
    sealed.write_json(study, ledger.plan.to_json(), version=99)
    with pytest.raises(OtherVersionError, match=r"another version of mmbench .*and tune again"):
        open_study(toy, tmp_path)


def test_a_reason_may_hold_what_ends_a_line_elsewhere(toy: Prepared, tmp_path: Path) -> None:
    ledger = open_study(toy, tmp_path)
    trial = Trial(number=0, status="failed", values={"lr": 0.1}, reason="a\u2028b\x85c\r\nd\x1ee")
    ledger.record(trial)
    assert ledger.trials() == [trial]


def test_half_a_line_is_left_out_and_a_changed_line_is_named(toy: Prepared, tmp_path: Path) -> None:
    ledger = open_study(toy, tmp_path)
    run_study(ledger, toy, Budget(trials=2))
    file = ledger.path / TRIALS
    lines = file.read_text(encoding="utf-8")
    file.write_text(lines + lines.splitlines()[0][:40])
    assert len(ledger.trials()) == 2
    file.write_text(lines.replace('"number": 1', '"number": 7').replace('"number":1', '"number":7'))
    with pytest.raises(DamagedError, match="line 2 does not have the hash"):
        ledger.trials()
    file.write_text(lines)
    study = ledger.path / "study.json"
    content = sealed.read_json(study, advice="")
    sealed.write_json(study, {**content, "n_seeds": 3})
    with pytest.raises(DamagedError, match="holds the study"):
        Ledger.read(ledger.path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"hiden_dim": 3}}, "hidden_dim"),
        ({"lists": {"lr": ["fast"]}}, "lr"),
        ({"lists": {"nothing": [1]}}, "nothing"),
        ({"lists": {"lr": [0.1, 0.1]}}, "lr: values has 0.1 twice"),
        ({"lists": {"dropout": [0.5, 1.5]}}, "dropout"),
        ({"lists": {"lr": []}}, "lr: values is empty"),
        ({"lists": {"lr": {"low": 0.1, "high": 0.01}}}, "low must be less than high"),
        ({"lists": {"lr": 3}}, "lr: must be"),
        (
            {"lists": {"weight_decay": {"low": 1e-6, "high": 0.1, "log": True}}},
            "cannot hold the recipe's own value 0",
        ),
        ({"lists": {"lr": [0.1]}, "settings": {"lr": 0.1}, "kind": "listed"}, "nothing to search"),
    ],
)
def test_wrong_wishes_are_one_line(options: Any, message: str, toy: Prepared, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_study(toy, tmp_path, **options)
    assert "\n" not in str(caught.value)
