"""`mmbench run`, `train` and `evaluate` as a user types them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmbench.choices import RULES
from mmbench.evaluation.metrics import parse_metric
from mmbench.runs.shelves import FOLDER
from mmbench.runs.store import Selection, read_record, write_rankings
from mmbench.settings.config import Origin, Setting
from mmbench.training.checkpoint import hash_tensors, load_tensors
from tests.models.test_registry import write_own
from tests.prepared import SMALL, cells, cli, finish, same_ranks, shown_alike, start, start_anew

RUN = ("run", "sasrec", "hm4sr", "--dataset", "toy", "--seeds", "2", "--epochs", "2", *SMALL)


CELLS = [
    "ease",
    "hm4sr",
    "hm4sr",
    "itemknn",
    "pop",
    "random",
    "random",
    "recent-pop",
    "repeat-last",
    "rp3beta",
]


CELLS += ["sasrec", "sasrec"]


@pytest.fixture(scope="module")
def results(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which RUN was run; tests add to it but change nothing in it."""
    folder = tmp_path_factory.mktemp("results")
    done = cli(*RUN, data=data_dir, results=folder)
    assert done.returncode == 0, done.stderr
    (folder / "first.out").write_text(done.stdout)
    (folder / "first.err").write_text(done.stderr)
    (folder / "first.cells").write_text(" ".join(cell.parents[1].name for cell in cells(folder)))
    return folder


def test_a_run_computes_every_cell_and_prints_the_table(results: Path) -> None:
    assert (results / "first.cells").read_text(encoding="utf-8").split() == CELLS
    table, progress = (
        (results / "first.out").read_text(encoding="utf-8"),
        (results / "first.err").read_text(encoding="utf-8"),
    )
    floors = ("Pop", "Recent-pop", "Random", "Repeat-last", "ItemKNN", "RP3beta", "EASE")
    for name in ("SASRec", "HM4SR", *floors, "NDCG@10", "synthetic"):
        assert name in table
    assert "SASRec [4 settings]" in table
    assert "4 settings of SASRec: batch_size=64, hidden_dim=16, inner_dim=16, max_epochs=2" in table
    for part in (
        "[1/12] sasrec on toy, seed 1: epoch 2/2  ce ",
        "valid NDCG@10 0.",
        "finished hm4sr on toy, seed 2",
    ):
        assert part in progress
    assert "epoch 1" not in table


