"""The fault table of the downloader: what the servers do, and what comes of it.

A row: name, what each mirror answers (request by request, the last answer repeats), the error ("" = the right
file arrives), and the number of requests that each mirror gets.
"""

import gzip
from dataclasses import dataclass

from tests.data.raw_files import grid, review
from tests.fetch.server import GOOD, Answer

LINES = "".join(f"{review(*event)}\n" for event in grid(40, 30)).encode()
FILE = gzip.compress(LINES, mtime=0)  # reviews_Demo_5.json.gz as the 2014 edition writes it
OTHER = gzip.compress(LINES.replace(b'"u1', b'"x1'), mtime=0)  # a later version of it
N = len(FILE)
MIDDLE = N // 2


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


PAGE = b"<!DOCTYPE html>\n<html><head><title>Moved</title></head></html>"
BROKEN = flipped(FILE, MIDDLE)
BAD_CRC = flipped(FILE, N - 6)
BARE = {"etag": None, "modified": None}
ENCODED = (("Content-Encoding", "gzip"),)


def retry_after(status: int, seconds: str) -> Answer:
    return Answer(status=status, headers=(("Retry-After", seconds),))


@dataclass(frozen=True)
class Fault:
    name: str
    mirrors: list[list[Answer]]
    error: str = ""
    requests: tuple[int, ...] = (1,)
    sha256: str = "none"  # what is known before: none, right, wrong


def fault(
    name: str, answers: list[Answer], error: str = "", requests: int = 1, sha256: str = "none"
) -> Fault:
    return Fault(name, [answers], error, (requests,), sha256)


