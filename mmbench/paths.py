"""Where mmbench finds what ships with it, and the folders a user works in."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def baselines_dir() -> Path:
    """The folder of baseline models: inside the package in a wheel, beside it in a source tree."""
    inside = PACKAGE / "_baselines"
    return inside if inside.is_dir() else PACKAGE.parent / "baselines"


def datasets_file() -> Path:
    """The catalogue of data sets: inside the package in a wheel, beside it in a source tree."""
    inside = PACKAGE / "_datasets.toml"
    return inside if inside.is_file() else PACKAGE.parent / "datasets.toml"


def data_dir() -> Path:
    """Folder of raw and prepared data: `--data-dir`, else `MMBENCH_DATA`, else `data/`."""
    return Path(os.environ.get("MMBENCH_DATA", "data"))


def results_dir() -> Path:
    """Folder of results: `--results-dir`, else `MMBENCH_RESULTS`, else `results/`."""
    return Path(os.environ.get("MMBENCH_RESULTS", "results"))
