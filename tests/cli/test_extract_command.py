"""`mmbench extract` with a network: options, lines, one-line errors. In this process: torch is slow to import."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.errors import MmbenchError
from mmbench.features.store import load_features
from tests.features.local_models import save_bert
from tests.features.toy import items, prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extract")
    prepare(folder, items(9))
    save_bert(folder / "models" / "small-bert")
    return folder


def extract(data: Path, *options: str) -> str:
    """What the command prints; its error is raised."""
    arguments = ["--data-dir", str(data), "extract", "toy", "--image", "none", *options]
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, MmbenchError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_model_of_ones_own(data: Path) -> None:
    prepared = prepare(data, items(9))
    options = ("--text", f"{data / 'models' / 'small-bert'}+layers", "--float16", "--batch-size", "4",
               "--device", "cpu", "--precision", "float32")  # fmt: skip
    printed = extract(data, *options)
    assert "text small-bert+layers: 9 of 9 items (100.0%); 3 layers of 32 dimensions; " in printed
    assert " items/s; " in printed
    stored = load_features(prepared, "text", "small-bert+layers")
    assert (stored.values.shape, str(stored.values.dtype)) == ((10, 3, 32), "float16")
    run = json.loads((stored.path / "manifest.json").read_text(encoding="utf-8"))["extraction"]
    assert run["batches"] == [{"from": 0, "unit": "items", "at most": 4}]
    assert "already stored" in extract(data, *options)
    assert "already stored" not in extract(data, *options, "--force")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--text", "recformer"), 2, "recformer needs MMBENCH_RECFORMER"),
        (("--text", "bert-base-uncased:max"), 2, "unknown pooling 'max'"),
        (("--text", "{own}", "--precision", "float16", "--device", "cpu"), 2, "is for GPUs"),
        (("--text", "{own}", "--device", "gpu"), 2, "unknown device 'gpu'"),
        (("--text", "{own}/nothing"), 2, "nothing not found"),
    ],
)
def test_errors_are_one_line(data: Path, options: tuple[str, ...], code: int, message: str) -> None:
    own = str(data / "models" / "small-bert")
    with pytest.raises(MmbenchError, match=message) as caught:
        extract(data, *(option.replace("{own}", own) for option in options))
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)
