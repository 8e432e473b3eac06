"""What a run recommends, against popularity counted by hand: its list needs no model to be known."""

import csv
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

import mmbench
from mmbench.data.demo import write_raw
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.reporting.recommended import page
from mmbench.runs.store import RunRecord
from tests.prepared import cli, random_histories, write_data_set, write_toy
from tests.runs.test_rerank import finished

USER = 7


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_toy(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pop(shop: Prepared, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return finished(shop, tmp_path_factory.mktemp("results"), "pop")


def events(shop: Prepared, user: int) -> list[int]:
    return shop.items[shop.offsets[user] : shop.offsets[user + 1]].tolist()


def by_popularity(shop: Prepared) -> list[int]:
    """All items by their events but each user's last two, ties by smaller number."""
    counts = Counter(item for user in range(shop.n_users) for item in events(shop, user)[:-2])
    return sorted(range(1, shop.n_items + 1), key=lambda item: (-counts[item], item))


def test_history_list_and_target_of_a_user(pop: RunRecord, shop: Prepared) -> None:
    shown = mmbench.recommend(pop, f"u{USER:05}", 8, data_dir=shop.data_dir)
    own = events(shop, USER)
    assert [event.item.number for event in shown.history] == own[:-1]
    times = shop.times[shop.offsets[USER] : shop.offsets[USER + 1]].tolist()
    assert [int(event.time.timestamp()) for event in shown.history] == times[:-1]
    assert [entry.item.number for entry in shown.entries] == by_popularity(shop)[:8]
    assert [entry.rank for entry in shown.entries] == list(range(1, 9))
    assert shown.target.number == own[-1]
    assert {entry.item.number for entry in shown.entries if entry.is_target} <= {own[-1]}
    assert shown.rank[0] <= by_popularity(shop).index(own[-1]) + 1 <= shown.rank[1]
    first = shown.entries[0].item
    assert (first.title, first.id) == (f"thing {first.number - 1}", f"i{first.number - 1:05}")
    names = {f"category {c}" for c in {(first.number - 1) % 6, (first.number - 1) ** 2 % 6}}
    assert first.categories == ("" if (first.number - 1) % 10 == 3 else ", ".join(sorted(names)))


def test_items_of_the_history_are_left_out_when_asked(pop: RunRecord, shop: Prepared) -> None:
    shown = mmbench.recommend(pop, f"u{USER:05}", 20, mask_seen="input", data_dir=shop.data_dir)
    own = events(shop, USER)
    allowed = [item for item in by_popularity(shop) if item not in own[:-1] or item == own[-1]]
    assert [entry.item.number for entry in shown.entries] == allowed[:20]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_all_lists_as_a_table(pop: RunRecord, shop: Prepared, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"lists.{suffix}"
    done = cli("recommend", pop.path, "--all", "--k", "5", "-o", file, data=shop.data_dir)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(file) if suffix == "csv" else pd.read_parquet(file)
    best = [f"i{item - 1:05}" for item in by_popularity(shop)[:5]]
    assert len(table) == 5 * shop.n_users
    for user, rows in table.groupby("user"):
        assert rows["item"].tolist() == best
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
        target = f"i{events(shop, int(str(user)[1:]))[-1] - 1:05}"
        assert rows["is_target"].tolist() == [item == target for item in best]


HOSTILE = '=<script>alert("x")</script>\x1b[2J, a "title"'


def test_titles_from_outside_are_safe_in_every_form(tmp_path: Path) -> None:
    items, times, offsets = random_histories(n_items=60)
    records = [{"id": f"i{i}", "title": HOSTILE} for i in range(60)]
    shop = write_data_set(tmp_path, "toy", (items, times, offsets), records)
    record = finished(shop, tmp_path / "results", "pop")
    shown = mmbench.recommend(record, "u00003", data_dir=tmp_path)
    html = page(shown, tmp_path)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "no picture named" in html
    done = cli("recommend", record.path, "--user", "u00003", data=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in (html, done.stdout, repr(shown), shown._repr_html_()):
        assert "\x1b" not in text
    cli("recommend", record.path, "--all", "-o", tmp_path / "lists.csv", data=tmp_path)
    with (tmp_path / "lists.csv").open(newline="", encoding="utf-8") as file:
        assert {row["title"] for row in csv.DictReader(file)} == {"'" + HOSTILE.replace("\x1b", "␛")}
    cli("recommend", record.path, "--all", "-o", tmp_path / "lists.parquet", data=tmp_path)
    assert set(pd.read_parquet(tmp_path / "lists.parquet")["title"]) == {HOSTILE}


def test_the_page_has_the_pictures(tmp_path: Path) -> None:
    """On a small demo, whose pictures are drawn."""
    write_raw(tmp_path / "raw" / "demo", n_users=150, n_items=60)
    shop = mmbench.prepare("demo", data_dir=tmp_path)
    record = finished(shop, tmp_path / "results", "pop")
    done = cli("recommend", record.path, "--user", shop.user_ids[0], "--format", "html", data=tmp_path)
    shown = mmbench.recommend(record, shop.user_ids[0], data_dir=tmp_path)
    assert done.stdout.count('<img src="data:image/jpeg;base64,') == len(shown.history) + 10 + 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "give either --user ID or --all"),
        (("--user", "u00001", "--all"), "give either --user ID or --all"),
        (("--user", "nobody"), "user 'nobody' is not in toy"),
        (("--user", "u00001", "--k", "30"), "--lists 30"),
        (("--user", "u00001", "--mask-seen", "train"), "not under mask rule train"),
        (("--user", "u00001", "-o", "x.txt"), "add --format html"),
        (("--all",), "--all needs --output FILE"),
        (("--all", "-o", "lists.txt"), "a name in .parquet or .csv"),
    ],
)
def test_what_is_wrong_is_one_line(
    args: tuple[str, ...], said: str, pop: RunRecord, shop: Prepared, tmp_path: Path
) -> None:
    done = cli("recommend", pop.path, *args, data=shop.data_dir, cwd=tmp_path)
    assert (done.returncode, len(done.error_lines)) == (2, 1)
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_user_must_be_a_name(pop: RunRecord, shop: Prepared) -> None:
    with pytest.raises(UsageError, match="user 3 is not a name"):
        mmbench.recommend(pop, 3, data_dir=shop.data_dir)  # type: ignore[arg-type]
