"""What earlier commands learned of stored runs serves later ones, and never instead of what lies there now."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.errors import DamagedError, ProtocolMismatchError
from mmbench.evaluation.evidence import Ranking, TopLists
from mmbench.evaluation.metrics import Metric
from mmbench.reporting import TableRequest, build_table, to_text
from mmbench.reporting.power import power_of_runs
from mmbench.reporting.rounding import number
from mmbench.reporting.run_list import table_of
from mmbench.runs import shelves
from mmbench.runs.inventory import list_runs
from mmbench.runs.overrides import Overrides
from mmbench.runs.schedule import execute, plan, stored_cells
from mmbench.runs.shelves import FOLDER, Shelves
from mmbench.runs.store import MisplacedError, RunRecord, known_records, read_all, read_record
from tests.reporting.conftest import N_ITEMS, fake_run, paper_like, ranks_with_hits, store_ranks
from tests.runs.test_schedule import Listener

REQUEST = TableRequest(metrics=(Metric("NDCG", 10), Metric("HR", 5), Metric("MRR")), test="sign-flip")


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that were just written count as settled."""
    monkeypatch.setattr(shelves, "SETTLED_S", -60.0)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    paper_like(tmp_path / "results", seeds=3)
    return tmp_path / "results"


def table(results: Path, request: TableRequest = REQUEST) -> str:
    """Return everything of the table of the stored runs, unrounded."""
    return to_text(build_table(list(read_all(results)), request), "json")


def without_shelves(results: Path, make: Callable[[], str]) -> str:
    """Return what `make` returns with the shelves out of the way."""
    (results / FOLDER).rename(results / "away")
    try:
        (results / FOLDER).write_text("a file stands where the folder of shelves would be made")
        return make()
    finally:
        (results / FOLDER).unlink()
        (results / "away").rename(results / FOLDER)


def refuse(self: RunRecord, name: str) -> Ranking:
    raise AssertionError(f"{self.title} was read again: {name}")


def rankings_of(results: Path) -> list[Path]:
    return sorted(results.glob("toys/*/*/*/rankings/test.npz"))


