"""`mmbench report` with real processes on a made-up results folder.

Run: python -m pytest tests/reporting/test_cli_report.py
"""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from mmbench import __version__
from tests.prepared import Outcome, cli, write_toy
from tests.reporting.conftest import fake_run, paper_like


def mmbench(*args: str, results: Path, **env: str) -> Outcome:
    return cli(*args, results=results, env={"COLUMNS": "60", **env}, cwd=results.parent)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report") / "results"
    paper_like(root, seeds=3, datasets=("aa", "bb"))
    return root


def test_the_table_goes_to_stdout_unwrapped(folder: Path) -> None:
    done = mmbench("report", "--table", results=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    hm4sr = next(line for line in done.stdout.splitlines() if line.startswith("HM4SR"))
    assert hm4sr.count(" ± ") == 10  # one line although COLUMNS is 60
    assert "p (t, Holm of 30)" in done.stdout
    assert "\x1b" not in done.stdout


def test_choices_of_data_sets_models_and_metrics(folder: Path) -> None:
    done = mmbench(
        "report", "-d", "bb", "-m", "sasrec", "-m", "pop", "--metric", "recall@20", "--metric", "MRR", "-f", "csv",
        results=folder,
    )  # fmt: skip
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(line["dataset"], line["model"], line["metric"]) for line in lines] == [
        ("bb", "sasrec", "Recall@20"), ("bb", "sasrec", "MRR"), ("bb", "pop", "Recall@20"), ("bb", "pop", "MRR"),
    ]  # fmt: skip


def test_tests_and_corrections_reach_the_table(folder: Path) -> None:
    done = mmbench(
        "report", "--compare", "sasrec", "--test", "users", "--correction", "bh", "--format", "json", "-d", "aa",
        results=folder,
    )  # fmt: skip
    content = json.loads(done.stdout)
    assert (content["unit"], content["correction"], content["compare"]) == ("user", "bh", "SASRec")
    worse = next(
        comparison
        for comparison in content["comparisons"]
        if comparison["against"] == "HM4SR" and comparison["metric"] == "HR@10"
    )
    assert worse["outcome"]["direction"] == "worse"


