"""Pre-training on other data sets through the command line: what a run stores, what identifies it, what cannot be."""

from pathlib import Path
from typing import Any

import pytest

from mmbench.data.store import open_prepared
from mmbench.errors import UsageError
from mmbench.runs.execute import run_cell
from mmbench.runs.plan import Cell, make_cell
from mmbench.runs.store import read_record
from mmbench.settings.config import Layer, Origin
from mmbench.training.files import TrainingFiles
from tests.killing import KilledError
from tests.prepared import add_features, cells, cli, random_histories, same_ranks, same_weights, write_toy

SETTINGS = {
    "hidden_dim": 8, "inner_dim": 8, "n_layers": 1, "n_experts": 2, "batch_size": 128, "max_epochs": 1,
    "pretrain_epochs": 3, "pretrain_on": ["other", "third"],
}  # fmt: skip
RUN = ("run", "unisrec", "missrec", "--no-floors", "--dataset", "toy", "--epochs", "1", "--stack", "off")
OF_BOTH = ("hidden_dim=8", "inner_dim=8", "batch_size=128", "pretrain_epochs=3")
OF_UNISREC = ("n_layers=1", "n_experts=2", "pretrain_on=other,third")


def command() -> list[str]:
    chosen = [*OF_BOTH, *(f"unisrec.{text}" for text in OF_UNISREC)]
    return [*RUN, *(part for text in chosen for part in ("--set", text))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three data sets, of which `toy` is trained on last."""
    folder = tmp_path_factory.mktemp("three")
    for seed, (name, n_items) in enumerate((("third", 30), ("other", 40), ("toy", 60))):
        histories = random_histories(n_items=n_items, n_users=40, seed=seed)
        write_toy(folder, name, n_items=n_items, histories=histories, created=float(seed))
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the results of the command, and the table that it printed."""
    folder = tmp_path_factory.mktemp("whole")
    done = cli(*command(), data=data, results=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def cell_of(data: Path, results: Path, seed: int = 1, **changes: Any) -> Cell:
    settings = {**SETTINGS, **changes}
    return make_cell(
        results_dir=results, prepared=open_prepared("toy", data), model="unisrec", seed=seed,
        overrides=[Layer(Origin.user, settings)],
    )  # fmt: skip


def test_the_row_and_the_record_say_what_a_run_was_pre_trained_on(
    data: Path, whole: tuple[Path, str]
) -> None:
    folder, table = whole
    line = " ".join(table.split())
    assert "pre-trained on other, third (UniSRec" in line
    assert "none (MISSRec" in line
    records = {record.model: record for record in map(read_record, cells(folder))}
    sources = records["unisrec"].sources
    assert [(source.name, source.data) for source in sources] == [
        (name, open_prepared(name, data).hash) for name in ("other", "third")
    ]
    assert [sorted(source.features) for source in sources] == [["text"], ["text"]]
    assert records["missrec"].sources == []
    assert records["unisrec"].n_epochs == 4


def test_a_run_that_is_killed_in_its_pre_training_ends_with_the_same_weights(
    data: Path, whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, log, left = cell_of(data, tmp_path), TrainingFiles.log, [2]

    def killed(files: TrainingFiles, line: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KilledError
        log(files, line)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingFiles, "log", killed)
        with pytest.raises(KilledError):
            run_cell(cell, debug=True)
    assert (cell.path / "train.jsonl").read_text(encoding="utf-8").count("\n") == 1, (
        "it was killed in the second of three epochs"
    )
    done = cli(*command(), data=data, results=tmp_path)
    assert done.returncode == 0, done.stderr
    (other,) = [path for path in cells(whole[0]) if "unisrec" in path.parts]
    assert other.relative_to(whole[0]) == cell.path.relative_to(tmp_path)
    assert same_weights(cell.path, other)
    assert same_ranks(cell.path, other)


def test_the_content_of_other_data_sets_is_part_of_a_configuration(data: Path, tmp_path: Path) -> None:
    for name, n_items in (("toy", 60), ("other", 40), ("third", 30)):
        write_toy(
            tmp_path, name, n_items=n_items, histories=random_histories(n_items=n_items, n_users=40, seed=9)
        )
    write_toy(tmp_path, "toy", n_items=60, histories=random_histories(n_items=60, n_users=40, seed=2))
    first, second = cell_of(data, tmp_path), cell_of(tmp_path, tmp_path)
    assert first.protocol == second.protocol, "the run's own data are the same"
    assert first.config_id != second.config_id
    assert first.input_identities.keys() == {"text", "pre-training on other", "pre-training on third"}
    ids = {first.config_id}
    for names in (["third", "other"], ["other"], ["target"], []):
        ids.add(cell_of(data, tmp_path, pretrain_on=names).config_id)
    assert len(ids) == 5
    add_features(open_prepared("other", tmp_path), "text", "toy", dim=12)
    assert cell_of(tmp_path, tmp_path).config_id == second.config_id, "the same features made again"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["nowhere"], r"data set 'nowhere' is not prepared in .*; run: mmbench prepare nowhere"),
        (
            ["toy"],
            r"pretrain_on: toy is the run's own data set, whose test items it holds; pretrain_on = \[.target",
        ),
        (["toy@random:1"], r"pretrain_on: toy@random:1 is the run's own data set"),
        (["copy"], r"pretrain_on: copy has the same content as toy, the run's own"),
        (
            ["bare"],
            r"bare has no text features toy, which toy is read with; run: mmbench extract bare --text toy",
        ),
        (
            ["wide"],
            r"text features toy of wide are 20 wide, those of toy 12 wide; extract both with the same encoder",
        ),
        (
            ["newer"],
            r"text features toy of newer and of toy come from different versions of the encoder; run: mmb",
        ),
        (["wide", "wide"], r"pretrain_on names wide twice; name each data set once"),
        (["target", "wide"], r"the run's own data set and goes with no others; leave it or them out"),
        ([""], r"pretrain_on has an empty name"),
    ],
)
def test_what_cannot_be_pre_trained_on_is_one_line(
    names: list[str], reason: str, misfits: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        cell_of(misfits, tmp_path, pretrain_on=names)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def misfits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("misfits")
    few = {"n_items": 30, "histories": random_histories(n_items=30, n_users=20)}
    write_toy(folder, "toy", **few)  # type: ignore[arg-type]
    write_toy(folder, "copy", **few)  # type: ignore[arg-type]
    for number, name in enumerate(("bare", "wide", "newer"), start=1):
        histories = random_histories(n_items=30, n_users=20, seed=number)
        other = write_toy(folder, name, n_items=30, histories=histories, features=False)
        if name == "wide":
            add_features(other, "text", "toy", dim=20)
        if name == "newer":
            add_features(other, "text", "toy", dim=12, seed=1)
    return folder


def test_the_command_ends_with_one_line(misfits: Path, tmp_path: Path) -> None:
    done = cli(
        "run", "unisrec", "--dataset", "toy", "--set", "pretrain_on=toy", data=misfits, results=tmp_path
    )
    assert done.returncode in (1, 2)
    assert len(done.error_lines) == 1
    assert "pretrain_on: toy is the run's own data set" in done.stderr
