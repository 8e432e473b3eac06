"""Experiment files: read strictly, written so that they mean the same, run with the table that they ask for."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.errors import UsageError
from mmbench.runs.experiment_file import (
    ExperimentFile,
    ReportOptions,
    Tuning,
    as_toml,
    read_experiment_file,
    write_experiment_file,
)
from tests.prepared import cells

KEYS = st.text("abcdefgh_", min_size=1, max_size=8)
VALUES = st.one_of(st.integers(-9, 10**6), st.floats(1e-6, 1.0), st.booleans(), st.text(max_size=12))
NAMES = st.sampled_from(["sasrec", "hm4sr:-tmoe", "tmmsrec:np", "a.b c"])


@settings(max_examples=60, deadline=None)
@given(
    models=st.lists(NAMES, min_size=1, max_size=3),
    seeds=st.one_of(st.integers(1, 20), st.lists(st.integers(1, 99), min_size=1, max_size=4).map(tuple)),
    shared=st.dictionaries(KEYS, st.one_of(VALUES, st.lists(VALUES, max_size=3)), max_size=3),
    single=st.dictionaries(NAMES, st.dictionaries(KEYS, VALUES, min_size=1, max_size=2), max_size=2),
    top=st.integers(0, 3),
)
def test_what_is_written_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    models: list[str],
    seeds: Any,
    shared: dict[str, Any],
    single: dict[str, Any],
    top: int,
) -> None:
    experiment = ExperimentFile(
        models=tuple(models), datasets=("demo",), seeds=seeds, settings={**shared, **single},
        tuning=Tuning(study="abc" * top), report=ReportOptions(top=top, metrics=("HR@5",) * top, notes=top > 1),
    )  # fmt: skip
    file = write_experiment_file(tmp_path_factory.mktemp("x"), experiment)
    assert file.name == "experiment.toml"
    assert read_experiment_file(file) == experiment
    flat = {f"{model}.{key}": value for model, table in single.items() for key, value in table.items()}
    assert experiment.flat_settings == {**shared, **flat}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modles = ['sasrec']", "did you mean 'models'"),
        ("models = ['sasrec']\n[report]\nmetrisc = ['HR@5']", r"\[report\]: .*did you mean 'metrics'\?$"),
        ("models = ['sasrec']\n[tuning]\ntuend = true", r"\[tuning\]: .*did you mean 'tuned'\?$"),
        ("models = ['sasrec']\nseeds = '3,5'", "seeds: must be an integer or a list"),
        ("models = ['sasrec']\nseeds = [1, 'x']", r'seeds\.1: must be an integer \(got "x"\)'),
        ("models = 'sasrec'", "models: "),
        ("models = []", "names no model"),
        ("seeds = 3", "models is missing"),
        ("models = ['sasrec']\nseeds = '3'", "seeds"),
        ("models = ['sasrec']\nepochs = true", "epochs"),
        ("models = ['sasrec']\n[report]\ntest = 'wilcox'", "test"),
        ("models = ['sasrec']\n[settings]\nlr = 1979-05-27", "."),
        ("models = " + "[" * 20_000, "nested too deeply"),
        ("models = [", r"Invalid value \(at end of document\); correct the file"),
    ],
)
def test_faults_are_one_line_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "exp.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        read_experiment_file(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_experiment_file(tmp_path / "exp.toml")


def test_a_value_that_toml_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="lr = none"):
        as_toml(ExperimentFile(models=("sasrec",), settings={"lr": None}))


def invoke(data: Path, results: Path, *args: str) -> str:
    done = CliRunner().invoke(
        app, ["--data-dir", str(data), "--results-dir", str(results), *args], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def without_looks(table: str) -> list[str]:
    """Return the lines of a table but that which counts how often the test targets were looked at."""
    return [line for line in table.splitlines() if "looked at" not in line]


def test_every_run_leaves_a_file_that_makes_its_table_again(data_dir: Path, tmp_path: Path) -> None:
    first = invoke(
        data_dir, tmp_path, "run", "pop", "random", "-d", "toy", "--seeds", "2-3", "--no-floors",
        "--set", "random.max_len=7",
    )  # fmt: skip
    (file,) = tmp_path.glob("experiments/*/experiment.toml")
    before = {cell: (cell / "run.json").stat().st_mtime_ns for cell in cells(tmp_path)}
    assert len(before) == 3
    again = invoke(data_dir, tmp_path, "run", str(file))
    assert without_looks(again) == without_looks(first)
    assert {cell: (cell / "run.json").stat().st_mtime_ns for cell in cells(tmp_path)} == before
    assert list(tmp_path.glob("experiments/*/*")) == [file]  # the same experiment is one file
    invoke(data_dir, tmp_path / "other", "run", str(file))  # and on another machine
    assert {cell.relative_to(tmp_path / "other") for cell in cells(tmp_path / "other")} == {
        cell.relative_to(tmp_path) for cell in before
    }


def test_the_table_is_that_of_the_file(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "exp.toml"
    file.write_text(
        "models = ['pop', 'itemknn']\ndatasets = ['toy']\nfloors = false\n"
        "[report]\nmetrics = ['HR@7']\ntests = false\nsort = 'name'\n",
        encoding="utf-8",
    )
    text = invoke(data_dir, tmp_path / "results", "run", str(file))
    assert "HR@7" in text
    assert "NDCG@10" not in text
    assert "Compared" not in text
    assert text.index("ItemKNN") < text.index("Pop")


@pytest.mark.parametrize("option", [("--seeds", "2"), ("--no-floors",), ("--set", "lr=1"), ("-d", "toy")])
def test_a_file_and_options_do_not_contradict_each_other(tmp_path: Path, option: tuple[str, ...]) -> None:
    (tmp_path / "exp.toml").write_text("models = ['pop']", encoding="utf-8")
    with pytest.raises(UsageError, match=r"exp\.toml says what is run"):
        invoke(tmp_path, tmp_path, "run", str(tmp_path / "exp.toml"), *option)
    with pytest.raises(UsageError, match="either models or a single experiment file"):
        invoke(tmp_path, tmp_path, "run", str(tmp_path / "exp.toml"), "sasrec")


def test_models_or_a_file_with_the_same_content_have_one_estimate(data_dir: Path, tmp_path: Path) -> None:
    file, small = tmp_path / "exp.toml", "hidden_dim = 16\ninner_dim = 16\n"
    file.write_text(f"models = ['sasrec']\nseeds = 3\nepochs = 4\n[settings]\n{small}", encoding="utf-8")
    sets = [f"--set={line.replace(' ', '')}" for line in small.splitlines()]
    named = invoke(data_dir, tmp_path / "r", "estimate", "sasrec", "--seeds", "3", "--epochs", "4", *sets)
    read = invoke(data_dir, tmp_path / "r", "estimate", str(file))
    facts = r"sasrec +toy +(\d+ of \d+) +[\d.]+ s +(\d+) +[\d:]+ +([\d,]+)"
    assert re.findall(facts, named) == re.findall(facts, read) == [("3 of 3", "4", "4,560")]
    assert "pop" in named
    assert not (tmp_path / "r").exists()
    with pytest.raises(UsageError, match=r"--epochs: .*exp\.toml says what is run"):
        invoke(data_dir, tmp_path, "estimate", str(file), "--epochs", "2")
