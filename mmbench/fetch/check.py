"""Whether a file's content can be what its name promises. Reads the file once, with little memory."""

import gzip
import zipfile
import zlib
from pathlib import Path

from mmbench.explain import first_line

_BLOCK = 1 << 20
_HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")
SELF_CHECKING = (".gz", ".zip")  # formats with a checksum over the whole content


def checks_itself(name: str) -> bool:
    """Return whether `fault_of` would notice that a file of this name was put together from two versions."""
    return name.lower().endswith(SELF_CHECKING)


def fault_of(file: Path, name: str) -> str | None:
    """Return why `file` cannot have the name `name`, in words that follow "the server sends ..."; None if it can."""
    with file.open("rb") as stream:
        start = stream.read(512)
    if not start:
        return "an empty file"
    if _is_page(start):
        return "a web page instead of the file"
    suffix = Path(name.lower()).suffix
    if suffix == ".gz":
        return _gzip_fault(file)
    if suffix == ".zip":
        return _zip_fault(file)
    if suffix == ".parquet":
        return _parquet_fault(file)
    if suffix in (".json", ".jsonl"):
        return _json_fault(file)
    return None


def _is_page(start: bytes) -> bool:
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_HTML)


def _gzip_fault(file: Path) -> str | None:
    try:
        with gzip.open(file) as stream:
            start = stream.read(_BLOCK)
            while stream.read(_BLOCK):
                pass  # reading to the end compares length and CRC of every member
    except EOFError:
        return "a gzip file that ends too early"
    except (gzip.BadGzipFile, zlib.error, OSError) as error:
        return f"a damaged gzip file ({error})"
    if not start:
        return "a gzip file that holds nothing"
    if start.startswith(b"\x1f\x8b"):
        return "gzip inside gzip"
    return "a web page instead of the file" if _is_page(start) else None


def _zip_fault(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            empty = not archive.namelist()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        return f"a damaged zip file ({error})"
    if damaged is not None:
        return f"a damaged zip file (its member {damaged} is broken)"
    return "a zip file that holds nothing" if empty else None


def _parquet_fault(file: Path) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file):
            return None
    except (pa.ArrowException, OSError) as error:
        return f"a damaged Parquet file ({first_line(error)})"


def _json_fault(file: Path) -> str | None:
    """Check the ends: JSON and JSON lines begin and end with a bracket, which is nearly always lost in a cut file."""
    with file.open("rb") as stream:
        start = stream.read(_BLOCK).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        stream.seek(max(0, file.stat().st_size - _BLOCK))
        end = stream.read().rstrip()[-1:]
    if start not in (b"{", b"["):
        return "something that is not JSON"
    return None if end in (b"}", b"]") else "a JSON file that ends too early"
