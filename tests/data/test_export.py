"""Prepared data for other programs: what is written comes back, and a reader in float32 sees the same order."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmbench.data import export as module
from mmbench.data.export import export, rank_times
from mmbench.data.prepare import prepare
from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import DataError, UsageError
from tests.data.preparing import made
from tests.data.raw_files import AMAZON_2014, TABLE, write_2014, write_lines
from tests.prepared import cli, random_histories, write_toy

ARRAYS = ("items.npy", "times.npy", "offsets.npy", "users.txt")


def shop(tmp_path: Path, declare) -> Prepared:
    """Histories with ties and repeated items, catalogue with every kind of field, prepared unfiltered."""
    items, times, offsets = random_histories(n_items=30, seed=4)
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    meta = [
        {
            "asin": f"i{item:03}",
            "title": f"It's &amp; {item}",
            "brand": "A | B" if item % 2 else "",
            "categories": [["Root", "Hair Care", f"Node>{item % 4}"], ["Root", "Gifts"]][: 1 + item % 2],
            "imUrl": f"http://x/{item}.jpg",
        }
        for item in range(1, 31)
    ]
    raw = declare(AMAZON_2014 + 'filters = { duplicates = "keep", min_user = 0, min_item = 0 }')
    write_2014(
        raw, [(f"u{u:04}", f"i{i:03}", t) for u, i, t in zip(users, items, times.tolist(), strict=True)], meta
    )
    return made(tmp_path, ties="random:3")


def read_back(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setenv("MMBENCH_DATASETS", str(files[-1]))
    return prepare(f"{files[-1].stem}-export", tmp_path / "again").prepared


@pytest.mark.parametrize("form", ["recbole", "csv", "parquet"])
def test_round_trip(tmp_path: Path, declare, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Order, also of equal times that were drawn at random, times, users and items are the same afterwards."""
    prepared = shop(tmp_path, declare)
    assert prepared.manifest.statistics.tied_neighbours > 0.05
    report = export(prepared, tmp_path / "out", form=form)
    assert report.files[0].name.startswith("mine-random-3.")
    again = read_back(tmp_path, report.files, monkeypatch)
    for name in ARRAYS:
        assert (again.path / name).read_bytes() == (prepared.path / name).read_bytes(), name
    assert again.items_hash == prepared.items_hash
    for old, new in zip(prepared.item_records, again.item_records, strict=True):
        assert (new["title"], new["brand"]) == (old["title"], old["brand"])
        if form == "parquet":
            assert (new["categories"], new["text"]) == (old["categories"], old["text"])
        assert new["image_url"] == old["image_url"]