def test_output_file_takes_the_format_of_its_suffix(folder: Path, tmp_path: Path) -> None:
    done = mmbench("report", "--output", str(tmp_path / "new" / "table.tex"), results=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "wrote " in done.stderr
    assert r"\begin{tabular}" in (tmp_path / "new" / "table.tex").read_text(encoding="utf-8")
    mmbench("report", "-f", "markdown", "-o", str(tmp_path / "table.txt"), results=folder)
    assert (tmp_path / "table.txt").read_text(encoding="utf-8").startswith("| Model")


def test_a_file_says_what_made_it_and_a_short_one_does_not(folder: Path, tmp_path: Path) -> None:
    for name, options in (("page.html", ()), ("table.md", ()), ("brief.md", ("--brief",))):
        assert mmbench("report", *options, "-o", str(tmp_path / name), results=folder).returncode == 0
    for name in ("page.html", "table.md"):
        text = " ".join((tmp_path / name).read_text(encoding="utf-8").split())
        assert f"by mmbench {__version__} on 20" in text
        assert "report -o " in text
    assert "by mmbench" not in (tmp_path / "brief.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-m", "sasrex"], "unknown model 'sasrex'; did you mean 'sasrec'?"),
        (["-d", "bbb"], "unknown data set 'bbb'; did you mean 'bb'?"),
        (["--metric", "NDGC@10"], "unknown metric 'NDGC'; did you mean 'NDCG'?"),
        (["--metric", "HR@0"], "must be a whole number >= 1"),
        (["--metric", "HR@1000"], "HR@1000: K must be in 1..200"),
        (["--compare", "hm4s"], "--compare: unknown row 'hm4s'; did you mean 'hm4sr'?"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(folder: Path, args: list[str], said: str) -> None:
    done = mmbench("report", *args, results=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_unknown_option_values_name_the_known_ones(folder: Path) -> None:
    for option in ("--test", "--format", "--correction", "--split", "--ties"):
        done = mmbench("report", option, "nonsense", results=folder)
        assert done.returncode == 2
        assert option in done.stderr


def test_no_results_says_what_to_run(tmp_path: Path) -> None:
    for root in (tmp_path / "absent", tmp_path):
        done = mmbench("report", results=root)
        assert done.returncode == 2
        assert "no results in" in done.stderr
        assert "mmbench run sasrec pop --seeds 3" in done.stderr


def test_a_combination_without_results_is_said(tmp_path: Path) -> None:
    fake_run(tmp_path / "r", "sasrec", dataset="aa")
    fake_run(tmp_path / "r", "hm4sr", dataset="bb")
    done = mmbench("report", "-d", "aa", "-m", "hm4sr", results=tmp_path / "r")
    assert done.returncode == 2
    assert "hm4sr has no results on aa" in done.stderr


def test_another_protocol_is_refused_in_one_line(tmp_path: Path) -> None:
    fake_run(tmp_path / "r", "sasrec")
    fake_run(tmp_path / "r", "hm4sr", protocol={"min_user": 10})
    done = mmbench("report", results=tmp_path / "r")
    assert done.returncode == 1
    assert "min_user is 10 against 5" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_one_side_of_two_protocols_is_chosen(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for mask in ("none", "train"):
        for model in ("sasrec", "pop"):
            fake_run(root, model, config_id=mask, protocol={"mask_seen": mask})
    refused = mmbench("report", results=root)
    assert (refused.returncode, "mmbench report --set mask_seen=none or" in refused.stderr) == (1, True)
    done = mmbench("report", "--set", "mask_seen=train", results=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Only runs with mask_seen=train." in done.stdout
    for args, said in (
        (["mask_sen=none"], "did you mean 'mask_seen'?"),
        (["mask_seen=input"], "--set mask_seen=input: no run has this value; stored: none, train"),
        (["mask_seen"], "write it as KEY=VALUE"),
    ):
        wrong = mmbench("report", "--set", *args, results=root)
        assert (wrong.returncode, len(wrong.stderr.splitlines()), said in wrong.stderr) == (2, 1, True)


def test_runs_on_the_data_as_prepared_now(tmp_path: Path) -> None:
    now = write_toy(tmp_path / "data", "toy", features=False).hash
    root, data = tmp_path / "r", {"MMBENCH_DATA": str(tmp_path / "data")}
    for config_id, data_hash in (("old", "d0" * 32), ("new", now)):
        fake_run(root, dataset="toy", config_id=config_id, data_hash=data_hash)
    fake_run(root, dataset="gone")
    refused = mmbench("report", results=root, **data)
    assert (refused.returncode, "mmbench report --current-data" in refused.stderr) == (1, True)
    done = mmbench("report", "--current-data", "-f", "json", results=root, **data)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: left out of the table: data set 'gone' is not prepared")
    assert len(done.stderr.splitlines()) == 1
    content = json.loads(done.stdout)
    assert [dataset["name"] for dataset in content["datasets"]] == ["toy"]
    assert content["datasets"][0]["data_hash"] == now
    write_toy(tmp_path / "data", "toy", features=False, seed=3)
    none = mmbench("report", "--current-data", "-d", "toy", results=root, **data)
    assert (none.returncode, len(none.stderr.splitlines())) == (2, 1)
    assert "no run on toy was made with the data as it is prepared now; run the models again" in none.stderr


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    record = fake_run(tmp_path / "r")
    (record.path / "run.json").write_text("{", encoding="utf-8")
    done = mmbench("report", results=tmp_path / "r")
    assert done.returncode == 1
    assert "run.json is damaged (" in done.stderr


def test_a_damaged_record_is_left_out_with_a_line_or_was_not_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for model in ("pop", "sasrec"):
        for seed in (1, 2):
            fake_run(root, model, seed=seed)
    damaged = next((root / "toys" / "sasrec").glob("*/seed_2"))
    (damaged / "run.json").write_text("{", encoding="utf-8")

    other = mmbench("report", "-m", "pop", results=root)
    assert (other.returncode, other.stderr) == (0, "")
    for args in (["report"], ["report", "-m", "sasrec", "-m", "pop"], ["--quiet", "report", "-d", "toys"]):
        done = mmbench(*args, results=root)
        assert done.returncode == 0, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"warning: left out of the table: {damaged / 'run.json'} is damaged (")
        assert line.endswith(
            f"; remove {damaged}, or choose another --results-dir, and run it again: mmbench run"
        )
        assert all(name in done.stdout for name in ("SASRec", "Pop"))


def test_only_a_damaged_record_of_what_was_asked_for_is_the_error(tmp_path: Path) -> None:
    fake_run(tmp_path / "r", "pop")
    record = fake_run(tmp_path / "r", "hm4sr:-tmoe")
    (record.path / "run.json").write_text("[]", encoding="utf-8")
    done = mmbench("report", "-m", "hm4sr:-tmoe", results=tmp_path / "r")
    assert (done.returncode, done.stdout) == (1, "")
    assert "run.json is damaged (" in done.stderr
    assert "unknown" not in done.stderr


def test_copies_inside_the_results_count_once_and_both_folders_are_named(tmp_path: Path) -> None:
    root = tmp_path / "r"
    runs = [fake_run(root, seed=seed) for seed in (1, 2)]
    alone = mmbench("report", "-f", "json", results=root)
    run, configuration = runs[0].path, runs[0].path.parent
    copies = {
        run: run.with_name("seed_1_backup"),
        runs[1].path: run.with_name("seed_2 (conflicted copy 2026-01-01)"),
        configuration: configuration.with_name(f"{configuration.name} - Copy"),
        root / "toys": root / "toys-old",
    }
    for source, copy in copies.items():
        shutil.copytree(source, copy)
    done = mmbench("report", "-f", "json", results=root)
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, json.loads(alone.stdout)["rows"])
    lines = done.stderr.splitlines()
    assert all(line.startswith("warning: left out of the table: ") for line in lines)
    for copy, own in (
        (copies[run], run), (copies[runs[1].path], runs[1].path), (copies[configuration] / run.name, run),
    ):  # fmt: skip
        assert any(f"{copy} holds a copy of {own}; a run counts once" in line for line in lines), lines


def test_a_run_in_a_renamed_folder_is_named_with_the_folder_that_it_belongs_in(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "r", seed=1)
    run.path.rename(run.path.with_name("seed_7"))
    done = mmbench("report", results=tmp_path / "r")
    assert done.returncode == 1
    assert f"seed_7 holds another run, that of {run.path}; a run counts once" in done.stderr


def test_results_of_the_first_version_are_refused_with_the_command(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "r")
    first = {"format": 1, "dataset": "toys", "model": "sasrec", "seed": 0, "settings": {}}
    (run.path / "run.json").write_text(json.dumps(first), encoding="utf-8")
    done = mmbench("report", results=tmp_path / "r")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "run.json was written by another version of mmbench (format 1, not 2)" in done.stderr
    assert "and run it again: mmbench run" in done.stderr


def test_an_output_that_cannot_be_written_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    done = mmbench("report", "-o", str(tmp_path / "file" / "table.md"), results=folder)
    assert done.returncode == 1
    assert "cannot write" in done.stderr


def test_help_shows_examples_and_defaults(tmp_path: Path) -> None:
    done = mmbench("report", "--help", results=tmp_path, COLUMNS="120")
    assert done.returncode == 0
    assert "mmbench report --format csv > results.csv" in done.stdout
    assert "NDCG@5 NDCG@10" in done.stdout
