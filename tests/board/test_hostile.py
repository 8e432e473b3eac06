"""Bundles that nobody should trust: each is refused in one line, nothing is written elsewhere, nothing is run."""

import io
import json
import shutil
import stat
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmbench.board.archive import MOST_MEMBERS
from mmbench.board.checks import has_fault
from mmbench.board.manifest import MANIFEST
from mmbench.board.writing import write_bundle
from tests.board.conftest import Made
from tests.board.making import checked, edit_json, ranking_arrays, rebuilt
from tests.cli.forks import Command, run_all

RUN = "seed_1/run.json"
TEST = "seed_1/rankings/test.npz"


# -- archives ---------------------------------------------------------------------------------------------


def with_member(
    info: zipfile.ZipInfo | str, content: bytes = b"x", kind: int = zipfile.ZIP_STORED
) -> Callable:
    def write(source: Path, target: Path) -> None:
        shutil.copyfile(source, target)
        with zipfile.ZipFile(target, "a") as archive:
            archive.writestr(info, content, kind)

    return write


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def as_bytes(change: Callable[[bytes], bytes]) -> Callable:
    return lambda source, target: target.write_bytes(change(source.read_bytes()))


def in_directory(offset: int, value: bytes) -> Callable:
    """Overwrite a field of the first entry of the directory."""

    def change(content: bytes) -> bytes:
        start = content.rindex(b"PK\5\6")
        (directory,) = struct.unpack("<L", content[start + 16 : start + 20])
        assert content[directory : directory + 4] == b"PK\1\2"
        return content[: directory + offset] + value + content[directory + offset + len(value) :]

    return as_bytes(change)


def overlapping(source: Path, target: Path) -> None:
    """Two entries of the directory share the bytes of one member: the quine of a bomb."""
    shutil.copyfile(source, target)
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("libraries.txt", "a" * 100) if "libraries.txt" not in archive.namelist() else None
        first = archive.infolist()[0]
        twin = zipfile.ZipInfo("model/twin.py")
        for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
            setattr(twin, name, getattr(first, name))
        archive.filelist.append(twin)
        archive.NameToInfo[twin.filename] = twin
        archive._didModify = True


