"""A prepared data set as runs read it: the training events and the targets of its split."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from mmbench.choices import SplitName
from mmbench.data.split import Split, make_split
from mmbench.data.store import Prepared, open_path
from mmbench.data.views import TargetView, TrainView, target_view, training_view
from mmbench.errors import RunError


@dataclass(frozen=True)
class LoadedData:
    """A data set as a cell's parts see it: the training events and the validation targets."""

    prepared: Prepared
    split: Split
    train: TrainView
    valid: TargetView

    @cached_property
    def brand_ids(self) -> np.ndarray:
        """A number of each item's brand, int64 [N + 1], from 1 in the order of the names; 0 = it has none."""
        brands = [record["brand"] for record in self.prepared.item_records]
        number = {name: k for k, name in enumerate(sorted({*brands} - {""}), start=1)}
        return np.array([0, *(number.get(brand, 0) for brand in brands)], dtype=np.int64)

    def targets(self, split: SplitName) -> TargetView:
        """Return what is ranked. The test targets are opened by this call only, after the training."""
        return self.valid if split == "valid" else target_view(self.prepared, self.split, split)


@lru_cache(maxsize=8)
def load_data(path: Path, content: str) -> LoadedData:
    """Load a prepared data set whose hash is `content`; all cells of a data set share a copy."""
    prepared = open_path(path)
    if prepared.hash != content:
        raise RunError(f"{path} changed during the run; start it again")
    prepared.verify()
    split = make_split(prepared.protocol, np.asarray(prepared.times), np.asarray(prepared.offsets))
    return LoadedData(prepared, split, training_view(prepared, split), target_view(prepared, split, "valid"))