def test_categories_in_text_files(tmp_path: Path, declare) -> None:
    """RecBole parts tokens at blanks, the CSV at | and >: inside a node these give way."""
    prepared = shop(tmp_path, declare)
    export(prepared, tmp_path / "out", form="recbole")
    header, first, *_ = (
        (tmp_path / "out" / "mine-random-3" / "mine-random-3.item").read_text(encoding="utf-8").splitlines()
    )
    assert header.split("\t") == [
        "item_id:token", "title:token_seq", "categories:token_seq", "brand:token", "image:token_seq",
        "image_url:token_seq",
    ]  # fmt: skip
    assert first.split("\t") == [
        "i001", "It's & 1", "Root Hair_Care Node>1 Root Gifts", "A | B", "i001.jpg", "http://x/1.jpg",
    ]  # fmt: skip
    export(prepared, tmp_path / "out", form="csv")
    with (tmp_path / "out" / "mine-random-3.items.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["categories"] == "Root>Hair Care>Node/1|Root>Gifts"


def peer_order(file: Path, kind: type) -> list[str]:
    """Items as a peer has them that reads times as `kind` and sorts by user and time, stably (as RecBole does)."""
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    times = np.array([float(row[2]) for row in rows]).astype(kind)
    users = np.unique([row[0] for row in rows], return_inverse=True)[1]
    return [rows[place][1] for place in np.lexsort((times, users))]


@pytest.mark.parametrize("times", ["seconds", "rank"])
def test_peer_bug_float32_order(tmp_path: Path, declare, times: str) -> None:
    """Seconds of today merge in float32; the order survives, and so does the split into last and rest."""
    prepared = shop(tmp_path, declare)
    report = export(prepared, tmp_path / "out", form="recbole", times=times)
    expected = [prepared.item_records[item - 1]["id"] for item in prepared.items]
    assert peer_order(report.files[0], np.float32) == expected
    steps = np.array(
        [float(line.split("\t")[2]) for line in report.files[0].read_text(encoding="utf-8").splitlines()[1:]]
    )
    inside = np.diff(np.repeat(np.arange(prepared.n_users), np.diff(prepared.offsets))) == 0
    merged = (np.diff(steps.astype(np.float32)) == 0) & (np.diff(steps) > 0) & inside
    assert report.n_merged == merged.sum()
    if times == "rank":
        assert report.n_merged == 0
        assert (np.diff(steps.astype(np.float32))[inside] > 0).all()  # no ties: any sort will do


def test_seconds_that_float32_merges_are_counted(tmp_path: Path) -> None:
    start = 1_400_000_000
    histories = (np.array([1, 2, 3, 1, 2]), np.array([0, 1, 1, 0, 500]) + start, np.array([0, 3, 5]))
    toy = write_toy(tmp_path, features=False, n_items=3, histories=histories)
    report = export(toy, tmp_path / "out", form="csv")
    assert (report.n_steps, report.n_merged) == (2, 1)


def test_ranks_follow_time_over_all_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = (np.array([1, 2, 3, 1, 2]), np.array([5, 9, 9, 5, 7]), np.array([0, 3, 5]))
    toy = write_toy(tmp_path, features=False, n_items=3, histories=histories)
    assert rank_times(toy).tolist() == [1, 4, 5, 2, 3]
    monkeypatch.setattr(module, "EXACT", 4)  # too many events for float32: the place in the history
    assert rank_times(toy).tolist() == [1, 2, 3, 1, 2]


def test_further_columns_and_ids(tmp_path: Path, declare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of a table come along; an id that RecBole's files cannot hold is refused, and leaves no file."""
    raw = declare(TABLE.replace('"|" }', '"|", extra = ["my colour"] }'))
    rows = [
        f'"{user}"\t{item}\t{1_400_000_000 + step}' for user in "abcdef" for step, item in enumerate("pqrstu")
    ]
    write_lines(raw / "events.tsv", ["user\titem\ttimestamp", *rows])
    lines = [f"{item}\tT {item}\tA|B C\tdark red" for item in "pqrstu"]
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres\tmy colour", *lines])
    report = export(made(tmp_path), tmp_path / "out", form="recbole")
    assert report.files[1].read_text(encoding="utf-8").splitlines()[:2] == [
        "item_id:token\ttitle:token_seq\tcategories:token_seq\tbrand:token\tmy_colour:token_seq",
        "p\tT p\tA B_C\t\tdark red",
    ]
    assert read_back(tmp_path, report.files, monkeypatch).item_records[0]["my_colour"] == "dark red"
    write_lines(
        raw / "events.tsv", ["user\titem\ttimestamp", *(row.replace('"a"', '"a\tb"') for row in rows)]
    )
    declare(TABLE.replace('"|" }', '"|", extra = ["my colour"] }'))
    odd = made(tmp_path)
    with pytest.raises(DataError, match=r"mine\.inter: 'a\\tb' holds a tab or a quote"):
        export(odd, tmp_path / "odd", form="recbole")
    assert not [path for path in (tmp_path / "odd").rglob("*") if path.is_file()]
    report = export(odd, tmp_path / "odd", form="csv")
    assert "a\tb" in read_back(tmp_path, report.files, monkeypatch).user_ids


def test_unknown_format(toy: Prepared, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'recbole'"):
        export(toy, tmp_path, form="recbol")
    with pytest.raises(UsageError, match="unknown kind of times 'days'"):
        export(toy, tmp_path, form="csv", times="days")


def test_command(toy: Prepared, data_dir: Path, tmp_path: Path) -> None:
    done = cli("datasets", "export", "toy", "--to", tmp_path / "peers", data=data_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(tmp_path / "peers" / "toy" / f"toy.{kind}") for kind in ("inter", "item", "toml")
    ]  # RecBole reads <data_path>/NAME/NAME.inter
    assert (tmp_path / "peers" / "toy" / "toy.inter").read_text(encoding="utf-8").count("\n") == len(
        toy.items
    ) + 1
    (tmp_path / "file").write_text("")
    done = cli("datasets", "export", "toy", "--to", tmp_path / "file", data=data_dir)
    assert done.returncode == 1
    assert len(done.error_lines) == 1
    assert (
        cli("datasets", "export", "toy", "--to", tmp_path, "--format", "xml", data=data_dir).returncode == 2
    )


def shop_with_pictures(tmp_path: Path, declare) -> Prepared:
    """A table whose times are positions, and whose pictures lie in a folder, one of them missing."""
    raw = declare(
        TABLE + 'images = { name = "pictures", member = "{item}.jpg" }\n'
        'columns.interactions = { unit = "order" }\n'
        'filters = { duplicates = "keep", min_user = 0, min_item = 0 }'
    )
    events = [(f"u{user}", f"i{(user + step) % 6}", step) for user in range(6) for step in range(6)]
    write_lines(
        raw / "events.tsv", ["user\titem\ttimestamp", *("\t".join(map(str, event)) for event in events)]
    )
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres", *(f"i{n}\tThing {n}\tnew" for n in range(6))])
    for n in range(5):
        (raw / "pictures").mkdir(exist_ok=True)
        (raw / "pictures" / f"i{n}.jpg").write_bytes(bytes([n]))
    return made(tmp_path)


@pytest.mark.parametrize("form", ["recbole", "csv", "parquet"])
def test_pictures_and_an_order_without_times_come_back(
    tmp_path: Path, declare, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    shop = shop_with_pictures(tmp_path, declare)
    again = read_back(tmp_path, export(shop, tmp_path / "out", form=form).files, monkeypatch)
    assert not again.has_times
    assert [record["image"] for record in again.item_records] == [
        record["image"] for record in shop.item_records
    ]
    assert again.manifest.images == shop.manifest.images
    assert again.manifest.inputs.image == shop.manifest.inputs.image
    assert again.manifest.statistics.coverage.image == 5 / 6


def test_a_manifest_names_no_folder_of_the_machine(tmp_path: Path, declare) -> None:
    """A picture folder inside the data folder is named from there, so that the data folder may move."""
    shop_with_pictures(tmp_path / "elsewhere", declare)
    inside = tmp_path / "data"
    (inside / "raw").mkdir(parents=True)
    shutil.copytree(tmp_path / "raw", inside / "raw" / "mine")
    prepared = prepare("mine", inside, raw=inside / "raw" / "mine").prepared
    assert str(tmp_path) not in (prepared.path / "manifest.json").read_text(encoding="utf-8")
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    opened = open_prepared("mine", moved)
    assert opened.manifest.images is not None
    assert opened.manifest.images.path == str(moved / "raw" / "mine" / "pictures")
