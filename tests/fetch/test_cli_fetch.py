"""`mmbench prepare` and `mmbench datasets` against a server, as real processes."""

import signal
from pathlib import Path

import pytest

from mmbench.data.raw_hashes import read_recorded
from mmbench.data.store import open_prepared
from mmbench.fetch.files import size_text
from tests.data.raw_files import DAY, START, Event, write_2014, write_toml
from tests.fetch.server import Answer, Resource, Server
from tests.prepared import Outcome, cli, finish, kill_group, start, wait_for

REVIEWS, META = "reviews_Demo_5.json.gz", "meta_Demo.json.gz"
TOML = """
title = "Mine"
parser = "amazon-2014"
terms = "for tests only"
raw = "raw"
files.interactions = {{ name = "reviews_Demo_5.json.gz", about = 1000, urls = ["{base}/gone", "{base}/reviews"] }}
files.items = {{ name = "meta_Demo.json.gz", urls = ["{base}/meta"] }}
"""


def events(n_users: int = 300, n_items: int = 40) -> list[Event]:
    return [
        (f"u{user}", f"i{(user * user + 7 * step) % n_items}", START + (step * 17 + user) * DAY)
        for user in range(n_users)
        for step in range(12)
    ]


class Shop:
    """A server with the two files of `mine`, its toml, and a data folder."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder, self.data = server, folder, folder / "data"
        self.data.mkdir()
        self.toml = write_toml(folder, TOML.format(base=server.base))
        made = write_2014(folder / "made", events())
        self.files = {name: (made / name).read_bytes() for name in (REVIEWS, META)}
        self.reviews: Resource = server.add("/reviews", self.files[REVIEWS])
        self.meta: Resource = server.add("/meta", self.files[META])

    def args(self, *args: str) -> tuple[str, ...]:
        quiet = ("--quiet",) if args[0] == "--quiet" else ()
        return (*quiet, "--datasets", str(self.toml), *args[len(quiet) :])

    def run(self, *args: str) -> Outcome:
        return cli(*self.args(*args), data=self.data)

    @property
    def raw(self) -> dict[str, bytes]:
        return {
            file.name: file.read_bytes() for file in (self.folder / "raw").iterdir() if file.suffix != ".lock"
        }


@pytest.fixture
def shop(server: Server, tmp_path: Path) -> Shop:
    return Shop(server, tmp_path)


def test_prepare_fetches_once_and_says_what(shop: Shop) -> None:
    done = shop.run("prepare", "mine")
    assert done.returncode == 0, done.stderr
    assert shop.raw == shop.files
    assert f"mine: {REVIEWS}: from {shop.server.base}/reviews" in done.stderr
    assert f"mine: {META}: fetched, " in done.stderr
    asked = len(shop.reviews.requests), len(shop.meta.requests)
    again = shop.run("--quiet", "preprocess", "mine", "--ties", "random:1")
    assert (again.returncode, again.stderr) == (0, "")
    assert (len(shop.reviews.requests), len(shop.meta.requests)) == asked == (1, 1)
    check_the_page(shop)
    check_a_damaged_local_file_is_named(shop)


def check_the_page(shop: Shop) -> None:
    text = shop.run("datasets", "mine").stdout
    assert f"on disk, {size_text(len(shop.files[META]))}" in text
    assert read_recorded(shop.data)["mine"][REVIEWS].sha256 in text
    assert "for tests only" in text


def check_a_damaged_local_file_is_named(shop: Shop) -> None:
    file = shop.folder / "raw" / META
    file.write_bytes(file.read_bytes()[:-30])
    done = shop.run("preprocess", "mine", "--force")
    assert done.returncode == 1
    assert f"{META} is not the file that was fetched on" in done.stderr.splitlines()[-1]


def test_killed_in_the_middle_it_goes_on_there(shop: Shop) -> None:
    size = len(shop.files[REVIEWS])
    shop.server.held_after = size // 2
    process = start(*shop.args("prepare", "mine", "--image", "none"), data=shop.data)
    part = shop.folder / "raw" / f"{REVIEWS}.part"
    wait_for(lambda: part.is_file() and part.stat().st_size >= size // 2)
    kill_group(process, signal.SIGKILL)
    finish(process)
    assert set(shop.raw) == {f"{REVIEWS}.part", f"{REVIEWS}.part.json"}
    shop.server.gate.set()
    shop.server.held_after = None
    have = part.stat().st_size
    assert "fetched so far; prepare resumes" in shop.run("datasets", "mine").stdout
    done = shop.run("prepare", "mine", "--image", "none")
    assert done.returncode == 0, done.stderr
    assert shop.reviews.requests[-1]["Range"] == f"bytes={have}-"
    assert shop.reviews.sent_to[-1] == size - have
    assert shop.raw == shop.files
    other = cli("prepare", "demo2", data=shop.data, env={"MMBENCH_DATASETS": str(by_hand(shop))})
    assert other.returncode == 0, other.stderr
    first, second = open_prepared("mine", shop.data), open_prepared("demo2", shop.data)
    assert (first.items == second.items).all()
    assert (first.times == second.times).all()


def by_hand(shop: Shop) -> Path:
    """The same data set without a server, from the files as they were made."""
    body = TOML.format(base="http://nowhere.invalid").replace('"raw"', '"../made"')
    return write_toml(shop.folder / "hand", body, name="demo2")


def test_offline_opens_no_connection(shop: Shop) -> None:
    for command in ("prepare", "preprocess"):
        done = shop.run(command, "mine", "--offline")
        assert done.returncode == 1
        assert f"or   {shop.server.base}/reviews" in done.stderr  # the second of its sources
        assert done.stderr.splitlines()[-1].startswith(
            f"error: mine: raw files {REVIEWS} and {META} not found"
        )
    page = shop.run("datasets", "mine").stdout
    assert "about 1.0 kB" in page
    assert "unknown unless its server is asked" in page
    assert (shop.reviews.requests, shop.meta.requests) == ([], [])
    asked = shop.run("datasets", "mine", "--ask").stdout
    assert f"({len(shop.files[META]):,} bytes, says the server)" in asked
    assert shop.meta.sent == 0


def test_a_failure_is_one_line_and_the_other_file_stays(shop: Shop) -> None:
    shop.reviews.answers = (Answer(content=b"<html>sign in</html>"),)
    done = shop.run("--quiet", "prepare", "mine")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "HTTP 404 Not Found; " in done.stderr
    assert "a web page instead of the file" in done.stderr
    assert set(shop.raw) == {META}
    assert shop.run("datasets", "unlock", "mine").stdout == f"mine: forgotten: {META}\n"


@pytest.mark.parametrize(
    ("word", "said"),
    [("amazon-toyss", "did you mean 'amazon-toys'"), ("stas", "did you mean 'stats'"), ("mine@x", "unknown")],
)
def test_a_word_that_is_neither_data_set_nor_command(word: str, said: str, shop: Shop) -> None:
    done = shop.run("datasets", word)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
