"""Seeds, devices, threads, and the record of the environment. Knows nothing of recommendation."""

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from mmbench import __version__
from mmbench.atomic import hash_json
from mmbench.errors import RunError, UsageError
from mmbench.paths import PACKAGE, baselines_dir

T = TypeVar("T")


def derive_seed(seed: int, *purpose: object) -> int:
    """An independent 63-bit seed for each purpose of a run ("init", "order" and epoch, ...).

    What an epoch draws depends only on the run's seed and the epoch's number, so a resumed run draws what an
    uninterrupted one would have drawn, and two purposes never share a stream.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def pick_device(name: str) -> str:
    """`auto` -> cuda when there is one; an impossible wish fails at once."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not number.isdecimal()):
        raise UsageError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:1, ...")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"device {name!r} was asked for, but torch {torch.__version__} finds no GPU; use --device cpu"
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: this machine has {torch.cuda.device_count()} GPU, counted from 0")
    return name


def stack_size(wanted: str, device: str) -> int:
    """`--stack`: "auto" = 16 on a GPU, which small models leave idle, and 1 on a CPU, where stacking gains nothing."""
    if wanted == "auto":
        return 16 if device.startswith("cuda") else 1
    if wanted == "off":
        return 1
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    raise UsageError(f"--stack {wanted}: must be auto, off or a number of seeds")


def prepare_process(n_threads: int | None = None) -> None:
    """Set the number of threads, and keep glibc from giving freed memory back after every step.

    Large temporaries otherwise cost a page fault per 4 KiB each time they are made: about 30% of a step.
    """
    import torch

    if n_threads:
        torch.set_num_threads(n_threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):  # another C library: only speed is lost
            return
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


@contextmanager
def tf32(matmul: str) -> Iterator[None]:
    """Inside, a GPU may round the inputs of float32 products to 10 bits, unless `matmul` is "float32"."""
    import torch

    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [one.allow_tf32 for one in backends]
    for one in backends:
        one.allow_tf32 = matmul != "float32"
    try:
        yield
    finally:
        for one, value in zip(backends, before, strict=True):
            one.allow_tf32 = value


def autocast(matmul: str, device: str) -> AbstractContextManager[Any]:
    """Products in bfloat16 inside, if `matmul` says so."""
    import torch

    wanted = matmul == "bfloat16"
    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16, enabled=wanted)


def compiled(loss: Callable[..., T]) -> Callable[..., T]:
    """`loss` through torch.compile, for batches of any size; what the compiler says of its failure is a RunError."""
    import torch
    from torch._dynamo.exc import TorchDynamoException

    inner = torch.compile(loss, dynamic=True)

    def call(*given: Any) -> T:
        try:
            return inner(*given)
        except TorchDynamoException as error:
            first = " ".join(" ".join(str(error).split("\n")[:2]).split())
            raise RunError(f"compile = true: {first}; run it with compile = false") from error

    return call


def reset_peak_memory(device: str) -> None:
    """From here on a GPU's peak is that of the cell that begins."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> dict[str, int]:
    """Bytes: largest resident set of this process so far, and of the GPU's allocator since the cell began."""
    import resource

    import torch

    scale = 1 if sys.platform == "darwin" else 1024
    found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale}
    if device.startswith("cuda"):
        found["device"] = torch.cuda.max_memory_allocated(device)
    return found


@cache
def code_version() -> dict[str, str]:
    """mmbench's version, the git commit of a source tree, and a hash of the code that computes results."""
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
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def environment(device: str, own_code: str = "") -> dict[str, Any]:
    """What made a result: code, library versions, machine, device, threads, time. No host or user names.

    own_code  `ModelEntry.own_code` of the model.
    """
    import torch

    libraries = {}
    for name in ("torch", "numpy", "scipy", "pandas", "scikit-learn", "pillow"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            libraries[name] = ""
    return {
        "code": {**code_version(), **({"own_model": own_code} if own_code else {})},
        "python": platform.python_version(),
        "libraries": libraries,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