def test_a_later_table_is_the_same_to_the_last_digit_and_reads_no_ranking(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = table(results)
    assert table(results) == without_shelves(results, lambda: table(results)) == first
    monkeypatch.setattr(RunRecord, "ranking", refuse)
    assert table(results) == first
    other = TableRequest(metrics=(Metric("NDCG", 5),))
    with pytest.raises(AssertionError, match="was read again"):
        table(results, other)  # numbers that nobody asked for so far
    monkeypatch.undo()
    monkeypatch.setattr(shelves, "SETTLED_S", -60.0)
    second = table(results, other)
    monkeypatch.setattr(RunRecord, "ranking", refuse)
    assert (table(results), table(results, other)) == (first, second), "both kinds of numbers are kept"


def test_a_list_of_runs_reads_no_ranking_twice_and_notices_damage(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = ["run", "valid NDCG@10", "HR@5"]
    first = table_of(list_runs(results), columns)
    runs = list_runs(results)
    expected = [
        [
            run.name,
            number(run.record.metrics("valid", "NDCG@10")["NDCG@10"]),
            number(run.record.metrics("test", "HR@5")["HR@5"]),
        ]
        for run in runs
        if run.record
    ]
    assert first == expected
    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "ranking", refuse)
        assert table_of(runs, columns) == first
    file = runs[0].path / "rankings" / "test.npz"
    file.write_bytes(file.read_bytes()[:-1])
    assert table_of(runs, columns) == [[*first[0][:2], "unreadable"], *first[1:]]


def test_a_test_over_users_reads_values_of_users(results: Path) -> None:
    table(results)
    request = TableRequest(metrics=REQUEST.metrics, test="users")
    assert table(results, request) == without_shelves(results, lambda: table(results, request))
    contrasts = power_of_runs(list(read_all(results)), "toys", metric=Metric("NDCG", 10))
    assert contrasts is not None
    assert contrasts.contrasts[0].users.n == 400


def test_a_ranking_that_changed_is_read_again(results: Path) -> None:
    before = table(results)
    record = next(record for record in read_all(results) if record.model == "sasrec")
    store_ranks(record, test=ranks_with_hits(133, n_users=400))
    after = table(results)
    assert after != before
    assert after == without_shelves(results, lambda: table(results))
    assert table(results) == after


def test_a_damaged_ranking_is_noticed_though_its_size_and_date_are_as_they_were(results: Path) -> None:
    table(results)
    file = rankings_of(results)[0]
    content, status = bytearray(file.read_bytes()), file.stat()
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    left_out = json.loads(table(results))["left_out"]
    assert len(left_out) == 1
    assert f"{file} is damaged" in left_out[0]
    assert left_out == json.loads(without_shelves(results, lambda: table(results)))["left_out"]
    assert json.loads(table(results))["left_out"] == left_out, "it stays unknown"


def test_a_ranking_that_is_gone_is_noticed(results: Path) -> None:
    table(results)
    file = rankings_of(results)[0]
    file.unlink()
    assert "has no ranking test" in json.loads(table(results))["left_out"][0]


def test_a_file_that_was_written_just_now_is_not_kept(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another write within a tick of the clock would leave the same times."""
    monkeypatch.setattr(shelves, "SETTLED_S", 60.0)
    table(results)
    assert not list(results.glob(f"{FOLDER}/rankings/**/*.json"))
    monkeypatch.setattr(RunRecord, "ranking", refuse)
    with pytest.raises(AssertionError, match="was read again"):
        table(results)


@pytest.mark.parametrize("kind", ["rankings", "records"])
def test_a_shelf_that_is_torn_or_damaged_counts_as_absent(results: Path, kind: str) -> None:
    expected = table(results)
    shelf = sorted(results.glob(f"{FOLDER}/{kind}/**/*.json"))[0]
    whole = shelf.read_bytes()
    rng = np.random.default_rng(1)
    torn = [whole[:length] for length in (0, 1, 64, 65, len(whole) - 1)] + [whole + b" "]
    changed = [
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for place in rng.choice(len(whole), 20, replace=False)
    ]
    for content in (*torn, *changed):
        shelf.write_bytes(content)
        assert table(results) == expected
        assert shelf.read_bytes() == whole, "it is written again"


def test_shelves_of_other_code_count_as_absent(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(results)
    monkeypatch.setattr(shelves, "_code", lambda: b"another state of the metrics")
    monkeypatch.setattr(RunRecord, "ranking", refuse)
    with pytest.raises(AssertionError, match="was read again"):
        table(results)


def test_runs_that_are_gone_leave_the_shelf(tmp_path: Path) -> None:
    configuration = tmp_path / "toys" / "sasrec" / "0123456789"
    for seed in (1, 2):
        (configuration / f"seed_{seed}").mkdir(parents=True)
    kept = Shelves("numbers", int)
    kept.put(configuration / "seed_1", "test", 5)
    kept.put(configuration / "seed_2", "test", 6)
    (configuration / "seed_1").rmdir()
    kept.save()
    read = Shelves("numbers", int)
    assert read.get(configuration / "seed_2", "test") == 6
    assert read.get(configuration / "seed_1", "test") is None


def test_a_record_that_changed_or_moved_is_noticed_though_it_was_known(results: Path) -> None:
    first, second = list(read_all(results))[:2]
    with known_records() as known:
        assert read_record(first.path, known) == first
    content = (first.path / "run.json").read_text(encoding="utf-8")
    (first.path / "run.json").write_text(content.replace('"n_epochs": 40', '"n_epochs": 41'))
    with known_records() as known, pytest.raises(DamagedError, match="does not have the hash"):
        read_record(first.path, known)
    (second.path / "run.json").write_text(content)
    with known_records() as known, pytest.raises(MisplacedError):
        read_record(second.path, known)


def test_rows_of_other_users_are_refused_with_or_without_shelves(tmp_path: Path) -> None:
    results = tmp_path / "results"
    fake_run(results, "sasrec", ranks=ranks_with_hits(10, n_users=50))
    fake_run(results, "hm4sr", ranks=ranks_with_hits(10, n_users=53))
    texts = []
    for _ in range(2):
        with pytest.raises(ProtocolMismatchError) as error:
            table(results)
        texts.append(str(error.value))
    assert "(3 only in the first, 0 only in the second)" in texts[0]
    assert texts[0] == texts[1]


def test_a_value_of_the_catalogue_is_kept_and_an_undefined_value_stays_undefined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, items = tmp_path / "results", np.tile(np.arange(1, 3, dtype=np.int32), (100, 1))
    lists = TopLists(items, np.zeros((100, 2), np.float16))
    fake_run(results, "hm4sr", ranks=ranks_with_hits(40), lists={"none": lists, "input": lists})
    fake_run(results, "sasrec", ranks=ranks_with_hits(30), lists={"none": lists, "input": lists})
    request = TableRequest(
        metrics=(Metric("Coverage", 2), Metric("AUC"))
    )  # AUC has no value under rule "input"
    expected = table(results, request)
    assert json.loads(expected)["rows"][0]["cells"][0]["mean"] == 2 / N_ITEMS
    monkeypatch.setattr(RunRecord, "ranking", refuse)
    assert table(results, request) == expected


def test_a_finished_cell_whose_known_ranking_is_damaged_is_computed_again(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = plan(results_dir=tmp_path, datasets=[toy], models=["pop"], seeds=[1], overrides=Overrides())
    execute(cells, watcher=Listener())
    assert [why for _, _, why in stored_cells(cells)] == [""]
    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "ranking", refuse)
        assert all(record is not None for _, record, _ in stored_cells(cells)), "known to be whole"
    file = cells[0].path / "rankings" / "valid.npz"
    content = bytearray(file.read_bytes())
    content[-len(content) // 2] ^= 8
    file.write_bytes(content)
    ((_, record, why),) = stored_cells(cells)
    assert record is None
    assert f"{file} is damaged" in why
    listener = Listener()
    execute(cells, watcher=listener)
    assert listener.said == [("damaged", "pop"), ("begins", "pop"), ("ends", "pop")]