def many_members(source: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for number in range(MOST_MEMBERS + 1):
            archive.writestr(f"seed_{number}/run.json", "{}")


def twice(source: Path, target: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        with_member(RUN)(source, target)


ARCHIVES: dict[str, tuple[Callable, str]] = {
    "empty": (as_bytes(lambda content: b""), "not a zip file"),
    "text": (as_bytes(lambda content: b"hello " * 100), "not a zip file"),
    "cut": (as_bytes(lambda content: content[:-100]), "not a zip file"),
    "half": (as_bytes(lambda content: content[: len(content) // 2] + content[-22:]), "refused"),
    "before": (as_bytes(lambda content: b"#!/bin/sh\n" + content), "directory does not end"),
    "after": (as_bytes(lambda content: content + b"rest"), "follows its end"),
    "comment": (as_bytes(lambda content: content[:-2] + b"\4\0rest"), "follows its end"),
    "changed byte": (as_bytes(lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:]), ""),
    "out of the folder": (with_member("../evil.py"), "no bundle holds a file"),
    "out in steps": (with_member("seed_1/rankings/../../../evil.npz"), "no bundle holds a file"),
    "from the root": (with_member("/tmp/evil.py"), "no bundle holds a file"),
    "backslash": (with_member("..\\evil.py"), "no bundle holds a file"),
    "drive": (with_member("C:/evil.py"), "no bundle holds a file"),
    "other name": (with_member("seed_1/extra.pkl"), "no bundle holds a file"),
    "line feed": (with_member("seed_1/run.json\n"), "no bundle holds a file"),
    "escape": (with_member("\x1b]0;evil\7.py"), "no bundle holds a file"),
    "long name": (with_member("model/" + "a" * 60_000 + ".py"), "members|no bundle"),
    "folder": (with_member("seed_1/"), "no bundle holds a file"),
    "link": (with_member(link("model/evil.py"), b"/etc/passwd"), "a link"),
    "twice": (twice, "appears twice"),
    "bzip2": (with_member("model/a.py", b"x" * 99, zipfile.ZIP_BZIP2), "compressed in another way"),
    "bomb": (with_member("model/a.py", bytes(2**21), zipfile.ZIP_DEFLATED), "more than 1,048,576"),
    "encrypted": (in_directory(8, b"\1\0"), "encrypted"),
    "size too small": (in_directory(24, struct.pack("<L", 5)), "refused"),
    "size too large": (in_directory(24, struct.pack("<L", 2**20 - 1)), "refused"),
    "offset": (in_directory(42, struct.pack("<L", 9)), "overlap|refused"),
    "overlap": (overlapping, "overlap|refused"),
    "many members": (many_members, "more than 5,000 members"),
}  # fmt: skip


def refused_line(bundle: Path, folder: Path) -> str:
    """Return the only line that the bundle gave; nothing but it lies in the folder."""
    verdict, checks = checked(bundle)
    assert verdict.level == "claimed"
    (archive,) = checks.values()
    assert (archive.name, archive.status) == ("archive", "fault")
    assert "\n" not in archive.text
    assert "mmbench-verify-" not in archive.text
    assert {path.name for path in folder.iterdir()} <= {"evil.mmb.zip", "evil.mmb.files"}
    return archive.text


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_are_refused_before_they_are_unpacked(made: Made, tmp_path: Path, kind: str) -> None:
    write, words = ARCHIVES[kind]
    bundle = tmp_path / "evil.mmb.zip"
    write(made.pop, bundle)
    line = refused_line(bundle, tmp_path)
    assert any(word in line for word in words.split("|")), line


# -- files ------------------------------------------------------------------------------------------------


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def manifest(**fields: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / MANIFEST, lambda content: content.update(fields))


def with_array(descr: str, shape: str, body: bytes = b"") -> Callable[[Path], None]:
    """Replace a ranking by an archive with one array whose header says anything."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + body
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("user.npy", content)
    return write(TEST, buffer.getvalue())


def compressed(folder: Path) -> None:
    """A ranking that takes a thousand times its size in memory."""
    np.savez_compressed(folder / TEST, user=np.zeros(10**6, np.int64))


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "not a bundle"),
    "no JSON": (write(MANIFEST, "[]"), "damaged"),
    "deep JSON": (write(MANIFEST, "[" * 100_000), "damaged"),
    "NaN": (write(MANIFEST, '{"seeds": NaN}'), "damaged"),
    "other seal": (
        lambda folder: (folder / MANIFEST).write_text(
            json.dumps({**json.loads((folder / MANIFEST).read_text(encoding="utf-8")), "display": "Other"})
        ),
        "damaged",
    ),
    "other format": (
        lambda folder: edit_json(folder / MANIFEST, lambda content: None, version=99),
        "another version",
    ),
    "missing key": (lambda folder: edit_json(folder / MANIFEST, lambda c: c.pop("model")), "model is missing"),
    "data set that climbs": (manifest(dataset=".."), "dataset"),
    "model that climbs": (manifest(model="../../x"), "model"),
    "configuration that climbs": (manifest(config_id="../../../.."), "config_id"),
    "no seed": (manifest(seeds=[]), "seeds"),
    "seed without files": (manifest(seeds=[1, 2]), "seeds of the manifest"),
    "seeds twice": (manifest(seeds=[1, 1, 1]), "seeds of the manifest"),
    "seed that is not a number": (manifest(seeds=["1"]), "seeds"),
    "other bytes": (write(RUN, "{}"), "is not the file that the manifest names"),
    "missing file": (lambda folder: (folder / TEST).unlink(), "is not the file that the manifest names"),
    "additional file": (write("model/evil.py", "x"), "is not the file that the manifest names"),
}  # fmt: skip

SEALED: dict[str, tuple[Callable[[Path], None], str]] = {
    "compressed arrays": (compressed, "is compressed"),
    "pickle": (
        with_array("'|O'", "(1,)", b"cos\nsystem\n(S'touch evil'\ntR."),
        "something else than numbers",
    ),
    "records": (with_array("[('a', '|O')]", "(1,)"), "something else than numbers"),
    "terabytes": (with_array("'<i8'", "(1000000000000,)"), "size that its header says"),
    "negative shape": (with_array("'<i8'", "(-1,)"), "no shape"),
    "header that calls": (with_array("'<i8'", "(print(1),)"), "refused"),
    "no array": (write(TEST, b"PK\5\6" + bytes(18)), ""),
    "text as arrays": (write(TEST, "hello"), "refused"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_do_not_fit_the_manifest_are_refused(made: Made, tmp_path: Path, kind: str) -> None:
    change, words = FILES[kind]
    bundle = rebuilt(made.pop, tmp_path / "evil.mmb.zip", change, with_manifest=False)
    assert words in refused_line(bundle, tmp_path)


@pytest.mark.parametrize("kind", SEALED)
def test_files_that_the_manifest_agrees_with_are_not_trusted(made: Made, tmp_path: Path, kind: str) -> None:
    change, words = SEALED[kind]
    bundle = rebuilt(made.pop, tmp_path / "evil.mmb.zip", change)
    verdict, checks = checked(bundle)
    faults = [check for check in checks.values() if check.status == "fault"]
    assert verdict.level == "claimed"
    assert len(faults) == 1
    assert words in faults[0].text


def test_a_record_that_names_another_folder_is_a_fault(made: Made, tmp_path: Path) -> None:
    bundle = rebuilt(
        made.pop, tmp_path / "evil.mmb.zip",
        lambda folder: edit_json(folder / RUN, lambda content: content.update(dataset="../../..")),
    )  # fmt: skip
    _, checks = checked(bundle)
    assert checks["schema"].status == "fault"


def test_code_of_a_bundle_is_not_run(made: Made, tmp_path: Path) -> None:
    """The planted model leaves a mark as soon as anything imports it."""
    mark = tmp_path / "mark"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    bundle = rebuilt(made.sasrec, tmp_path / "evil.mmb.zip", write("model/sasrec.py", code))
    _, checks = checked(bundle)
    assert checks["code"].status == "note"
    assert not has_fault(list(checks.values()))
    done = run_all([Command(["verify", bundle, "--rescore"], tmp_path, tmp_path)])[0]
    assert done.returncode == 2
    assert "brings the code of its model, which is not run" in done.error_lines[-1]
    assert not mark.exists()
    assert "sasrec" not in sys.modules


def test_the_command_says_one_line_and_fails(made: Made, tmp_path: Path) -> None:
    evil = tmp_path / "evil.mmb.zip"
    ARCHIVES["escape"][0](made.pop, evil)
    absent = tmp_path / "absent.mmb.zip"
    refused, missing, good = run_all(
        [Command(["verify", path], tmp_path, tmp_path) for path in (evil, absent, made.pop)]
    )
    assert refused.returncode == 1
    assert refused.stdout.count("\n") == 2  # the fault and the level
    assert "\x1b" not in refused.stdout
    assert (missing.returncode, len(missing.error_lines)) == (1, 1)
    assert good.returncode == 0, good.stdout


def test_a_large_count_of_items_takes_no_memory(made: Made, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        edit_json(folder / RUN, lambda content: content.update(n_items=10**12))
        with ranking_arrays(folder):
            pass

    _, checks = checked(rebuilt(made.pop, tmp_path / "evil.mmb.zip", change))
    assert checks["schema"].status == "fault"


def test_a_bundle_of_a_folder_that_is_none(made: Made, tmp_path: Path) -> None:
    from mmbench.errors import UsageError

    with pytest.raises(UsageError, match=r"is not a folder of a configuration with runs; give "):
        write_bundle(made.folder("pop") / "seed_1", tmp_path / "x.mmb.zip")
