"""A small prepared data set on disk, and `mmbench` run on it as a real process.

120 users, 60 items, 3 to 14 events each. Item i is usually followed by i + 7 (mod 60), so that a sequential
model can learn something in a few epochs; about one event in six shares its time with the one before; histories
hold repeats; items are in 1 to 2 of 6 categories, some in none; text and image features miss for some items.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbench import sealed
from mmbench.contract.data_set import (
    N_ITEMS,
    N_USERS,
    PROTOCOL,
    START,
    add_features,
    random_histories,
    write_data_set,
    write_toy,
)
from mmbench.features.manifest import MadeBy
from tests.forkserver import Forked, needs_own_interpreter, server

__all__ = [
    "MADE", "N_ITEMS", "N_USERS", "PROTOCOL", "ROOT", "SMALL", "START", "Outcome", "add_features", "cells", "cli",
    "environment", "finish", "kill_group", "random_histories", "rankings_of", "same_counts", "same_ranks",
    "same_weights", "shown_alike", "start", "start_anew", "wait_for", "write_data_set", "write_toy",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]
MADE = MadeBy(identity={"name": "test"})  # of nothing that the data set holds, as imported features are


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.strip()]


def environment(
    *, data: Path | None = None, results: Path | None = None, env: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The caller's environment without its mmbench settings, one thread, plain output."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("MMBENCH_")
        or key == "MMBENCH_PRIVATE_HOSTS"  # the servers of tests are on loopback
    }
    kept |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "COLUMNS": "120",
    }
    if data is not None:
        kept["MMBENCH_DATA"] = str(data)
    if results is not None:
        kept["MMBENCH_RESULTS"] = str(results)
    return kept | dict(env or {})


def start(
    *args: str | Path,
    data: Path | None = None,
    results: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> "subprocess.Popen[str] | Forked":
    """Start `python -m mmbench ...` as a process of its own group, forked where that makes no difference."""
    texts = [str(arg) for arg in args]
    if not needs_own_interpreter(texts, env or {}):
        full = environment(data=data, results=results, env=env)
        return server(full, ROOT).start(texts, env=full, cwd=cwd or data or ROOT)
    return start_anew(*args, data=data, results=results, env=env, cwd=cwd)


def start_anew(
    *args: str | Path,
    data: Path | None = None,
    results: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[str]:
    """Start `python -m mmbench ...` with an interpreter of its own, as users do."""
    return subprocess.Popen(
        [sys.executable, "-m", "mmbench", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        env=environment(data=data, results=results, env=env), cwd=cwd or data or ROOT, start_new_session=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str] | Forked", *, timeout: float = 600) -> Outcome:
    """Wait for the end; a process that hangs is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_group(process)
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    return Outcome(process.wait(), out, err)


def kill_group(process: "subprocess.Popen[str] | Forked", number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that `start` made and to its workers."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # it ended by itself


def cli(
    *args: str | Path,
    data: Path | None = None,
    results: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600,
) -> Outcome:
    """Run `python -m mmbench ...` to its end, in a forked process where that makes no difference."""
    return finish(start(*args, data=data, results=results, env=env, cwd=cwd), timeout=timeout)


def shown_alike(first: str, second: str) -> bool:
    """Whether two outputs are the same but for how often, for how many configurations, the test was looked at."""
    looked = r"looked at [0-9,]+ times? for [0-9,]+ configurations?"
    return re.sub(looked, "looked at", first) == re.sub(looked, "looked at", second)


def wait_for(condition: Any, *, seconds: float = 300, every: float = 0.01) -> None:
    """Return when `condition()` is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(every)


def cells(results: Path) -> list[Path]:
    """Folders of all cells that hold a record."""
    return sorted(file.parent for file in results.glob("*/*/*/seed_*/run.json"))


def rankings_of(cell: Path) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each stored ranking of a cell, by file."""
    return {
        file.name: sealed.read_arrays(file, advice="")[0]
        for file in sorted((cell / "rankings").glob("*.npz"))
    }


def same_counts(first: Path, second: Path) -> bool:
    """Whether two cells' rankings hold the same counts."""
    return _same_arrays(
        first, second, lambda name: "_" not in name or name.split("_")[0] in ("greater", "equal")
    )


def _same_arrays(first: Path, second: Path, is_compared: Callable[[str], bool]) -> bool:
    a, b = rankings_of(first), rankings_of(second)
    return bool(a) and a.keys() == b.keys() and all(
        a[file].keys() == b[file].keys()
        and all(np.array_equal(values, b[file][name]) for name, values in a[file].items() if is_compared(name))
        for file in a
    )  # fmt: skip


def same_ranks(first: Path, second: Path) -> bool:
    """Whether rankings hold the same counts and lists, and best weights the same bytes of each tensor."""
    return _same_arrays(first, second, lambda name: True) and same_weights(
        first / "best.safetensors", second / "best.safetensors"
    )


def same_weights(first: Path, second: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    if not first.is_file() and not second.is_file():
        return True
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


SMALL: Sequence[str] = ("--set", "hidden_dim=16", "--set", "inner_dim=16", "--set", "batch_size=64")
