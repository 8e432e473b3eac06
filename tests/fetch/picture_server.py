"""A web server on loopback that serves pictures and misbehaves as told; it counts what it is asked."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.features.toy import encoded, picture


class Answer(BaseHTTPRequestHandler):
    """What a page writes its answer to."""

    protocol_version = "HTTP/1.1"
    server: "PictureServer"

    def do_GET(self) -> None:
        count = self.server.enter(self.path)
        self.counted = True
        try:
            self.server.pages.get(self.path, status(404))(self, count)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up, as some tests want
        finally:
            self.leave()

    def leave(self) -> None:
        if self.counted:
            self.counted = False
            self.server.leave()

    def send(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.leave()  # first: the client may ask for its next page before this thread goes on
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests read `asked`."""


Page = Callable[[Answer, int], None]  # the answer, and how often the page was asked for before


class PictureServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, pages: Mapping[str, Page]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.pages = dict(pages)
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def enter(self, path: str) -> int:
        with self._lock:
            self.times.append(time.monotonic())
            self.asked[path] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            return self.asked[path] - 1

    def leave(self) -> None:
        with self._lock:
            self.at_once -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: clients that go away in the middle are part of the tests."""


@contextmanager
def serving(pages: Mapping[str, Page]) -> Iterator[PictureServer]:
    server = PictureServer(pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def jpeg(seed: int) -> bytes:
    return encoded(picture(seed), "JPEG")


def page(body: bytes, kind: str = "image/jpeg", *, after_s: float = 0.0) -> Page:
    def answer(to: Answer, count: int) -> None:
        time.sleep(after_s)
        to.send(200, body, Content_Type=kind)

    return answer


def status(code: int, **headers: str) -> Page:
    return lambda to, count: to.send(code, b"no", **headers)


def first(n: int, failing: Page, then: Page) -> Page:
    """`failing` for the first n requests."""
    return lambda to, count: (failing if count < n else then)(to, count)


def cut(body: bytes, *, length: bool = True) -> Page:
    """Half of the body, then the connection ends; with `length` the header promised all of it."""

    def answer(to: Answer, count: int) -> None:
        to.send_response(200)
        if length:
            to.send_header("Content-Length", str(len(body)))
        to.send_header("Connection", "close")
        to.end_headers()
        to.wfile.write(body[: len(body) // 2])
        to.close_connection = True

    return answer


def drip(body: bytes, *, every_s: float) -> Page:
    """One byte at a time."""

    def answer(to: Answer, count: int) -> None:
        to.send_response(200)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        for byte in body:
            to.wfile.write(bytes([byte]))
            time.sleep(every_s)

    return answer


def redirect(place: str) -> Page:
    return lambda to, count: to.send(302, b"", Location=place)


def unlimited(to: Answer, count: int) -> None:
    """Chunks without an end, so that no header says how much will come."""
    to.send_response(200)
    to.send_header("Transfer-Encoding", "chunked")
    to.end_headers()
    while True:
        to.wfile.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")


def closed_port() -> str:
    """The address of a port where nobody listens."""
    with serving({}) as server:
        return server.url
