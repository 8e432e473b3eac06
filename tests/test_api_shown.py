"""The Python interface: stored runs and tables, and how a notebook shows them.

Run: python -m pytest tests/test_api_shown.py
"""

import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mmbench
from mmbench.errors import DataError, ProtocolMismatchError, UsageError
from mmbench.evaluation.metrics import parse_metric
from mmbench.reporting.report import Report
from mmbench.reporting.runs import FACTS, Runs
from mmbench.runs.facts import data_facts
from tests.prepared import cells, cli, random_histories, shown_alike, write_toy
from tests.reporting.conftest import fake_run, paper_like


@pytest.fixture(scope="module")
def results(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs, of a trained model and of a floor."""
    folder = tmp_path_factory.mktemp("results")
    settings = {"hidden_dim": 16, "inner_dim": 16, "batch_size": 64, "sasrec.lr": 0.002}
    mmbench.run(
        ["sasrec", "pop"], datasets="toy", seeds=2, epochs=1, floors=False, settings=settings,
        data_dir=data_dir, results_dir=folder,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up results of two data sets, with a failed run."""
    folder = tmp_path_factory.mktemp("made") / "results"
    paper_like(folder, seeds=3, datasets=("aa", "bb"))
    fake_run(folder, "hm4sr", dataset="aa", seed=9, skill=1.2, reason="100% of <memory> & more used")
    return folder


# -- load and report ----------------------------------------------------------------------------------------


def test_the_table_is_what_the_command_prints(made: Path, tmp_path: Path) -> None:
    for arguments, options in (
        ({}, []),
        (
            {"metrics": ["HR@20", "mrr"], "compare": "sasrec", "test": "users", "correction": "bh"},
            ["--metric", "HR@20", "--metric", "mrr", "--compare", "sasrec", "--test", "users", "--correction", "bh"],
        ),
        (
            {"datasets": ["bb", "aa"], "models": "hm4sr", "split": "valid", "mask_seen": "train"},
            ["-d", "bb", "-d", "aa", "-m", "hm4sr", "--split", "valid", "--mask-seen", "train"],
        ),
        (
            {"metrics": "Recall@5", "ties": "pessimistic", "test": "wilcoxon", "correction": "none"},
            ["--metric", "Recall@5", "--ties", "pessimistic", "--test", "wilcoxon", "--correction", "none"],
        ),
    ):  # fmt: skip
        report = mmbench.report(mmbench.load(results_dir=made), **arguments)  # type: ignore[arg-type]
        assert shown_alike(str(report), cli("report", *options, results=made).stdout)
        for fmt in ("markdown", "latex", "html", "csv", "json"):
            printed = cli("report", *options, "--format", fmt, results=made).stdout
            assert shown_alike(getattr(report, f"to_{fmt}")(), printed), fmt


def test_runs_are_chosen_as_with_the_command(made: Path) -> None:
    runs = mmbench.load(datasets="aa", models=["sasrec", "pop"], results_dir=made)
    assert {(run.dataset, run.model) for run in runs} == {("aa", "sasrec"), ("aa", "pop")}
    chosen = mmbench.load(settings={"max_epochs": 100, "lr": [0.001, "1e-3"]}, results_dir=made)
    assert [run.path for run in chosen] == [run.path for run in mmbench.load(results_dir=made)]
    printed = cli(
        "report", "--set", "max_epochs=100", "--set", "mask_seen=none", "--set", "mask_seen=none", results=made
    ).stdout  # fmt: skip
    asked = mmbench.load(settings={"max_epochs": 100, "mask_seen": ["none", "none"]}, results_dir=made)
    assert shown_alike(str(mmbench.report(asked)), printed)
    assert "Only runs with max_epochs=100, mask_seen=none or none." in printed
    assert "Only runs" in str(mmbench.report(asked[:4]))


def test_a_run_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    paper_like(tmp_path, seeds=2)
    (path,) = (tmp_path / "toys" / "sasrec").glob("*/seed_1")
    (path / "run.json").write_text("{")
    runs = mmbench.load(results_dir=tmp_path)
    (line,) = runs.left_out
    assert str(path) in line
    assert f"left out: {line}" in repr(runs)
    assert str(path) in runs._repr_html_()
    told = cli("report", results=tmp_path)
    assert told.stderr == f"warning: left out of the table: {line}\n"
    with pytest.raises(DataError, match="damaged"):
        mmbench.load(models="sasrec", results_dir=_alone(path, tmp_path))


def _alone(path: Path, results: Path) -> Path:
    """Leave only one run in a results folder."""
    for other in cells(results):
        if other != path:
            (other / "run.json").unlink()
    return results


def test_rankings_that_cannot_be_read_are_told_with_the_table(tmp_path: Path) -> None:
    paper_like(tmp_path, seeds=2)
    (path,) = (tmp_path / "toys" / "sasrec").glob("*/seed_1")
    (path / "rankings" / "test.npz").write_bytes(b"")
    runs = mmbench.load(results_dir=tmp_path)
    report = mmbench.report(runs)
    told = cli("report", results=tmp_path)
    assert len(report.left_out) == 1
    assert shown_alike(str(report), told.stdout + told.stderr)
    assert "left out of the table: " in report._repr_html_()
    assert "unreadable" in repr(runs)
    with pytest.raises(DataError, match="damaged"):
        runs.to_frame()


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no results": (lambda made: mmbench.load(results_dir=made / "x"), "no results in .*; make some"),
    "model": (lambda made: mmbench.load(models="sasrc", results_dir=made), "did you mean 'sasrec'"),
    "data set": (lambda made: mmbench.load(datasets="aaa", results_dir=made), "did you mean 'aa'"),
    "setting": (lambda made: mmbench.load(settings={"lrr": 1}, results_dir=made), "--set lrr: .*'lr'"),
    "value": (lambda made: mmbench.load(settings={"lr": 9}, results_dir=made), "--set lr=9: no run has"),
    "row": (lambda made: report_of(made, compare="hm4s"), "--compare: unknown row 'hm4s'; did you mean"),
    "model of these runs": (lambda made: report_of(made, models="gru4rek"), "'gru4rec'.*among these runs"),
    "metric": (lambda made: report_of(made, metrics="NDGC@10"), "unknown metric 'NDGC'"),
    "test": (lambda made: report_of(made, test="wilcox"), "--test: unknown test 'wilcox'; did you mean"),
    "correction": (lambda made: report_of(made, correction="hulm"), "--correction: .*'holm'"),
    "split": (lambda made: report_of(made, split="tset"), "--split: .*did you mean 'test'"),
    "ties": (lambda made: report_of(made, ties="expectd"), "--ties: .*did you mean 'expected'"),
    "mask": (lambda made: report_of(made, mask_seen="tran"), "--mask-seen: .*did you mean 'train'"),
    "no run": (lambda made: mmbench.report([]), "there are no results to report"),
}  # fmt: skip


