"""Names of stored runs: what each means, and one line with the nearest for one that means none or too many.

Run: python -m pytest tests/runs/test_naming.py
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmbench.errors import DataError, UsageError
from mmbench.runs.naming import configuration_named, run_named, runs_named
from mmbench.runs.store import RunRecord
from tests.prepared import cli
from tests.reporting.conftest import fake_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations whose ids begin alike, of three seeds and of one, and a failed run."""
    folder = tmp_path_factory.mktemp("results")
    for seed in (1, 2, 3):
        fake_run(folder, "sasrec", seed=seed, config_id="83a48b2c00")
    fake_run(folder, "hm4sr", seed=1, config_id="83a4ffff00")
    fake_run(folder, "pop", seed=1, config_id="0123456789", reason="no memory")
    return folder


def titles(records: list[RunRecord]) -> list[str]:
    return [f"{record.model}/{record.seed}" for record in records]


def test_a_name_is_a_configuration_a_run_or_a_folder(root: Path) -> None:
    whole = ["sasrec/1", "sasrec/2", "sasrec/3"]
    assert titles(runs_named(root, ["83a48b2"])) == whole
    assert titles(runs_named(root, ["83a48b2c00/2"])) == ["sasrec/2"]
    folder = root / "toys" / "sasrec" / "83a48b2c00"
    assert titles(runs_named(root, [folder])) == whole
    assert titles(runs_named(Path("nowhere"), [folder / "seed_3"])) == ["sasrec/3"], "wherever it lies"
    assert titles(runs_named(root, ["toys/hm4sr", "83a4f/1", "83a48b/1"])) == ["hm4sr/1", "sasrec/1"], (
        "each once"
    )
    assert titles(runs_named(root, ["0123/1"])) == ["pop/1"], "a failed run is a run"
    assert titles([run_named(root, "83a4ff")]) == ["hm4sr/1"]
    assert configuration_named(root, "83a48b2") == folder
    assert configuration_named(root, folder) == folder


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda root: runs_named(root, ["83a4"]), r"'83a4' is the beginning of several configurations: "
         r"83a48b2c00 \(sasrec on toys\), 83a4ffff00 \(hm4sr on toys\); write more"),
        (lambda root: runs_named(root, ["83a48b3/2"]), r"no run '83a48b3/2' in .*; did you mean '83a48b2/2'\?"),
        (lambda root: runs_named(root, ["83a48b2/7"]), r"no run '83a48b2/7' in .*; did you mean '83a48b2/\d'"),
        (lambda root: runs_named(root, ["hm4sr"]), r"no run 'hm4sr' in .*; mmbench runs lists them"),
        (lambda root: runs_named(root, ["sasrec"]), r"; sasrec is a model, whose runs are 83a48b2;"),
        (lambda root: run_named(root, "83a48b2"),
         r"'83a48b2' is 3 runs; name one of them: 83a48b2/1, 83a48b2/2, 83a48b2/3$"),
        (lambda root: run_named(root, root / "toys"), r"is 5 runs; name one of them"),
        (lambda root: configuration_named(root, "sasrek"), r"no run 'sasrek'"),
    ],
)  # fmt: skip
def test_a_name_that_means_none_or_too_many_is_one_line(
    ask: Callable[[Path], object], reason: str, root: Path
) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        ask(root)
    assert "\n" not in str(error.value)


def test_a_folder_without_runs_says_what_a_run_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a finished run: it has no run.json; give a folder"):
        runs_named(tmp_path, [tmp_path])


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate",), ("knockout",), ("fuse",), ("recommend", "--user", "u"), ("why", "83a4ff"),
        ("bundle", "-o", "x.mmb.zip"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_every_command_that_asks_a_run_takes_these_names(command: tuple[str, ...], root: Path) -> None:
    done = cli(*command, "83a48b3", results=root)
    assert (done.returncode, len(done.error_lines)) == (2, 1), done.stderr
    assert "no run '83a48b3'" in done.stderr
    assert "did you mean '83a48b2'" in done.stderr
