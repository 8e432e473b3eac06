"""`mmbench prepare` with pictures that have addresses; kills and signals on real processes."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.data.images import list_images, store_path
from mmbench.data.manifest import Manifest
from mmbench.data.picture_store import PictureStore, StoreWriter
from mmbench.data.prepare import prepare
from mmbench.data.spec import Images
from mmbench.data.store import open_prepared
from mmbench.fetch import hosts, jobs
from mmbench.fetch.hosts import Limits
from tests.data.raw_files import AMAZON_2014, TABLE, grid, write_2014, write_lines, write_toml
from tests.features.toy import encoded, picture
from tests.fetch.picture_server import Page, PictureServer, cut, jpeg, page, serving, status
from tests.prepared import Outcome, finish, kill_group, start, wait_for


def squeezed(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


IMAGES = 'images = { name = "images", member = "{id}.jpg" }\n'
N = 24


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MMBENCH_PRIVATE_HOSTS", "1")


@pytest.fixture
def server() -> Iterator[PictureServer]:
    with serving({f"/i{k}.jpg": page(jpeg(k)) for k in range(N)}) as server:
        yield server


def slow(then: Page, seconds: float) -> Page:
    def answer(to: Any, count: int) -> None:
        time.sleep(seconds)
        then(to, count)

    return answer


class Shop:
    """A data folder with the data set `mine` of N items, whose pictures `server` has."""

    def __init__(self, folder: Path, server: PictureServer | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data, self.raw = folder / "data", folder / "data" / "raw" / "mine"
        meta: list[dict[str, Any]] = [{"asin": f"i{k}", "title": f"Title {k}"} for k in range(N)]
        if server is not None:
            meta = [{**record, "imUrl": f"{server.url}/{record['asin']}.jpg"} for record in meta]
        write_2014(self.raw, grid(6, N), meta)
        self.catalog = write_toml(folder, AMAZON_2014 + IMAGES)
        monkeypatch.setenv("MMBENCH_DATASETS", str(self.catalog))

    def run(self, *args: str) -> Outcome:
        """In this process; white space collapsed."""
        result = CliRunner().invoke(app, ["--data-dir", str(self.data), *args])
        if result.exception is not None:
            raise result.exception
        return Outcome(result.exit_code, squeezed(result.stdout), squeezed(result.stderr))

    def start(self, *args: str) -> Any:
        return start("--datasets", self.catalog, *args, data=self.data)

    @property
    def manifest(self) -> Manifest:
        return open_prepared("mine", self.data).manifest

    def fetched(self) -> dict[str, str]:
        path = self.raw / "images.sqlite"
        if not path.is_file():
            return {}
        with PictureStore(path) as store:
            return store.members()


ShopOf = Callable[[PictureServer | None], Shop]


@pytest.fixture
def shop_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShopOf:
    return lambda server: Shop(tmp_path, server, monkeypatch)


def test_prepare_fetches_reports_and_then_has_nothing_to_do(shop_of: ShopOf, server: PictureServer) -> None:
    del server.pages["/i3.jpg"]
    server.pages["/i5.jpg"] = status(410)
    shop = shop_of(server)
    done = shop.run("prepare", "mine")
    assert done.returncode == 0, done.stderr
    assert f"pictures: {N - 2} fetched, 0 already stored, 2 missing of {N} with an address" in done.stdout
    assert "1 HTTP 404 Not Found i3.jpg" in done.stdout
    assert f"mine: image colour-gradient: {N - 2} of {N} items" in done.stdout
    assert f"mine: pictures: fetching {N}" in done.stderr
    first = shop.manifest
    assert first.images.kind == "store"
    assert first.statistics.coverage.n_without_image == 2
    server.asked.clear()
    again = shop.run("prepare", "mine")
    assert again.returncode == 0
    assert "mine: already prepared, nothing to do" in again.stdout
    assert f"pictures: 0 fetched, {N - 2} already stored, 2 missing" in again.stdout
    assert again.stdout.count("already stored") == 3  # pictures, text and image features
    assert not server.asked
    assert shop.manifest == first
    retried = shop.run("--quiet", "prepare", "mine", "--retry-pictures")
    assert (retried.returncode, retried.stderr) == (0, "")
    assert sorted(server.asked) == ["/i3.jpg", "/i5.jpg"]


def test_fetching_changes_neither_the_hash_nor_the_need_to_prepare(
    shop_of: ShopOf, server: PictureServer
) -> None:
    shop = shop_of(server)
    shop.run("preprocess", "mine")
    before = shop.manifest
    assert before.images is None
    assert shop.run("prepare", "mine").returncode == 0
    after = shop.manifest
    of_pictures = {"images": before.images, "statistics": before.statistics, "inputs": before.inputs}
    assert replace(after, **of_pictures) == before
    assert after.inputs.text == before.inputs.text
    assert after.inputs.image != before.inputs.image
    assert after.statistics.coverage.image == 1.0
    forced = shop.run("preprocess", "mine", "--force")
    assert forced.returncode == 0, forced.stderr
    assert (shop.manifest.hash, shop.manifest.source) == (before.hash, before.source)
    assert shop.manifest.images == after.images
    server.asked.clear()
    other = shop.run("prepare", "mine", "--ties", "random:1")  # its pictures are stored already
    assert f"0 fetched, {N} already stored, 0 missing" in other.stdout
    assert not server.asked
    (shop.raw / "images.sqlite").unlink()
    assert "already prepared" in shop.run("preprocess", "mine").stdout
    assert shop.manifest.images is None
    assert shop.manifest.statistics.coverage.image == 0


@pytest.mark.parametrize("option", [("--offline",), ("--no-pictures",), ("--image", "none")])
def test_options_that_open_no_connection(
    shop_of: ShopOf, server: PictureServer, option: tuple[str, ...]
) -> None:
    shop = shop_of(server)
    done = shop.run("prepare", "mine", *option)
    assert done.returncode == 0, done.stderr
    assert not server.asked
    assert "pictures:" not in done.stdout + done.stderr
    assert not (shop.raw / "images.sqlite").exists()


def test_without_addresses_nothing_is_asked_or_said(shop_of: ShopOf, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = shop_of(None)
    monkeypatch.setattr(jobs, "new_session", None)
    done = shop.run("prepare", "mine")
    assert done.returncode == 0, done.stderr
    assert "pictures:" not in done.stdout + done.stderr
    assert [path.name for path in shop.raw.glob("*images*")] == []


def test_a_folder_of_the_users_wins(shop_of: ShopOf, server: PictureServer) -> None:
    shop = shop_of(server)
    shop.run("prepare", "mine")
    server.asked.clear()
    (shop.raw / "images").mkdir()
    (shop.raw / "images" / "i1.jpg").write_bytes(encoded(picture(50), "JPEG"))
    done = shop.run("prepare", "mine")
    assert done.returncode == 0, done.stderr
    assert shop.manifest.images.kind == "folder"
    assert f"image colour-gradient: 1 of {N} items" in done.stdout
    assert not server.asked
    listed = shop.run("datasets", "pictures", "mine")
    assert f"mine: 1 of {N} items have a picture (folder " in listed.stdout
    assert f"{N - 1} missing file i0, i10, i11, ..." in listed.stdout


def test_datasets_pictures_lists_what_is_missing_and_why(shop_of: ShopOf, server: PictureServer) -> None:
    del server.pages["/i3.jpg"]
    shop = shop_of(server)
    assert shop.run("preprocess", "mine").returncode == 0
    before = shop.run("datasets", "pictures", "mine")
    assert f"mine: 0 of {N} items have a picture (no pictures yet)" in before.stdout
    assert f"{N} not fetched yet" in before.stdout
    shop.run("prepare", "mine")
    listed = shop.run("datasets", "pictures", "mine", "--missing")
    assert [line.split() for line in listed.stdout.splitlines()] == [
        ["item", "why", "picture", "address"],
        ["i3", "HTTP", "404", "Not", "Found", "i3.jpg", f"{server.url}/i3.jpg"],
    ]


def test_killed_in_the_middle_it_goes_on_without_asking_twice(shop_of: ShopOf, server: PictureServer) -> None:
    for path, then in list(server.pages.items()):
        server.pages[path] = slow(then, 0.15)
    shop = shop_of(server)
    process = shop.start("prepare", "mine")
    wait_for(lambda: len(shop.fetched()) >= 6, every=0.03)
    kill_group(process)
    finish(process)
    stored = shop.fetched()
    assert 6 <= len(stored) < N
    server.asked.clear()
    done = shop.run("prepare", "mine")
    assert done.returncode == 0, done.stderr
    assert sorted(server.asked) == sorted(f"/i{k}.jpg" for k in range(N) if f"i{k}.jpg" not in stored)
    assert len(shop.fetched()) == N
    assert sorted(path.name for path in shop.raw.glob("images*")) == ["images.sqlite"]


def test_ctrl_c_stops_soon_and_keeps_what_was_fetched(shop_of: ShopOf, server: PictureServer) -> None:
    server.pages["/i9.jpg"] = server.pages["/i8.jpg"] = slow(page(jpeg(9)), 20)
    shop = shop_of(server)
    process = shop.start("prepare", "mine")
    wait_for(lambda: len(shop.fetched()) == N - 2, every=0.03)
    pressed = time.monotonic()
    kill_group(process, signal.SIGINT)
    done = finish(process)
    assert time.monotonic() - pressed < 3
    assert done.returncode == 130
    assert done.error_lines[-1] == "stopped; the same command resumes from here"
    assert "Traceback" not in done.stderr
    assert len(shop.fetched()) == N - 2
    server.pages |= {path: page(jpeg(9)) for path in ("/i8.jpg", "/i9.jpg")}
    server.asked.clear()
    assert shop.run("prepare", "mine").returncode == 0
    assert server.asked == {"/i8.jpg": 1, "/i9.jpg": 1}


def test_a_store_that_cannot_be_used_is_one_line(shop_of: ShopOf, server: PictureServer) -> None:
    shop = shop_of(server)
    (shop.raw / "images.sqlite").write_text("no store" * 1000)
    done = finish(shop.start("prepare", "mine"))
    assert done.returncode == 1
    assert done.error_lines[-1].startswith("error: cannot read the picture store")
    assert "Traceback" not in done.stderr


def test_a_transient_failure_is_asked_again_next_time(
    shop_of: ShopOf, server: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "Limits", partial(Limits, first_wait_s=0.01))
    server.pages["/i2.jpg"] = cut(jpeg(2))
    shop = shop_of(server)
    assert "1 the connection was cut i2.jpg" in shop.run("prepare", "mine").stdout
    features = shop.data / "prepared" / "mine" / "features" / "image" / "colour-gradient" / "values.npy"
    stamp = features.stat().st_mtime_ns
    server.pages["/i2.jpg"] = page(jpeg(2))
    server.asked.clear()
    done = shop.run("prepare", "mine")
    assert "already prepared, nothing to do" in done.stdout
    assert f"1 fetched, {N - 1} already stored, 0 missing" in done.stdout
    assert f"image colour-gradient: {N} of {N} items (100.0%)" in done.stdout
    assert server.asked == {"/i2.jpg": 1}
    assert features.stat().st_mtime_ns > stamp


def test_a_growing_store_decides_nothing_about_items_without_an_address(tmp_path: Path) -> None:
    """Two rows are one item; only the second has an address. Its picture's name stays the first row's."""
    folder = tmp_path / "raw" / "mine"
    rows = [
        "item\tgroup\ttitle\tgenres\turl",
        *(f"{g}{k}\t{g}\tt\tx\t{'http://h/1' * (k == 2)}" for g in "abc" for k in (1, 2)),
    ]
    write_lines(folder / "items.tsv", rows)
    lines = [
        f"{user}\t{item}\t{1_300_000_000 + k}"
        for user in ("u1", "u2")
        for k, item in enumerate(("a1", "b1", "c1", "a2", "b2"))
    ]
    write_lines(folder / "events.tsv", ["user\titem\ttimestamp", *lines])
    body = TABLE.replace('title = "title",', 'title = "title", group = "group", image_url = "url",')
    rules = "filters = { min_user = 1, min_item = 1, require = ['image'] }\n"
    file = write_toml(tmp_path, body + rules + 'images = { name = "pics", member = "{item}.jpg" }\n')
    catalog = pytest.MonkeyPatch()
    catalog.setenv("MMBENCH_DATASETS", str(file))
    try:
        before = prepare("mine", tmp_path).prepared
        images = Images(name="pics", member="{item}.jpg")
        with StoreWriter(store_path(images, folder)) as writer:
            writer.put(["a2.jpg"], "http://h/1", jpeg(1), tries=1)
        listing = list_images(images, folder)
        assert listing is not None
        assert listing.members == {"a2.jpg"}
        again = prepare("mine", tmp_path)
        assert (again.fresh, again.prepared.manifest.images.kind) == (False, "store")
        forced = prepare("mine", tmp_path, force=True).prepared
    finally:
        catalog.undo()
    assert forced.hash == before.hash
    assert [record["image"] for record in forced.item_records] == ["a1.jpg", "b1.jpg", "c1.jpg"]
    assert (
        json.loads((forced.path / "manifest.json").read_text(encoding="utf-8"))["statistics"]["coverage"][
            "image"
        ]
        == 0
    )
