"""Files are either old or new, whatever happens while they are written."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from mmbench import atomic
from mmbench.atomic import (
    canonical,
    file_stamp,
    finish_swaps,
    hash_file,
    hash_json,
    remove_folder,
    remove_leftovers,
    replacing,
    swap_folder,
    write_json,
    write_text,
    write_with,
)
from mmbench.errors import MmbenchError
from mmbench.training.checkpoint import save_tensors
from tests.killing import killed_at
from tests.prepared import environment


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "a.txt"
    write_text(file, "one")
    write_text(file, "zwei ä")
    assert file.read_text(encoding="utf-8") == "zwei ä"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_the_old_file_stands_until_the_new_file_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with replacing(file) as temporary:
        temporary.write_text("half")
        assert file.read_text(encoding="utf-8") == "old"
        assert temporary.parent == file.parent, "a rename is one step only inside one file system"
    assert file.read_text(encoding="utf-8") == "half"


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space")]
)
def test_a_failure_keeps_the_old_file_and_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def fail(temporary: Path) -> NoReturn:
        temporary.write_text("half", encoding="utf-8")
        raise error

    expected = MmbenchError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_with(file, fail)
    assert file.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_at_the_last_moment(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def full(*args: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, call, full)
    with pytest.raises(MmbenchError) as caught:
        write_text(file, "new")
    assert str(caught.value) == (
        f"cannot write {file}: No space left on device; free some space or choose another folder"
    )
    assert file.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MmbenchError, match="cannot write"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    for mask, expected in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            write_text(tmp_path / f"{expected}.txt", "x")
            save_tensors(tmp_path / f"{expected}.safetensors", {"w": torch.ones(2)}, {})
        finally:
            os.umask(before)
        made = list(tmp_path.glob(f"{expected}.*"))
        assert [stat.S_IMODE(file.stat().st_mode) for file in made] == [expected] * 2


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from mmbench.atomic import replacing
with replacing(Path(sys.argv[1])) as temporary:
    with temporary.open("w") as file:
        file.write("half of the new con")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_killed_halfway_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, file], env=environment(), check=False)
    assert done.returncode == -9
    assert file.read_text(encoding="utf-8") == "old"
    leftovers = [path.name for path in tmp_path.iterdir() if path.name != "a.txt"]
    assert all(leftover.startswith(".a.txt.") and leftover.endswith(".tmp") for leftover in leftovers)
    write_text(file, "new")
    assert file.read_text(encoding="utf-8") == "new"


def test_json_is_stable_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, "ä"]})
    write_json(tmp_path / "b.json", {"a": [1.5, "ä"], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert "NaN" not in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_hashes_do_not_change_between_versions(tmp_path: Path) -> None:
    assert canonical({"b": [1, 2.5], "a": None}) == b'{"a":null,"b":[1,2.5]}'
    assert hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1})
    (tmp_path / "x").write_bytes(b"abc")
    assert hash_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# -- folders ----------------------------------------------------------------------------------------------


def write_folder(path: Path, text: str, *, kept: bool) -> Path:
    path.mkdir()
    (path / "data").write_text(text)
    if kept:
        (path / "features").mkdir()
        (path / "features" / "text").write_text("vectors")
    return path


def state_of(final: Path) -> tuple[str, bool, bool]:
    """What a folder holds, whether the kept sub-folder is there, and whether anything hidden is left of a swap."""
    hidden = [entry.name for entry in final.parent.iterdir() if entry.name.startswith(".") and entry.is_dir()]
    return (final / "data").read_text(encoding="utf-8"), (final / "features" / "text").is_file(), bool(hidden)


def test_a_folder_takes_the_place_of_another_and_takes_over_what_is_kept(tmp_path: Path) -> None:
    final = write_folder(tmp_path / "toy", "old", kept=True)
    swap_folder(
        write_folder(tmp_path / "work", "new", kept=False), final, keep=["features"], option="--data-dir"
    )
    assert state_of(final) == ("new", True, False)
    assert sorted(entry.name for entry in final.iterdir()) == ["data", "features"]
    swap_folder(write_folder(tmp_path / "work", "newer", kept=False), final, option="--data-dir")
    assert state_of(final) == ("newer", False, False)


def test_a_swap_killed_at_any_file_operation_is_finished_or_undone(tmp_path: Path) -> None:
    """Old or new, whole, and with what is kept: whenever the kill falls, and again when the repair is killed."""
    call, is_killed = 0, True
    while is_killed:
        call += 1
        for second in range(1, 8):
            parent = tmp_path / f"{call}-{second}"
            parent.mkdir()
            final = write_folder(parent / "toy", "old", kept=True)
            work = write_folder(parent / ".work.tmp", "new", kept=False)
            is_killed = killed_at(call, lambda: swap_folder(work, final, keep=["features"], option="x"))  # noqa: B023
            if not is_killed:
                break
            killed_at(second, lambda: finish_swaps(parent, option="x"))  # noqa: B023
            finish_swaps(parent, option="x")
            if (parent / ".work.tmp").exists():  # what was made has not become the folder yet
                shutil.rmtree(parent / ".work.tmp")
            text, has_kept, has_rest = state_of(final)
            assert text in ("old", "new"), call
            assert has_kept, call
            assert not has_rest, call
    assert call > 6


def test_what_killed_writers_leave_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".toy.new-1-0123abcd.tmp", ".toy.gone-77-0123abcd.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").touch()
    (tmp_path / ".toy.new-2-0123abcd.tmp").touch()
    kept = [".toy.lock", ".toy.old", ".toy2.new-1-0123abcd.tmp", ".toy.work-1234", ".toy.new.tmp", "toy"]
    for name in kept:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "toy")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(kept)


def test_a_folder_that_is_removed_is_never_half_there(tmp_path: Path) -> None:
    call, is_killed = 0, True
    while is_killed:
        call += 1
        parent = tmp_path / str(call)
        parent.mkdir()
        folder = write_folder(parent / "toy", "old", kept=True)
        is_killed = killed_at(call, lambda: remove_folder(folder))  # noqa: B023
        if folder.exists():
            assert (folder / "data").is_file()
            assert (folder / "features" / "text").is_file()
    assert not folder.exists()
    assert call > 3
    remove_folder(folder)  # what is not there need not go


def test_a_stamp_changes_with_the_content_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = file_stamp(file)
    assert file_stamp(file) == first
    times = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a tool does that keeps the dates
    assert file_stamp(file) != first


def test_a_link_stays_and_its_file_keeps_its_mode(tmp_path: Path) -> None:
    file, link = tmp_path / "real" / "table.md", tmp_path / "link.md"
    file.parent.mkdir()
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink()
    assert (file.read_text(encoding="utf-8"), file.stat().st_mode & 0o777) == ("new", 0o600)
    dangling = tmp_path / "dangling.md"
    dangling.symlink_to(tmp_path / "real" / "made.md")
    write_text(dangling, "made")
    assert dangling.is_symlink()
    assert (tmp_path / "real" / "made.md").read_text(encoding="utf-8") == "made"
    assert sorted(path.name for path in file.parent.iterdir()) == ["made.md", "table.md"]


def test_a_link_that_leads_in_a_circle_is_one_line(tmp_path: Path) -> None:
    link = tmp_path / "a"
    link.symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(link)
    with pytest.raises(MmbenchError, match="cannot write"):
        write_text(link, "x")
    assert link.is_symlink()


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    write_text(pipe, "the table")
    reader.join(timeout=30)
    assert received == ["the table"]
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_standard_output_by_its_path_is_written_to_whatever_it_leads_to(tmp_path: Path) -> None:
    """A pipe's path under /proc leads to a name that no folder has."""
    code = "from pathlib import Path; from mmbench.atomic import write_text; write_text(Path('/dev/stdout'), 'text')"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, env=environment(), check=True).stdout == b"text"
    with (tmp_path / "file").open("wb") as file:
        subprocess.run(command, stdout=file, env=environment(), check=True)
    assert (tmp_path / "file").read_bytes() == b"text"