def report_of(made: Path, **arguments: Any) -> Report:
    return mmbench.report(mmbench.load(results_dir=made), **arguments)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_loaded_or_shown_is_one_line(name: str, made: Path) -> None:
    call, said = REFUSED[name]
    with pytest.raises(UsageError, match=said) as error:
        call(made)
    assert "\n" not in str(error.value)


def test_runs_of_two_protocols_share_no_table(tmp_path: Path) -> None:
    fake_run(tmp_path, "sasrec")
    fake_run(tmp_path, "hm4sr", protocol={"min_user": 10})
    with pytest.raises(ProtocolMismatchError, match="min_user is 10 against 5"):
        mmbench.report(mmbench.load(results_dir=tmp_path))


def test_only_runs_on_the_data_as_they_are_now(results: Path, data_dir: Path, tmp_path: Path) -> None:
    kept = mmbench.load(current_data=True, results_dir=results, data_dir=data_dir)
    assert [run.path for run in kept] == cells(results)
    assert "Only runs with the data as prepared now." in str(mmbench.report(kept))
    with pytest.raises(UsageError, match=r"--current-data: .*not prepared"):
        mmbench.load(current_data=True, results_dir=results, data_dir=tmp_path)


# -- what is shown ------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Checks that what is opened is closed, and collects texts by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))


