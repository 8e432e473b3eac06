"""The planted models, registered."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.planted import write_models


@pytest.fixture(scope="package")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = write_models(tmp_path_factory.mktemp("planted"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMBENCH_MODELS", str(folder))
        yield folder
