"""Download of one file: after each fault either the right bytes or one clear error, and never anything else."""

import errno
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmbench.errors import MmbenchError
from mmbench.fetch import part as part_module
from mmbench.fetch.client import new_session
from mmbench.fetch.files import Fetched, NotFetchedError, Patience, Wanted, download
from tests.fetch.faults import FAULTS, FILE, MIDDLE, OTHER, Fault, N
from tests.fetch.server import GOOD, Answer, Server, closed_port

NAME = "reviews_Demo_5.json.gz"
SHA = hashlib.sha256(FILE).hexdigest()
KNOWN = {"none": None, "right": SHA, "wrong": "0" * 64}


@pytest.fixture
def waits() -> list[float]:
    return []


def patience(waits: list[float]) -> Patience:
    return Patience(
        tries=3, first_wait_s=0.001, connect_s=0.5, read_s=0.2, worthwhile=100, sleep=waits.append
    )


def fetch(urls: list[str], target: Path, waits: list[float], sha256: str | None = None) -> Fetched | None:
    with new_session() as session:
        return download(Wanted(target.name, urls, None, sha256), target, session, patience=patience(waits))


def serve(server: Server, fault: Fault) -> list[str]:
    for number, answers in enumerate(fault.mirrors):
        server.add(f"/{number}/{NAME}", FILE, *answers)
    return [f"{server.base}/{number}/{NAME}" for number in range(len(fault.mirrors))]


def left(folder: Path) -> set[str]:
    """What lies in the folder besides the lock of filelock."""
    return {file.name for file in folder.iterdir()} - {f".{NAME}.lock"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, server: Server, tmp_path: Path, waits: list[float]) -> None:
    urls, target = serve(server, fault), tmp_path / NAME
    if fault.error:
        with pytest.raises(NotFetchedError, match=fault.error) as caught:
            fetch(urls, target, waits, KNOWN[fault.sha256])
        assert "\n" not in str(caught.value)
        assert left(tmp_path) <= {f"{NAME}.part", f"{NAME}.part.json"}
    else:
        fetched = fetch(urls, target, waits, KNOWN[fault.sha256])
        assert fetched is not None
        assert (fetched.sha256, fetched.size) == (SHA, N)
        assert target.read_bytes() == FILE
        assert left(tmp_path) == {NAME}
    assert tuple(len(file.requests) for file in server.files.values()) == fault.requests
    if fault.error and fault.sha256 != "wrong":  # what was left behind does no harm once the server is well
        serve(server, Fault("well", [[GOOD]] * len(fault.mirrors)))
        fetch(urls, target, waits)
        assert target.read_bytes() == FILE


def test_the_table_is_as_long_as_promised() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 50


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(status: int, server: Server, tmp_path: Path, waits: list[float]) -> None:
    server.add("/a", FILE, Answer(status=status, headers=(("Retry-After", "7"),)), GOOD)
    fetch([f"{server.base}/a"], tmp_path / NAME, waits)
    assert waits == [7.0]


def test_a_resume_asks_for_the_rest_of_the_same_version(
    server: Server, tmp_path: Path, waits: list[float]
) -> None:
    resource = server.add("/a", FILE, Answer(cut=MIDDLE), GOOD)
    fetch([f"{server.base}/a"], tmp_path / NAME, waits)
    asked = resource.requests[1]
    assert (asked["Range"], asked["If-Range"]) == (f"bytes={MIDDLE}-", '"v1"')
    assert resource.sent == N


def test_a_part_of_an_earlier_process_is_gone_on_with_where_it_came_from(
    server: Server, tmp_path: Path, waits: list[float]
) -> None:
    first = server.add("/1", FILE, Answer(status=503))
    second = server.add("/2", FILE, Answer(cut=MIDDLE), Answer(status=503))
    urls = [f"{server.base}/1", f"{server.base}/2"]
    with pytest.raises(NotFetchedError, match="resumes from"):
        fetch(urls, tmp_path / NAME, waits)
    assert left(tmp_path) == {f"{NAME}.part", f"{NAME}.part.json"}
    asked_first = len(first.requests)
    second.answers = (GOOD,)
    fetch(urls, tmp_path / NAME, waits)
    assert (tmp_path / NAME).read_bytes() == FILE
    assert len(first.requests) == asked_first
    assert second.sent == N


def test_another_mirror_goes_on_only_when_the_hash_is_known(
    server: Server, tmp_path: Path, waits: list[float]
) -> None:
    for folder, sha256, sent in (("with", SHA, N - MIDDLE), ("without", None, N)):
        server.add("/1", FILE, Answer(cut=MIDDLE), Answer(status=503))
        second = server.add("/2", FILE, Answer(etag='"other"'))
        target = tmp_path / folder / NAME
        fetch([f"{server.base}/1", f"{server.base}/2"], target, waits, sha256)
        assert (target.read_bytes(), second.sent) == (FILE, sent)


