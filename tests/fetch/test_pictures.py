"""Pictures from a server that misbehaves: what is kept, what is asked again, and how politely."""

import io
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmbench.data.picture_store import Entry, PictureStore, StoreWriter
from mmbench.data.store import Prepared
from mmbench.errors import DataError
from mmbench.fetch import hosts, jobs
from mmbench.fetch.hosts import Limits
from mmbench.fetch.pictures import PicturesReport, Progress, fetch_pictures
from tests.features.toy import encoded, items, picture, prepare
from tests.fetch.picture_server import (
    Answer,
    Page,
    closed_port,
    cut,
    drip,
    first,
    jpeg,
    page,
    redirect,
    serving,
    status,
    unlimited,
)

QUICK: dict[str, Any] = {
    "allows_private": True,
    "first_wait_s": 0.01, "pause_s": 0.05, "timeout": (10.0, 10.0), "total_s": 20.0, "grace_s": 0.2,
}  # fmt: skip
SHORT: dict[str, Any] = {"timeout": (1.0, 0.3), "total_s": 0.4}  # for pages that are too slow
LIMITS = Limits(**QUICK)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def shop(folder: Path, urls: list[str]) -> Prepared:
    """Items a000, a001, ... with these addresses; a blank one is left out."""
    records = items(len(urls))
    for record, url in zip(records, urls, strict=True):
        record["image"] = f"{record['id']}.jpg"
        if url:
            record["image_url"] = url
    return prepare(folder, records)


def entries(path: Path) -> dict[str, Entry]:
    with PictureStore(path) as store:
        return store.entries()


@dataclass(frozen=True)
class Tried:
    """What two calls made of the address /x, on a host that gives another picture, too."""

    entry: Entry  # what is known of /x
    first: PicturesReport
    second: PicturesReport
    asked: tuple[int, int]  # how often for /x, by each call


def fetch_twice(folder: Path, failing: Page, **limits: Any) -> Tried:
    path, reports, asked = folder / "p.sqlite", [], []
    with serving({"/x": failing, "/ok": page(jpeg(99)), "/moved": page(jpeg(1))}) as server:
        prepared = shop(folder, [f"{server.url}/x", f"{server.url}/ok"])
        for _ in range(2):
            reports.append(fetch_pictures(prepared, path, limits=Limits(**{**QUICK, **limits})))
            asked.append(server.asked.pop("/x", 0))
        assert server.asked["/ok"] == 1
    return Tried(entries(path)["a000.jpg"], reports[0], reports[1], (asked[0], asked[1]))


BLANK = encoded(Image.new("RGB", (60, 60), "white"), "JPEG")
PIXEL = encoded(Image.new("P", (1, 1)), "GIF", transparency=0)
HTML = b"<!DOCTYPE html><html>Robot?</html>"
FRAMES = [picture(seed) for seed in (1, 2)]
ANIMATED = encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:])


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (status(404), "HTTP 404 Not Found"),
        (status(410), "HTTP 410 Gone"),
        (status(403), "HTTP 403 Forbidden"),
        (page(HTML, "text/html"), "not a picture"),
        (page(HTML, "image/jpeg"), "not a picture"),
        (page(b'<svg xmlns="x"/>', "image/svg+xml"), "vector graphics"),
        (page(PIXEL, "image/gif"), "too small"),
        (page(BLANK), "blank"),
        (page(b""), "empty file"),
        (page(jpeg(1)[:400]), "truncated"),
        (redirect("/x"), "redirected more than 8 times"),
        (redirect("/nowhere"), "HTTP 404 Not Found"),
    ],
)
def test_what_is_gone_is_remembered_and_not_asked_again(tmp_path: Path, failing: Page, reason: str) -> None:
    tried = fetch_twice(tmp_path, failing)
    assert (tried.entry.reason, tried.entry.final, tried.entry.sha256) == (reason, True, None)
    assert tried.first.missing == tried.second.missing == {reason: ["a000.jpg"]}
    assert (tried.first.fetched, tried.first.stored, tried.first.wanted) == (1, 0, 2)
    assert tried.asked[0] >= 1
    assert tried.asked[1] == 0


