"""The contract between a model and mmbench: the only base class, and the data that a model receives.

Axes: R rows of a batch (bins of packed histories, or a history each), W width, T targets of the step,
N items, D width of the score product, E training events.

A model gets its configuration and a `Catalog` (tensors, no files). Training calls `loss(batch)`; ranking calls
`query(batch)` and `item_table()`, or `score(batch)` when the score is not a dot product. A model never opens a file,
names a device, logs, or draws from a generator other than torch's default.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.needs import Needs, Samples
from mmbench.nn.histories import TrainHistories

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Everything that a model may know before it sees a batch. It holds training events only.

    Row i of a feature table belongs to item i; row 0 is padding and all zeros. An item without the modality
    has a zero row and False in `has_text`/`has_image`. `None` = the data set has no such features.
    """

    n_items: int
    n_users: int
    max_len: int
    text_feat: Tensor | None = None  # float32 [N+1, Dt]
    image_feat: Tensor | None = None  # float32 [N+1, Di]
    has_text: Tensor | None = None  # bool [N+1]
    has_image: Tensor | None = None  # bool [N+1]
    # "text"/"image" -> [N+1, layers, D], float16 or float32 as stored, possibly a memory-mapped file: read it with
    # mmbench.nn.features.LayerFeatures
    layer_feat: Mapping[str, Tensor] = field(default_factory=dict)
    category_ids: Tensor | None = None  # int64 [nnz], 0-based categories, CSR by item
    category_offsets: Tensor | None = None  # int64 [N+2], item i has offsets[i]:offsets[i+1], item 0 none
    n_categories: int = 0
    brand_ids: Tensor | None = None  # int64 [N+1], each item's brand, numbered from 1; 0 = no brand
    train_items: Tensor  # int64 [E], items of the training events, user after user, oldest first
    train_times: Tensor  # int64 [E], their unix seconds
    train_offsets: Tensor  # int64 [U+1], user u has events offsets[u]:offsets[u+1]

    @property
    def histories(self) -> TrainHistories:
        """Return the training events by user as a new module, which moves with the model that registers it."""
        return TrainHistories(self.train_items, self.train_times, self.train_offsets)

    def category_matrix(self) -> Tensor:
        """Return multi-hot item categories, float32 [N+1, C]; row 0 is zero."""
        if self.category_ids is None or self.category_offsets is None:
            return torch.zeros(self.n_items + 1, 0)
        matrix = torch.zeros(self.n_items + 1, self.n_categories)
        rows = torch.repeat_interleave(torch.arange(self.n_items + 1), self.category_offsets.diff())
        matrix[rows, self.category_ids] = 1.0
        return matrix


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A phase of training.

    epochs    None = up to max_epochs with early stopping; a number = exactly that many, without validation.
    samples   what this stage is trained on; None = the run's setting.
    settings  training settings (fields of TrainConfig) that this stage overrides: lr, batch_size, ...
    data      "target" = the run's data set; "source" = the data sets that the run pre-trains on, joined by
              mmbench.training.sources. The engine announces the change through `use_catalog`.
    """

    name: str = "train"
    epochs: int | None = None
    samples: Samples | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Literal["target", "source"] = "target"

    def __post_init__(self) -> None:
        if self.data == "source" and self.epochs is None:
            raise ValueError(f"stage {self.name!r}: source data has no validation; set a number of epochs")


class Recommender(nn.Module, Generic[C]):
    """Base of every model.

    Subclasses end `__init__` with their weight initialisation, after all layers exist, unless the released code leaves
    later layers at torch's defaults (HM4SR).
    """

    trainable: ClassVar[bool] = True  # False: no loss; __init__ computes everything from the catalogue
    deterministic: ClassVar[bool] = False  # True: the seed changes nothing
    time_shift: ClassVar[bool] = False  # True: only differences between times change a score
    reads_layers: ClassVar[bool] = False  # True: reads `catalog.layer_feat`, which has a state per layer

    def __init__(self, config: C, catalog: Catalog) -> None:
        super().__init__()
        self.config = config
        self.n_items = catalog.n_items
        self.max_len = catalog.max_len

    @classmethod
    def reads(cls, config: C, modality: str) -> bool:
        """Return whether this configuration reads the "text" or "image" features or the "time" that its inputs name."""
        return True

    @property
    def needs(self) -> Needs:
        """Return how the engine must feed the model."""
        return Needs()

    # -- training -----------------------------------------------------------------------------------------

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the phases of training, in order."""
        return (Stage(),)

    def use_catalog(self, catalog: Catalog) -> None:
        """Switch to the items of `catalog`: to those of the source data, and later back to the run's data set.

        The engine calls it before `start_stage` where the data change. A model with a stage on source data overrides
        it: it replaces what belongs to items (features, `n_items`) and keeps what it has learned.
        """
        raise TypeError(f"{type(self).__name__} has no use_catalog(), so it cannot change its data set")

    def start_stage(self, name: str) -> None:
        """Freeze, unfreeze or re-initialise parameters; called before the stage's optimiser is built."""

    def start_epoch(self, epoch: int) -> None:
        """Prepare what changes from epoch to epoch (counted from 1 in each stage); called before each epoch."""

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return named scalar terms whose SUM is minimised (weights already applied)."""
        raise TypeError(f"{type(self).__name__} is not trained")

    def constrain(self, parameters: Mapping[str, Tensor]) -> None:
        """Project parameters back into their set, in place; called after each step of the optimiser.

        parameters  by name; when several seeds train together they have a leading axis, so use operations on
                    trailing axes only
        """

    # -- scores -------------------------------------------------------------------------------------------

    @property
    def is_dot_product(self) -> bool:
        """Return whether the score is `query(batch) @ item_table().T`, so that a ranking forms the table once."""
        return type(self).score is Recommender.score

    def query(self, batch: Batch) -> Tensor:
        """Return the state at each of the batch's slots, [T, D]."""
        raise TypeError(f"{type(self).__name__} has no dot-product score")

    def item_table(self) -> Tensor:
        """Return the output vectors of items 1..N, [N, D]; row i - 1 belongs to item i."""
        raise TypeError(f"{type(self).__name__} has no dot-product score")

    def score(self, batch: Batch) -> Tensor:
        """Return scores of all items, [T, N]; column i - 1 belongs to item i. By default a dot product."""
        return self.query(batch) @ self.item_table().T

    def score_cost(self, n_items: int) -> int:
        """Return how many floats `score` holds at once for each history; a ranking fits its chunks to it.

        A model that compares every history with every item in D dims, [T, N, D], returns n_items * D.
        """
        return n_items

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the names of the sub-models whose scores this model combines; run.json reports each of them alone."""
        return ()

    def alone(self, part: str) -> AbstractContextManager[None]:
        """Return a context inside which the model's score is that of a single part of its `parts`."""
        raise TypeError(f"{type(self).__name__} has no parts")

    def extra_state(self) -> dict[str, Any]:
        """Return JSON-able facts for run.json, such as sizes that depend on the data."""
        return {}
