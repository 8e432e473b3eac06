"""Studies on disk: kills, several processes, budgets, what is searched and what is never looked at."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmbench.data.store import Prepared
from mmbench.errors import MmbenchError, RunError, UsageError
from mmbench.evaluation.metrics import mean_value
from mmbench.runs.execute import run_cell
from mmbench.runs.plan import make_cell
from mmbench.settings.config import Layer, Origin
from mmbench.training.progress import EpochReport, Outlook, Progress
from mmbench.tuning import trial as trial_module
from mmbench.tuning.records import Trial, best_of
from mmbench.tuning.stored import chosen_study, studies_of
from mmbench.tuning.study import Budget, Watching, plan_study, run_study
from mmbench.tuning.trial import EndedError, Judge, is_worse, last_stage, trial_cell
from tests.prepared import add_features, cli, write_toy
from tests.tuning.making import FIXED, LISTS, facts, open_study


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_toy(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(toy: Prepared, tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    """Trials of a study that nothing interrupts."""
    return run_study(open_study(toy, tmp_path_factory.mktemp("whole")), toy, Budget(trials=4))


def test_trials_are_numbered_differ_and_begin_with_the_recipe_s_own(whole: list[Trial]) -> None:
    assert [trial.number for trial in whole] == [0, 1, 2, 3]
    assert whole[0].values == {"lr": 0.001, "dropout": 0.5}
    assert len({json.dumps(trial.values, sort_keys=True) for trial in whole}) == 4
    assert {trial.status for trial in whole} == {"finished"}
    assert all(trial.seeds == (10**6,) and len(trial.curves[0]) == trial.n_epochs == 3 for trial in whole)
    assert all(trial.value == max(value for _, value in trial.curves[0]) for trial in whole)


def test_a_trial_s_value_is_that_of_the_same_run_on_the_validation_targets(
    whole: list[Trial], toy: Prepared, tmp_path: Path
) -> None:
    trial = whole[1]
    layers = [Layer(Origin.user, {**FIXED, "attn_dropout": 0.0, **trial.values})]
    cell = make_cell(results_dir=tmp_path, prepared=toy, model="sasrec", seed=10**6, overrides=layers)
    record = run_cell(cell, debug=True)
    assert record.selection is not None
    assert trial.value == record.selection.value == mean_value(record.ranks("valid"), "NDCG@10")


def test_no_test_target_is_opened_and_no_rank_of_one_is_on_disk(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmbench.data import loaded

    real = loaded.target_view

    def only_valid(prepared: Any, split: Any, name: str) -> Any:
        assert name == "valid"
        return real(prepared, split, name)  # type: ignore[arg-type]

    loaded.load_data.cache_clear()
    monkeypatch.setattr(loaded, "target_view", only_valid)
    ledger = open_study(toy, tmp_path)
    run_study(ledger, toy, Budget(trials=2))
    loaded.load_data.cache_clear()
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file() and not file.name.endswith(".lock")) == [
        "best.toml", "study.json", "trials.jsonl",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="cannot be tuned"):
        open_study(toy, tmp_path, settings=FIXED | {"validation": "test-item"})


class Killed(BaseException):
    """As a kill: nothing that comes after it is done."""


class KillAt(Watching):
    def __init__(self, n: int) -> None:
        self.left = n

    def epoch(self, number: int, report: EpochReport) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_interrupted_ten_times_has_the_trials_of_an_undisturbed_study(
    sampler: str, toy: Prepared, tmp_path: Path
) -> None:
    peace = run_study(open_study(toy, tmp_path / "peace", sampler=sampler), toy, Budget(trials=4))
    n_kills = 0
    for _ in range(10):
        try:  # the first epoch after a start is never saved, so each process gets one epoch further
            run_study(
                open_study(toy, tmp_path / "killed", sampler=sampler),
                toy,
                Budget(trials=4),
                watching=KillAt(2),
            )
        except Killed:
            n_kills += 1
    assert n_kills >= 4
    done = run_study(open_study(toy, tmp_path / "killed", sampler=sampler), toy, Budget(trials=4))
    assert facts(done) == facts(peace)


def test_more_trials_later_go_on_with_the_same_study(
    whole: list[Trial], toy: Prepared, tmp_path: Path
) -> None:
    for n in (1, 3, 4, 2):
        actual = run_study(open_study(toy, tmp_path, budget=Budget(trials=n)), toy, Budget(trials=n))
    assert facts(actual) == facts(whole)


def test_processes_share_a_grid_and_none_runs_a_point_twice(toy: Prepared, tmp_path: Path) -> None:
    settings = (
        FIXED
        | {"attn_dropout": 0.0, "max_epochs": 1}
        | {key: str(values)[1:-1] for key, values in LISTS.items()}
    )
    chosen = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = cli(
        "tune", "sasrec", "--dataset", "toy", "--sampler", "grid", "--space", "recipe", "--trials", "50",
        "--jobs", "2", *chosen, data=toy.data_dir, results=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (ledger,) = studies_of(tmp_path, "toy", "sasrec")
    trials = ledger.trials()
    assert len(trials) == 9  # three values each, the recipe's own among them
    assert len({json.dumps(trial.values, sort_keys=True) for trial in trials}) == 9
    assert sorted(trial.number for trial in trials) == list(range(9))


def test_many_at_once_are_given_different_trials(toy: Prepared, tmp_path: Path) -> None:
    ledger = open_study(toy, tmp_path, lists={"lr": [k / 1000 for k in range(2, 60)]})

    def take(_: int) -> int:
        with ledger.claim(64) as claimed:
            assert claimed is not None
            ledger.record(Trial(number=claimed.number, status="finished", values=claimed.values, value=0.1))
            return claimed.number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(take, range(24))) == list(range(24))
    with ledger.claim(24) as claimed:
        assert claimed is None


def test_a_corner_that_cannot_be_is_a_failed_trial_and_the_others_go_on(
    toy: Prepared, tmp_path: Path
) -> None:
    fixed = {key: value for key, value in FIXED.items() if key != "n_heads"} | {"max_epochs": 1, "lr": 0.001}
    ledger = open_study(
        toy, tmp_path, sampler="grid", settings=fixed | {"dropout": 0.1, "attn_dropout": 0.1},
        lists={"n_heads": [1, 2, 3]},
    )  # fmt: skip
    trials = run_study(ledger, toy, Budget(trials=30))
    assert [trial.values for trial in trials] == [{"n_heads": 2}, {"n_heads": 1}, {"n_heads": 3}]
    failed = [trial for trial in trials if trial.status == "failed"]
    assert [trial.number for trial in failed] == [2]
    assert "n_heads" in failed[0].reason


class Second(Watching):
    """A clock on which every epoch takes a second and nothing else takes time."""

    now = 0.0

    def epoch(self, number: int, report: EpochReport) -> None:
        self.now += 1.0


def test_seconds_are_over_within_an_epoch(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trials of three epochs, and one and a half seconds for the third; then an interruption changes nothing."""
    from mmbench.tuning import study

    for kills in (0, 3):
        clock = Second()
        monkeypatch.setattr(study.time, "perf_counter", lambda clock=clock: clock.now)
        ledger = open_study(toy, tmp_path / str(kills), budget=Budget(seconds=7.5))
        for _ in range(kills):
            with pytest.raises(Killed):
                run_study(ledger, toy, Budget(seconds=7.5), watching=KillAt(2))
        trials = run_study(ledger, toy, Budget(seconds=7.5), watching=clock)
        if not kills:
            assert [(trial.status, trial.n_epochs) for trial in trials] == [
                ("finished", 3), ("finished", 3), ("cut", 2),
            ]  # fmt: skip
            assert sum(trial.seconds for trial in trials) == 8.0
        assert trials[-1].status == "cut"
        assert run_study(ledger, toy, Budget(seconds=7.5)) == trials  # nothing is left to spend


