"""Two configurations of real runs on the toy data, and a bundle of each; made once, nobody writes into them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mmbench import api
from mmbench.board.writing import write_bundle

SMALL = {"hidden_dim": 8, "inner_dim": 8, "batch_size": 64, "n_layers": 1}


@dataclass(frozen=True)
class Made:
    """Folders of results and bundles: sasrec with two seeds and its weights, pop."""

    results: Path
    sasrec: Path
    pop: Path

    def folder(self, model: str) -> Path:
        """Return the folder of a model's only configuration."""
        (folder,) = (self.results / "toy" / model).iterdir()
        return folder


@pytest.fixture(scope="session")
def made(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("board")
    results = root / "results"
    api.run(
        ["sasrec"], datasets=["toy"], seeds=2, epochs=2, settings=SMALL, floors=False, lists=10,
        data_dir=data_dir, results_dir=results, debug=True,
    )  # fmt: skip
    api.run(
        ["pop"], datasets=["toy"], floors=False, lists=10, data_dir=data_dir, results_dir=results, debug=True
    )
    made = Made(results, root / "sasrec.mmb.zip", root / "pop.mmb.zip")
    write_bundle(made.folder("sasrec"), made.sasrec, with_weights=True)
    write_bundle(made.folder("pop"), made.pop)
    return made
