"""Global options in any place, completion, lists with commas, ranges of seeds, help: in this process."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mmbench.choices import FLOORS
from mmbench.cli import app, asking, complete
from mmbench.cli.requested import parse_seeds, read_sets
from mmbench.cli.shape import PANELS, hoisted
from mmbench.cli.words import words
from mmbench.console import SafeConsole
from mmbench.data.catalog import added_datasets
from mmbench.data.store import is_prepared
from mmbench.errors import MmbenchError, RunError, UsageError
from mmbench.models import registry
from mmbench.reporting.grid import Line, Lines, draw
from mmbench.runs.narrator import RunLines, declared_settings, epochs_done
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import Cell
from mmbench.runs.schedule import plan
from tests.prepared import write_toy
from tests.reporting.conftest import fake_run


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["run", "pop", "--results-dir", "r"], ["--results-dir", "r", "run", "pop"]),
        (["run", "--data-dir=d", "pop", "-q"], ["--data-dir=d", "-q", "run", "pop"]),
        (["--debug", "report"], ["--debug", "report"]),
        (["run", "--", "--debug"], ["run", "--", "--debug"]),
        (["run", "--dataset", "toy", "--seeds", "3"], ["run", "--dataset", "toy", "--seeds", "3"]),
        (["runs", "--results-dir"], ["--results-dir", "runs"]),
    ],
)
def test_global_options_stand_anywhere(typed: list[str], meant: list[str]) -> None:
    assert hoisted(typed) == meant


def test_a_global_option_after_the_command_is_heard(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "results")
    done = CliRunner().invoke(app, ["runs", "--columns", "path", "--results-dir", str(tmp_path / "results")])
    assert str(run.path) in done.output.replace("\n", "")


def test_every_argument_and_option_says_what_it_is() -> None:
    pending, silent = [("mmbench", typer.main.get_command(app))], []
    while pending:
        path, command = pending.pop()
        pending += [(f"{path} {name}", inner) for name, inner in getattr(command, "commands", {}).items()]
        silent += [
            f"{path} {parameter.name}" for parameter in command.params if not getattr(parameter, "help", "")
        ]
    assert not silent


def test_every_command_has_a_panel_and_help_names_no_types_of_python() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    panels = [match for match in re.findall(r"─ (\w+) ─", text) if match != "Options"]
    assert panels == list(PANELS)
    for command in (
        (),
        ("run",),
        ("report",),
        ("runs",),
        ("runs", "rm"),
        ("datasets", "stats"),
        ("reproduce",),
    ):
        shown = CliRunner().invoke(app, [*command, "--help"]).output
        assert "--help" in shown
        assert not re.search(r"<(bool|str|int|Path|path|list)", shown)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [1, 2, 3]), ("3,5,8", [3, 5, 8]), ("4-6", [4, 5, 6]), ("1, 4-5 ,9", [1, 4, 5, 9]), ("7-7", [7])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["6-4", "1-", "-", "a-b", "1-99999999", "1-3,2", "0-2", "-1-3"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


def test_two_values_of_a_setting_are_not_one() -> None:
    assert read_sets(["lr=0.1", "hm4sr.lr=0.2", "lr=0.1"]) == {"lr": 0.1, "hm4sr.lr": 0.2}
    with pytest.raises(UsageError, match=r"--set lr: 0\.1 and 0\.2; give one value"):
        read_sets(["lr=0.1", "dropout=0", "lr=0.2"])


def test_values_with_commas_are_several() -> None:
    assert words(["a, b", "c", ""]) == ["a", "b", "c"]
    assert words(None) == []


class Typed:
    """What a shell's completion knows: the global options that were typed before the word."""

    def __init__(self, **params: Any) -> None:
        self.params = params

    def find_root(self) -> "Typed":
        return self


