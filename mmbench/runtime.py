"""Seeds, the device, threads, and the record of the environment. Knows nothing of recommendation."""

import ctypes
import gc
import hashlib
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmbench import __version__
from mmbench.atomic import hash_json
from mmbench.choices import whole_number
from mmbench.errors import UsageError
from mmbench.paths import PACKAGE, baselines_dir

MAPPED_BYTES = 32 * 2**20  # the largest threshold that glibc takes


def derive_seed(seed: int, *purpose: object) -> int:
    """Return an independent 63-bit seed for each purpose of a run ("init", "order" and epoch, ...).

    What an epoch draws depends only on the run's seed and the epoch's number, so a resumed run draws what an
    uninterrupted run would have drawn, and two purposes never share a stream.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def pick_device(name: str) -> str:
    """Resolve `auto` to cuda where there is a GPU; raise at once for a device that is not available."""
    import torch

    name = str(name)  # Python callers may give anything
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and whole_number(number) is None):
        raise UsageError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:1, ...")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"device {name!r} was asked for, but torch {torch.__version__} finds no GPU; use --device cpu"
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: this machine has {torch.cuda.device_count()} GPU, counted from 0")
    return name


def prepare_process(n_threads: int | None = None) -> None:
    """Set the number of threads, and keep glibc from giving freed memory back after every step.

    Large temporaries otherwise cost a page fault per 4 KiB each time they are made: about 30% of a step. Blocks of
    `MAPPED_BYTES` and more are still mapped by themselves: in the heap their sizes, which differ from step to step,
    leave gaps that the next step does not fit into, and the process grows for hours.
    """
    import torch

    if n_threads:
        torch.set_num_threads(n_threads)
    with known_by_old_names():
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):  # another C library: only speed is lost
            return
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_mmap_threshold, MAPPED_BYTES)
        mallopt(m_trim_threshold, 2**31 - 1)


@contextmanager
def known_by_old_names() -> Iterator[None]:
    """Let `allow_tf32` be read and set without the notice of torch 2.9 that it will have another name one day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32")
        yield


def _seconds_at_work() -> float | None:
    """Return the processor seconds of the machine since it started, all cores together; None where it does not tell."""
    try:
        words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _waiting, irq, soft_irq = map(int, words[1:8])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


def crowded_threads(device: str, seconds: float = 0.2) -> str:
    """Return a remark where other processes keep most cores busy that threads of this one would share, else "".

    Looks for `seconds`, in which this process does nothing. Threads wait for each other by spinning: HM4SR's epoch on
    the demo took 4 times as long with two threads as with one on two cores that two other processes wanted.
    """
    import torch

    n_threads, n_cores = torch.get_num_threads(), os.cpu_count() or 1
    if n_threads < 2 or pick_device(device) != "cpu" or (before := _seconds_at_work()) is None:
        return ""
    time.sleep(seconds)
    busy = ((_seconds_at_work() or before) - before) / seconds
    free = max(1, round(n_cores - busy))
    if busy <= n_cores / 2 or free >= n_threads:
        return ""
    return (
        f"other processes keep {min(n_cores, round(busy))} of {n_cores} cores busy, and {n_threads} threads that wait "
        f"for each other lose much time then; OMP_NUM_THREADS={free} before the command may be several times faster"
    )


def release_memory() -> None:
    """Give memory that is free, but was kept for the next step, back to the system, where the C library can."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def without_collector() -> Iterator[None]:
    """Pause Python's search for cycles, which takes a third of the time in which thousands of records are read."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@cache
def code_version() -> dict[str, str]:
    """Return mmbench's version, the git commit of a source tree, and a hash of the code that computes results."""
    files = sorted([*PACKAGE.rglob("*.py"), *baselines_dir().glob("*.py")])
    parts = {
        str(file.relative_to(file.parents[1])): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
    return {"mmbench": __version__, "commit": _commit(PACKAGE.parent), "source_hash": hash_json(parts)[:16]}


def _commit(folder: Path) -> str:
    if not (folder / ".git").exists():
        return ""
    try:
        finished = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return finished.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def environment(device: str, code: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what made a result: code, libraries, machine, device, threads, time; no host or user names.

    code  what is known about the model's code where it does not ship with mmbench (`ModelEntry.code_facts`)
    """
    import torch

    libraries = {}
    for name in ("torch", "numpy", "scipy", "pandas", "scikit-learn", "pillow"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            libraries[name] = ""
    return {
        "code": {**code_version(), **(code or {})},
        "python": platform.python_version(),
        "libraries": libraries,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
