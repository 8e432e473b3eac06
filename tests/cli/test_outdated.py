"""Data and features that are not what would be made today: refused where work builds on them, said where one looks."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.errors import DataError, MmbenchError
from tests.data.raw_files import grid, write_lines
from tests.features.toy import encoded, picture

N, USERS = 24, 6
TOML = """[mine]
title = "Mine"
parser = "table"
raw = "raw"
files.interactions = {{ name = "events.tsv" }}
files.items = {{ name = "items.tsv" }}
columns.items = {{ item = "item", title = "title", brand = "brand" }}
images = {{ name = "pictures", member = "{{item}}.bmp" }}
text_fields = {fields}
{more}
"""
HM4SR = ("run", "hm4sr", "--no-floors", "--dry-run")
POP = ("run", "pop", "--no-floors")


@dataclass
class Shop:
    """A data set `mine` of a table, with a text and a picture for every item; commands run in this process."""

    folder: Path

    def declare(self, *, fields: str = '["title"]', more: str = "") -> None:
        (self.folder / "mine.toml").write_text(TOML.format(fields=fields, more=more))

    def write_items(self, **titles: str) -> None:
        rows = [f"i{k}\t{titles.get(f'i{k}', f'Title {k}')}\tBrand {k}" for k in range(N)]
        write_lines(self.folder / "raw" / "items.tsv", ["item\ttitle\tbrand", *rows])

    def write_events(self, n_users: int = USERS) -> None:
        rows = [f"{user}\t{item}\t{time}" for user, item, time in grid(n_users, N)]
        write_lines(self.folder / "raw" / "events.tsv", ["user\titem\ttimestamp", *rows])

    def write_picture(self, number: int, seed: int) -> None:
        """All pictures have one size in bytes, whatever they show."""
        file = self.folder / "raw" / "pictures" / f"i{number}.bmp"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded(picture(seed), "BMP"))

    def run(self, *args: str) -> tuple[str, str]:
        """stdout and stderr, white space collapsed; an error of mmbench is raised."""
        folders = ["--data-dir", str(self.folder / "data"), "--results-dir", str(self.folder / "results")]
        done = CliRunner().invoke(app, [*folders, *args])
        if done.exception is not None:
            raise done.exception
        return " ".join(done.stdout.split()), " ".join(done.stderr.split())

    def says(self, *args: str) -> str:
        return " ".join(self.run(*args))

    def refuses(self, message: str, *args: str, error: type[MmbenchError] = DataError) -> None:
        with pytest.raises(error, match=message) as caught:
            self.run(*args)
        assert "\n" not in str(caught.value)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    made = Shop(tmp_path)
    made.declare()
    made.write_items()
    made.write_events()
    for number in range(N):
        made.write_picture(number, number)
    made.run("datasets", "add", str(tmp_path / "mine.toml"))
    assert made.run("prepare", "mine")
    return made


LOOKS = (
    ("datasets", "stats", "mine"), ("datasets", "stats", "mine", "--json"), ("doctor",), ("report",), ("datasets",),
    ("extract", "--list", "mine"), ("datasets", "pictures", "mine"),
)  # fmt: skip
WORK = (POP, HM4SR, ("train", "pop"), ("extract", "mine"), ("datasets", "export", "mine", "--to", "out"))


def check_refused(shop: Shop, reason: str) -> None:
    """Every look says the reason once, every work is refused with it."""
    for look in LOOKS:
        told = shop.says(*look)
        assert told.count(reason) == 1, (look, told)
        assert "mmbench prepare mine" in told
    for work in WORK:
        shop.refuses(rf"^mine: .*{reason}.*; run: mmbench prepare mine$", *work)


def check_fine(shop: Shop) -> None:
    for look in LOOKS:
        assert "changed since" not in shop.says(*look)
    shop.run(*HM4SR)


CHANGES: dict[str, tuple[str, str]] = {
    "filters": ('["title"]', "filters = { min_user = 3 }"),
    "text_fields": ('["title", "brand"]', ""),
    "protocol": ('["title"]', 'protocol = "clean-time"'),
    "ties": ('["title"]', 'ties = "random:1"'),
}
REASONS = {"filters": "min_user", "text_fields": "text_fields", "protocol": "split", "ties": "ties"}


@pytest.mark.parametrize("change", CHANGES)
def test_another_definition_is_noticed(shop: Shop, change: str) -> None:
    shop.run(*POP)
    check_fine(shop)
    fields, more = CHANGES[change]
    shop.declare(fields=fields, more=more)
    shop.run("datasets", "add", str(shop.folder / "mine.toml"))
    check_refused(shop, "its definition changed since it was prepared")
    assert REASONS[change] in shop.says("datasets", "stats", "mine")
    shop.run("prepare", "mine")
    check_fine(shop)


def test_a_name_whose_part_became_the_default(shop: Shop) -> None:
    """Preparing the old name again would fill the folder of the new one: the advice leads out all the same."""
    old = shop.folder / "data" / "prepared" / "mine@clean-time"
    shop.run("prepare", "mine@clean-time")
    shop.declare(more='protocol = "clean-time"')
    shop.run("datasets", "add", str(shop.folder / "mine.toml"))
    advice = f"run: mmbench prepare mine, then remove {re.escape(str(old))}$"
    shop.refuses(f"^mine@clean-time: .*it is called mine now.*{advice}", *POP, "--dataset", "mine@clean-time")
    shop.run("prepare", "mine")
    shutil.rmtree(old)
    shop.run(*POP, "--dataset", "mine")
    check_fine(shop)


@pytest.mark.parametrize("more", ['notes = "new"', 'terms = "free"'])
def test_remarks_change_nothing(shop: Shop, more: str) -> None:
    shop.run(*POP)
    shop.declare(more=more)
    shop.run("datasets", "add", str(shop.folder / "mine.toml"))
    check_fine(shop)


def test_printed_counts_and_titles_do_not_stop_a_run(shop: Shop) -> None:
    shop.run(*POP)
    shop.declare(more='printed = { users = 6, items = 24, interactions = 144, source = "a page" }')
    shop.run("datasets", "add", str(shop.folder / "mine.toml"))
    check_fine(shop)
    assert "a page" not in shop.says("datasets", "stats", "mine")
    shop.run("preprocess", "mine")
    assert "a page" in shop.says("datasets", "stats", "mine")


def test_a_changed_raw_file_is_noticed(shop: Shop) -> None:
    shop.run(*POP)
    shop.write_events(USERS + 1)
    check_refused(shop, "events.tsv changed since it was prepared")
    shop.write_events()
    check_fine(shop)  # other times, the same content
    shop.write_items(i2="Another")
    check_refused(shop, "items.tsv changed since it was prepared")
    shop.run("prepare", "mine")
    check_fine(shop)


def test_a_raw_file_of_equal_size_and_date_is_noticed(shop: Shop) -> None:
    file = shop.folder / "raw" / "items.tsv"
    before = file.stat()
    file.write_text(file.read_text(encoding="utf-8").replace("Title 2", "Title 9"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    shop.refuses("items.tsv changed since it was prepared", *POP)


def test_nothing_is_said_of_what_nobody_can_know(shop: Shop) -> None:
    """Raw files that are gone; a table that is gone; raw files in a folder that only --raw named."""
    shop.run(*POP)
    raw, elsewhere = shop.folder / "raw", shop.folder / "elsewhere"
    raw.rename(elsewhere)
    shop.run(*HM4SR)
    shop.run("prepare", "mine", "--raw", str(elsewhere))
    raw.mkdir()
    for name in ("events.tsv", "items.tsv"):
        (raw / name).write_text("something else")
    shop.run(*HM4SR)
    (shop.folder / "data" / "datasets.toml").unlink()
    shop.run(*HM4SR)
    assert "changed since" not in shop.says("datasets", "stats", "mine")


# -- features ---------------------------------------------------------------------------------------------


def check_stale(shop: Shop, modality: str, encoder: str) -> None:
    inputs = "texts" if modality == "text" else "pictures"
    advice = f"run: mmbench extract mine --{modality} {encoder}"
    message = rf"{encoder} is stale: made from other {inputs} than mine has now; {advice}"
    shop.refuses(message, *HM4SR)
    assert f"stale: made from other {inputs}" in shop.says("extract", "--list", "mine")
    assert f"is stale: made from other {inputs}" in shop.says("datasets", "stats", "mine")
    assert f"is stale: made from other {inputs}" in shop.says("doctor")
    shop.run(*POP, "--dry-run")  # reads no features
    done, _ = shop.run("extract", "mine")
    assert done.count("already stored") == 1  # the other modality's
    assert "stale" not in shop.says("extract", "--list", "mine")
    shop.run(*HM4SR)


Change = Callable[[Shop], None]


def other_title(shop: Shop) -> None:
    shop.write_items(i2="Another")


def other_fields(shop: Shop) -> None:
    shop.declare(fields='["title", "brand"]')
    shop.run("datasets", "add", str(shop.folder / "mine.toml"))


@pytest.mark.parametrize("change", [other_title, other_fields])
def test_features_of_other_texts_are_stale(shop: Shop, change: Change) -> None:
    change(shop)
    shop.run("preprocess", "mine")
    check_stale(shop, "text", "tfidf-svd")


def test_features_of_other_pictures_are_stale(shop: Shop) -> None:
    """The new picture has the size of the old one, so that only its content tells them apart."""
    shop.write_picture(3, 77)
    shop.refuses(
        "the pictures of mine changed since it was prepared; run: mmbench preprocess mine", "extract", "mine"
    )
    shop.run(*HM4SR)  # the prepared data and their features are still of one make
    shop.run("preprocess", "mine")
    check_stale(shop, "image", "colour-gradient")


def test_a_picture_that_is_gone_or_new_makes_features_stale(shop: Shop) -> None:
    (shop.folder / "raw" / "pictures" / "i4.bmp").unlink()
    shop.run("preprocess", "mine")
    check_stale(shop, "image", "colour-gradient")


def test_what_no_encoder_reads_makes_nothing_stale(shop: Shop) -> None:
    """A brand outside the text fields, a picture of no item, a picture that is only touched."""
    file = shop.folder / "raw" / "items.tsv"
    file.write_text(file.read_text(encoding="utf-8").replace("Brand 2", "Another brand"))
    shop.write_picture(99, 1)
    (shop.folder / "raw" / "pictures" / "i1.bmp").touch()
    shop.run("preprocess", "mine")
    assert "stale" not in shop.says("extract", "--list", "mine")
    shop.run(*HM4SR)
    assert shop.run("extract", "mine")[0].count("already stored") == 2


def test_other_items_and_then_the_old_ones_again(shop: Shop) -> None:
    """Features come back into use when the texts are again those that they were made from."""
    shop.write_items(i2="Another")
    shop.run("preprocess", "mine")
    shop.refuses("is stale", *HM4SR)
    shop.write_items()
    shop.run("preprocess", "mine")
    shop.run(*HM4SR)
