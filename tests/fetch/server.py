"""A real HTTP server on the loopback that serves files well, or misbehaves as told, and keeps count."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ETAG, MODIFIED = '"v1"', "Tue, 01 Jul 2014 00:00:00 GMT"


@dataclass(frozen=True)
class Answer:
    """How one request is answered. The default is a correct server with ranges and validators."""

    status: int | None = None  # instead of 200 or 206, with no body
    content: bytes | None = None  # instead of the file
    etag: str | None = ETAG
    modified: str | None = MODIFIED
    ranges: bool = True  # False: Range is ignored
    if_range: bool = True  # False: If-Range is ignored
    content_range: str | None = None  # instead of the true one
    cut: int | None = None  # the connection is closed after so many bytes of the body
    longer: int = 0  # added to the true Content-Length
    length: bool = True  # False: no Content-Length, the end of the connection is the end of the file
    chunked: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    drip_s: float | None = None  # `drip_bytes` at a time, with so many seconds between
    drip_bytes: int = 5
    piece: int | None = None  # no more bytes than this in one answer to a range
    extra: bytes = b""  # sent behind the body
    hang: bool = False  # nothing is sent at all


GOOD = Answer()


@dataclass
class Resource:
    """A path: its content, the answers in order (the last one repeats), and what was asked and sent."""

    content: bytes
    answers: Sequence[Answer] = (GOOD,)
    requests: list[dict[str, str]] = field(default_factory=list)
    sent_to: list[int] = field(default_factory=list)  # bytes of the body, by request

    @property
    def sent(self) -> int:
        return sum(self.sent_to)

    def next_answer(self, headers: dict[str, str]) -> tuple[int, Answer]:
        """(number of this request, what it gets)."""
        self.requests.append(headers)
        self.sent_to.append(0)
        number = len(self.requests) - 1
        return number, self.answers[min(number, len(self.answers) - 1)]


class Server(ThreadingHTTPServer):
    """`files` maps a path to what is served there; `gate` lets a test hold back bodies."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Resource] = {}
        self.gate = threading.Event()
        self.held_after: int | None = None  # bytes of a body after which it waits for the gate
        self.proxied: list[str] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, path: str, content: bytes, *answers: Answer) -> Resource:
        self.files[path] = Resource(content, answers or (GOOD,))
        return self.files[path]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.close_connection = True
        path = self.path
        if path.startswith("http://"):  # this server was used as a proxy
            self.server.proxied.append(path)
            path = "/" + path.split("/", 3)[3]
        resource = self.server.files.get(path)
        if resource is None:
            return self.begin(404, [("Content-Length", "0")])
        self.number, answer = resource.next_answer(dict(self.headers))
        if answer.hang:
            self.server.gate.wait(2)
            return None
        if answer.status is not None:
            return self.begin(answer.status, [("Content-Length", "0"), *answer.headers])
        return self.send_file(resource, answer)

    def send_file(self, resource: Resource, answer: Answer) -> None:
        content = resource.content if answer.content is None else answer.content
        start = self.wanted_start(answer)
        if start >= len(content) > 0:
            return self.begin(416, [("Content-Range", f"bytes */{len(content)}"), ("Content-Length", "0")])
        end = len(content)
        headers = [("ETag", answer.etag), ("Last-Modified", answer.modified), *answer.headers]
        if start or answer.content_range:
            end = min(start + answer.piece, end) if answer.piece else end
            headers.append(
                ("Content-Range", answer.content_range or f"bytes {start}-{end - 1}/{len(content)}")
            )
        body = content[start:end] + answer.extra
        if answer.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif answer.length:
            headers.append(("Content-Length", str(len(body) + answer.longer)))
        self.begin(206 if start or answer.content_range else 200, headers)
        if self.command == "GET":
            self.send_body(resource, answer, body)
        return None

    def wanted_start(self, answer: Answer) -> int:
        asked = self.headers.get("Range", "")
        if not answer.ranges or not asked:
            return 0
        version = self.headers.get("If-Range")
        if answer.if_range and version and version not in (answer.etag, answer.modified):
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def begin(self, status: int, headers: Sequence[tuple[str, str | None]]) -> None:
        self.send_response(status)
        for key, value in headers:
            if value is not None:
                self.send_header(key, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def send_body(self, resource: Resource, answer: Answer, body: bytes) -> None:
        step = answer.drip_bytes if answer.drip_s else 1024
        end = len(body) if answer.cut is None else min(answer.cut, len(body))
        for place in range(0, end, step):
            piece = body[place : min(place + step, end)]
            if self.server.held_after is not None and place >= self.server.held_after:
                self.server.gate.wait(20)
            framed = b"%x\r\n%s\r\n" % (len(piece), piece) if answer.chunked else piece
            resource.sent_to[self.number] += len(piece)  # first: the client may be done before this thread
            self.wfile.write(framed)
            if answer.drip_s:
                time.sleep(answer.drip_s)
        if answer.chunked and answer.cut is None:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
