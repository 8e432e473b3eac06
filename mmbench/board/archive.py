"""Zip files: written the same every time, and read without trust.

Before a byte is unpacked, the directory at the end of the file is checked: its own size, the names (a closed list, so
that no path leaves the folder), kinds, sizes before and after, and that no two members share bytes.
"""

import ast
import hashlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from mmbench.atomic import write_with
from mmbench.board.manifest import MIB, FileFacts, limit_of
from mmbench.errors import DataError
from mmbench.explain import first_line

MOST_MEMBERS = 5000
MOST_BYTES = (
    3 * 1024 * MIB
)  # of the file, and of all members unpacked but the weights; a zip without extensions
EPOCH = (1980, 1, 1, 0, 0, 0)
_END = struct.Struct("<4s4H2LH")  # the record at the end of a zip file
_HEADER_BYTES = 30  # of a member, before its name
_COMPRESSED = (".json", ".jsonl", ".txt", ".npz", ".py", ".toml")
CHUNK = MIB
KINDS = ("i4", "i8", "f2", "U")  # of arrays


class BundleError(DataError):
    """A bundle that is damaged, or that nobody should unpack."""


# -- writing ----------------------------------------------------------------------------------------------


def write_archive(output: Path, folder: Path, names: Sequence[str]) -> None:
    """Write the files of a folder as a zip file: sorted, without times, owners and modes, atomically."""

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", allowZip64=False) as archive:
            for name in sorted(names):
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                info.compress_type = (
                    zipfile.ZIP_DEFLATED if name.endswith(_COMPRESSED) else zipfile.ZIP_STORED
                )
                info.file_size = (folder / name).stat().st_size
                with (folder / name).open("rb") as source, archive.open(info, "w") as member:
                    while chunk := source.read(CHUNK):
                        member.write(chunk)

    try:
        write_with(output, write)
    except (zipfile.LargeZipFile, struct.error, RuntimeError) as error:
        raise DataError(
            f"cannot write {output}: more than 2 GiB ({error}); leave out --weights, or bundle fewer seeds"
        ) from error


# -- reading ----------------------------------------------------------------------------------------------


def unpack(path: Path, folder: Path) -> dict[str, FileFacts]:
    """Unpack an archive into an empty folder; return size and sha256 of each file. BundleError for what is refused."""
    try:
        with path.open("rb") as file:
            end = _check_end(path, file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check_members(path, members, end)
                return {
                    member.filename: _unpack(archive, member, folder / member.filename) for member in members
                }
    except BundleError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; mmbench bundle makes a bundle") from error
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise _refused(path, f"it cannot be unpacked ({first_line(error)[:160]})") from error
    except (zipfile.BadZipFile, struct.error, UnicodeError) as error:
        raise _refused(path, f"it cannot be unpacked ({first_line(error)[:160]})") from error


def _check_end(path: Path, file: IO[bytes]) -> int:
    """Return where the directory begins. Refuse what stands before the first member or after the directory."""
    size = file.seek(0, 2)
    if size > MOST_BYTES:
        raise _refused(path, f"it has more than {MOST_BYTES // MIB:,} MiB")
    if size < _END.size:
        raise _refused(path, "it is not a zip file")
    file.seek(size - _END.size)
    sign, disk, first_disk, n_here, n_members, length, start, comment = _END.unpack(file.read(_END.size))
    if sign != b"PK\5\6":
        raise _refused(path, "it is not a zip file, or something follows its end")
    if (disk, first_disk, comment) != (0, 0, 0) or n_here != n_members:
        raise _refused(path, "mmbench does not write such an end record")
    if n_members > MOST_MEMBERS or length > MOST_MEMBERS * 400:
        raise _refused(path, f"it has more than {MOST_MEMBERS:,} members")
    if start + length + _END.size != size:
        raise _refused(path, "its directory does not end where the file ends")
    file.seek(0)
    return int(start)


def _check_members(path: Path, members: Sequence[zipfile.ZipInfo], end: int) -> None:
    """Refuse names, kinds and sizes that no bundle has, and members that overlap."""
    if len({member.filename for member in members}) < len(members):
        raise _refused(path, "a name appears twice")
    total = 0
    for member in members:
        limit = limit_of(member.filename)
        shown = ascii(member.orig_filename[:80])
        if limit is None or member.orig_filename != member.filename:
            raise _refused(path, f"no bundle holds a file {shown}")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG) or member.is_dir():
            raise _refused(path, f"{shown} is a link or no file")
        if member.flag_bits & 0x1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(path, f"{shown} is encrypted or compressed in another way")
        if member.file_size > limit:
            raise _refused(path, f"{shown} would have {member.file_size:,} bytes, more than {limit:,}")
        total += 0 if member.filename.endswith(".safetensors") else member.file_size
    if total > MOST_BYTES:
        raise _refused(path, f"it would unpack to {total:,} bytes")
    position = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < position:
            raise _refused(path, "members overlap")
        name = len(member.filename.encode("utf-8"))
        position = member.header_offset + _HEADER_BYTES + name + member.compress_size
    if position > end or (members and min(member.header_offset for member in members) > 0):
        raise _refused(path, "members reach into the directory, or something stands before the first")


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> FileFacts:
    """Write a member, never more bytes than the directory promised."""
    target.parent.mkdir(parents=True, exist_ok=True)
    total, left = hashlib.sha256(), member.file_size
    with archive.open(member) as source, target.open("xb") as output:
        while chunk := source.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"{member.filename} is longer than the directory says")
            total.update(chunk)
            output.write(chunk)
    if left:
        raise ValueError(f"{member.filename} is shorter than the directory says")
    return FileFacts(member.file_size, total.hexdigest())


def check_arrays(path: Path, *, name: str) -> None:
    """Refuse an .npz that would take more memory than its own size, or that holds anything but plain numbers."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
                    raise ValueError(f"{member.filename[:40]!a} is compressed")
                with archive.open(member) as file:
                    _check_array(file, member.file_size)
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise BundleError(f"{name} is refused: {first_line(error)[:160]}") from error
    except (zipfile.BadZipFile, struct.error, SyntaxError, TypeError, RecursionError) as error:
        raise BundleError(f"{name} is refused: {first_line(error)[:160]}") from error


def _check_array(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless the header of a .npy promises exactly the bytes that follow it."""
    magic = file.read(8)
    if magic[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("an array is not in the format 1.0 of numpy")
    length = int.from_bytes(file.read(2), "little")
    header = ast.literal_eval(file.read(length).decode("latin-1"))
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise ValueError("an array has no header")
    shape = header["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array has no shape")
    kind = np.dtype(header["descr"]) if isinstance(header["descr"], str) else None
    if kind is None or kind.hasobject or kind.str[1:].rstrip("0123456789") not in {k[0] for k in KINDS}:
        raise ValueError("an array holds something else than numbers and texts")
    n_bytes = kind.itemsize
    for length_of_axis in shape:
        n_bytes *= length_of_axis
    if n_bytes != size - 10 - length:
        raise ValueError("an array does not have the size that its header says")


def _refused(path: Path, reason: str) -> BundleError:
    return BundleError(f"{path} is refused: {reason}; ask for the bundle again")


def differences(stored: Mapping[str, FileFacts], promised: Mapping[str, FileFacts]) -> list[str]:
    """Return the names of files that are missing, additional or other than promised."""
    return sorted(name for name in {*stored, *promised} if stored.get(name) != promised.get(name))
