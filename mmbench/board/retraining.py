"""Checks that need the data: a bundle's weights ranked again, and seeds that nobody could choose trained again."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmbench.board.checks import Check
from mmbench.board.opened import Bundle
from mmbench.errors import MmbenchError, UsageError
from mmbench.evaluation.evidence import Ranking
from mmbench.evaluation.metrics import Metric
from mmbench.models import registry
from mmbench.runs.narrator import RunLines
from mmbench.runs.plan import cell_of
from mmbench.runs.rerank import reopen
from mmbench.runs.schedule import execute
from mmbench.runs.store import RunRecord, cell_path
from mmbench.training.files import BEST

METRIC = Metric("NDCG", 10)  # of all items where they are fewer
LEVEL = 0.95  # of the interval that new seeds must lie in


@dataclass(frozen=True)
class Retrained:
    """Seeds that were trained again, their values on the test targets, and the interval for their mean."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def is_inside(self) -> bool:
        return self.low <= self.mean <= self.high


def open_model(bundle: Bundle, *, trusts_code: bool) -> None:
    """Make sure that the bundle's model is registered; with `trusts_code`, by the files that the bundle brings.

    Raises UsageError for what can be neither ranked nor trained again here.
    """
    if bundle.records[0].external:
        raise UsageError(
            f"{bundle.path} holds lists of another program: nothing can be ranked or trained again"
        )
    if bundle.code is not None and not trusts_code:
        raise UsageError(
            f"{bundle.path} brings the code of its model, which is not run; read it, then add --trust-code"
        )
    if bundle.code is not None:
        folders = filter(None, [os.environ.get("MMBENCH_MODELS", ""), str(bundle.code)])
        os.environ["MMBENCH_MODELS"] = os.pathsep.join(folders)
    entry = registry.find(bundle.records[0].model)
    recorded = bundle.records[0].environment.get("code", {}).get("own_model", "")
    if entry.own_code() != recorded:
        raise UsageError(
            f"{bundle.path}: the code of {entry.name} here is not the code that the runs recorded"
        )


# -- ranked again -----------------------------------------------------------------------------------------


def rescore(bundle: Bundle, *, data_dir: Path, device: str) -> Check:
    """Rank the weights of every seed again; a fault unless all ranks are those of the bundle."""
    try:
        changed = {
            record.seed: _n_changed(bundle, index, data_dir, device)
            for index, record in enumerate(bundle.records)
        }
    except MmbenchError as error:
        return Check("rescore", "fault", str(error))
    if any(changed.values()):
        seed, n = next((seed, n) for seed, n in changed.items() if n)
        return Check("rescore", "fault", f"seed {seed}: {n:,} users have another rank than in the bundle")
    n_users = len(bundle.ranking(bundle.records[0], "test").user)
    return Check("rescore", "ok", f"{len(changed)} seeds of {n_users:,} users ranked again: the same ranks")


def _n_changed(bundle: Bundle, index: int, data_dir: Path, device: str) -> int:
    """Return how many users of valid and test have other counts than in the bundle."""
    record = bundle.records[index]
    if registry.find(record.model).load().trainable and not (record.path / BEST).is_file():
        raise UsageError("the bundle has no weights (mmbench bundle --weights); --retrain needs none")
    rankings = reopen(record, data_dir=data_dir, device=device).rank_as_trained(lists=0)
    computed = {ranking.name: ranking for ranking in rankings if not ranking.condition}
    return sum(_n_different(bundle.ranking(record, split), computed[split]) for split in bundle.splits)


def _n_different(stored: Ranking, computed: Ranking) -> int:
    """Return how many users' counts differ; targets may have been left out of the stored ranking."""
    if not stored.has_targets:
        computed = replace(computed, target=np.zeros_like(computed.target))
    n = stored.n_different(computed)
    return len(stored.user) if n is None else n


# -- trained again ----------------------------------------------------------------------------------------


