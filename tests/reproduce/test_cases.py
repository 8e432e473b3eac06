"""A case study chooses its user by its rule, and shows that user's history and both lists."""

from pathlib import Path

import numpy as np
import pytest

from mmbench.data.store import open_prepared
from mmbench.errors import RunError
from mmbench.evaluation.evidence import Ranking, TopLists
from mmbench.reproduce.cases import choose_case
from mmbench.runs.store import read_record
from tests.prepared import cells, cli


def ranking(lists: list[list[int]], users: list[int], targets: list[int]) -> Ranking:
    items = np.array(lists, dtype=np.int32)
    n = len(users)
    return Ranking(
        name="test", user=np.array(users), target=np.array(targets), n_items=9,
        counts={rule: (np.zeros(n, np.int64), np.zeros(n, np.int64)) for rule in ("none", "train", "input")},
        lists={"none": TopLists(items, items.astype(np.float16))},
    )  # fmt: skip


def test_the_rule_chooses_the_user() -> None:
    """Users 0..4 take 1..5 next; user 2 and 4 are hit by the first model alone, user 4 has the longer history."""
    first = ranking([[9, 9], [2, 9], [3, 9], [9, 9], [9, 5]], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5])
    second = ranking([[9, 9], [9, 4], [9, 9], [9, 2], [1, 9]], [4, 3, 2, 1, 0], [5, 4, 3, 2, 1])
    lengths = {0: 50, 1: 50, 2: 7, 3: 50, 4: 8}
    case = choose_case(first, second, lengths, 2)
    assert case.user == 4
    assert case.counts == (1, 2, 2, 0)
    assert choose_case(first, second, {**lengths, 2: 8}, 2).user == 2  # of equal ones the smaller number
    assert (
        choose_case(first, second, lengths, 1).user == 1
    )  # the second model has its item in the second place only
    with pytest.raises(RunError, match="of the paper's model alone"):
        choose_case(second, second, lengths, 2)


def test_the_command_prints_history_and_lists_and_saves_the_figure(
    data_dir: Path, papers: Path, tmp_path: Path
) -> None:
    done = cli(
        "reproduce", "tiny/fig5", "--seeds", "1", "--output", tmp_path / "out", data=data_dir,
        results=tmp_path / "results", env={"MMBENCH_PAPERS": str(papers)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"tiny-fig5.png", "tiny-fig5.svg", "tiny-fig5-captions.txt"}
    records = {record.model: record for record in map(read_record, cells(tmp_path / "results"))}
    prepared = open_prepared("toy", data_dir)
    line = next(line for line in done.stdout.splitlines() if line.startswith("user "))
    user = prepared.user_ids.index(line.split(":")[0].removeprefix("user "))
    hit = {}
    for model, record in records.items():
        stored = record.ranking("test")
        row = int(np.flatnonzero(stored.user == user)[0])
        hit[model] = stored.target[row] in stored.top("none", 5)[row]
        target = stored.target[row]
    assert hit == {"itemknn": True, "random": False}
    assert f"* thing {target - 1}" in done.stdout
