"""Where mmbench finds what ships with it, and the folders a user works in."""

import os
from pathlib import Path

from mmbench.errors import UsageError

PACKAGE = Path(__file__).resolve().parent
PAPER_SCORES = "printed.csv"  # in a folder of papers: scores
PAPER_CLAIMS = "claims.toml"  # and what papers print beside them
NEW_MODELS = Path("my-models")  # where `mmbench new-model` writes without --models-dir


def baselines_dir() -> Path:
    """Return the folder of baseline models: inside the package in a wheel, beside it in a source tree."""
    inside = PACKAGE / "_baselines"
    return inside if inside.is_dir() else PACKAGE.parent / "baselines"


def datasets_file() -> Path:
    """Return the catalogue of data sets: inside the package in a wheel, beside it in a source tree."""
    inside = PACKAGE / "_datasets.toml"
    return inside if inside.is_file() else PACKAGE.parent / "datasets.toml"


def data_dir() -> Path:
    """Return the folder of raw and prepared data: `--data-dir`, else `MMBENCH_DATA`, else `data/`."""
    return Path(os.environ.get("MMBENCH_DATA", "data"))


def results_dir() -> Path:
    """Return the folder of results: `--results-dir`, else `MMBENCH_RESULTS`, else `results/`."""
    return Path(os.environ.get("MMBENCH_RESULTS", "results"))


def paper_dirs() -> list[Path]:
    """Return the folders of a user's own papers, which MMBENCH_PAPERS names; UsageError where one is not there."""
    folders = split_paths(os.environ.get("MMBENCH_PAPERS", ""))
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"MMBENCH_PAPERS: folder {folder} does not exist")
    return folders


def split_paths(text: str) -> list[Path]:
    """Return the paths of an environment variable; an existing path stays whole even if it holds the separator."""
    parts = text.split(os.pathsep)
    paths = []
    while parts:
        lengths = range(len(parts), 0, -1)
        whole = next((n for n in lengths if os.path.exists(os.pathsep.join(parts[:n]))), 1)
        paths.append(os.pathsep.join(parts[:whole]))
        parts = parts[whole:]
    return [Path(path) for path in paths if path]
