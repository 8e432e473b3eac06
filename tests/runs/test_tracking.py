"""Trackers: what they hear is what is stored, and one that fails costs a warning.

Run: python -m pytest tests/runs/test_tracking.py
"""

import json
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

import mmbench
from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import UsageError
from mmbench.runs.store import RunRecord
from mmbench.tracking import TrackedEnd, TrackedEpoch, TrackedRun, Tracker
from mmbench.tracking.naming import TRACKERS, check_trackers, maker_of
from tests.installed import on_path, write_package
from tests.runs.recording import Broken, Recorder

RECORDER, BROKEN, REFUSING = (f"tests.runs.recording:{name}" for name in ("Recorder", "Broken", "Refusing"))
SMALL = {"hidden_dim": 16, "inner_dim": 16, "batch_size": 64}


def heard_of(record: RunRecord) -> tuple[TrackedRun, list[TrackedEpoch], TrackedEnd]:
    """Return what the recorder heard of a run: its begin, its epochs and its end."""
    begin, *epochs, end = Recorder.heard[record.title]
    assert isinstance(begin, TrackedRun)
    assert isinstance(end, TrackedEnd)
    assert all(isinstance(report, TrackedEpoch) for report in epochs)
    return begin, epochs, end  # type: ignore[return-value]


@pytest.fixture(scope="module")
def tracked(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, str]:
    """Return a run of three epochs with four trackers, two of which fail, and what stood on stderr."""
    names = [BROKEN, RECORDER, REFUSING, *(["tensorboard"] if has("tensorboard") else [])]
    results, lines = tmp_path_factory.mktemp("results"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmbench.tracking.tracking.print", lambda text, **_: lines.append(text), raising=False)
        (record,) = mmbench.run(
            "sasrec", datasets=open_prepared("toy", data_dir), epochs=3, floors=False, settings=SMALL, track=names,
            results_dir=results, stack="off", debug=True,
        )  # fmt: skip
    return record, "\n".join(lines)


def has(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def test_epochs_are_those_of_the_log(tracked: tuple[RunRecord, str]) -> None:
    record, _ = tracked
    begin, epochs, _ = heard_of(record)
    log = [
        json.loads(line) for line in (record.path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [(e.stage, e.epoch, e.losses, e.valid, e.seconds) for e in epochs] == [
        (line["stage"], line["epoch"], line["loss"], line["valid"], line["seconds"]) for line in log
    ]
    assert [report.step for report in epochs] == [1, 2, 3]
    assert begin.settings["hidden_dim"] == 16
    assert begin.identity["data"] == record.data_hash
    assert (begin.model, begin.seed, begin.config_id) == ("sasrec", 1, record.config_id)


def test_the_end_has_the_metrics_of_the_record(tracked: tuple[RunRecord, str]) -> None:
    record, _ = tracked
    end = heard_of(record)[2]
    assert (end.status, end.best_epoch) == ("finished", record.best_epoch)
    assert end.test == record.metrics("test")
    assert end.valid == record.metrics("valid")


def test_a_tracker_that_fails_is_one_warning_and_the_others_go_on(tracked: tuple[RunRecord, str]) -> None:
    record, shown = tracked
    assert record.status == "finished"
    assert Broken.n_calls == 2  # it is not called after its failure
    lines = shown.splitlines()
    assert sorted(lines) == [
        f"warning: tracker {BROKEN} failed, and the run continues without it: OSError: [Errno 28] No space left on "
        "device",
        f"warning: tracker {REFUSING} failed, and the run continues without it: SystemExit: no network",
    ]
    assert len(heard_of(record)[1]) == 3


def test_tensorboard_reads_what_was_written(tracked: tuple[RunRecord, str]) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record, _ = tracked
    events = EventAccumulator(str(record.path / "tensorboard"))
    events.Reload()
    _, epochs, _ = heard_of(record)
    (name,) = epochs[0].losses
    values = [(event.step, event.value) for event in events.Scalars(f"loss/{name}")]
    assert values == [(e.step, pytest.approx(e.losses[name], rel=1e-6)) for e in epochs]
    (metric,) = epochs[0].valid
    assert [event.step for event in events.Scalars(f"valid/{metric}")] == [1, 2, 3]
    (test,) = events.Scalars("test/NDCG@10")
    assert test.value == pytest.approx(record.metrics("test")["NDCG@10"], rel=1e-6)


def test_seeds_of_a_stack_are_told_apart_and_a_failed_run_says_why(toy: Prepared, tmp_path: Path) -> None:
    runs = mmbench.run(
        "bpr-mf", datasets=toy, seeds=[7, 8], stack="2", epochs=1, floors=False, track=RECORDER,
        settings={"hidden_dim": 8}, results_dir=tmp_path, data_dir=toy.data_dir,
    )  # fmt: skip
    told = [heard_of(record) for record in runs]
    assert [begin.seed for begin, _, _ in told] == [7, 8]
    assert told[0][1][0].losses != told[1][1][0].losses
    (failed,) = mmbench.run(
        "bpr-mf", datasets=toy, seeds=[9], epochs=2, floors=False, track=RECORDER,
        settings={"hidden_dim": 8, "lr": 1e35}, results_dir=tmp_path, data_dir=toy.data_dir,
    )  # fmt: skip
    end = heard_of(failed)[2]
    assert (end.status, end.reason, end.test) == ("failed", failed.reason, {})


def test_trials_of_a_search_are_tracked_without_test_targets(toy: Prepared, tmp_path: Path) -> None:
    mmbench.tune(
        "bpr-mf", datasets=toy, trials=1, sampler="random", epochs=1, track=RECORDER,
        settings={"hidden_dim": 8}, results_dir=tmp_path, data_dir=toy.data_dir,
    )  # fmt: skip
    ((title, events),) = [(title, events) for title, events in Recorder.heard.items() if "/tuning/" in title]
    assert re.fullmatch(r"toy/bpr-mf/tuning/\w{10}/trial_0/seed_1000000", title)
    begin, epoch, end = events
    assert isinstance(begin, TrackedRun)
    assert isinstance(epoch, TrackedEpoch)
    assert isinstance(end, TrackedEnd)
    assert begin.folder == next(tmp_path.glob("toy/bpr-mf/tuning/*")) / "tracked" / "trial_0" / "seed_1000000"
    assert (end.status, dict(end.test)) == ("finished", {})
    assert list(end.valid.values()) == list(epoch.valid.values())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tensorbord", "did you mean 'tensorboard'?"),
        ("no_such_module_x:Tracker", "cannot be imported: ModuleNotFoundError"),
        ("tests.runs.recording:Nothing", "has no Nothing"),
        ("tests.runs.recording:Half", r"it has no epoch\(\)"),
        ("tests.runs.recording:NUMBER", "it is int, not a class"),
    ],
)
def test_a_wrong_tracker_is_refused_before_anything_is_computed(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        mmbench.run("pop", track=name, data_dir=tmp_path, results_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spec", [None, ModuleSpec("wandb", None)], ids=["nothing", "a folder of runs"])
def test_a_tracker_without_its_package_says_what_to_install(
    spec: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    with pytest.raises(UsageError, match=r"pip install 'mmbench\[wandb\]'"):
        check_trackers(["wandb"])


def test_every_named_tracker_is_one_and_imports_its_library_when_it_is_used() -> None:
    for name in TRACKERS:
        assert isinstance(maker_of(name)(), Tracker)


def test_a_package_adds_a_tracker(tmp_path: Path) -> None:
    files = {"plug_t.py": "from tests.runs.recording import Recorder\n\n\nclass Mine(Recorder):\n    pass\n"}
    write_package(tmp_path, "plug-t", points="[mmbench.trackers]\nmine = plug_t:Mine\n", files=files)
    with on_path(tmp_path):
        check_trackers(["mine"])
        assert maker_of("mine").__name__ == "Mine"


# -- libraries that are tested where they are installed ---------------------------------------------------

RUN = {
    "title": "toy/sasrec/0123456789/seed_1", "dataset": "toy", "model": "sasrec", "config_id": "0123456789", "seed": 1,
    "settings": {"lr": 0.01, "layers": [1, 2]}, "identity": {"data": "abc", "features": {}},
}  # fmt: skip
EPOCHS = [
    TrackedEpoch(stage=0, epoch=n, step=n, seconds=1.0, losses={"ce": 5.0 - n}, valid={"NDCG@20": n / 10})
    for n in (1, 2, 3)
]
END = TrackedEnd(status="finished", best_epoch=3, valid={"NDCG@20": 0.3}, test={"HR@10": 0.25})


def interrupted_and_resumed(name: str, folder: Path) -> None:
    """Tell a tracker of a run that is interrupted after two epochs, and another of the rest of it."""
    first, second = maker_of(name)(), maker_of(name)()
    first.begin(TrackedRun(folder=folder, **RUN))  # type: ignore[arg-type]
    first.epoch(EPOCHS[0])
    first.epoch(EPOCHS[1])
    second.begin(TrackedRun(folder=folder, **RUN))  # type: ignore[arg-type]
    second.epoch(EPOCHS[2])
    second.end(END)


class Racing:
    """A client of MLflow that loses a race: another run makes the experiment between its look and its own try."""

    made: ClassVar[bool] = False
    runs: ClassVar[list[str]] = []
    opening: ClassVar[list[str]] = []

    def get_experiment_by_name(self, name: str) -> object:
        """Look, and fail as a new SQLite file does where another opens it at the same time."""
        self.opening.append(name)
        time.sleep(0.01)
        if len(self.opening) > 1:
            raise RuntimeError("table experiments already exists")
        self.opening.remove(name)
        return SimpleNamespace(experiment_id="7") if self.made else None

    def create_experiment(self, name: str) -> str:
        Racing.made = True
        raise RuntimeError(f"Experiment(name={name}) already exists")

    def search_runs(self, experiments: list[str], text: str) -> list[object]:
        return []

    def create_run(self, experiment: str, **options: object) -> object:
        self.runs.append(experiment)
        return SimpleNamespace(info=SimpleNamespace(run_id="1"))

    def log_param(self, *arguments: object) -> None: ...
    def log_dict(self, *arguments: object) -> None: ...


def test_mlflow_runs_that_begin_at_once_share_a_new_store_and_its_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=Racing))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    run = TrackedRun(folder=tmp_path, **RUN)  # type: ignore[arg-type]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda tracker: tracker.begin(run), [maker_of("mlflow")() for _ in range(3)]))
    assert Racing.runs == ["7", "7", "7"]


def test_mlflow_has_one_run_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    folder = tmp_path / "someone's"
    folder.mkdir()
    interrupted_and_resumed("mlflow", folder)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("mmbench toy")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.01"
    assert run.data.metrics["test/HR_at_10"] == 0.25
    history = client.get_metric_history(run.info.run_id, "loss/ce")
    assert [(point.step, point.value) for point in history] == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_wandb_writes_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    for key, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("WANDB_SERVICE", "")  # wandb leaves one behind; it goes with the test
    monkeypatch.delenv("WANDB_SERVICE")
    tracker = maker_of("wandb")()
    tracker.begin(TrackedRun(folder=tmp_path, **RUN))  # type: ignore[arg-type]
    for report in EPOCHS:
        tracker.epoch(report)
    tracker.end(END)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert os.path.getsize(next(folder.glob("*.wandb"))) > 0
