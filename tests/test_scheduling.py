"""Who computes which cell, and who waits for whom."""

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from mmbench.cell import Cell
from mmbench.data.store import Prepared
from mmbench.results import RunRecord
from mmbench.run import LOCK, Overrides, execute, finished, plan


class Listener:
    """Notes what a run says; `on_waiting` is called when it begins to wait for another run."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.on_waiting = lambda: None

    def skipped(self, cell: Cell, record: RunRecord, *, other_code: bool) -> None:
        self.said.append(("skipped", cell.model))
        assert not other_code

    def waiting(self, cell: Cell) -> None:
        self.said.append(("waiting", cell.model))
        self.on_waiting()

    def queued(self, cells: Sequence[Cell], jobs: int) -> None:
        self.said.append(("queued", str(len(cells))))

    def begins(self, cell: Cell, number: int, total: int) -> None:
        self.said.append(("begins", cell.model))

    def ends(self, cell: Cell, record: RunRecord) -> None:
        self.said.append(("ends", cell.model))


def cells_of(toy: Prepared, folder: Path, *models: str, seeds: Sequence[int] = (1,)) -> list[Cell]:
    return plan(results_dir=folder, datasets=[toy], models=models, seeds=seeds, overrides=Overrides())


def is_free(cell: Cell) -> bool:
    try:
        with FileLock(cell.path / LOCK).acquire(timeout=0):
            return True
    except Timeout:
        return False


def test_seeds_come_before_models_and_deterministic_models_once(toy: Prepared, tmp_path: Path) -> None:
    cells = cells_of(toy, tmp_path, "sasrec", "pop", "random", seeds=[3, 5])
    assert [(cell.model, cell.seed) for cell in cells] == [
        ("sasrec", 3), ("pop", 3), ("random", 3), ("sasrec", 5), ("random", 5),
    ]  # fmt: skip


def test_a_run_that_waits_holds_no_other_cell(toy: Prepared, tmp_path: Path) -> None:
    """Else two runs wait for each other's last cell for ever: each has computed one and wants the other's."""
    pop, random = cells_of(toy, tmp_path, "pop", "random")
    random.path.mkdir(parents=True)
    other_run = FileLock(random.path / LOCK)
    other_run.acquire()
    listener = Listener()
    free_while_waiting = []

    def release() -> None:
        free_while_waiting.append(is_free(pop))
        other_run.release()

    listener.on_waiting = release
    records = execute([random, pop], watcher=listener, device="cpu")
    assert free_while_waiting == [True]
    assert [record.model for record in records] == ["random", "pop"], "records come in the order of the cells"
    assert listener.said == [
        ("begins", "pop"), ("ends", "pop"), ("waiting", "random"), ("begins", "random"), ("ends", "random"),
    ]  # fmt: skip
    assert is_free(pop)
    assert is_free(random)


def test_what_another_run_finished_meanwhile_is_not_computed_again(toy: Prepared, tmp_path: Path) -> None:
    (pop,) = cells_of(toy, tmp_path, "pop")
    execute([pop], watcher=Listener(), device="cpu")
    content = (pop.path / "run.json").read_bytes()
    (pop.path / "run.json").unlink()
    assert finished(pop) is None
    other_run = FileLock(pop.path / LOCK)
    other_run.acquire()
    listener = Listener()

    def finish() -> None:
        (pop.path / "run.json").write_bytes(content)
        other_run.release()

    listener.on_waiting = finish
    (record,) = execute([pop], watcher=listener, device="cpu")
    assert record.status == "finished"
    assert listener.said == [("waiting", "pop")]


def test_leftovers_of_a_kill_are_cleared(toy: Prepared, tmp_path: Path) -> None:
    (pop,) = cells_of(toy, tmp_path, "pop")
    pop.path.mkdir(parents=True)
    (pop.path / ".ranks.npz.new-1-ab.tmp").write_text("half")
    execute([pop], watcher=Listener(), device="cpu")
    assert sorted(file.name for file in pop.path.iterdir()) == [LOCK, "ranks.npz", "run.json"]
