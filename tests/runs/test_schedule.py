"""Who computes which cell, and who waits for whom."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from mmbench.data.store import Prepared
from mmbench.errors import OtherVersionError
from mmbench.models import registry
from mmbench.runs import schedule
from mmbench.runs.execute import fail_cell
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import Cell, make_cell
from mmbench.runs.schedule import execute, finished, plan
from mmbench.runs.store import RunRecord
from mmbench.runs.workers import BEGUN, LOCK, Backend, forget_mark
from mmbench.settings.config import Layer, Origin


class Listener:
    """Notes what a run says; `on_waiting` is called when it begins to wait for another run."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.on_waiting = lambda: None

    def skipped(self, cell: Cell, record: RunRecord, *, other_code: bool) -> None:
        self.said.append(("skipped", cell.model))
        assert not other_code

    def damaged(self, cell: Cell, why: str) -> None:
        self.said.append(("damaged", cell.model))

    def missing(self, cells: Sequence[Cell], jobs: int) -> None:
        """Ignore what is told for the time left."""

    def remark(self, text: str) -> None:
        self.said.append(("remark", text))

    def waiting(self, cell: Cell) -> None:
        self.said.append(("waiting", cell.model))
        self.on_waiting()

    def queued(self, cells: Sequence[Cell], jobs: int) -> None:
        self.said.append(("queued", str(len(cells))))

    def begins(self, cells: Sequence[Cell], number: int, total: int) -> None:
        self.said += [("begins", cell.model) for cell in cells]

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
    (pop.path / "rankings").mkdir()
    for place in (pop.path, pop.path / "rankings"):
        (place / ".test.npz.new-1-ab.tmp").write_text("half")
    execute([pop], watcher=Listener(), device="cpu")
    assert sorted(file.name for file in pop.path.iterdir()) == [LOCK, "rankings", "run.json"]
    assert sorted(file.name for file in (pop.path / "rankings").iterdir()) == ["test.npz", "valid.npz"]


def test_what_a_kill_left_in_a_finished_cell_goes_when_it_is_met_again(toy: Prepared, tmp_path: Path) -> None:
    """Killed after the record was written and before the cell was tidied up; not where another run is at work."""
    pop, random = cells_of(toy, tmp_path, "pop", "random")
    execute([pop, random], watcher=Listener(), device="cpu")
    left = ["resume.safetensors", "previous.safetensors", "candidate.safetensors", "traceback.txt", BEGUN]
    left += [".run.json.new-1-ab.tmp", "rankings/.test.npz.new-1-ab.tmp"]
    for name in left:  # each alone: a kill may fall between the removals
        (pop.path / name).write_text("left")
        execute([pop], watcher=Listener(), device="cpu")
        assert not (pop.path / name).exists(), name
    for cell in (pop, random):
        for name in left:
            (cell.path / name).write_text("left")
    with FileLock(random.path / LOCK).acquire():
        execute([pop, random], watcher=Listener(), device="cpu")
    assert [name for name in left if (pop.path / name).exists()] == []
    assert [name for name in left if (random.path / name).exists()] == left
    assert finished(pop) is not None


def test_damaged_results_are_computed_again_and_said(toy: Prepared, tmp_path: Path) -> None:
    (pop,) = cells_of(toy, tmp_path, "pop")
    execute([pop], watcher=Listener(), device="cpu")
    for name in ("run.json", "rankings/valid.npz", "rankings/test.npz"):
        (pop.path / name).write_text("half")
        listener = Listener()
        (record,) = execute([pop], watcher=listener, device="cpu")
        assert record.status == "finished"
        assert listener.said == [("damaged", "pop"), ("begins", "pop"), ("ends", "pop")]


def test_results_of_another_version_are_left_alone(toy: Prepared, tmp_path: Path) -> None:
    (pop,) = cells_of(toy, tmp_path, "pop")
    execute([pop], watcher=Listener(), device="cpu")
    file = pop.path / "run.json"
    content = {
        key: value for key, value in json.loads(file.read_text(encoding="utf-8")).items() if key != "sha256"
    }
    file.write_text(json.dumps({**content, "format": 1}))
    before = file.read_bytes()
    with pytest.raises(
        OtherVersionError, match=r"written by another version .* --results-dir, .*: mmbench run"
    ):
        execute([pop], watcher=Listener(), device="cpu")
    assert file.read_bytes() == before


