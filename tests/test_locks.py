"""mmbench.locks: one process at a time, and none waits for a dead one."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmbench.errors import DataError
from mmbench.locks import held, lock_file, take
from tests.prepared import ROOT

HOLD = """
import sys, time
from pathlib import Path
from mmbench.errors import DataError
from mmbench.locks import held
with held(Path(sys.argv[1]), error=DataError, option="--data-dir"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_given_back_and_taken_again(tmp_path: Path) -> None:
    file = lock_file(tmp_path / "toy")
    for _ in range(2):
        with held(file, error=DataError, option="--data-dir") as waited:
            assert not waited
            assert take(file, wait=False, error=DataError, option="--data-dir") is None


def test_a_dead_process_holds_nothing_and_the_wait_is_told(tmp_path: Path) -> None:
    file, told = tmp_path / "a.lock", list[str]()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, file], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"

    def on_wait() -> None:
        told.append("waiting")
        process.kill()

    with held(file, error=DataError, option="--data-dir", on_wait=on_wait) as waited:
        assert waited
    assert told == ["waiting"]
    process.wait()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lock = held(tmp_path / "file" / "a.lock", error=DataError, option="--data-dir")
    with pytest.raises(DataError, match=r"cannot write in .*file.*; choose another --data-dir"), lock:
        pass
