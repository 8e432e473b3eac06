"""Fixtures of the data tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.raw_files import write_toml


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Declare the data set `mine` by the body of its table; its raw files lie in tmp_path / "raw"."""

    def write(body: str) -> Path:
        file = write_toml(tmp_path / "toml", f'{body}\nraw = "../raw"\n')
        monkeypatch.setenv("MMBENCH_DATASETS", str(file))
        return tmp_path / "raw"

    return write