def test_names_are_completed(data_dir: Path, tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    ctx = Typed(data_dir=str(data_dir), results_dir=str(tmp_path))
    assert complete.models(ctx, "hm4sr:-t") == ["hm4sr:-tmoe", "hm4sr:-text"] or set(
        complete.models(ctx, "hm4sr:-t")
    ) == {name for name in registry.all_names() if name.startswith("hm4sr:-t")}
    assert complete.models(ctx, "SASR")[0] == "sasrec"
    assert complete.prepared(ctx, "t") == ["toy"]
    assert "amazon-beauty" in complete.datasets(ctx, "amazon-b")
    assert "hm4sr/table1" in complete.experiments(ctx, "hm4sr/t")
    assert "tfidf-svd" in complete.encoders(ctx, "tf")
    assert complete.metrics(ctx, "NDCG@") == ["NDCG@5", "NDCG@10", "NDCG@20"]
    assert complete.runs(ctx, run.config_id[:2]) == [f"{run.config_id[:7]}/{run.seed}"]
    (tmp_path / "datasets.toml").write_text("[", encoding="utf-8")
    assert complete.datasets(Typed(data_dir=str(tmp_path)), "a") == []  # a broken catalogue completes nothing


def test_a_table_is_never_wider_than_its_screen_because_of_a_data_set_s_name() -> None:
    from rich.text import Text

    heads = tuple((f"amazon-{name}-with-a-long-name, not prepared", "NDCG@10") for name in "abcd")
    row = Line("SASRec", "3", tuple(Text(".1234") for _ in heads))
    for width in (80, 120):
        assert max(len(line.plain) for line in draw(Lines(heads, (row,)), width)) <= width


def test_data_sets_are_removed_after_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMBENCH_DATASETS", raising=False)
    write_toy(tmp_path)
    kept = write_toy(tmp_path, "toy@reverse", ties="reverse")

    def invoke(*args: str, answer: str = "") -> str:
        done = CliRunner().invoke(
            app, ["--data-dir", str(tmp_path), "datasets", *args], input=answer, catch_exceptions=False
        )
        return done.output

    with pytest.raises(UsageError, match="--yes"):
        invoke("remove", "toy")
    with pytest.raises(UsageError, match="did you mean 'toy'"):
        invoke("remove", "toyy", "--yes")
    with pytest.raises(UsageError, match="nothing was removed"):
        invoke("remove", "amazon-beauty", "--yes")
    monkeypatch.setattr(asking, "can_ask", lambda: True)
    with pytest.raises(RunError, match="nothing was removed"):
        invoke("remove", "toy", answer="n\n")
    assert is_prepared("toy", tmp_path)
    assert "removed the prepared data of toy" in invoke("remove", "toy", answer="y\n")
    assert not is_prepared("toy", tmp_path)
    assert is_prepared("toy@reverse", tmp_path)
    assert kept.path.is_dir()
    listed = invoke("list").splitlines()
    assert listed[1].split()[:2] == ["toy@reverse", "prepared"]


def test_an_added_table_is_removed_and_the_others_stay(tmp_path: Path) -> None:
    from tests.data.raw_files import AMAZON_2014, write_toml

    file = write_toml(tmp_path, AMAZON_2014)
    second = tmp_path / "second.toml"
    second.write_text(file.read_text(encoding="utf-8").replace("[mine", "[other"), encoding="utf-8")
    data = tmp_path / "data"
    for source in (file, second):
        CliRunner().invoke(
            app, ["--data-dir", str(data), "datasets", "add", str(source)], catch_exceptions=False
        )
    before = added_datasets(data)
    assert set(before) == {"mine", "other"}
    CliRunner().invoke(
        app, ["--data-dir", str(data), "datasets", "remove", "mine", "--yes"], catch_exceptions=False
    )
    assert added_datasets(data) == {"other": before["other"]}


def test_an_interrupted_run_says_where_it_is(toy: Any, tmp_path: Path) -> None:
    cell: Cell = plan(
        results_dir=tmp_path,
        datasets=[toy],
        models=["sasrec"],
        seeds=[1],
        overrides=Overrides.of({}, epochs=9),
    )[0]
    lines: list[str] = []
    view = RunLines(lines.append)
    view.planned(cell, None)
    cell.path.mkdir(parents=True)
    (cell.path / "train.jsonl").write_text("{}\n{}\n{}", encoding="utf-8")
    view.planned(cell, None)  # without a state there is nothing to resume from
    (cell.path / "resume.safetensors").write_bytes(b"x")
    assert epochs_done(cell.path) == 2  # a kill cut the last line short
    view.planned(cell, None)
    view.begins([cell], 1, 1)
    assert [line.partition("missing")[2].strip() for line in lines[:2]] == [str(cell.path)] * 2
    assert [line.partition("missing")[0].split() for line in lines[:2]] == [[], []]
    assert lines[2].endswith("interrupted at epoch 2 of 9")
    assert lines[3] == "resuming sasrec on toy, seed 1 at epoch 3"


MACHINE = "text for programs, which stays as it is"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_remark_on_a_terminal_is_broken_at_blanks(is_terminal: bool) -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=is_terminal, width=24, color_system=None)
    console.print("  run: mmbench datasets stats amazon-beauty@random:1")
    console.print("prints\ntwo lines")
    console.print(MACHINE, soft_wrap=True)
    expected = ["  run: mmbench datasets", "stats", "amazon-beauty@random:1"]
    whole = ["  run: mmbench datasets stats amazon-beauty@random:1"]
    assert out.getvalue().splitlines() == [
        *(expected if is_terminal else whole),
        "prints",
        "two lines",
        MACHINE,
    ]


def test_a_sweep_s_cells_say_what_they_sweep(toy: Any, tmp_path: Path) -> None:
    swept = Overrides(swept={"n_layers": 3}, declared={"dropout": 0.1})
    (cell,) = plan(results_dir=tmp_path, datasets=[toy], models=["sasrec"], seeds=[1], overrides=swept)
    assert declared_settings(cell) == ["dropout=0.1", "n_layers=3"]


def test_models_in_any_case_and_lists_with_commas_reach_a_run(data_dir: Path, tmp_path: Path) -> None:
    base = ["--data-dir", str(data_dir), "--results-dir", str(tmp_path), "run", "--dry-run"]
    done = CliRunner().invoke(
        app, [*base, "SASRec,gru4rec", "-d", "toy,toy", "--seeds", "2-3"], catch_exceptions=False
    )
    cells = {tuple(line.split("/")[-3::2]) for line in done.stdout.splitlines() if "seed_" in line}
    assert {cell for cell in cells if cell[0] not in FLOORS} == {
        (model, f"seed_{seed}") for model in ("sasrec", "gru4rec") for seed in (2, 3)
    }
    with pytest.raises(MmbenchError, match="did you mean 'lr'"):
        CliRunner().invoke(
            app, [*base, "sasrec", "-d", "toy", "--set", "learning_rate=1"], catch_exceptions=False
        )