def test_records_hold_what_decided_and_what_happened(results: Path) -> None:
    record = read_record(next((results / "toy" / "hm4sr").glob("*/seed_2")))
    assert (record.status, record.seed, record.synthetic, record.n_epochs) == ("finished", 2, True, 2)
    assert record.settings["hidden_dim"] == Setting(16, Origin.user)
    assert record.settings["max_epochs"] == Setting(2, Origin.user)
    assert record.settings["max_len"] == Setting(10, Origin.protocol, "toy")
    assert record.selection == Selection(
        "NDCG@10", max(point["NDCG@10"] for point in record.curve), record.best_epoch
    )
    assert {"text", "image"} == record.features.keys()
    assert len(record.data_hash) == 64
    assert record.environment["code"]["source_hash"]
    assert record.environment["device"] == "cpu"
    assert record.environment["threads"] == 1
    assert record.n_parameters > 1000
    assert record.peak_memory["host"] > 10**7
    assert [point["epoch"] for point in record.curve] == [1, 2]
    assert {"train", "valid", "rank_valid", "rank_test", "epoch"} <= record.seconds.keys()
    lines = (record.path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert record.curve[-1]["NDCG@10"] == json.loads(lines[-1])["valid"]["NDCG@10"]
    names = {file.name for file in record.path.iterdir()}
    assert names == {"run.json", "rankings", "train.jsonl", "best.safetensors", "cell.lock"}
    assert {file.name for file in (record.path / "rankings").iterdir()} == {"valid.npz", "test.npz"}
    made_by = record.ranking("test").made_by
    tensors = load_tensors(record.path / "best.safetensors")[0]
    weights = {name.removeprefix("model/"): tensor for name, tensor in tensors.items()}
    assert (made_by.data, made_by.weights) == (record.data_hash, hash_tensors(weights))
    assert record.ranking("test").list_length == 20
    assert record.ranking("valid").lists == {}


def test_the_stored_ranks_give_the_validation_curve_s_best(results: Path) -> None:
    """The best epoch's validation value, from the stored ranks of the best checkpoint."""
    for cell in cells(results):
        record = read_record(cell)
        if record.curve:
            best = max(point["NDCG@10"] for point in record.curve)
            value = parse_metric("NDCG@10").values(record.ranks("valid")).mean()
            assert value == pytest.approx(best, abs=1e-12)


def test_the_same_command_skips_all_and_names_them(results: Path, data_dir: Path) -> None:
    before = {cell: (cell / "run.json").stat().st_mtime_ns for cell in cells(results)}
    again = cli(*RUN, data=data_dir, results=results)
    assert again.returncode == 0
    assert shown_alike(again.stdout, (results / "first.out").read_text(encoding="utf-8"))
    skipped = [line for line in again.stderr.splitlines() if line.startswith("already finished: ")]
    assert len(skipped) == len(CELLS)
    assert "already finished: sasrec on toy, seed 2" in skipped
    assert "epoch" not in again.stderr
    assert {cell: (cell / "run.json").stat().st_mtime_ns for cell in cells(results)} == before


def test_two_jobs_give_the_same_ranks(results: Path, data_dir: Path, tmp_path: Path) -> None:
    """Also with a user's own model, which the workers must find, and with the main module, which they import."""
    out = tmp_path / "results"
    process = start_anew(
        "--models-dir", write_own(tmp_path / "models"), "run", "sasrec", "random", "my-line", "--no-floors",
        "--seeds", "2", "--epochs", "2", *SMALL, "--jobs", "2", data=data_dir, results=out,
    )  # fmt: skip
    done = finish(process)
    assert done.returncode == 0, done.stderr
    assert [cell.parents[1].name for cell in cells(out)] == [
        "my-line",
        "random",
        "random",
        "sasrec",
        "sasrec",
    ]
    for cell in cells(out)[1:]:
        assert same_ranks(cell, results / cell.relative_to(out)), cell


def test_two_runs_at_once_share_the_work(results: Path, data_dir: Path, tmp_path: Path) -> None:
    both = [start(*RUN, data=data_dir, results=tmp_path) for _ in range(2)]
    done = [finish(process) for process in both]
    assert [record.returncode for record in done] == [0, 0], [record.stderr for record in done]
    computed = [
        line.split(":")[0]
        for record in done
        for line in record.stderr.splitlines()
        if line.startswith("finished ")
    ]
    assert len(computed) == len(set(computed)) == len(CELLS), "a cell was computed twice or not at all"
    first = (results / "first.out").read_text(encoding="utf-8")
    assert all(shown_alike(process.stdout, first) for process in done)
    assert len(cells(tmp_path)) == len(CELLS)
    for cell in cells(tmp_path):
        assert same_ranks(results / cell.relative_to(tmp_path), cell), cell


def test_dry_run_shows_and_computes_nothing(results: Path, data_dir: Path) -> None:
    before = [path for path in sorted(results.rglob("*")) if FOLDER not in path.parts]
    done = cli(*RUN, "--seeds", "1,3", "--dry-run", data=data_dir, results=results)
    assert done.returncode == 0
    states = [line.split()[0] for line in done.stdout.splitlines()]
    assert sorted(states) == ["finished"] * 9 + ["missing"] * 3
    assert [path for path in sorted(results.rglob("*")) if FOLDER not in path.parts] == before


def test_train_then_evaluate(results: Path, data_dir: Path) -> None:
    done = cli(
        "train", "sasrec:official", "--seed", "4", "--epochs", "1", *SMALL, data=data_dir, results=results
    )
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    record = read_record(path)
    assert (record.model, record.seed, record.n_epochs) == ("sasrec:official", 4, 1)
    stored = {
        file.name: file.read_bytes() for file in path.iterdir() if file.is_file() and file.name != "run.json"
    }
    before = {part: record.ranking(part) for part in ("valid", "test")}
    for file in (path / "rankings").iterdir():
        file.unlink()
    shown = cli(
        "evaluate", path, "--metric", "HR@20", "--metric", "mrr", "--metric", "coverage@5",
        data=data_dir, results=results,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert lines[0] == ["run", "split", "HR@20", "MRR", "Coverage@5"]
    for line, part in zip(lines[1:], ("valid", "test"), strict=True):
        after = record.ranking(part)
        assert after.n_different(before[part]) == 0
        value = parse_metric("HR@20").value(after, "none")
        assert line[:3] == [str(path), part, f"{value:.6f}"]
    listed = len(np.unique(before["test"].lists["none"].items[:, :5])) / 60
    assert [line[4] for line in lines[1:]] == ["n/a", f"{listed:.6f}"]
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.name in stored} == stored
    again = read_record(path).environment.pop("ranked_again")
    assert again["code"] == record.environment["code"]
    greater, equal = before["test"].counts["train"]
    moved = replace(
        before["test"], counts={**before["test"].counts, "train": ((greater + 1) % 60, 0 * equal)}
    )
    write_rankings(path, [moved])
    told = cli("evaluate", path, data=data_dir, results=results)
    assert f"{path}: {len(before['test'].user)} ranks differ from those stored before" in told.stderr


def test_another_masking_rule_is_printed_and_every_rule_is_stored(results: Path, data_dir: Path) -> None:
    path = next(cell for cell in cells(results) if "sasrec" in cell.parts)
    record, found = read_record(path), {}
    for rule in RULES:
        for rescore in ("--rescore", "--no-rescore"):
            shown = cli(
                "evaluate",
                path,
                "--mask-seen",
                rule,
                rescore,
                "--metric",
                "HR@20",
                data=data_dir,
                results=results,
            )
            assert shown.returncode == 0, shown.stderr
            lines = [line.split("\t") for line in shown.stdout.splitlines()[1:]]
            assert [line[1] for line in lines] == ["valid", "test"]
            value = parse_metric("HR@20").value(record.ranking("test"), rule)
            assert lines[1][2] == f"{value:.6f}"
        found[rule] = value
    assert found["none"] < found["train"] <= found["input"]


def test_members_of_an_ensemble_are_ranked_alone_too(results: Path, data_dir: Path) -> None:
    first = ("sasrec-ensemble", "--epochs", "1", "--set", "hidden_dim=8")
    done = cli("train", *first, data=data_dir, results=results)
    assert done.returncode == 0, done.stderr
    record = read_record(Path(done.stdout.strip()))
    members = record.extra["members"]
    assert sorted(members) == ["id", "image", "text"]
    shown = cli("evaluate", record.path, "--metric", "NDCG@10", data=data_dir, results=results)
    lines = dict(line.split("\t")[1:] for line in shown.stdout.splitlines()[1:])
    assert set(lines) == {"valid", "test"} | {f"{a}~part={b}" for a in ("valid", "test") for b in members}
    for name, value in lines.items():
        ranking = record.ranking(name)
        assert value == f"{parse_metric('NDCG@10').value(ranking, 'none'):.6f}"
        assert (ranking.spread or 0) > 0 or "~" not in name
    assert len(set(lines.values())) > 4


def test_quiet_prints_the_table_only(results: Path, data_dir: Path) -> None:
    done = cli("--quiet", *RUN, data=data_dir, results=results)
    assert done.stderr == ""
    assert shown_alike(done.stdout, (results / "first.out").read_text(encoding="utf-8"))


def test_a_damaged_cell_is_computed_again(results: Path, data_dir: Path, tmp_path: Path) -> None:
    args = ("run", "random", "--seeds", "2", "--no-floors")
    assert cli(*args, data=data_dir, results=tmp_path).returncode == 0
    first, two = cells(tmp_path)
    whole = json.loads((first / "run.json").read_text(encoding="utf-8"))
    (two / "rankings" / "valid.npz").write_bytes(b"PK")
    for damage in ("no record", {**whole, "environment": None}, {**whole, "seed": 2}):
        (first / "run.json").write_text(json.dumps(damage))
        done = cli(*args, data=data_dir, results=tmp_path)
        assert (done.returncode, "finished random on toy, seed 1" in done.stderr) == (0, True), done.stderr
        assert ("computed again: random on toy, seed 2" in done.stderr) is (damage == "no record")
    for cell in (first, two):
        expected = next(path for path in cells(results) if path.parts[-4:] == cell.parts[-4:])
        assert same_ranks(cell, expected)
