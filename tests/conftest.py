"""Fixtures of all tests."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.neutral import neutralise

os.environ.update(neutralise(os.environ))  # before numpy and torch are imported, which ask for threads then

from mmbench.data.store import Prepared, open_prepared
from tests.prepared import write_toy

ROOT = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the prepared data set `toy` (see tests.prepared); nobody writes into it."""
    folder = tmp_path_factory.mktemp("data")
    write_toy(folder)
    return folder


@pytest.fixture
def toy(data_dir: Path) -> Prepared:
    return open_prepared("toy", data_dir)


# Files with a test that takes seconds, the longest first.
LONG = (
    "test_demo_answers.py", "cli/test_backends.py", "training/test_two_threads.py", "cli/test_resume.py",
    "test_documented_commands.py", "training/test_gpu_settings.py", "cli/test_errors.py", "test_benchmarks.py",
    "cli/test_stack.py", "runs/test_slurm.py", "test_docs.py", "tuning/test_workers.py",
)  # fmt: skip


def pytest_configure() -> None:
    """Take the neutral time zone, and hear Ctrl-C also in the background, where shells have it ignored.

    Commands that tests start inherit both.
    """
    if hasattr(time, "tzset"):
        time.tzset()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first, so that no process is left alone with one at the end."""
    places = {ROOT / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Archives made while tests are collected carry the time of day: as names they would differ between workers."""
    return argname if isinstance(val, bytes) else None
