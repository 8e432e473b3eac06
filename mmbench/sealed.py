"""Files that carry the hash of their own content, so that damage is noticed when they are read.

A damaged file raises `DamagedError`; an absent file FileNotFoundError: these are different answers, and a caller
that treats "absent" as "not made yet" must not treat damage so.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from mmbench.atomic import canonical, write_text, write_with
from mmbench.errors import DamagedError, OtherVersionError
from mmbench.explain import explain

FORMAT = "format"  # the key that holds the number of a file's format
SEAL = "sha256"  # the key, or the archive's member, that holds the hash
FACTS = "facts"
HEADER = Struct("<8sH")  # how an .npy file of version 1.0 begins: magic bytes, length of its header
MEMBER = Struct("<26xHH")  # how a member of an archive begins: lengths of its name and of further fields


# -- JSON -------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any], *, version: int | None = None) -> None:
    """Write a JSON object with its hash, readable and in a stable key order; NaN is refused.

    version  the number of the file's format, for `read_json`
    """
    content = dict(content) if version is None else {**content, FORMAT: version}
    sealed = {**content, SEAL: hash_content(content)}
    write_text(path, json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, *, advice: str, version: int | None = None) -> dict[str, Any]:
    """Read what `write_json` wrote, without the hash and the version.

    advice   ends the message when the file is damaged or of another format: what to do about it
    version  the format that we read; OtherVersionError for any other, whether or not it carries a hash
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise damaged(path, explain(error), advice) from error
    return open_json(text, path, advice=advice, version=version)


def open_json(text: bytes, path: Path, *, advice: str, version: int | None = None) -> dict[str, Any]:
    """Return what `read_json` does, of the text of a file."""
    try:
        content = json.loads(text.decode(), parse_constant=_refuse)
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        sha256 = content.pop(SEAL, None)
        is_whole = isinstance(sha256, str) and hash_content(content) == sha256
    except (ValueError, RecursionError) as error:  # 1e999 is read as infinity and has no hash
        raise damaged(path, explain(error), advice) from error
    if version is not None and (is_whole or sha256 is None):
        _check_version(path, content, version, advice)
    if not is_whole:
        reason = "no hash" if sha256 is None else "its content does not have the hash that it carries"
        raise damaged(path, reason, advice)
    if version is not None and content.pop(FORMAT, None) != version:
        raise damaged(path, "no number of its format", advice)
    return content


def _check_version(path: Path, content: Mapping[str, Any], version: int, advice: str) -> None:
    """Raise OtherVersionError when a file says that it is of another format."""
    stored = content.get(FORMAT)
    if type(stored) is int and stored != version:
        raise OtherVersionError(
            f"{path} was written by another version of mmbench (format {stored}, not {version}); {advice}"
        )


def hash_content(content: Mapping[str, Any]) -> str:
    """Return the sha256 of a JSON object, in hexadecimal; key order and white space do not matter."""
    return hashlib.sha256(canonical(dict(content))).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


# -- arrays -----------------------------------------------------------------------------------------------


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], *, is_compressed: bool = True
) -> None:
    """Write arrays and facts (JSON) as an .npz file with the hash of both.

    is_compressed  False for numbers that hardly shrink and are written often
    """
    text = canonical(dict(facts)).decode()
    members: dict[str, Any] = {**arrays, FACTS: np.array(text), SEAL: np.array(digest(arrays, text))}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            (np.savez_compressed if is_compressed else np.savez)(file, **members)

    write_with(path, write)


def read_arrays(path: Path, *, advice: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_arrays` wrote: the arrays and the facts."""
    try:
        members = {name.removesuffix(".npy"): _array(member) for name, member in _members(path.read_bytes())}
        text, sha256 = str(members.pop(FACTS)), str(members.pop(SEAL))
        facts = json.loads(text)
    except FileNotFoundError:
        raise
    except Exception as error:  # of numpy, zipfile, zlib, json and the system
        raise damaged(path, explain(error), advice) from error
    if digest(members, text) != sha256:
        raise damaged(path, "its content does not have the hash that it carries", advice)
    return members, facts


def _members(content: bytes) -> Iterator[tuple[str, bytes | memoryview]]:
    """Yield names and contents of an archive's members.

    What lies there uncompressed is taken as it is: zipfile's own check of each member would cost more than the rest of
    reading a ranking, and the seal covers every byte.
    """
    with ZipFile(BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.compress_type != ZIP_STORED:
                yield member.filename, archive.read(member)
                continue
            lengths = MEMBER.unpack_from(content, member.header_offset)
            first = member.header_offset + MEMBER.size + sum(lengths)
            yield member.filename, memoryview(content)[first : first + member.file_size]


def _array(member: bytes | memoryview) -> np.ndarray:
    """Return the array in a member of an .npz file; ValueError when it is none, or holds Python objects."""
    begin, end = HEADER.size, HEADER.size + HEADER.unpack_from(member)[-1]
    shape, in_fortran_order, dtype = _layout(bytes(member[:begin]), bytes(member[begin:end]))
    values = np.frombuffer(member, dtype, offset=end)
    return values.reshape(shape, order="F" if in_fortran_order else "C").copy(order="K")


@lru_cache(maxsize=1024)
def _layout(begin: bytes, header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type of an array; headers repeat, and numpy parses slowly."""
    file = BytesIO(begin + header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array of another version of the .npy format")
    return np.lib.format.read_array_header_1_0(file)


def digest(arrays: Mapping[str, np.ndarray], facts: str) -> str:
    """Return the sha256 of arrays (names, types, shapes, bytes) and of the text of their facts."""
    total = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        total.update(f"\n{name} {values.dtype.str} {values.shape}\n".encode())
        total.update(values.reshape(-1).view(np.uint8).data if values.size else b"")
    return total.hexdigest()


def damaged(path: Path, reason: object, advice: str) -> DamagedError:
    """Return the error for a damaged file."""
    text = " ".join(str(reason).split())[:160] or type(reason).__name__
    return DamagedError(f"{path} is damaged ({text}); {advice}")
