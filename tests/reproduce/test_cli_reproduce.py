"""`mmbench reproduce` as a user types it, on the toy data and a made-up paper.

Run: python -m pytest tests/reproduce/test_cli_reproduce.py
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.cli.requested import parse_sets
from mmbench.data.store import open_prepared
from mmbench.errors import MmbenchError
from mmbench.runs.schedule import finished, plan
from tests.prepared import SMALL, Outcome, cells, cli, shown_alike, write_toy

RUN = ("--seeds", "2", "--epochs", "1", *SMALL)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@dataclass(frozen=True)
class World:
    """Folders of a call; `here` runs in this process, which is quicker, `process` as a user does."""

    data: Path
    papers: Path
    results: Path

    def process(self, *args: str | Path) -> Outcome:
        env = {"MMBENCH_PAPERS": str(self.papers)}
        return cli("reproduce", *args, data=self.data, results=self.results, env=env)

    def here(self, *args: str | Path) -> Outcome:
        folders = ["--data-dir", str(self.data), "--results-dir", str(self.results)]
        env = {"MMBENCH_PAPERS": str(self.papers), "NO_COLOR": "1", "TERM": "dumb"}
        done = CliRunner().invoke(app, [*folders, "reproduce", *map(str, args)], env=env)
        if done.exception is None or isinstance(done.exception, SystemExit):
            return Outcome(done.exit_code, done.stdout, done.stderr)
        assert isinstance(done.exception, MmbenchError), done.exception
        return Outcome(done.exception.exit_code, done.stdout, f"{done.stderr}\nerror: {done.exception}")


@pytest.fixture
def world(data_dir: Path, papers: Path, results: Path) -> World:
    return World(data_dir, papers, results)


def test_a_table_from_nothing_and_again(world: World, tmp_path: Path) -> None:
    """Dry run, run, idempotence, the same cells as `mmbench run`, the estimate from earlier runs."""
    dry = world.here("tiny/table1", *RUN, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    lines = dry.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:5]] == [["missing", "unknown"]] * 5
    assert lines[5] == "5 runs, 0 finished, 5 missing"
    assert lines[6] == "time left: unknown, no earlier run of these models on these data sets"
    assert lines[7:] == [
        "not yet: Future, SASRec-X",
        "not prepared: amazon-home (run: mmbench prepare amazon-home)",
    ]
    assert cells(world.results) == []

    first = world.process("tiny/table1", *RUN)
    assert first.returncode == 0, first.stderr
    assert "amazon-home is not prepared; run: mmbench prepare amazon-home" in first.stderr
    assert [path.parents[1].name for path in cells(world.results)] == [
        "pop",
        "random",
        "random",
        "sasrec",
        "sasrec",
    ]
    assert str(cells(world.results)[0]) in dry.stdout
    made = {path: (path / "run.json").stat().st_mtime_ns for path in cells(world.results)}

    again = world.process("tiny/table1", *RUN)
    looks = [
        int(re.search(r"test targets of toy: looked at (\d+) times? for", shown.stdout)[1])  # type: ignore[index]
        for shown in (first, again)
    ]
    assert looks == [looks[0], looks[0] + 1]  # other tests look at the same data
    assert shown_alike(again.stdout, first.stdout)
    assert again.stderr.count("already finished: ") == 5
    assert "epoch" not in again.stderr
    assert {path: (path / "run.json").stat().st_mtime_ns for path in cells(world.results)} == made

    overrides = parse_sets([argument for argument in SMALL if argument != "--set"], epochs=1, device="cpu")
    as_run = plan(
        results_dir=world.results, datasets=[open_prepared("toy", world.data)], models=["sasrec"], seeds=[1, 2],
        overrides=overrides,
    )  # fmt: skip
    assert all(finished(cell) for cell in as_run), "not the cells that `mmbench run` makes"

    more = world.here("tiny/table1", *RUN, "--seeds", "3", "--dry-run").stdout.splitlines()
    assert [line.split()[0] for line in more[:7]] == ["finished"] * 5 + ["missing"] * 2
    assert "~0:0" in more[5]
    assert more[8].startswith("time left: about 0:0")

    as_json = world.here("tiny/table1", *RUN, "--output", tmp_path / "table.json")
    assert as_json.stdout == ""
    content = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert [row["is_registered"] for row in content["rows"]] == [True, False, True, False, True]
    assert content["seeds"] == [1, 2]


def test_a_figure_is_plotted_and_saved(world: World, tmp_path: Path) -> None:
    done = world.here("tiny/fig2", "--seeds", "2", "--output", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert "● mean" in done.stdout
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    assert names == {"tiny-fig2.csv", "tiny-fig2.png", "tiny-fig2.svg", "tiny-fig2-captions.txt"}
    wrong = world.here("tiny/fig2", "--output", tmp_path / "figure.png")
    assert (wrong.returncode, len(wrong.error_lines)) == (2, 1)
    assert "name a folder" in wrong.stderr


def test_figures_of_the_data_train_nothing(world: World, tmp_path: Path) -> None:
    before = cells(world.results)
    time = world.here("tiny/fig3", "--output", tmp_path)
    assert time.returncode == 0, time.stderr
    assert (tmp_path / "toy-over-time.svg").is_file()
    gaps = world.here("tiny/fig4")
    assert "0.00%; printed 25.00%" in gaps.stdout
    assert "i00000 and i00007: 16 times neighbours, 0 to 5.03 days; printed 1 to 2 days" in gaps.stdout
    assert cells(world.results) == before


def test_without_a_name_all_are_listed(world: World) -> None:
    done = world.here()
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert {"hm4sr/table1", "tmmsrec/fig7", "tiny/table1"} <= set(rows)
    assert rows["tiny/table1"][3:] == ["3", "of", "5", "1", "of", "2"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["tiny/tabel1"], 2, "did you mean 'tiny/table1'?"),
        (["tiny/table1", "--dataset", "toi"], 2, "did you mean 'toy'?"),
        (["tiny/table1", "--set", "hiden_dim=3"], 2, "did you mean 'hidden_dim'?"),
        (["tiny/table1", "--set", "hidden_dim=x"], 2, "hidden_dim"),
        (
            ["tiny/table1", "--set", "pop.mask_seen=train"],
            1,
            "mask_seen is train (pop) against none (random, sasrec)",
        ),
        (["tiny/table1", "--seeds", "0"], 2, "must be 1 or more"),
        (
            ["tiny/table1", "--dataset", "amazon-home"],
            1,
            "no data set is prepared; run: mmbench prepare amazon-home",
        ),
        (["tiny/fig3", "--dataset", "amazon-home"], 1, "mmbench prepare amazon-home"),
    ],
)
def test_mistakes_are_one_line(world: World, args: list[str], code: int, said: str) -> None:
    done = world.here(*args)
    assert done.returncode == code, done.stderr
    assert said in done.error_lines[-1]
    assert "Traceback" not in done.stderr


def test_another_data_set_that_cannot_be_read_is_not_in_the_way(papers: Path, tmp_path: Path) -> None:
    world = World(tmp_path / "data", papers, tmp_path / "results")
    write_toy(world.data)
    for name in ("amazon-home", "other"):
        damaged = write_toy(world.data, name, features=False).path
        (damaged / "manifest.json").write_text("{")
    asked = world.here("tiny/table1", "--dataset", "toy", "--dry-run", *RUN)
    assert (asked.returncode, asked.stderr) == (0, "")
    paper_s = world.here("tiny/table1", "--dry-run", *RUN)
    assert paper_s.returncode == 0, paper_s.stderr
    assert paper_s.stderr.count("warning: data set skipped: ") == 2
    assert "amazon-home is not prepared; run: mmbench prepare amazon-home" in paper_s.stderr
    by_name = world.here("tiny/table1", "--dataset", "amazon-home", "--dry-run", *RUN)
    assert (by_name.returncode, "manifest.json is damaged" in by_name.stderr) == (1, True)
    wrong = world.here("tiny/table1", "--dataset", "tyo", "--dry-run")
    assert (wrong.returncode, "did you mean 'toy'" in wrong.stderr) == (2, True)


def test_a_model_that_lacks_features_is_a_row_with_the_reason(papers: Path, tmp_path: Path) -> None:
    write_toy(tmp_path / "data", features=False)
    world = World(tmp_path / "data", papers, tmp_path / "results")
    done = world.here("hm4sr/table1", "--dataset", "toy", "--dry-run")
    assert "cannot run: HM4SR on toy: hm4sr reads text and image, but toy has no features" in done.stdout


def test_statistics_beside_printed_counts(world: World) -> None:
    done = world.here("hm4sr/table2", "--format", "csv")
    assert done.returncode == 0
    assert "hm4sr/table2,amazon-beauty,users,,22363,not prepared" in done.stdout
    assert "8.88" in done.stdout


def test_what_is_stored_is_shown_and_nothing_computed(data_dir: Path, papers: Path, tmp_path: Path) -> None:
    world = World(data_dir, papers, tmp_path)
    nothing = world.here("tiny/table1", *RUN, "--stored")
    assert nothing.returncode == 1
    assert nothing.error_lines[-1] == "error: tiny/table1 has no results: no finished run is stored"
    assert cells(world.results) == []
    assert world.process("tiny/table1", *RUN, "--seeds", "1", "--stack", "off").returncode == 0
    made = cells(world.results)
    (next(path for path in made if path.parents[1].name == "random") / "run.json").unlink()
    shown = world.here("tiny/table1", *RUN, "--stored")
    assert shown.returncode == 0, shown.stderr
    assert len(cells(world.results)) == len(made) - 1
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert any(line.startswith("Popular 1 .") for line in lines)
    assert "Chance – –ᵃ –ᵃ – –" in lines
    assert "no finished run is stored" in shown.stdout
