"""What comes with a bundle besides its runs: ledgers of searches, and the code of a model that is not ours."""

import json
import zipfile
from pathlib import Path

import pytest

from mmbench.board.checks import has_fault
from mmbench.board.entries import entries_of_bundles
from mmbench.board.writing import write_bundle
from mmbench.data.store import Prepared
from mmbench.errors import DataError
from mmbench.runs.store import RunRecord, read_record
from mmbench.tuning.ledger import TRIALS, Ledger
from mmbench.tuning.records import Plan, Trial
from tests.board.making import checked, rebuilt
from tests.cli.forks import Command, run_all
from tests.models.test_registry import write_own
from tests.reporting.conftest import fake_run
from tests.runs.test_rerank import BY_TEXT, RECIPE, finished

# -- searches ---------------------------------------------------------------------------------------------


def searched_run(root: Path, *, reason: str = "") -> RunRecord:
    """A run with the settings of the best of three trials, one of which failed."""
    record = fake_run(root, "sasrec", settings={"lr": 0.01}, chosen=("lr",), best_epoch=0)
    plan = Plan(
        dataset=record.dataset, model=record.model, metric="NDCG@10", sampler="random", unit="trials", n_seeds=1,
        prunes=False, space={"lr": {"own": 0.001, "searched": {"values": [0.001, 0.01], "source": "test"}}},
        fixed={}, protocol=record.protocol, features={},
    )  # fmt: skip
    ledger = Ledger.open(root, plan)
    for number, (lr, value) in enumerate([(0.001, 0.1), (0.01, 0.2)]):
        ledger.record(
            Trial(
                number=number, status="finished", values={"lr": lr}, value=value, n_parameters=1, seconds=60.0
            )
        )
    ledger.record(Trial(number=2, status="failed", values={"lr": 0.01}, reason=reason or "not finite"))
    return read_record(record.path)


def test_ledgers_travel_and_say_the_budget(tmp_path: Path) -> None:
    record = searched_run(tmp_path / "results")
    bundle = tmp_path / "tuned.mmb.zip"
    write_bundle(record.path.parent, bundle)
    _, checks = checked(bundle)
    assert checks["tuning"].text == "1 search, 3 trials"
    (entry,) = entries_of_bundles(tmp_path, on_left_out=lambda each: pytest.fail(each.reason))
    assert entry.budget == "3 trials, 2.0 min"


def test_a_ledger_that_holds_a_path_stays_at_home(tmp_path: Path) -> None:
    record = searched_run(tmp_path / "results", reason="no space in /home/eve/results")
    written = write_bundle(record.path.parent, tmp_path / "tuned.mmb.zip")
    assert not any(name.startswith("tuning/") for name in written.manifest.files)
    assert any("it holds the path /home/eve/results" in note for note in written.notes)


def test_a_trial_that_somebody_changed_is_found(tmp_path: Path) -> None:
    record = searched_run(tmp_path / "results")
    bundle = tmp_path / "tuned.mmb.zip"
    write_bundle(record.path.parent, bundle)

    def change(folder: Path) -> None:
        (file,) = folder.glob(f"tuning/*/{TRIALS}")
        lines = file.read_text(encoding="utf-8").splitlines()
        first = json.loads(lines[0])
        file.write_text("\n".join([json.dumps({**first, "value": 0.9}), *lines[1:]]) + "\n")

    _, checks = checked(rebuilt(bundle, tmp_path / "forged.mmb.zip", change))
    assert checks["tuning"].status == "fault"
    assert "does not have the hash" in checks["tuning"].text


# -- models -----------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_own(tmp_path / "own", code=BY_TEXT, recipe=RECIPE, stem="by_text")
    monkeypatch.setenv("MMBENCH_MODELS", str(folder))
    return folder


def test_a_model_travels_and_runs_only_when_it_is_trusted(
    toy: Prepared, own: Path, data_dir: Path, tmp_path: Path
) -> None:
    record = finished(toy, tmp_path / "results", "by-text")
    bundle = tmp_path / "own.mmb.zip"
    write_bundle(record.path.parent, bundle, with_weights=True)
    with zipfile.ZipFile(bundle) as archive:
        assert {"model/by_text.py", "model/by_text.toml"} <= set(archive.namelist())
        assert archive.read("model/by_text.py").decode() == BY_TEXT
    arguments = ["verify", bundle, "--rescore", "--device", "cpu"]
    elsewhere = {"MMBENCH_MODELS": ""}
    refused, trusted = run_all([
        Command(arguments, data_dir, tmp_path, elsewhere),
        Command([*arguments, "--trust-code"], data_dir, tmp_path, elsewhere),
    ])  # fmt: skip
    assert (refused.returncode, len(refused.error_lines)) == (2, 1)
    assert "read it, then add --trust-code" in refused.stderr
    assert trusted.returncode == 0, trusted.stdout + trusted.stderr
    assert trusted.stdout.endswith("level: re-scored\n")


def test_other_code_than_ran_is_not_bundled(toy: Prepared, own: Path, tmp_path: Path) -> None:
    record = finished(toy, tmp_path / "results", "by-text")
    (own / "by_text.py").write_text(BY_TEXT + "\n# changed\n")
    with pytest.raises(DataError, match="the model's files changed since the runs"):
        write_bundle(record.path.parent, tmp_path / "own.mmb.zip")


def test_other_code_than_ran_is_not_trusted(toy: Prepared, own: Path, data_dir: Path, tmp_path: Path) -> None:
    record = finished(toy, tmp_path / "results", "by-text")
    bundle = tmp_path / "own.mmb.zip"
    write_bundle(record.path.parent, bundle, with_weights=True)
    forged = rebuilt(
        bundle, tmp_path / "forged.mmb.zip",
        lambda folder: (folder / "model" / "by_text.py").write_text(BY_TEXT + "\n# changed\n"),
    )  # fmt: skip
    assert not has_fault(list(checked(forged)[1].values()))
    arguments = ["verify", forged, "--rescore", "--trust-code", "--device", "cpu"]
    (done,) = run_all([Command(arguments, data_dir, tmp_path, {"MMBENCH_MODELS": ""})])
    assert done.returncode == 2
    assert "is not the code that the runs recorded" in done.error_lines[-1]


def test_code_that_holds_a_path_is_refused_with_its_line(toy: Prepared, own: Path, tmp_path: Path) -> None:
    code = BY_TEXT + '\nWEIGHTS = "/home/eve/weights/bert.bin"\n'
    (own / "by_text.py").write_text(code)
    record = finished(toy, tmp_path / "results", "by-text")
    line = code.splitlines().index('WEIGHTS = "/home/eve/weights/bert.bin"') + 1
    with pytest.raises(DataError, match=rf"line {line}: holds the path /home/eve/weights/bert\.bin"):
        write_bundle(record.path.parent, tmp_path / "own.mmb.zip")
