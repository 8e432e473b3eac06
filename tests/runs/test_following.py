"""Runs of other processes are told of from their logs: every epoch once, in order, whatever a kill does to a log."""

import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from mmbench.cli.live import RunView
from mmbench.data.store import Prepared
from mmbench.runs import following as following_module
from mmbench.runs.following import Follower, following
from mmbench.runs.plan import Cell
from mmbench.runs.workers import BEGUN
from mmbench.training.progress import EpochReport
from tests.runs.test_schedule import cells_of


class Teller:
    """Notes what it hears of runs."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str]] = []

    def begins(self, cells: Sequence[Cell], number: int, total: int) -> "Run":
        self.heard.append((number, f"begins, one of {total}"))
        return Run(self.heard, number)


class Run:
    def __init__(self, heard: list[tuple[int, str]], number: int) -> None:
        self.heard, self.number = heard, number

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None:
        raise AssertionError("steps are not told by a log")

    def note(self, text: str) -> None:
        raise AssertionError("notes come with the record")

    def epoch(self, report: EpochReport) -> None:
        self.heard.append((self.number, f"epoch {report.epoch}, best {report.best:g}"))


def line(epoch: int, *, stage: int = 0) -> str:
    outlook = {
        "stage": stage + 1,
        "n_stages": stage + 1,
        "n_epochs": 100,
        "n_done": epoch,
        "n_left": 100 - epoch,
    }
    content = {"stage": stage, "epoch": epoch, "outlook": outlook, "seconds": 1.0, "loss": {"ce": 2.0}}
    return json.dumps({**content, "valid": {"NDCG@10": 0.1}, "best": epoch / 10, "best_epoch": epoch}) + "\n"


@pytest.fixture
def two(toy: Prepared, tmp_path: Path) -> list[Cell]:
    cells = cells_of(toy, tmp_path, "sasrec", seeds=[1, 2])
    for cell in cells:
        cell.path.mkdir(parents=True)
    return cells


def write(cell: Cell, *texts: str) -> None:
    (cell.path / BEGUN).write_text("x")
    (cell.path / "train.jsonl").write_bytes("".join(texts).encode(errors="surrogateescape"))


def test_every_epoch_is_told_once_and_in_order(two: list[Cell]) -> None:
    first, second = two
    write(second, line(1))  # an earlier try: its epochs were told then
    (second.path / BEGUN).unlink()
    teller = Teller()
    follower = Follower(two, teller)
    follower.look()
    assert teller.heard == []
    write(first, line(1), line(2)[:20])
    follower.look()
    follower.look()
    write(first, line(1), line(2), "\udcff\n", '{"stage": 0}\n', "[" * 100_000 + "\n", line(1, stage=1))
    follower.look()
    write(second, line(1), line(2))
    follower.end(second)
    write(second, line(1), line(2), line(3))
    follower.look()
    of_first = ["begins, one of 2", "epoch 1, best 0.1", "epoch 2, best 0.2", "epoch 1, best 0.1"]
    of_second = ["begins, one of 2", "epoch 2, best 0.2"]
    assert teller.heard == [*((1, text) for text in of_first), *((2, text) for text in of_second)]


def test_a_log_that_begins_anew_is_told_anew(two: list[Cell]) -> None:
    teller = Teller()
    follower = Follower(two[:1], teller)
    write(two[0], line(1), line(2))
    follower.look()
    write(two[0], line(1))  # after a kill before the state of epoch 2 was saved
    follower.look()
    assert [text for _, text in teller.heard[1:]] == [f"epoch {n}, best 0.{n}" for n in (1, 2, 1)]


def test_logs_are_looked_at_until_the_end(two: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following_module, "POLL_S", 0.001)
    teller = Teller()
    with following(two, teller):
        write(two[0], line(1))
        end = time.monotonic() + 60
        while len(teller.heard) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    assert teller.heard == [(1, "begins, one of 2"), (1, "epoch 1, best 0.1")]
    write(two[0], line(1), line(2))
    time.sleep(0.05)  # fifty looks, if somebody looked
    assert len(teller.heard) == 2


def test_a_terminal_of_80_columns_has_a_line_for_each_worker(two: list[Cell]) -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)
    view = RunView(console)
    with view.watching():
        view.missing(two, 2)
        view.queued(two, 2)
        follower = Follower(two, view)
        write(two[0], line(1), line(2))
        write(two[1])
        follower.look()
        assert view.live is not None
        shown = Console(file=io.StringIO(), width=80, color_system=None)
        shown.print(view.live.renderable)
        assert isinstance(shown.file, io.StringIO)
        rows = shown.file.getvalue().splitlines()
    assert [row.split() for row in rows] == [
        ["1/2", "sasrec", "on", "toy,", "seed", "1", "epoch", "2/100", "NDCG@10", "0.1000", "0:00"],
        ["2/2", "sasrec", "on", "toy,", "seed", "2", "starting", "0:00"],
        # 98 epochs of a second are left of the first run, 100 of the second
        ["all", "runs", "0:00", "about", "1:40", "left", "for", "2", "runs"],
    ]
