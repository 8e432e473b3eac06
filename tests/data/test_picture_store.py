"""The store of fetched pictures: what was committed stays, readers see it, damage is one line."""

import hashlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mmbench.data.picture_store import PictureStore, StoreWriter
from mmbench.errors import DataError, MmbenchError
from tests.prepared import ROOT, environment


def filled(path: Path) -> Path:
    with StoreWriter(path) as writer:
        writer.put(["b.jpg", "a.jpg"], "http://host/1", b"one", tries=1)
        writer.fail(["c.jpg"], "http://host/3", "HTTP 404 Not Found", final=True, tries=1)
        writer.fail(["d.jpg"], "http://host/4", "no connection", final=False, tries=3)
    return path


def test_pictures_and_reasons_come_back(tmp_path: Path) -> None:
    store = PictureStore(filled(tmp_path / "p.sqlite"))
    assert store.read("a.jpg") == store.read("b.jpg") == b"one"
    assert store.read("c.jpg") == "HTTP 404 Not Found"
    assert store.read("x.jpg") == "not fetched yet"
    assert store.sha256("a.jpg") == hashlib.sha256(b"one").hexdigest()
    assert store.sha256("c.jpg") is store.sha256("x.jpg") is None
    assert list(store.members()) == ["a.jpg", "b.jpg"]
    assert list(store.entries()) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    entry = store.entries()["d.jpg"]
    assert (entry.url, entry.sha256, entry.reason) == ("http://host/4", None, "no connection")
    assert (entry.final, entry.tries) == (False, 3)
    assert abs(entry.time - time.time()) < 60


def test_a_later_result_replaces_the_earlier_and_tries_add_up(tmp_path: Path) -> None:
    path = filled(tmp_path / "p.sqlite")
    with StoreWriter(path) as writer:
        writer.fail(["d.jpg"], "http://host/4", "no connection", final=False, tries=2)
        assert writer.entries()["d.jpg"].tries == 5
        writer.put(["d.jpg"], "http://host/4", b"four", tries=1)
        writer.finalise(["a.jpg", "c.jpg"])
        writer.link(["e.jpg"], "http://host/4", hashlib.sha256(b"four").hexdigest())
    store = PictureStore(path)
    assert store.entries()["d.jpg"].tries == 6
    assert store.entries()["d.jpg"].reason is None
    assert store.read("d.jpg") == store.read("e.jpg") == b"four"


def test_equal_pictures_lie_there_once(tmp_path: Path) -> None:
    sizes = []
    for name, bodies in (("same", [bytes(50_000)] * 20), ("each", [bytes([k]) * 50_000 for k in range(20)])):
        with StoreWriter(tmp_path / name) as writer:
            for k, body in enumerate(bodies):
                writer.put([f"{k}.jpg"], f"http://host/{k}", body, tries=1)
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[0] < 150_000 < 1_000_000 < sizes[1]


def test_a_closed_store_is_one_file_readable_without_write_permission(tmp_path: Path) -> None:
    path = filled(tmp_path / "p.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["p.sqlite"]
    # As on a read-only disk: nothing can be made beside the file (the tests may run as root).
    frozen = sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)
    assert frozen.execute("SELECT count(*) FROM picture").fetchone() == (4,)
    assert PictureStore(path).read("a.jpg") == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["p.sqlite"]


def test_a_reader_sees_what_the_writer_commits(tmp_path: Path) -> None:
    path = filled(tmp_path / "p.sqlite")
    store = PictureStore(path)
    with StoreWriter(path) as writer:
        with writer.transaction():
            writer.put(["n.jpg"], "http://host/n", b"new", tries=1)
            assert store.read("n.jpg") == "not fetched yet"
        assert store.read("n.jpg") == b"new"
    assert store.read("n.jpg") == b"new"


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "p.sqlite") as writer:
        with suppress(ZeroDivisionError), writer.transaction():
            writer.put(["a.jpg"], "http://host/1", b"one", tries=1)
            _ = 1 / 0
        assert writer.entries() == {}
        writer.put(["b.jpg"], "http://host/2", b"two", tries=1)
        assert list(writer.entries()) == ["b.jpg"]


def test_many_threads_read(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    with StoreWriter(path) as writer, writer.transaction():
        for k in range(200):
            writer.put([f"{k}.jpg"], f"http://host/{k}", str(k).encode() * 100, tries=1)
    store, wrong = PictureStore(path), []

    def read(start: int) -> None:
        for k in range(start, 200, 8):
            if store.read(f"{k}.jpg") != str(k).encode() * 100:
                wrong.append(k)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_process_reads(tmp_path: Path) -> None:
    store = PictureStore(filled(tmp_path / "p.sqlite"))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(store.read("a.jpg")))
    child.start()
    child.join(20)
    assert answers.get() == b"one" == store.read("a.jpg")


def test_bytes_that_the_disk_changed_are_not_given_out(tmp_path: Path) -> None:
    path = filled(tmp_path / "p.sqlite")
    whole = path.read_bytes()
    assert whole.count(b"one") == 1
    path.write_bytes(whole.replace(b"one", b"two"))
    assert PictureStore(path).read("a.jpg") == "unreadable"


def test_damage_and_foreign_files_are_one_line(tmp_path: Path) -> None:
    path = filled(tmp_path / "p.sqlite")
    other = tmp_path / "other.sqlite"
    foreign = sqlite3.connect(other)
    foreign.execute("CREATE TABLE t (x)")
    foreign.commit()
    foreign.close()
    (tmp_path / "text").write_text("no database, but long enough to look like one" * 10)
    whole = path.read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 3])
    for name, message in (
        ("gone", "picture store .* not found"),
        ("text", "remove it"),
        ("other.sqlite", "is not a picture store"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            PictureStore(tmp_path / name)
        assert "\n" not in str(caught.value)
        if name != "gone":
            with pytest.raises(DataError):
                StoreWriter(tmp_path / name)
    with pytest.raises(DataError, match="remove it"):
        PictureStore(tmp_path / "cut").entries()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MmbenchError, match="cannot write"):
        StoreWriter(tmp_path / "file" / "p.sqlite")


ENDLESS = """
import sys
from pathlib import Path
from mmbench.data.picture_store import StoreWriter
writer, k = StoreWriter(Path(sys.argv[1])), 0
while True:
    writer.put([f"{k}.jpg"], f"http://host/{k}", str(k).encode() * 3000, tries=1)
    print(k, flush=True)
    k += 1
"""


@pytest.mark.parametrize("wait_s", [0.0, 0.02, 0.3])
def test_killed_at_any_moment_it_keeps_what_was_committed(tmp_path: Path, wait_s: float) -> None:
    path = tmp_path / "p.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdout is not None
    last = int(process.stdout.readline())
    time.sleep(wait_s)
    os.kill(process.pid, signal.SIGKILL)
    last = max([last, *(int(line) for line in process.stdout.read().split())])
    process.wait()
    with PictureStore(path) as store:
        assert len(store.members()) >= last + 1
    with StoreWriter(path) as writer:  # the next one goes on
        writer.put(["more.jpg"], "http://host/more", b"more", tries=1)
    with PictureStore(path) as store:
        assert all(store.read(f"{k}.jpg") == str(k).encode() * 3000 for k in range(last + 1))
        assert store.read("more.jpg") == b"more"
    assert [path.name for path in tmp_path.iterdir()] == ["p.sqlite"]
