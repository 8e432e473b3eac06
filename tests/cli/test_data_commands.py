"""prepare, preprocess, extract and datasets as real processes."""

from pathlib import Path

import pytest

from tests.data.raw_files import AMAZON_2014, grid, write_2014, write_toml
from tests.prepared import cli


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mine.toml, its raw files, and the data folder into which `mine` was added and prepared."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "data").mkdir()
    slip = """
printed = { users = 6, items = 7, interactions = 36, source = "a page" }
slips = [{ statistic = "actions_per_user", printed = 9, correct = 6, source = "a page", why = "36 of 6 are 6" }]
"""
    write_2014(folder, grid())
    file = write_toml(folder, AMAZON_2014 + slip)
    done = cli("datasets", "add", file, data=folder / "data")
    assert (done.returncode, done.stdout) == (0, "mine: added; next: mmbench prepare mine\n"), done.stderr
    done = cli("prepare", "mine", data=folder / "data")
    assert done.returncode == 0, done.stderr
    (folder / "first.txt").write_text(done.stdout)
    return folder


def test_prepare_prints_statistics_beside_printed_counts(shop: Path) -> None:
    rows = [" ".join(line.split()) for line in (shop / "first.txt").read_text(encoding="utf-8").splitlines()]
    assert "statistic computed printed (a page) remark" in rows
    assert "users 6 6 as printed" in rows
    assert "items 6 7 differs by -1" in rows
    assert "actions per user 6.00 9.00 slip in a page: 36 of 6 are 6" in rows
    assert any(row.startswith("mine: text tfidf-svd: 6 of 6 items") for row in rows)


def test_second_prepare_does_nothing_and_says_so(shop: Path) -> None:
    done = cli("prepare", "mine", data=shop / "data")
    assert done.returncode == 0
    assert "mine: already prepared, nothing to do" in done.stdout
    assert "already stored" in done.stdout


def test_another_tie_order_lies_beside_the_first(shop: Path) -> None:
    done = cli("--quiet", "preprocess", "mine", "--ties", "random:1", data=shop / "data")
    assert (done.returncode, done.stderr) == (0, "")
    listed = cli("datasets", data=shop / "data").stdout
    lines = {line.split()[0]: line for line in listed.splitlines()}
    assert "text tfidf-svd" in lines["mine"]
    assert lines["mine@random:1"].split()[-2:] == ["none", "Mine"]  # features, title
    assert "not prepared" in lines["amazon-beauty"]
    assert cli("extract", "mine@random:1", "--image", "none", data=shop / "data").returncode == 0
    assert "random:1" in cli("datasets", "stats", "mine@random:1", data=shop / "data").stdout


def test_show(shop: Path) -> None:
    done = cli("datasets", "show", "amazon-toys", data=shop / "data")
    assert done.returncode == 0
    assert "14.58" in done.stdout
    assert "/meta_Toys_and_Games.json.gz" in done.stdout
    assert "cite He and McAuley, WWW 2016" in done.stdout
    assert cli("datasets", "amazon-toys", data=shop / "data").stdout == done.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (
            ("prepare", "amazon-toys", "--offline"),
            1,
            "error: amazon-toys: raw files reviews_Toys_and_Games_5.json.gz and",
        ),
        (("prepare", "amazon-toy"), 2, "did you mean 'amazon-toys'"),
        (("prepare", "demo@rndom:1"), 2, "did you mean 'random:1'"),
        (("prepare", "demo", "--ties", "random:x"), 2, "needs a seed"),
        (("preprocess", "mine", "--raw", "nowhere"), 1, "--raw nowhere is not a folder"),
        (("extract", "mine", "--text", "tfidf-svt"), 2, "did you mean 'tfidf-svd'"),
        (("extract", "demo"), 2, "is not prepared"),
        (("datasets", "stats", "demo"), 2, "is not prepared"),
        (("datasets", "show", "dmeo"), 2, "did you mean 'demo'"),
        (("datasets", "add", "nowhere.toml"), 2, "nowhere.toml: cannot be read"),
        (("prepare",), 2, "Missing argument"),
    ],
)
def test_failures_are_one_line(shop: Path, args: tuple[str, ...], code: int, message: str) -> None:
    done = cli(*args, data=shop / "data")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_missing_raw_files_come_with_instructions(tmp_path: Path) -> None:
    done = cli("prepare", "amazon-baby", "--offline", data=tmp_path)
    assert done.returncode == 1
    assert f"to   {tmp_path / 'raw' / 'amazon-baby' / 'meta_Baby.json.gz'}" in done.stderr
    assert (
        "or   http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/meta_Baby.json.gz"
        in done.stderr
    )


def test_data_behind_terms_come_with_instructions(tmp_path: Path) -> None:
    done = cli("prepare", "yelp", "--offline", data=tmp_path)
    assert done.returncode == 1
    assert "Accept the terms at https://business.yelp.com/" in done.stderr
    assert done.error_lines[-1].startswith("error: yelp: raw files yelp_academic_dataset_review.json and")


SHOP = """[shop]
title = "Shop"
parser = "table"
raw = "raw"
files.interactions = { name = "orders.csv" }
files.items = { name = "items.csv" }
columns.interactions = { user = "customer", item = "sku", timestamp = "ordered_at", unit = "iso" }
columns.items = { item = "sku", title = "name" }
"""


def test_add_opens_the_files(tmp_path: Path) -> None:
    """A file that is missing is named with its place, and a column that its header lacks is refused at once."""
    (tmp_path / "shop.toml").write_text(SHOP)
    raw = tmp_path / "raw"
    for folder in (raw, tmp_path / "data", tmp_path / "other"):
        folder.mkdir()
    early = cli("datasets", "add", tmp_path / "shop.toml", data=tmp_path / "data")
    assert early.returncode == 0, early.stderr
    assert (
        f"put {raw / 'orders.csv'} and {raw / 'items.csv'} there, then: mmbench prepare shop" in early.stdout
    )
    (raw / "orders.csv").write_text("client,sku,ordered_at\nc1,s1,2024-01-01\n")
    (raw / "items.csv").write_text("sku,name\ns1,Lamp\n")
    wrong = cli("datasets", "add", tmp_path / "shop.toml", data=tmp_path / "other")
    assert (wrong.returncode, len(wrong.error_lines)) == (1, 1)
    assert "orders.csv: no column 'customer'" in wrong.stderr
    assert "client, sku, ordered_at" in wrong.stderr
    assert not (tmp_path / "other" / "datasets.toml").exists()
    (raw / "orders.csv").write_text("customer,sku,ordered_at\nc1,s1,2024-01-01\n")
    right = cli("datasets", "add", tmp_path / "shop.toml", data=tmp_path / "other")
    assert right.stdout.split() == ["shop:", "added;", "next:", "mmbench", "prepare", "shop"]
