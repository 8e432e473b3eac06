"""The remark about processes that want the cores which several threads of a training would share."""

import os

import pytest
import torch

from mmbench import runtime
from mmbench.runtime import crowded_threads


@pytest.mark.parametrize(
    ("n_cores", "n_threads", "busy", "expected"),
    [
        (2, 2, 2.0, ("2 of 2 cores", "2 threads", "OMP_NUM_THREADS=1 before the command")),
        (16, 16, 12.1, ("12 of 16 cores", "16 threads", "OMP_NUM_THREADS=4 before the command")),
        (2, 2, 1.0, ()),
        (2, 1, 2.0, ()),
        (16, 4, 12.0, ()),
        (16, 16, 3.0, ()),
    ],
)
def test_threads_are_crowded_where_others_keep_most_cores_busy(
    n_cores: int, n_threads: int, busy: float, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter([50.0, 50.0 + 0.01 * busy])
    monkeypatch.setattr(runtime, "_seconds_at_work", lambda: next(readings))
    monkeypatch.setattr(os, "cpu_count", lambda: n_cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    said = crowded_threads("cpu", seconds=0.01)
    assert bool(said) == bool(expected)
    assert all(part in said for part in expected)


def test_nothing_is_said_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(runtime, "_seconds_at_work", lambda: None)
    assert crowded_threads("cpu") == ""


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="the system has no /proc/stat")
def test_work_is_counted_in_seconds_of_cores() -> None:
    """This process works for 0.3 s of a core at least, and the machine for no more than all its cores."""
    before, begin = runtime._seconds_at_work(), sum(os.times()[:2])
    assert before is not None
    while sum(os.times()[:2]) - begin < 0.3:
        pass
    after = runtime._seconds_at_work()
    assert after is not None
    assert after - before > 0.2