@pytest.mark.parametrize(
    ("failing", "reason", "limits"),
    [
        (status(500), "HTTP 500 Internal Server Error", {}),
        (status(429), "HTTP 429 Too Many Requests", {}),
        (cut(jpeg(1)), "the connection was cut", {}),
        (cut(jpeg(1), length=False), "truncated", {}),
        (drip(jpeg(1), every_s=0.02), "the server sends too slowly", {**SHORT, "tries": 2}),
        (page(jpeg(1), after_s=0.6), "the server did not answer in time", {**SHORT, "tries": 2}),
    ],
)
def test_what_may_pass_is_tried_again_now_and_next_time(
    tmp_path: Path, failing: Page, reason: str, limits: dict[str, Any]
) -> None:
    tried = fetch_twice(tmp_path, failing, **limits)
    tries = limits.get("tries", 3)
    assert (tried.entry.reason, tried.entry.final, tried.entry.tries) == (reason, False, 2 * tries)
    assert tried.first.missing == {reason: ["a000.jpg"]}
    assert tried.asked == (tries, tries)


@pytest.mark.parametrize(
    ("failing", "tries", "limits"),
    [
        (page(jpeg(1)), 1, {}),
        (page(jpeg(1), "text/html"), 1, {}),  # only the bytes count
        (page(ANIMATED, "image/gif"), 1, {}),
        (redirect("/moved"), 1, {}),
        (first(2, status(500), page(jpeg(1))), 3, {}),
        (first(1, status(429, Retry_After="0"), page(jpeg(1))), 2, {}),
        (first(1, cut(jpeg(1)), page(jpeg(1))), 2, {}),
        (first(1, cut(jpeg(1), length=False), page(jpeg(1))), 2, {}),
        (first(2, drip(jpeg(1), every_s=0.1), page(jpeg(1))), 3, SHORT),
    ],
)
def test_what_comes_in_the_end_is_kept(
    tmp_path: Path, failing: Page, tries: int, limits: dict[str, Any]
) -> None:
    tried = fetch_twice(tmp_path, failing, **limits)
    assert tried.entry.sha256 is not None
    assert (tried.entry.tries, tried.first.fetched, tried.first.missing) == (tries, 2, {})
    assert (tried.second.fetched, tried.second.stored, tried.asked) == (0, 2, (tries, 0))
    with PictureStore(tmp_path / "p.sqlite") as store:
        content = store.read("a000.jpg")
    assert isinstance(content, bytes)
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (40, 30)


def test_too_large_by_its_header_or_without_one(tmp_path: Path) -> None:
    for number, failing in enumerate((page(bytes(5_000)), unlimited)):
        entry = fetch_twice(tmp_path / str(number), failing, max_bytes=4_000).entry
        assert (entry.reason, entry.final, entry.tries) == ("too large", True, 1)


def test_a_host_that_asks_for_a_pause_gets_it(tmp_path: Path) -> None:
    pages = {f"/{k}": page(jpeg(k)) for k in range(12)}
    pages["/0"] = first(1, status(429, Retry_After="1"), page(jpeg(0)))
    with serving(pages) as server:
        prepared = shop(tmp_path, [f"{server.url}/{k}" for k in range(12)])
        report = fetch_pictures(prepared, tmp_path / "p", limits=Limits(**QUICK, per_host=1))
        waits = [after - before for before, after in pairwise(server.times)]
    assert report.fetched == 12
    assert waits[0] > 0.9  # the next picture of the same host waits, too
    assert sum(waits[1:]) < 0.9


def test_few_requests_at_once_to_one_host_but_several_hosts_at_once(tmp_path: Path) -> None:
    pages = {f"/{k}": page(jpeg(k), after_s=0.05) for k in range(24)}
    with serving(pages) as first, serving(pages) as two:
        urls = [f"{server.url}/{k}" for k in range(24) for server in (first, two)]
        started = time.monotonic()
        report = fetch_pictures(shop(tmp_path, urls), tmp_path / "p", limits=Limits(**QUICK, per_host=3))
        took = time.monotonic() - started
        assert report.fetched == 48
        assert first.most_at_once == two.most_at_once == 3
        assert max(first.times[0], two.times[0]) < min(first.times[-1], two.times[-1])
    assert took < 2 * 24 * 0.05  # one after the other