def test_a_complete_part_needs_no_request(server: Server, tmp_path: Path, waits: list[float]) -> None:
    """A kill between the last byte and the renaming."""
    resource = server.add("/a", FILE, GOOD)
    url = f"{server.base}/a"
    part = part_module.Part(tmp_path / NAME)
    part.begin(part_module.Origin(url, '"v1"', None, N))
    part.file.write_bytes(FILE)
    fetch([url], tmp_path / NAME, waits)
    assert ((tmp_path / NAME).read_bytes(), resource.requests) == (FILE, [])


@pytest.mark.parametrize("note", [None, "{", "[]", '{"url": 1}'])
def test_a_part_without_a_readable_note_is_not_trusted(
    note: str | None, server: Server, tmp_path: Path, waits: list[float]
) -> None:
    server.add("/a", FILE, GOOD)
    part = part_module.Part(tmp_path / NAME)
    part.file.write_bytes(OTHER[:MIDDLE])
    if note is not None:
        part.note.write_text(note)
    fetch([f"{server.base}/a"], tmp_path / NAME, waits)
    assert (tmp_path / NAME).read_bytes() == FILE


@pytest.mark.parametrize("name", ["events.tsv", "meta.json"])
def test_formats_without_a_checksum_are_never_joined_blindly(
    name: str, server: Server, tmp_path: Path, waits: list[float]
) -> None:
    """Without validator, hash or checksum nothing could show that two versions were joined."""
    old, new = b'{"a": 1}\n' * 200, b'{"b": 2}\n' * 200
    bare = Answer(etag=None, modified=None)
    server.add("/a", new, Answer(content=old, cut=900, etag=None, modified=None), bare)
    fetch([f"{server.base}/a"], tmp_path / name, waits)
    assert (tmp_path / name).read_bytes() == new


def test_more_bytes_than_announced_are_never_kept(server: Server, tmp_path: Path, waits: list[float]) -> None:
    table = b"user\titem\n" * 99
    server.add("/a", table, Answer(cut=300), Answer(extra=b"more", length=False), GOOD)
    fetch([f"{server.base}/a"], tmp_path / "events.tsv", waits)
    assert (tmp_path / "events.tsv").read_bytes() == table


def test_redirects(server: Server, tmp_path: Path, waits: list[float]) -> None:
    server.add("/loop", b"", Answer(status=302, headers=(("Location", "/loop"),)))
    server.add("/moved", b"", Answer(status=301, headers=(("Location", "/file"),)))
    server.add("/ftp", b"", Answer(status=301, headers=(("Location", "ftp://127.0.0.1/file"),)))
    server.add("/file", FILE, Answer(cut=MIDDLE), GOOD)
    with pytest.raises(NotFetchedError, match="redirected more than 8 times"):
        fetch([f"{server.base}/loop"], tmp_path / NAME, waits)
    with pytest.raises(NotFetchedError, match="the address is not valid"):
        fetch([f"{server.base}/ftp"], tmp_path / NAME, waits)
    fetch([f"{server.base}/moved"], tmp_path / NAME, waits)
    assert (tmp_path / NAME).read_bytes() == FILE
    assert server.files["/file"].sent == N


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:{port}/a", r"no connection \(refused"),
        ("http://nowhere.invalid/a", r"no connection \(the server's name is not known"),
        ("http://[/a", "the address is not valid"),
        ("https://127.0.0.1:{server}/a", "certificate is not trusted|no connection|was cut"),
    ],
)
def test_no_server(url: str, said: str, server: Server, tmp_path: Path, waits: list[float]) -> None:
    url = url.format(port=closed_port(), server=server.server_address[1])
    with pytest.raises(NotFetchedError, match=said):
        fetch([url], tmp_path / NAME, waits)
    assert left(tmp_path) == set()
    if "nowhere" in url:
        assert len(waits) == 1, "an unknown name is tried twice only"


def test_a_known_size_is_compared_before_anything_is_fetched(
    server: Server, tmp_path: Path, waits: list[float]
) -> None:
    server.held_after = 0  # who waits for the body waits in vain
    resource = server.add("/a", FILE, GOOD)
    wanted = Wanted(NAME, [f"{server.base}/a"], N + 1)
    with (
        new_session() as session,
        pytest.raises(NotFetchedError, match=f"has {N:,} bytes, but {N + 1:,} according to"),
    ):
        download(wanted, tmp_path / NAME, session, patience=patience(waits))
    assert resource.sent == 0
    assert left(tmp_path) == set()


