"""What a model is to mmbench: the only base class, and the data it is given.

Axes: R rows of a batch (bins of packed histories, or one history each), W width, T targets of the step,
N items, D width of the score product, K negatives.

A model gets its configuration and a `Catalog` (tensors, no files) and answers `loss(batch)` while it is
trained and `query(batch)`/`item_table()` - or `score(batch)` when its score is no dot product - when it is
ranked. It never opens a file, names a device, logs, or draws from a generator other than torch's default.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch

C = TypeVar("C")
Samples = Literal["all", "prefix", "last-window", "sequence", "pairs"]


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Everything a model may know before it sees a batch. Only training events are in it.

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
    layer_feat: dict[str, Tensor] = field(default_factory=dict)  # "text"/"image" -> [N+1, layers, D]
    category_ids: Tensor | None = None  # int64 [nnz], 0-based categories, CSR by item
    category_offsets: Tensor | None = (
        None  # int64 [N+2]: item i owns offsets[i]:offsets[i+1]; item 0 owns none
    )
    n_categories: int = 0
    train_users: Tensor  # int64 [E], user of each training event
    train_items: Tensor  # int64 [E], its item, in each user's order
    train_times: Tensor  # int64 [E], its unix seconds

    def category_matrix(self) -> Tensor:
        """Multi-hot item categories, float32 [N+1, C]; row 0 is zero."""
        if self.category_ids is None or self.category_offsets is None:
            return torch.zeros(self.n_items + 1, 0)
        matrix = torch.zeros(self.n_items + 1, self.n_categories)
        rows = torch.repeat_interleave(torch.arange(self.n_items + 1), self.category_offsets.diff())
        matrix[rows, self.category_ids] = 1.0
        return matrix


@dataclass(frozen=True, kw_only=True)
class Needs:
    """How the engine must feed a model.

    layout      "packed": several histories side by side in one row, told apart by `batch.segment`;
                "padded": one history a row, right padded to the longest of the batch;
                "fixed":  one history a row, right padded to max_len.
    samples     what may be trained on, first = default; see mmbench.data.samples.
    causal      a later item never changes an earlier state (needed for samples = "all" and "last-window").
    extra_slots empty slots after each history at evaluation, e.g. one for a [MASK]; max_len counts them.
    prefixes    `batch.prefixes`: every target's history as a row of its own, beside the batch's rows (training).
    n_negatives uniform negatives per target in `batch.negatives`.
    whole_rows  a loss looks from one target of a history to another: all of them must be in one step, so
                batch_unit = "rows" (steps that count targets cut a history where they are full).
    stackable   loss() runs under torch.func.vmap, so that several seeds can be trained as one
                (mmbench.training.stack); not so where shapes depend on values, nor with torch's recurrent layers.
    negatives_exclude  "history": all training items of the user; "first": only the first (a released slip).
    """

    layout: Literal["packed", "padded", "fixed"] = "packed"
    samples: tuple[Samples, ...] = ("all", "prefix")
    causal: bool = True
    extra_slots: int = 0
    prefixes: bool = False
    n_negatives: int = 0
    negatives_exclude: Literal["history", "first"] = "history"
    whole_rows: bool = False
    stackable: bool = True


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One phase of training. `epochs` None = up to max_epochs with early stopping; a number = exactly that many,
    without validation (pre-training). `samples` overrides the run's setting, `lr` its learning rate."""

    name: str = "train"
    epochs: int | None = None
    samples: Samples | None = None
    lr: float | None = None


class Recommender(nn.Module, Generic[C]):
    """Base of every model. Subclasses end `__init__` with their weight initialisation, after all layers exist."""

    trainable: ClassVar[bool] = True  # False: no loss; everything is computed in __init__ from the catalogue
    deterministic: ClassVar[bool] = False  # True: the seed changes nothing, one run is all runs
    reads_layers: ClassVar[bool] = (
        False  # True: takes features with one state per layer, `catalog.layer_feat`
    )

    def __init__(self, config: C, catalog: Catalog) -> None:
        super().__init__()
        self.config = config
        self.n_items = catalog.n_items
        self.max_len = catalog.max_len

    @classmethod
    def reads(cls, config: C, modality: str) -> bool:
        """Whether this configuration reads the "text" or "image" features that the recipe's inputs name."""
        return True

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage(),)

    def start_stage(self, name: str) -> None:
        """Called before a stage's optimiser is made: freeze, unfreeze, re-initialise."""

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch (1-based, per stage)."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms whose SUM is minimised (weights already applied)."""
        raise TypeError(f"{type(self).__name__} is not trained")

    def constrain(self, parameters: Mapping[str, Tensor]) -> None:
        """Bring parameters back to where they must lie, in place; called after each step of the optimiser.

        parameters  by name; those of several models trained as one have a leading axis, so that only operations on
                    trailing axes serve both
        """

    @property
    def is_dot_product(self) -> bool:
        """Whether the score is `query(batch) @ item_table().T`, so that a ranking can form the table once."""
        return type(self).score is Recommender.score

    def query(self, batch: Batch) -> Tensor:
        """State at each of the batch's slots, [T, D]."""
        raise TypeError(f"{type(self).__name__} has no dot-product score")

    def item_table(self) -> Tensor:
        """Output vectors of items 1..N, [N, D]; row i - 1 belongs to item i."""
        raise TypeError(f"{type(self).__name__} has no dot-product score")

    def score(self, batch: Batch) -> Tensor:
        """Scores of all items, [T, N]; column i - 1 belongs to item i. Override when it is no dot product."""
        return self.query(batch) @ self.item_table().T

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what has scores of its own, which the model combines; a run says what each is worth alone."""
        return ()

    def alone(self, part: str) -> AbstractContextManager[None]:
        """While this is open, the model's score is that of one of its `parts`."""
        raise TypeError(f"{type(self).__name__} has no parts")

    def extra_state(self) -> dict[str, Any]:
        """JSON-able facts for run.json (e.g. sizes that came from the data)."""
        return {}