def test_equal_addresses_are_fetched_once_now_and_later(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    with serving({"/1": page(jpeg(1)), "/2": page(jpeg(2))}) as server:
        urls = [f"{server.url}/1", f"{server.url}/2", f"{server.url}/1"]
        assert fetch_pictures(shop(tmp_path, urls), path, limits=LIMITS).fetched == 3
        more = fetch_pictures(shop(tmp_path, [*urls, f"{server.url}/1"]), path, limits=LIMITS)
        assert (more.fetched, more.stored) == (1, 3)
        assert server.asked == {"/1": 1, "/2": 1}
    with PictureStore(path) as store:
        assert store.read("a000.jpg") == store.read("a002.jpg") == store.read("a003.jpg") == jpeg(1)


def test_two_that_fetch_into_one_store_share_the_work(tmp_path: Path) -> None:
    waited, reports, is_waiting = [], [], threading.Event()

    def wait_for_the_other(to: Answer, count: int) -> None:
        is_waiting.wait(8)
        page(jpeg(9))(to, count)

    def on_wait() -> None:
        waited.append(True)
        is_waiting.set()

    pages = {f"/{k}": page(jpeg(k)) for k in range(9)} | {"/9": wait_for_the_other}
    with serving(pages) as server:
        prepared = shop(tmp_path, [f"{server.url}/{k}" for k in range(10)])

        def fetch() -> None:
            reports.append(fetch_pictures(prepared, tmp_path / "p", limits=LIMITS, on_wait=on_wait))

        both = [threading.Thread(target=fetch) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert set(server.asked.values()) == {1}
    assert waited == [True]
    assert sorted((report.fetched, report.stored) for report in reports) == [(0, 10), (10, 0)]


def test_retry_asks_again_for_what_is_gone_and_a_new_address_does_so_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    with serving({"/x": first(1, status(404), page(jpeg(1))), "/new": page(jpeg(2))}) as server:
        prepared = shop(tmp_path, [f"{server.url}/x", f"{server.url}/gone"])
        assert fetch_pictures(prepared, path, limits=LIMITS).n_missing == 2
        assert fetch_pictures(prepared, path, limits=LIMITS, retry=True).fetched == 1
        moved = shop(tmp_path, [f"{server.url}/x", f"{server.url}/new"])
        assert fetch_pictures(moved, path, limits=LIMITS).missing == {}


def test_a_dead_host_costs_a_few_failures_and_one_line(tmp_path: Path) -> None:
    dead = closed_port()
    with serving({f"/{k}": page(jpeg(k)) for k in range(5)}) as server:
        urls = [f"{dead}/{k}" for k in range(400)] + [f"{server.url}/{k}" for k in range(5)]
        prepared = shop(tmp_path, urls)
        limits = Limits(**QUICK, give_up_after=20)
        started = time.monotonic()
        report = fetch_pictures(prepared, tmp_path / "p", limits=limits)
        assert time.monotonic() - started < 3
    assert report.fetched == 5
    assert len(report.notes) == 1
    assert report.notes[0].startswith(
        f"{dead[7:]}: no proper answer to 20 requests in a row (last: no connection"
    )
    assert "\n" not in report.notes[0]
    known = entries(tmp_path / "p").values()
    assert sum(name.tries for name in known if dead in name.url) <= 20 + 8
    assert not any(name.final for name in known if dead in name.url)
    assert len(report.missing[f"{dead[7:]} was given up"]) > 350


@pytest.mark.parametrize("refusal", [status(403), page(HTML, "text/html")], ids=["403", "a login page"])
def test_a_host_that_blocks_us_says_nothing_of_its_pictures(tmp_path: Path, refusal: Page) -> None:
    with serving({f"/{k}": refusal for k in range(100)}) as server:
        prepared = shop(tmp_path, [f"{server.url}/{k}" for k in range(100)])
        report = fetch_pictures(prepared, tmp_path / "p", limits=Limits(**QUICK, give_up_after=10))
        assert report.fetched == 0
        assert len(report.notes) == 1
        assert sum(server.asked.values()) <= 10 + 8
        assert not any(entry.final for entry in entries(tmp_path / "p").values())
        server.pages = {f"/{k}": page(jpeg(k)) for k in range(100)}
        assert fetch_pictures(prepared, tmp_path / "p", limits=LIMITS).fetched == 100


def test_a_host_of_which_many_pictures_are_gone_is_not_given_up(tmp_path: Path) -> None:
    with serving({"/ok": page(jpeg(1))}) as server:
        prepared = shop(tmp_path, [f"{server.url}/{k}" for k in range(60)] + [f"{server.url}/ok"])
        report = fetch_pictures(prepared, tmp_path / "p", limits=Limits(**QUICK, give_up_after=10))
    assert (report.fetched, report.notes) == (1, ())
    assert report.missing == {"HTTP 404 Not Found": [f"a{k:03d}.jpg" for k in range(60)]}


def test_the_second_address_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = closed_port()
    with serving({"/new/1": page(jpeg(1)), "/new/2": page(jpeg(2))}) as server:
        monkeypatch.setattr(jobs, "MIRRORS", {f"{dead}/old/": f"{server.url}/new/"})
        prepared = shop(tmp_path, [f"{dead}/old/1", f"{dead}/old/2", f"{dead}/old/3", f"{dead}/1"])
        report = fetch_pictures(prepared, tmp_path / "p", limits=LIMITS)
        assert report.fetched == 2
        assert report.missing["HTTP 404 Not Found"] == ["a002.jpg"]
        known = entries(tmp_path / "p")
        assert known["a000.jpg"].url == f"{dead}/old/1"
        assert known["a002.jpg"].final  # its first host is dead, its second does not know it
        assert not known["a003.jpg"].final


def test_the_second_address_of_amazon_pictures() -> None:
    actual = jobs.Job("http://ecx.images-amazon.com/images/I/51abc._SY300_.jpg", ("a.jpg",)).addresses
    assert actual[1] == "https://m.media-amazon.com/images/I/51abc._SY300_.jpg"
    for url in (
        "http://ecx.images-amazon.com/images/G/01/x.jpg",
        "https://images-na.ssl-images-amazon.com/images/I/5",
    ):
        assert jobs.Job(url, ("a.jpg",)).addresses == [url]


def test_addresses_that_are_none(tmp_path: Path) -> None:
    urls = [
        "no address",
        "ftp://host/1.jpg",
        "http://",
        f"http://{'a' * 80}.example/x",
        "http://[::1/x",
        "file:///etc/x",
    ]
    report = fetch_pictures(shop(tmp_path, urls), tmp_path / "p", limits=LIMITS)
    assert report.missing == {"the address is not valid": [f"a{k:03d}.jpg" for k in range(6)]}
    assert all(entry.final for entry in entries(tmp_path / "p").values())


def test_without_an_address_nothing_is_made_or_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a session was made")

    monkeypatch.setattr(jobs, "new_session", refuse)
    report = fetch_pictures(shop(tmp_path, ["", ""]), tmp_path / "p", limits=LIMITS)
    assert (report.wanted, report.missing) == (0, {})
    assert not (tmp_path / "p").exists()


def test_the_store_does_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    actual = []
    for per_host in (1, 2, 8):
        pages = {f"/{k}": page(jpeg(k % 7), after_s=0.01 * (k % 3)) for k in range(30)}
        pages |= {"/3": status(404), "/4": first(1, status(500), page(jpeg(4))), "/5": page(HTML)}
        with serving(pages) as server:
            path = tmp_path / str(per_host)
            prepared = shop(tmp_path, [f"{server.url}/{k % 20}" for k in range(30)])
            fetch_pictures(prepared, path, limits=Limits(**QUICK, per_host=per_host))
            known = entries(path)
        actual.append(
            [
                (name.name, name.url.rpartition("/")[2], name.sha256, name.reason, name.final, name.tries)
                for name in known.values()
            ]
        )
    assert actual[0] == actual[1] == actual[2]
    assert len(actual[0]) == 30


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with serving({f"/{k}": page(jpeg(k)) for k in range(10)}) as server:
        prepared = shop(tmp_path, [f"{server.url}/{k}" for k in range(12)])
        fetch_pictures(prepared, tmp_path / "p", limits=LIMITS, on_progress=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (12, 12, 2)
    assert all(a.done <= b.done for a, b in pairwise(seen))


def test_a_mistake_of_ours_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(content: bytes) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(jobs, "decode", broken)
    with serving({"/1": page(jpeg(1))}) as server:
        prepared = shop(tmp_path, [f"{server.url}/1"])
        with pytest.raises(ZeroDivisionError):
            fetch_pictures(prepared, tmp_path / "p", limits=LIMITS)


def test_a_store_that_fails_ends_the_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        raise DataError("the disk is full")

    monkeypatch.setattr(StoreWriter, "put", full)
    with serving({f"/{k}": page(jpeg(k), after_s=0.02) for k in range(200)}) as server:
        prepared = shop(tmp_path, [f"{server.url}/{k}" for k in range(200)])
        with pytest.raises(DataError, match="the disk is full"):
            fetch_pictures(prepared, tmp_path / "p", limits=LIMITS)
        time.sleep(0.2)
        asked = sum(server.asked.values())
        time.sleep(0.2)
        assert asked == sum(server.asked.values()) < 150


def test_the_host_of_an_address() -> None:
    assert hosts.host_name("HTTP://user:pass@Host.Example:81/a@b") == "host.example:81"
    assert hosts.host_name("http://[::1/x") == hosts.host_name("nothing") == ""