def test_an_own_model_that_changed_is_other_code(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = registry.find("pop").file
    (tmp_path / "my_pop.py").write_text(source.read_text(encoding="utf-8"))
    recipe = source.with_suffix(".toml").read_text(encoding="utf-8")
    (tmp_path / "my_pop.toml").write_text(recipe.replace('name = "pop"', 'name = "my-pop"'))
    monkeypatch.setenv("MMBENCH_MODELS", str(tmp_path))
    (cell,) = cells_of(toy, tmp_path / "results", "my-pop")
    (record,) = execute([cell], watcher=Listener(), device="cpu")
    assert len(record.environment["code"]["own_model"]) == 16
    told: list[bool] = []

    class Told(Listener):
        def skipped(self, cell: Cell, record: RunRecord, *, other_code: bool) -> None:
            told.append(other_code)

    execute([cell], watcher=Told(), device="cpu")
    (tmp_path / "my_pop.py").write_text(source.read_text(encoding="utf-8") + "\nCHANGED = True\n")
    execute([cell], watcher=Told(), device="cpu")
    assert told == [False, True]
    (plain,) = execute(cells_of(toy, tmp_path / "results", "pop"), watcher=Listener(), device="cpu")
    assert "own_model" not in plain.environment["code"]


def test_a_mark_is_removed_only_where_no_other_run_computes(toy: Prepared, tmp_path: Path) -> None:
    for cell in cells_of(toy, tmp_path, "pop", "random"):
        cell.path.mkdir(parents=True)
        (cell.path / BEGUN).write_text("x")
    pop, random = cells_of(toy, tmp_path, "pop", "random")
    with FileLock(pop.path / LOCK).acquire():
        forget_mark(pop)
        forget_mark(random)
    assert (pop.path / BEGUN).exists()
    assert not (random.path / BEGUN).exists()


def test_no_cluster_is_asked_for_when_nothing_is_missing(toy: Prepared, tmp_path: Path) -> None:
    cells = cells_of(toy, tmp_path, "pop")
    execute(cells, watcher=Listener(), device="cpu")
    nowhere = Backend("dask", "tcp://127.0.0.1:1", jobs=2)
    (record,) = execute(cells, watcher=Listener(), device="cpu", backend=nowhere)
    assert record.status == "finished"


def test_a_floor_is_never_leaky(toy: Prepared, tmp_path: Path) -> None:
    """Nothing selects by the test item there, and its cell is the same one under both settings."""
    slip = Overrides(everywhere={"validation": "test-item"})
    pop, sasrec = (
        plan(results_dir=tmp_path, datasets=[toy], models=[name], seeds=[1], overrides=slip)[0]
        for name in ("pop", "sasrec")
    )
    assert pop.path == cells_of(toy, tmp_path, "pop")[0].path
    assert not execute([pop], watcher=Listener(), device="cpu")[0].leaky
    assert fail_cell(sasrec, "a test").leaky


@pytest.mark.parametrize(("jobs", "n_cells", "workers"), [(24, 3, 3), (2, 3, 2), (24, 1, None)])
def test_no_more_workers_are_started_than_there_are_cells(
    jobs: int,
    n_cells: int,
    workers: int | None,
    toy: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A single cell needs no worker at all. The threads of the workers share the cores of the machine."""
    asked: list[int] = []

    def side_by_side(groups: Any, work: Any, backend: Backend, **_: Any) -> Iterator[RunRecord]:
        asked.append(backend.jobs)
        assert work.keywords["jobs"] == backend.jobs
        for group in groups:
            yield from (record for _, record in work(group))

    monkeypatch.setattr(schedule, "side_by_side", side_by_side)
    cells = cells_of(toy, tmp_path, "random", seeds=range(1, n_cells + 1))
    records = execute(cells, watcher=Listener(), device="cpu", backend=Backend(jobs=jobs))
    assert [record.status for record in records] == ["finished"] * n_cells
    assert asked == ([workers] if workers else [])


def test_the_cells_of_a_plan_are_those_that_are_made_one_by_one(toy: Prepared, tmp_path: Path) -> None:
    overrides, layers = Overrides(everywhere={"lr": 0.5}), [Layer(Origin.user, {"lr": 0.5})]
    actual = plan(
        results_dir=tmp_path, datasets=[toy], models=["sasrec", "pop", "gru4rec"], seeds=[3, 5], overrides=overrides
    )  # fmt: skip
    pairs = [(3, "sasrec"), (3, "pop"), (3, "gru4rec"), (5, "sasrec"), (5, "gru4rec")]  # pop has no seeds
    assert [(cell.seed, cell.model) for cell in actual] == pairs
    for cell in actual:
        assert cell == make_cell(
            results_dir=tmp_path, prepared=toy, model=cell.model, seed=cell.seed, overrides=layers
        )


def test_settings_are_resolved_once_for_all_seeds(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved: list[str] = []

    def counted(**details: Any) -> Cell:
        resolved.append(details["model"])
        return make_cell(**details)

    monkeypatch.setattr(schedule, "make_cell", counted)
    models = ["sasrec", "pop"]
    cells = plan(results_dir=tmp_path, datasets=[toy], models=models, seeds=range(300), overrides=Overrides())
    assert len({cell.path for cell in cells}) == 301
    assert resolved == models


def test_a_crowded_machine_is_remarked_before_the_first_training(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not before models without training, which use a single thread."""
    monkeypatch.setattr(schedule, "crowded_threads", lambda device: f"crowded {device}")
    said = []
    for models in (("pop",), ("pop", "sasrec")):
        watcher = Listener()
        schedule.execute(cells_of(toy, tmp_path / models[-1], *models), watcher=watcher, device="cpu")
        said.append([what for what in watcher.said if what[0] == "remark"])
    assert said == [[], [("remark", "crowded cpu")]]