def drawn_seeds(sha256: str, date: str, k: int, *, taken: Sequence[int] = ()) -> list[int]:
    """Return k seeds that follow from the hash of a bundle and a date, none of them taken.

    The date is the verifier's and is chosen after the bundle is made, so nobody can look for a bundle with good seeds.
    """
    seeds: list[int] = []
    number = 0
    while len(seeds) < k:
        drawn = hashlib.sha256(f"{sha256}/{date}/{number}".encode()).digest()
        seed = int.from_bytes(drawn[:4], "big") >> 1
        if seed not in (*taken, *seeds):
            seeds.append(seed)
        number += 1
    return seeds


def prediction_interval(values: Sequence[float], k: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval in which the mean of k further seeds lies with this probability, for normal values.

    mean +- t(n - 1) s sqrt(1/n + 1/k)
    """
    from scipy.special import stdtrit

    n, array = len(values), np.asarray(values, dtype=np.float64)
    half = float(stdtrit(n - 1, (1 + level) / 2) * array.std(ddof=1) * math.sqrt(1 / n + 1 / k))
    return float(array.mean()) - half, float(array.mean()) + half


def retrain(
    bundle: Bundle,
    k: int,
    *,
    date: str,
    data_dir: Path,
    device: str,
    work: Path,
    say: Callable[[str], object],
) -> tuple[Check, Retrained | None]:
    """Train k drawn seeds in a results folder of their own and compare their mean with the bundle's interval.

    work  where the runs are stored, so that a stopped verification resumes

    A deterministic model is computed once; its value must be the bundle's to half a user.
    """
    records = bundle.records
    deterministic, metric = records[0].deterministic, METRIC.within(records[0].n_items)
    stored = [metric.value(bundle.ranking(record, "test"), record.mask_seen) for record in records]
    if not deterministic and len(records) < 2:
        return Check(
            "retrain", "fault", "a single seed has no interval; ask for a bundle of 2 seeds or more"
        ), None
    seeds = drawn_seeds(
        bundle.sha256, date, 1 if deterministic else k, taken=[record.seed for record in records]
    )
    try:
        runs = _train(bundle, seeds, data_dir=data_dir, device=device, work=work, say=say)
    except MmbenchError as error:
        return Check("retrain", "fault", str(error)), None
    values = [metric.value(run.ranking("test"), records[0].mask_seen) for run in runs]
    if deterministic:
        low, high = _half_a_user(stored[0], len(bundle.ranking(records[0], "test").user))
    else:
        low, high = prediction_interval(stored, len(seeds))
    result = Retrained(tuple(seeds), tuple(values), low, high)
    text = (
        f"{metric} {result.mean:.4f} of seed {', '.join(map(str, seeds))} (drawn by {date}) is "
        f"{'inside' if result.is_inside else 'outside'} [{low:.4f}, {high:.4f}], the {LEVEL:.0%} interval of the bundle"
    )
    return Check("retrain", "ok" if result.is_inside else "fault", text), result


def _half_a_user(value: float, n_users: int) -> tuple[float, float]:
    """Return the interval around a mean over users that half a user's value cannot leave."""
    return value - 0.5 / n_users, value + 0.5 / n_users


def _train(
    bundle: Bundle,
    seeds: Sequence[int],
    *,
    data_dir: Path,
    device: str,
    work: Path,
    say: Callable[[str], object],
) -> list[RunRecord]:
    cell = cell_of(bundle.records[0], data_dir)
    cells = [
        replace(
            cell,
            seed=seed,
            path=cell_path(work, dataset=cell.dataset, model=cell.model, config_id=cell.config_id, seed=seed),
        )
        for seed in seeds
    ]
    runs = execute(cells, watcher=RunLines(say), device=device, lists=0)
    for run in runs:
        if run.status == "failed":
            raise UsageError(f"seed {run.seed} failed: {run.reason}")
    return runs