def test_other_processes_time_counts(toy: Prepared, tmp_path: Path) -> None:
    """A trial that another process has under way spends the budget before it ends."""
    ledger = open_study(toy, tmp_path, budget=Budget(seconds=10.0))
    with ledger.claim(None) as claimed:
        assert claimed is not None
        ledger.note_seconds(claimed.number, 10.0)
        assert ledger.spent() == 10.0
        assert ledger.spent(without=claimed.number) == 0.0
        assert run_study(ledger, toy, Budget(seconds=10.0)) == []
    with ledger.claim(None) as claimed:  # resumed: its time is not forgotten
        assert claimed is not None
        assert claimed.earlier == 10.0


def test_a_full_disk_stops_the_study_and_loses_no_trial(
    whole: list[Trial], toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmbench.training import files

    real, calls = files.checkpoint.save_tensors, []

    def full(path: Path, *rest: Any) -> None:
        calls.append(path)
        if len(calls) == 12:
            raise MmbenchError(f"cannot write {path}") from OSError(28, "No space left on device", str(path))
        real(path, *rest)

    monkeypatch.setattr(files.checkpoint, "save_tensors", full)
    ledger = open_study(toy, tmp_path)
    with pytest.raises(RunError, match=r"trial \d stopped: cannot write .*no trial is lost") as caught:
        run_study(ledger, toy, Budget(trials=4))
    assert "\n" not in str(caught.value)
    assert facts(run_study(ledger, toy, Budget(trials=4))) == facts(whole)


def test_a_trial_is_pruned_when_two_thirds_are_better() -> None:
    others = [[(1, 0.1), (4, 0.2)], [(1, 0.3)], [(2, 0.4), (4, 0.1)], [(4, 0.05)], [(8, 0.9)]]
    assert not is_worse(0.4, others, 4)
    assert is_worse(0.1, others, 4)  # .2, .3 and .4 are better: .3 by a training that ended after one epoch
    assert not is_worse(0.25, [*others[:2]], 4)  # too few to compare with
    assert not is_worse(0.35, others, 4)


@pytest.mark.parametrize(("stage", "is_pruned"), [(1, False), (2, True)])
def test_trials_are_compared_in_their_last_stage(stage: int, is_pruned: bool) -> None:
    """A pre-training is not validated, so that every trial would be the worst in it."""
    outlook = Outlook(stage=stage, n_stages=2, n_epochs=9, n_done=4, n_left=5)
    report = EpochReport(
        epoch=4, outlook=outlook, seconds=1.0, loss={}, valid={}, best=-math.inf, best_epoch=0
    )
    judge = Judge("NDCG@10", [[(1, 0.1), (4, 0.2)]] * 3, prunes=True, is_over=lambda: False)
    with pytest.raises(EndedError) if is_pruned else nullcontext():
        judge.epoch(report)


def test_a_trial_s_value_and_curve_are_those_of_its_last_stage() -> None:
    curve = [{"stage": 0, "epoch": 1, "HR@1": 0.9}, {"stage": 1, "epoch": 1, "HR@1": 0.2}]
    assert last_stage(Progress(stage=2, best=0.2, curve=curve), 2, "HR@1") == (0.2, ((1, 0.2),))
    assert last_stage(Progress(stage=0, best=0.9, curve=curve[:1]), 2, "HR@1") == (None, ())
    single = Progress(stage=0, best=0.3, curve=[{"epoch": 2, "HR@1": 0.3}])  # it was cut
    assert last_stage(single, 1, "HR@1") == (0.3, ((2, 0.3),))
    assert last_stage(Progress(), 1, "HR@1") == (None, ())


def test_pruned_trials_count_and_are_not_chosen(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prune_second(self: Any, report: EpochReport) -> None:
        if len(self.others) == 1:
            raise EndedError("pruned")

    monkeypatch.setattr(trial_module.Judge, "epoch", prune_second)
    trials = run_study(open_study(toy, tmp_path), toy, Budget(trials=3))
    assert [trial.status for trial in trials] == ["finished", "pruned", "finished"]
    pruned = replace(trials[1], value=9.9)
    best = best_of([trials[0], pruned, trials[2]])
    assert best is not None
    assert best.number != 1


def test_ties_go_to_fewer_parameters_then_to_the_earlier_trial() -> None:
    def trial(number: int, value: float, n_parameters: int) -> Trial:
        return Trial(number=number, status="finished", values={}, value=value, n_parameters=n_parameters)

    best = best_of([trial(0, 0.3, 9), trial(1, 0.3, 5), trial(2, 0.3, 5), trial(3, 0.29, 1)])
    assert best is not None
    assert best.number == 1


def test_several_seeds_make_one_value(toy: Prepared, tmp_path: Path) -> None:
    (trial,) = run_study(open_study(toy, tmp_path, n_seeds=2), toy, Budget(trials=1))
    assert trial.seeds == (10**6, 10**6 - 1)
    assert trial.value == pytest.approx(sum(max(v for _, v in curve) for curve in trial.curves) / 2)
    assert trial.curves[0] != trial.curves[1]


def test_what_is_searched_makes_the_study(toy: Prepared, tmp_path: Path) -> None:
    base = open_study(toy, tmp_path).plan
    changes: list[dict[str, Any]] = [
        {"sampler": "grid"}, {"lists": {"lr": [0.003]}}, {"n_seeds": 2}, {"prunes": False},
        {"budget": Budget(seconds=9.0)}, {"settings": FIXED | {"max_epochs": 4}}, {"kind": "shared"},
        {"settings": FIXED | {"mask_seen": "input"}},
    ]  # fmt: skip
    ids = {open_study(toy, tmp_path, **change).plan.study_id for change in changes}
    assert len(ids | {base.study_id}) == len(changes) + 1
    assert open_study(toy, tmp_path, budget=Budget(trials=99)).plan.study_id == base.study_id


def test_other_features_are_another_study(tmp_path: Path) -> None:
    prepared = write_toy(tmp_path / "data")
    options: dict[str, Any] = {"results_dir": tmp_path, "budget": Budget(trials=1), "sampler": "random"}
    before = plan_study(prepared, "hm4sr", **options)
    add_features(prepared, "text", "other", dim=5)
    assert plan_study(prepared, "hm4sr", **options).study_id != before.study_id


def test_the_best_settings_are_read_again_and_their_cell_is_that_of_typed_settings(
    toy: Prepared, tmp_path: Path
) -> None:
    ledger = open_study(toy, tmp_path)
    trials = run_study(ledger, toy, Budget(trials=4))
    run_study(open_study(toy, tmp_path, sampler="grid"), toy, Budget(trials=2))
    plan = ledger.plan
    actual = chosen_study(tmp_path, toy, "sasrec", protocol=plan.protocol, features=plan.features)
    assert actual.plan.study_id == plan.study_id  # the one with more trials
    best = best_of(trials)
    assert best is not None
    typed = make_cell(
        results_dir=tmp_path, prepared=toy, model="sasrec", seed=1,
        overrides=[Layer(Origin.user, {**plan.fixed, **best.values})],
    )  # fmt: skip
    assert trial_cell(plan, toy, best.values, 1, tmp_path).config_id == typed.config_id
    with pytest.raises(UsageError, match="run: mmbench tune sasrec --dataset toy"):
        chosen_study(tmp_path, toy, "sasrec", protocol={"data": "other"}, features={})