FAULTS = [
    fault("nothing wrong", [GOOD]),
    # the connection
    fault("cut before the first byte", [Answer(cut=0), GOOD], requests=2),
    fault("cut in the middle", [Answer(cut=MIDDLE), GOOD], requests=2),
    fault("cut before the last byte", [Answer(cut=N - 1), GOOD], requests=2),
    fault("cut nine times", [Answer(cut=N // 10)] * 9 + [GOOD], requests=10),
    fault("cut before the first byte, always", [Answer(cut=0)], "the connection was cut", 3),
    fault("cut, no length announced", [Answer(cut=MIDDLE, length=False), GOOD], requests=2),
    fault("chunked", [Answer(chunked=True)]),
    fault("chunked, cut", [Answer(chunked=True, cut=MIDDLE), GOOD], requests=2),
    fault("slow drip, then well", [Answer(drip_s=0.05), GOOD], requests=2),
    fault("slow drip, always", [Answer(drip_s=0.05)], "the server sends next to nothing", 3),
    fault("silence", [Answer(hang=True)], "the server did not answer in time", 3),
    # ranges
    fault("range ignored", [Answer(cut=MIDDLE), Answer(ranges=False)], requests=2),
    fault("range ignored and cut again", [Answer(cut=MIDDLE), Answer(ranges=False, cut=9), GOOD], requests=3),
    fault(
        "range starts elsewhere", [Answer(cut=MIDDLE), Answer(content_range=f"bytes 0-{N - 1}/{N}"), GOOD],
        requests=3,
    ),
    fault(
        "range of a file of another length",
        [Answer(cut=MIDDLE), Answer(content_range=f"bytes {MIDDLE}-{N}/{N + 1}"), GOOD], requests=3,
    ),
    fault("range in no known words", [Answer(cut=MIDDLE), Answer(content_range="all of it"), GOOD], requests=3),
    fault("ranges in small pieces", [Answer(cut=MIDDLE), Answer(piece=-(-N // 8))], requests=5),
    fault(
        "more bytes than the range holds", [Answer(cut=MIDDLE), Answer(extra=b"more", length=False), GOOD],
        requests=3,
    ),
    fault("a range nobody asked for", [Answer(content_range=f"bytes 0-{N - 1}/{N}")], "requested bytes", 1),
    fault("416 for a part that is longer than the file", [Answer(cut=N + 9, content=OTHER + FILE), GOOD], requests=3),
    fault("416 always", [Answer(cut=MIDDLE), Answer(status=416)], "HTTP 416", 3),
    # statuses
    fault("403", [Answer(status=403)], "HTTP 403 Forbidden", 1),
    fault("404", [Answer(status=404)], "HTTP 404 Not Found", 1),
    fault("204", [Answer(status=204)], "unexpected answer: HTTP 204", 1),
    fault("500 once", [Answer(status=500), GOOD], requests=2),
    fault("500 always", [Answer(status=500)], "HTTP 500 Internal Server Error", 3),
    fault("502 twice", [Answer(status=502), Answer(status=502), GOOD], requests=3),
    fault("503 with Retry-After", [retry_after(503, "7"), GOOD], requests=2),
    fault("429 with Retry-After", [retry_after(429, "7"), GOOD], requests=2),
    fault("429 always", [retry_after(429, "7")], "HTTP 429 Too Many Requests", 3),
    fault("500 in the middle", [Answer(cut=MIDDLE), Answer(status=500), GOOD], requests=3),
    # lengths and contents
    fault("Content-Length too long", [Answer(longer=50)], requests=2),
    fault("Content-Length too short", [Answer(longer=-50)], "a gzip file that ends too early", 1),
    fault("Content-Length 0 of a file", [Answer(longer=-N)], "an empty file", 1),
    fault("empty body", [Answer(content=b"")], "an empty file", 1),
    fault("truncated gzip", [Answer(content=FILE[:MIDDLE])], "a gzip file that ends too early", 1),
    fault("gzip corrupted in the middle", [Answer(content=BROKEN)], "a damaged gzip file", 1),
    fault("gzip with a wrong CRC", [Answer(content=BAD_CRC)], "a damaged gzip file", 1),
    fault("gzip with something behind it", [Answer(content=FILE + b"junk")], "a damaged gzip file", 1),
    fault("web page with status 200", [Answer(content=PAGE)], "a web page instead of the file", 1),
    fault("web page, packed", [Answer(content=gzip.compress(PAGE), headers=ENCODED)], "a web page instead", 1),
    fault("Content-Encoding gzip for a .gz file", [Answer(headers=ENCODED)]),
    fault("the .gz file packed once more", [Answer(content=gzip.compress(FILE), headers=ENCODED)], "gzip inside gzip"),
    fault("Content-Encoding br", [Answer(headers=(("Content-Encoding", "br"),))], r"encodes the file \(br\)"),
    fault("wrong sha256", [GOOD], "the server has another file: sha256", 1, sha256="wrong"),
    fault("right sha256", [GOOD], sha256="right"),
    # the file changes between two attempts
    fault("new ETag", [Answer(cut=MIDDLE, content=OTHER, etag='"v0"'), GOOD], requests=2),
    fault(
        "new ETag, If-Range ignored", [Answer(cut=MIDDLE, content=OTHER, etag='"v0"'), Answer(if_range=False)],
        requests=3,
    ),
    fault(
        "new Last-Modified",
        [
            Answer(cut=MIDDLE, content=OTHER, etag=None, modified="Mon, 30 Jun 2014 00:00:00 GMT"),
            Answer(etag=None),
        ],
        requests=2,
    ),
    fault("new weak ETag", [Answer(cut=MIDDLE, content=OTHER, etag='W/"v0"', modified=None), Answer(modified=None)],
        requests=3),
    fault("no validator", [Answer(cut=MIDDLE, content=OTHER, **BARE), Answer(**BARE)], requests=3),
    fault(
        "no validator, known sha256", [Answer(cut=MIDDLE, content=OTHER, **BARE), Answer(**BARE)], requests=3,
        sha256="right",
    ),
    # mirrors
    Fault("first mirror 404", [[Answer(status=404)], [GOOD]], requests=(1, 1)),
    Fault("first mirror dies half way", [[Answer(cut=MIDDLE), Answer(cut=0)], [GOOD]], requests=(6, 1)),
    Fault("first mirror damaged", [[Answer(content=BROKEN)], [GOOD]], requests=(1, 1)),
    Fault("first mirror has another version", [[Answer(content=OTHER)], [GOOD]], requests=(1, 1), sha256="right"),
    Fault("both gone", [[Answer(status=404)], [Answer(status=403)]], "404 Not Found; .*403 Forbidden", (1, 1)),
]  # fmt: skip