def test_a_notebook_shows_the_table_and_keeps_its_own_looks(made: Path) -> None:
    shown = Tags(mmbench.report(mmbench.load(results_dir=made))._repr_html_())
    texts = [text for _, text in shown.texts]
    assert texts.count("NDCG@10") == 2
    assert {"HM4SR", "SASRec", "GRU4Rec", "Pop"} <= {text for tag, text in shown.texts if tag == "th"}
    assert any("100% of <memory> & more used" in text for text in texts)
    (style,) = (text for tag, text in shown.texts if tag == "style")
    rules = [rule.split("{")[0] for rule in style.split("}") if rule.strip()]
    assert len(rules) > 15
    for selector in (word.strip() for rule in rules for word in rule.split(",")):
        assert selector.startswith(".mmbench-report"), selector


def test_a_notebook_shows_runs_escaped(made: Path, tmp_path: Path) -> None:
    fake_run(
        tmp_path, "pop", dataset="a<i>b", settings={"text_encoder": "<script>"}, chosen=("text_encoder",)
    )
    html = mmbench.load(results_dir=tmp_path)._repr_html_()
    assert "<i>" not in html
    assert "<script>" not in html
    texts = [text for _, text in Tags(html).texts]
    assert {"a<i>b", "text_encoder=<script>"} <= set(texts)
    runs = mmbench.load(results_dir=made)
    lines = repr(runs).splitlines()
    assert len(lines) == 1 + len(runs) == 1 + 2 * 10 + 1
    assert sum("failed: 100% of <memory> & more used" in line for line in lines) == 1


def test_long_lists_of_runs_are_cut_and_counted(tmp_path: Path) -> None:
    for seed in range(1, 64):
        fake_run(tmp_path, "random", seed=seed, reason="x")
    runs = mmbench.load(results_dir=tmp_path)
    assert len(runs) == len(runs.to_frame()) == 63
    assert repr(runs).splitlines()[-1] == "... and 3 more runs; to_frame() has all"
    assert runs._repr_html_().count("<tr>") == 61


def test_a_frame_of_runs_has_facts_settings_and_metrics(results: Path) -> None:
    runs = mmbench.load(results_dir=results)
    frame = runs.to_frame(["HR@10", "mrr"])
    chosen = ["batch_size", "hidden_dim", "inner_dim", "lr", "max_epochs"]
    metrics = ["valid HR@10", "valid MRR", "test HR@10", "test MRR"]
    assert list(frame.columns) == [*FACTS, *chosen, *metrics]
    assert len(frame) == len(runs) == 3
    for (_, row), run in zip(frame.iterrows(), runs, strict=True):
        assert (row["path"], row["seed"], row["config_id"]) == (str(run.path), run.seed, run.config_id)
        assert row["lr"] == run.settings["lr"].value
        for split in ("valid", "test"):
            values = parse_metric("HR@10").values(run.ranks(split))  # type: ignore[arg-type]
            assert row[f"{split} HR@10"] == values.mean() == run.metrics(split, ["HR@10"])["HR@10"]  # type: ignore[arg-type]
    assert frame.loc[frame["model"] == "sasrec", "hidden_dim"].tolist() == [16, 16]
    assert list(runs.to_frame(["HR@5"], splits=["test"]).columns)[-1:] == ["test HR@5"]


def test_a_frame_of_runs_has_metrics_that_read_the_data_set(results: Path, data_dir: Path) -> None:
    runs = mmbench.load(results_dir=results)
    frame = runs.to_frame(["HR@10", "Novelty@10", "HR-debiased@10"], splits="test", data_dir=data_dir)
    for (_, row), run in zip(frame.iterrows(), runs, strict=True):
        facts = data_facts(run, "test", data_dir)
        for name in ("Novelty@10", "HR-debiased@10"):
            expected = parse_metric(name).value(run.ranking("test"), run.mask_seen, facts=facts)
            assert row[f"test {name}"] == expected
    with pytest.raises(UsageError, match=r"runs\.to_frame has it"):
        runs[0].metrics("test", "Novelty@10")


def test_a_setting_with_the_name_of_a_fact_takes_no_column(tmp_path: Path) -> None:
    fake_run(tmp_path, "mine", seed=4, settings={"seed": 77}, chosen=("seed",))
    frame = mmbench.load(results_dir=tmp_path).to_frame([])
    assert (frame["seed"].tolist(), frame["setting seed"].tolist()) == ([4], [77])


