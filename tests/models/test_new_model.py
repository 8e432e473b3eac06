"""`mmbench new-model`: what it writes keeps the contract, and nothing is written over.

Run: python -m pytest tests/models/test_new_model.py
"""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.contract.report import check_model
from mmbench.contract.subject import of_toy
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.models.new_model import write_model

READS = {"plain": (), "with-text": ("text",), "with-image": ("image",), "with-both": ("image", "text")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a new model of each kind."""
    folder = tmp_path_factory.mktemp("new") / "models"
    for name, reads in READS.items():
        write_model(name, folder, reads=reads)
    return folder


@pytest.mark.parametrize("name", ["plain", "with-both"])
def test_what_is_written_passes_every_check(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_MODELS", str(folder))
    findings = list(check_model(of_toy(name)))
    assert [finding.check for finding in findings if finding.status != "holds"] == ["shift"]


@pytest.mark.parametrize("name", ["with-text", "with-image"])
def test_a_new_model_reads_what_was_asked_for_and_nothing_else(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMBENCH_MODELS", str(folder))
    assert registry.find(name).recipe.inputs == ("item", *READS[name])
    names = ("recipe", "scores", "features", "gradients")
    findings = list(check_model(of_toy(name), names=names))
    assert [finding.status for finding in findings] == ["holds"] * len(names)


def test_a_new_model_works_on_data_without_features(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_MODELS", str(folder))
    subject = of_toy("with-both")
    without = replace(subject.catalog, text_feat=None, has_text=None, image_feat=None, has_image=None)
    assert not list(subject.make(catalog=without).features.parameters())


@pytest.mark.parametrize(
    "name", ["4rec", "My-Model", "my_model", "class", "-x", "x y", "", "../x", "überm", "a.b"]
)
def test_what_python_cannot_import_names_no_model(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot name a model"):
        write_model(name, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_nearest_name_is_offered(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"for example my-gru\)"):
        write_model("My_GRU", tmp_path / "models")


@pytest.mark.parametrize(("name", "why"), [("sasrec", "exists already"), ("external-x", "other programs")])
def test_a_name_that_is_taken_is_refused(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        write_model(name, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("file", ["mine.py", "mine.toml"])
def test_no_file_is_written_over(file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("precious")
    with pytest.raises(UsageError, match=f"{file} exists and is not written over"):
        write_model("mine", tmp_path)
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["precious"]


def test_the_command_says_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMBENCH_MODELS", raising=False)
    done = CliRunner().invoke(app, ["new-model", "mine", "--reads", "text"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "wrote my-models/mine.py",
        "wrote my-models/mine.toml",
        "next: mmbench --models-dir my-models check mine",
    ]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["mine", "--reads", "sound"], "sound"),
        (["mine", "--models-dir", "a", "--models-dir", "b"], "2 folders of models are named"),
        (["mine", "--models-dir", "file"], "file is a file"),
    ],
)
def test_a_wrong_command_is_refused(
    args: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMBENCH_MODELS", "")
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["new-model", *args])
    assert isinstance(done.exception, UsageError)
    assert why in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
