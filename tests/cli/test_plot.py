"""`mmbench plot` on made-up results folders, in this process."""

import os
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mmbench.errors import UsageError
from mmbench.reporting.curves import chart, trained_runs
from mmbench.runs.curves import read_curves
from mmbench.runs.inventory import StoredRun, look_at
from tests.cli.making_runs import fill, invoke, write_log


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A results folder in which tests change nothing."""
    root = tmp_path_factory.mktemp("runs") / "results"
    return root, fill(root)


def trained(root: Path, **curves: list[float]) -> list[StoredRun]:
    for name, values in curves.items():
        write_log(root / "toys" / name / "aaaabbbb00" / "seed_1", values)
    return [look_at(root / "toys" / name / "aaaabbbb00" / "seed_1") for name in curves]


def test_a_chart_puts_each_value_where_it_belongs(tmp_path: Path) -> None:
    rising, falling = [n / 10 for n in range(11)], [1 - n / 10 for n in range(11)]
    runs_, _ = trained_runs(trained(tmp_path, sasrec=rising, gru4rec=falling))
    lines = chart(runs_, "valid", width=10 + 11, height=11 + 2)
    grid = [line.partition("|")[2].ljust(11) for line in lines[:11]]
    for row, letters in enumerate(grid):
        for column, letter in enumerate(letters):
            on_a, on_b = row == 10 - column, row == column
            assert letter == ("*" if on_a and on_b else "A" if on_a else "B" if on_b else " ")
    assert [lines[row].split("|")[0].strip() for row in (0, 5, 10)] == ["1.0000", ".5000", ".0000"]
    assert lines[-1].split() == ["epoch", "1", "11"]


def test_a_log_that_a_kill_cut_short_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    write_log(tmp_path, [0.1, 0.2, float("nan")])
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": 0, "epo')
    curves = read_curves(tmp_path)
    assert curves.valid == ((1, 0.1), (2, 0.2))
    assert curves.loss == ((1, 9.0), (2, 8.0), (3, 7.0))
    assert curves.best == (2, 0.2)


def test_the_best_epoch_is_the_one_whose_weights_are_kept(tmp_path: Path) -> None:
    write_log(tmp_path / "equal", [0.1, 0.20004, 0.20001, 0.1], rule="recbole")
    assert read_curves(tmp_path / "equal").best == (3, 0.20001)
    for stage, values in enumerate([[0.9, 0.8], [0.2, 0.3, 0.1]]):
        write_log(tmp_path / "stages", values, stage=stage)
    assert read_curves(tmp_path / "stages").best == (4, 0.3)


def test_plots_in_the_terminal_and_in_files(stored: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    root, paths = stored
    names = [look_at(paths[name]).name for name in ("finished", "interrupted")]
    text = invoke(root, "plot", *names)
    assert text.startswith("validation NDCG@20\n")
    assert f"A  sasrec on toys, seed 1 ({names[0]})  best at epoch 2" in text
    for name in ("curves.png", "curves.svg"):
        invoke(root, "plot", *names, "-o", str(tmp_path / name))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    drawing = ElementTree.parse(tmp_path / "curves.svg").getroot()
    texts = " ".join(drawing.itertext())
    for part in ("validation NDCG@20", "training loss", *names):
        assert part in texts


def test_plots_that_cannot_be(stored: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    root, paths = stored
    with pytest.raises(UsageError, match="no epoch of it is finished"):
        invoke(root, "plot", str(paths["failed"]))
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        invoke(root, "plot", str(paths["finished"]), "-o", "curves.pdf")
    shutil.copytree(paths["finished"], tmp_path / "other" / "toys" / "sasrec" / "cccc111111" / "seed_1")
    other = tmp_path / "other" / "toys" / "sasrec" / "cccc111111" / "seed_1"
    write_log(other, [0.5], metric="HR@10")
    os.remove(other / "run.json")
    with pytest.raises(UsageError, match="HR@10 and NDCG@20"):
        invoke(root, "plot", str(paths["finished"]), str(other))