def test_a_frame_of_a_table_has_the_columns_and_values_of_the_csv(made: Path) -> None:
    report = mmbench.report(mmbench.load(results_dir=made))
    frame = report.to_frame()
    text = {"mean": str, "std": str}  # not every pandas reads the nearest double
    csv = pd.read_csv(
        io.StringIO(report.to_csv()), keep_default_na=False, na_values={"place": ""}, dtype=text
    )
    assert list(frame.columns) == list(csv.columns)
    for column in ("dataset", "model", "row", "config", "metric", "n", "footnote"):
        assert frame[column].tolist() == csv[column].tolist(), column
    for column in ("mean", "std"):
        numbers = [float(number or "nan") for number in csv[column]]
        np.testing.assert_allclose(frame[column].astype(float), numbers, rtol=1e-15)
    for column in ("floor", "leaky", "synthetic"):
        assert frame[column].astype(int).tolist() == csv[column].tolist()
    assert frame["place"].tolist() == csv["place"].fillna(0).astype(int).tolist()
    wide = frame.pivot(index="row", columns=["dataset", "metric"], values="mean")
    assert wide.loc["HM4SR", ("aa", "NDCG@10")] == wide["aa", "NDCG@10"].max()


def test_runs_are_a_sequence(made: Path) -> None:
    runs = mmbench.load(results_dir=made)
    assert isinstance(runs[2:5], Runs)
    assert list(runs[2:5]) == [runs[2], runs[3], runs[4]]
    assert runs[-1] in runs
    assert repr(runs[0]) == f"<run of {runs[0].model} on aa, seed {runs[0].seed}, finished; {runs[0].path}>"


# -- questions about runs -----------------------------------------------------------------------------------


def test_knockout_power_and_why_answer_as_the_commands_do(results: Path, data_dir: Path) -> None:
    runs = mmbench.load(results_dir=results)
    sasrec = [run for run in runs if run.model == "sasrec"]
    (row,) = mmbench.knockout(sasrec, "history=1", data_dir=data_dir, device="cpu")
    values = [parse_metric("NDCG@10").values(run.ranks("test")) for run in sasrec]
    assert row.drops[0].intact == pytest.approx(np.mean(values), abs=1e-12)
    folders: dict[str, Any] = {"data": data_dir, "results": results}
    shown = cli("knockout", *(run.path for run in sasrec), "--what", "history=1", **folders).stdout
    assert f"{row.drops[0].drop:.4f}".replace("0.", ".") in shown
    resolved = mmbench.power(runs, "toy", metric="HR@10", a="sasrec")
    assert resolved is not None
    assert [contrast.b.model for contrast in resolved.contrasts] == ["pop"]
    shown = cli("power", "--dataset", "toy", "--metric", "HR@10", "--a", "sasrec", **folders).stdout
    assert f"{resolved.contrasts[0].users.smallest:.4f}".replace("0.", ".") in shown
    reasons = mmbench.why(*sasrec, results_dir=results)
    assert [field.name for field in reasons.fields] == ["seed"]
    with pytest.raises(UsageError, match="did you mean"):
        mmbench.knockout(sasrec, "imagee", data_dir=data_dir)


def test_a_catalogue_of_five_items_has_a_table(tmp_path: Path) -> None:
    """Its default metrics are those whose cutoffs it has; a larger cutoff that is asked for is refused."""
    for n_items, columns in ((5, ["NDCG@5", "MRR@5"]), (4, ["NDCG@4", "MRR@4", "HR@4"])):
        name = f"few-{n_items}"
        write_toy(
            tmp_path, name, n_items=n_items, histories=random_histories(n_items=n_items), features=False
        )
        world = {"data": tmp_path, "results": tmp_path / name}
        done = cli("run", "pop", "--no-floors", "--dataset", name, **world)
        assert done.returncode == 0, done.stderr
        assert f"valid {columns[0]} " in done.stderr
        listed = cli("runs", **world)
        assert listed.returncode == 0, listed.stderr
        shown = cli("runs", "show", *cells(tmp_path / name), **world)
        assert shown.returncode == 0, shown.stderr
        report = mmbench.report(mmbench.load(results_dir=tmp_path / name), data_dir=tmp_path)
        assert [str(column.metric) for column in report.table.columns] == columns
    refused = cli("report", "--metric", "HR@10", **world)
    assert (refused.returncode, "HR@10: K must be in 1..4" in refused.stderr) == (2, True)
