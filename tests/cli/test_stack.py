"""`mmbench run --stack`: seeds trained as one, as a user types it. Without dropout they must be the seeds alone."""

from pathlib import Path

import pytest

from mmbench.runs.store import read_record
from mmbench.training.checkpoint import load_tensors
from tests.models.test_registry import OWN, RECIPE, write_own
from tests.prepared import SMALL, cells, cli, kill_group, same_counts, start, wait_for

CALM = (
    "--set", "dropout=0", "--set", "attn_dropout=0", "--set", "precision=float64", "--set", "adam_eps=1e-4",
)  # fmt: skip
RUN = (
    "run", "sasrec", "gru4rec", "--no-floors", "--dataset", "toy", "--seeds", "3", "--epochs", "4", *SMALL, *CALM,
)  # fmt: skip
TRAINED = """
    def loss(self, batch):
        import os; from pathlib import Path
        flag = Path(os.environ["MMBENCH_MODELS"]) / "died"
        if self.training and not flag.exists():
            flag.touch(); os.kill(os.getpid(), 9)
        return {"ce": -self.line.log_softmax(0)[batch.target - 1].mean()}
"""


@pytest.fixture(scope="module")
def alone(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = cli(*RUN, "--stack", "off", data=data_dir, results=folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same(found: Path, alone: Path) -> None:
    assert [cell.relative_to(found) for cell in cells(found)] == [
        cell.relative_to(alone) for cell in cells(alone)
    ]
    for cell, other in zip(cells(found), cells(alone), strict=True):
        assert same_counts(cell, other), cell
        a, b = read_record(cell), read_record(other)
        assert (a.status, a.best_epoch, a.n_epochs, a.stopped) == (
            "finished",
            b.best_epoch,
            b.n_epochs,
            b.stopped,
        )
        assert (cell / "train.jsonl").read_text(encoding="utf-8").count("\n") == a.n_epochs
        assert load_tensors(cell / "best.safetensors")[1]["epoch"] == a.best_epoch
        assert {file.name for file in cell.iterdir()} == {file.name for file in other.iterdir()}


def test_a_stack_gives_the_cells_of_single_runs_and_says_which_seeds_it_held(
    alone: Path, data_dir: Path, tmp_path: Path
) -> None:
    done = cli(*RUN, "--stack", "2", data=data_dir, results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, alone)
    held = {
        (record.model, record.seed): record.environment.get("stack")
        for record in map(read_record, cells(tmp_path))
    }
    assert [held["sasrec", seed] for seed in (1, 2, 3)] == [[1, 2], [1, 2], None]
    assert {held["gru4rec", seed] for seed in (1, 2, 3)} == {None}
    assert "[1-2/6] sasrec on toy, seeds 1, 2: epoch 4/4  ce " in done.stderr
    assert "(best 0." in done.stderr
    assert "mean of 2 seeds)" in done.stderr
    note = "gru4rec on toy, seeds 1, 2: trained seed after seed: its loss is not computed for several models at once"
    assert note in done.stderr
    assert "Warning:" not in done.stderr


def test_a_killed_stack_is_finished_by_the_same_command(alone: Path, data_dir: Path, tmp_path: Path) -> None:
    for n_lines in (2, 7):
        process = start(*RUN, "--stack", "3", data=data_dir, results=tmp_path)
        wait_for(
            lambda n=n_lines: (
                sum(f.read_text(encoding="utf-8").count("\n") for f in tmp_path.rglob("train.jsonl")) >= n
            )
        )
        kill_group(process)
    done = cli(*RUN, "--stack", "3", data=data_dir, results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, alone)


def test_stacks_are_dealt_to_workers_and_outlive_one(alone: Path, data_dir: Path, tmp_path: Path) -> None:
    """A worker dies while it trains a stack of three: its cells are tried again one by one."""
    code = OWN.replace("trainable = False\n    deterministic = True", "deterministic = False") + TRAINED
    code = code.replace(
        "    def score", "    def __init__(self, config, catalog):\n        super().__init__(config, catalog)\n"
        "        self.line = torch.nn.Parameter(torch.zeros(self.n_items))\n\n    def score",
    ).replace("(self.config.slope * torch.arange(self.n_items))", "(self.config.slope * self.line)")  # fmt: skip
    models = write_own(tmp_path / "models", code=code, recipe=RECIPE.replace('"floor"', '"general"'))
    done = cli(
        "run", "my-line", *RUN[1:], "--stack", "3", "--jobs", "2", data=data_dir, results=tmp_path / "out",
        env={"MMBENCH_MODELS": str(models)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (models / "died").exists()
    found = [read_record(cell) for cell in cells(tmp_path / "out")]
    assert [record.model for record in found] == ["gru4rec"] * 3 + ["my-line"] * 3 + ["sasrec"] * 3
    assert {record.status for record in found} == {"finished"}
    assert not list((tmp_path / "out").rglob("begun"))
    why = "trained seed after seed: its loss is not computed for several models at once"
    assert [record.environment["notes"] for record in found[:3]] == [[why]] * 3
    assert done.stderr.count(f"gru4rec on toy, seed 1: {why}") == 1, "a worker's notes come with its records"
    for cell in cells(alone):
        assert same_counts(cell, tmp_path / "out" / cell.relative_to(alone))


def test_a_wrong_stack_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    done = cli(*RUN, "--stack", "many", data=data_dir, results=tmp_path)
    assert done.returncode != 0
    assert done.error_lines == ["error: --stack many: must be auto, off or a number of seeds"]
