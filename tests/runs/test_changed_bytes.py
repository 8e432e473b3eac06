"""One changed bit in any stored file of a run: noticed in one line, or without effect; never other numbers."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import MmbenchError
from mmbench.evaluation.evidence import Ranking
from mmbench.evaluation.interventions import AS_TRAINED
from mmbench.runs.execute import run_cell
from mmbench.runs.plan import Cell, make_cell
from mmbench.runs.rerank import reopen
from mmbench.runs.store import RunRecord, read_record
from mmbench.settings.config import Layer, Origin
from mmbench.training.files import BEST, LOG, RESUME, TrainingFiles

SMALL = {"hidden_dim": 4, "inner_dim": 4, "n_layers": 1, "n_heads": 1, "max_epochs": 3, "batch_size": 128}
SPLITS = ("valid", "test")


class KilledError(BaseException):
    """What stands for a kill; no handler of errors may catch it."""


@dataclass(frozen=True)
class Numbers:
    """What a run says."""

    record: dict[str, Any]
    rankings: dict[str, Ranking]

    def differ(self, other: "Numbers") -> bool:
        return self.record != other.record or any(
            ranking.n_different(other.rankings[name]) != 0
            or any(
                not np.array_equal(lists.items, other.rankings[name].lists[rule].items)
                or not np.array_equal(lists.scores, other.rankings[name].lists[rule].scores)
                for rule, lists in ranking.lists.items()
            )
            for name, ranking in self.rankings.items()
        )


def cell_of(prepared: Prepared, folder: Path) -> Cell:
    return make_cell(
        results_dir=folder, prepared=prepared, model="sasrec", seed=1,
        overrides=[Layer(Origin.user, SMALL)],
    )  # fmt: skip


def stored(path: Path) -> Numbers:
    record = read_record(path)
    return Numbers(vars(record), {split: record.ranking(split) for split in SPLITS})


def ranked_again(path: Path, data_dir: Path) -> Numbers:
    record = read_record(path)
    run = reopen(record, data_dir=data_dir, device="cpu")
    return Numbers(vars(record), {ranking.name: ranking for ranking in run.rank(AS_TRAINED, lists=20)})


def flips(content: bytes, n: int) -> Iterator[bytes]:
    """Yield the content with one bit changed: in every byte of a small file; else half in its first 2,000 bytes."""
    rng = np.random.default_rng(len(content))
    places = np.arange(len(content))
    if len(places) > n:
        head = min(2000, len(places) // 2)
        places = np.concatenate([
            rng.choice(head, n // 2, replace=False), head + rng.choice(len(places) - head, n // 2, replace=False),
        ])  # fmt: skip
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        yield bytes(changed)


def noticed(read: Callable[[], Numbers], good: Numbers) -> bool:
    """Return whether reading is an error of one line; fail when it gives other numbers."""
    try:
        numbers = read()
    except MmbenchError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
        return True
    assert not numbers.differ(good)
    return False


@pytest.fixture(scope="module")
def finished(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    cell = cell_of(open_prepared("toy", data_dir), tmp_path_factory.mktemp("finished"))
    record = run_cell(cell, device="cpu")
    assert record.status == "finished", record.reason
    return record


@pytest.mark.parametrize(
    ("name", "least"), [("run.json", 280), ("rankings/valid.npz", 150), ("rankings/test.npz", 150)]
)
def test_what_a_finished_run_says_is_as_it_was_or_an_error(
    name: str, least: int, finished: RunRecord, tmp_path: Path
) -> None:
    path = tmp_path / finished.title
    shutil.copytree(finished.path, path)
    good = stored(path)
    actual = [
        noticed(lambda: stored(path), good)
        for changed in flips((path / name).read_bytes(), 300)
        if (path / name).write_bytes(changed)
    ]
    assert sum(actual) >= least, "most bytes carry numbers"


def test_what_the_best_weights_rank_is_as_it_was_or_an_error(
    finished: RunRecord, data_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / finished.title
    shutil.copytree(finished.path, path)
    good = ranked_again(path, data_dir)
    assert not Numbers(good.record, stored(path).rankings).differ(good)
    actual = [
        noticed(lambda: ranked_again(path, data_dir), good)
        for changed in flips((path / BEST).read_bytes(), 300)
        if (path / BEST).write_bytes(changed)
    ]
    assert sum(actual) >= 280


@pytest.fixture(scope="module")
def killed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """A cell whose training was killed after the state of its second epoch was saved."""
    cell = cell_of(open_prepared("toy", data_dir), tmp_path_factory.mktemp("killed"))
    save, calls = TrainingFiles.save, []

    def save_and_die(self: TrainingFiles, *args: Any, **options: Any) -> None:
        save(self, *args, **options)
        calls.append(1)
        if len(calls) == 2:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingFiles, "save", save_and_die)
        with pytest.raises(KilledError):
            run_cell(cell, device="cpu")
    assert {RESUME, LOG} <= {file.name for file in cell.path.iterdir()}
    return cell


@pytest.mark.parametrize(("name", "n", "least"), [(RESUME, 120, 115), (LOG, 30, 0)])
def test_a_killed_run_ends_as_in_peace_or_with_an_error(
    name: str, n: int, least: int, killed: Cell, finished: RunRecord, toy: Prepared, tmp_path: Path
) -> None:
    good = stored(finished.path)
    content = (killed.path / name).read_bytes()
    actual = []
    for number, changed in enumerate(flips(content, n)):
        cell = cell_of(toy, tmp_path / str(number))
        shutil.copytree(killed.path, cell.path)
        (cell.path / name).write_bytes(changed)
        record = run_cell(cell, device="cpu")
        if record.status == "failed":
            assert "\n" not in record.reason
            assert str(cell.path) in record.reason
            assert not (cell.path / "traceback.txt").exists()
        else:
            numbers = stored(cell.path)
            assert not Numbers(good.record, numbers.rankings).differ(good)
            assert numbers.record["curve"] == good.record["curve"]
            assert numbers.record["selection"] == good.record["selection"]
        actual.append(record.status == "failed")
        shutil.rmtree(cell.path)
    assert sum(actual) >= least