def test_a_known_size_is_compared_with_what_came(server: Server, tmp_path: Path, waits: list[float]) -> None:
    server.add("/a", FILE, Answer(chunked=True))
    wanted = Wanted(NAME, [f"{server.base}/a"], N + 1)
    with (
        new_session() as session,
        pytest.raises(NotFetchedError, match=f"has {N:,} bytes, but {N + 1:,} according to"),
    ):
        download(wanted, tmp_path / NAME, session, patience=patience(waits))
    assert left(tmp_path) == set()


def test_disk_full_is_one_line_and_what_came_is_kept(
    server: Server, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/a", FILE, Answer(cut=MIDDLE), GOOD)

    def full(descriptor: int, data: bytes) -> int:
        room = MIDDLE - os.fstat(descriptor).st_size
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:room])

    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(part_module.os, "write", full)
        with pytest.raises(
            MmbenchError, match=r"cannot write .*\.part: No space left on device; free"
        ) as caught:
            fetch([f"{server.base}/a", f"{server.base}/b"], tmp_path / NAME, waits)
    assert "\n" not in str(caught.value)
    assert (tmp_path / f"{NAME}.part").read_bytes() == FILE[:MIDDLE]
    fetch([f"{server.base}/a"], tmp_path / NAME, waits)
    assert (tmp_path / NAME).read_bytes() == FILE


def test_too_little_space_is_said_before(
    server: Server, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/a", FILE, GOOD)
    usage = type("Usage", (), {"free": N - 1})
    monkeypatch.setattr("mmbench.fetch.files.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(MmbenchError, match=re.escape("has only")):
        fetch([f"{server.base}/a"], tmp_path / NAME, waits)
    assert left(tmp_path) == set()


def test_a_file_that_is_there_is_left_alone(server: Server, tmp_path: Path, waits: list[float]) -> None:
    resource = server.add("/a", FILE, GOOD)
    (tmp_path / NAME).write_bytes(b"mine")
    assert fetch([f"{server.base}/a"], tmp_path / NAME, waits) is None
    assert ((tmp_path / NAME).read_bytes(), resource.requests) == (b"mine", [])


def test_two_at_once_fetch_it_once(server: Server, tmp_path: Path, waits: list[float]) -> None:
    resource = server.add("/a", FILE, GOOD)
    server.held_after = 0
    notes: list[str] = []
    done: list[Fetched | None] = []

    def work() -> None:
        with new_session() as session:
            wanted = Wanted(NAME, [f"{server.base}/a"])
            calm = Patience(read_s=5.0)
            done.append(download(wanted, tmp_path / NAME, session, patience=calm, on_note=heard))

    def heard(text: str) -> None:
        notes.append(text)
        if "waiting" in text:
            server.gate.set()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sum("waiting" in text for text in notes) == 1
    assert len(resource.requests) == 1
    assert [record is None for record in done] == [False, True]
    assert left(tmp_path) == {NAME}


@pytest.fixture
def proxy() -> Iterator[Server]:
    from tests.fetch.server import serving

    with serving() as server:
        yield server


def test_the_proxy_of_the_environment_is_used(
    proxy: Server, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.add("/a", FILE, Answer(cut=MIDDLE), GOOD)
    monkeypatch.setenv("http_proxy", proxy.base)
    fetch(["http://data.invalid/a"], tmp_path / NAME, waits)
    assert (tmp_path / NAME).read_bytes() == FILE
    assert proxy.proxied == ["http://data.invalid/a"] * 2


def test_a_dead_proxy_is_named_and_no_proxy_is_honoured(
    server: Server, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/a", FILE, GOOD)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(NotFetchedError, match="no connection to the proxy"):
        fetch([f"{server.base}/a"], tmp_path / NAME, waits)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch([f"{server.base}/a"], tmp_path / NAME, waits)
    assert (tmp_path / NAME).read_bytes() == FILE


def test_progress_counts_from_what_was_there(server: Server, tmp_path: Path, waits: list[float]) -> None:
    server.add("/a", FILE, Answer(cut=MIDDLE), GOOD)
    seen: list[tuple[int, int | None]] = []
    notes: list[str] = []
    with new_session() as session:
        download(
            Wanted(NAME, [f"{server.base}/a"]), tmp_path / NAME, session, patience=patience(waits),
            on_bytes=lambda there, total: seen.append((there, total)), on_note=notes.append,
        )  # fmt: skip
    assert seen[0] == (0, N)
    assert (MIDDLE, N) in seen
    assert seen[-1] == (N, N)
    assert [there for there, _ in seen] == sorted(there for there, _ in seen)
    assert notes == [f"from {server.base}/a", "the connection was cut; next try in 0 s"]
