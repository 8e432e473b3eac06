"""What a run would cost, from some of its steps and some of its users."""

from pathlib import Path

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.data.views import TargetView
from mmbench.runs import estimate as module
from mmbench.runs.estimate import FEWEST_USERS, MOST_SECONDS, Cost, estimate, seconds_of_all
from mmbench.runs.narrator import RunLines
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import Cell
from mmbench.runs.schedule import execute, plan

N_USERS = 5_000


def test_an_estimate_counts_what_is_missing_and_stores_nothing(toy: Prepared, tmp_path: Path) -> None:
    overrides = Overrides.of({"hidden_dim": 16, "inner_dim": 16}, epochs=3)
    planned: list[Cell] = plan(
        results_dir=tmp_path, datasets=[toy], models=["sasrec", "pop"], seeds=[1, 2], overrides=overrides
    )
    trained, floor = estimate(planned)
    assert list(tmp_path.iterdir()) == []
    assert (trained.model, trained.n_runs, trained.epochs, floor.epochs) == ("sasrec", 2, 3, 0)
    assert trained.epoch > 0
    assert trained.seconds == 2 * 3 * trained.epoch
    assert trained.disk == 2 * 4 * trained.n_parameters
    records = execute(planned[:1], watcher=RunLines(lambda text: None))
    assert records[0].n_parameters == trained.n_parameters
    again = next(iter(estimate(planned)))
    assert (again.n_runs, again.n_finished) == (1, 1)


def timed_with_share(share: float, toy: Prepared, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cost:
    """Return the cost of a model whose process has the processor for a share of the time."""
    clock = {"wall": 0.0}

    def wall() -> float:
        clock["wall"] += 1
        return clock["wall"]

    monkeypatch.setattr(module.time, "perf_counter", wall)
    monkeypatch.setattr(module.time, "thread_time", lambda: share * clock["wall"])
    overrides = Overrides.of({"hidden_dim": 16, "inner_dim": 16}, epochs=3)
    planned = plan(results_dir=folder, datasets=[toy], models=["sasrec"], seeds=[1], overrides=overrides)
    (cost,) = estimate(planned, device="cpu")
    return cost


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_an_epoch_is_said_without_what_other_programs_took(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    cost = timed_with_share(share, toy, tmp_path, monkeypatch)
    assert cost.waited == pytest.approx(1 - share, abs=0.1)
    assert cost.alone == pytest.approx(share * cost.epoch, rel=0.2)


def test_a_process_that_hardly_waited_says_nothing_of_it(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert timed_with_share(1.0, toy, tmp_path, monkeypatch).alone is None
    assert timed_with_share(2.0, toy, tmp_path, monkeypatch).waited == 0.0


class Ranked:
    """Takes a fixed time, and more for each user; the clock shows the sum."""

    def __init__(self, fixed: float, each: float) -> None:
        self.fixed, self.each, self.now = fixed, each, 0.0
        self.sizes: list[int] = []

    def __call__(self, some: TargetView) -> None:
        self.sizes.append(len(some))
        self.now += self.fixed + self.each * len(some)


@pytest.mark.parametrize(
    ("each", "sizes"),
    [
        (0.0001, [FEWEST_USERS, N_USERS]),
        (0.002, [FEWEST_USERS, 2_500, 1]),
        (0.1, [FEWEST_USERS, 1]),
    ],
)
def test_a_long_ranking_is_scaled_from_some_users(
    monkeypatch: pytest.MonkeyPatch, each: float, sizes: list[int]
) -> None:
    rank = Ranked(0.0, each)
    monkeypatch.setattr(module.time, "perf_counter", lambda: rank.now)
    assert seconds_of_all(rank, targets(N_USERS)) == pytest.approx(each * N_USERS)
    assert rank.sizes == pytest.approx(sizes, abs=1)
    assert rank.now < 2 * max(MOST_SECONDS, each * FEWEST_USERS)


@pytest.mark.parametrize(("fixed", "each"), [(0.5, 0.002), (3.0, 0.002), (30.0, 0.0001)])
def test_what_every_ranking_begins_with_is_not_scaled(
    monkeypatch: pytest.MonkeyPatch, fixed: float, each: float
) -> None:
    rank = Ranked(fixed, each)
    monkeypatch.setattr(module.time, "perf_counter", lambda: rank.now)
    assert seconds_of_all(rank, targets(N_USERS)) == pytest.approx(fixed + each * N_USERS)


@pytest.mark.parametrize("n", [0, 1, FEWEST_USERS])
def test_few_targets_are_all_ranked(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    rank = Ranked(7.0, 0.1)
    monkeypatch.setattr(module.time, "perf_counter", lambda: rank.now)
    assert seconds_of_all(rank, targets(n)) == pytest.approx(7.0 + 0.1 * n)
    assert rank.sizes == [n]


def targets(n: int) -> TargetView:
    return TargetView(
        items=np.arange(1, n + 1), times=np.arange(n), offsets=np.arange(n + 1), user=np.arange(n),
        target=np.full(n, 7), train_len=np.ones(n, dtype=np.int64),
    )  # fmt: skip
