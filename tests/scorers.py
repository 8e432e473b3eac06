"""Models whose scores or losses a test writes down, and views of random histories to rank or train them on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.data.views import TargetView, TrainView
from mmbench.models.base import Catalog, Recommender, Stage
from mmbench.models.needs import Needs


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    """A model without settings."""


def empty_catalog(*, n_items: int, n_users: int, max_len: int = 8) -> Catalog:
    none = torch.zeros(0, dtype=torch.int64)
    return Catalog(
        n_items=n_items,
        n_users=n_users,
        max_len=max_len,
        train_items=none,
        train_times=none,
        train_offsets=torch.zeros(n_users + 1, dtype=torch.int64),
    )


class Written(Recommender[NoConfig]):
    """Gives user u the scores table[u], by its own `score`."""

    trainable = False

    def __init__(self, table: Tensor, *, max_len: int = 8, needs: Needs | None = None) -> None:
        super().__init__(
            NoConfig(), empty_catalog(n_items=table.shape[1], n_users=len(table), max_len=max_len)
        )
        self.table, self.wants, self.seen = table, needs or Needs(), []  # type: ignore[var-annotated]

    @property
    def needs(self) -> Needs:
        return self.wants

    def score(self, batch: Batch) -> Tensor:
        self.seen.append(batch)
        return self.table[batch.user]


class WrittenAsProduct(Written):
    """The same as a product of queries and item vectors."""

    score = Recommender.score  # type: ignore[assignment]

    def query(self, batch: Batch) -> Tensor:
        self.seen.append(batch)
        return self.table[batch.user]

    def item_table(self) -> Tensor:
        return torch.eye(self.n_items, dtype=self.table.dtype)


def random_view(*, n_users: int = 50, n_items: int = 30, longest: int = 12, seed: int = 0) -> TargetView:
    """One target and a history of 1..longest events for each user, in a shuffled user order."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, n_users)
    return TargetView(
        items=rng.integers(1, n_items + 1, lengths.sum()),
        times=np.arange(lengths.sum()),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        user=rng.permutation(n_users),
        target=rng.integers(1, n_items + 1, n_users),
        train_len=np.maximum(lengths - 1, 0),
    )


def train_view(histories: Sequence[Sequence[int]]) -> TrainView:
    lengths = [len(history) for history in histories]
    return TrainView(
        items=np.array([item for history in histories for item in history], dtype=np.int64),
        times=np.array(
            [1_400_000_000 + 1000 * k for history in histories for k in range(len(history))], dtype=np.int64
        ),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


class Bilinear(Recommender[NoConfig]):
    """Last item's vector times the next item's: small, with dropout noise, and ready for several stages."""

    def __init__(
        self,
        *,
        n_items: int = 20,
        n_users: int = 30,
        dim: int = 6,
        max_len: int = 8,
        needs: Needs | None = None,
        stages: tuple[Stage, ...] = (Stage(),),
        on_stage: "Callable[[Bilinear, str], None] | None" = None,
    ) -> None:
        super().__init__(NoConfig(), empty_catalog(n_items=n_items, n_users=n_users, max_len=max_len))
        self.wants, self.plan, self.on_stage = (
            needs or Needs(samples=("all", "prefix", "pairs")),
            stages,
            on_stage,
        )
        self.left, self.right = nn.Embedding(n_items + 1, dim), nn.Embedding(n_items + 1, dim)
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.batches: list[Batch] = []
        self.started: list[str] = []
        self.epochs: list[int] = []

    @property
    def needs(self) -> Needs:
        return self.wants

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.plan

    def start_stage(self, name: str) -> None:
        self.started.append(name)
        if self.on_stage is not None:
            self.on_stage(self, name)

    def start_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def logits(self, batch: Batch) -> Tensor:
        if batch.item_seq.shape[1] == 0:  # pairs
            last = torch.zeros_like(batch.user)
        else:
            last = batch.item_seq.flatten()[batch.slot]
        hidden = nn.functional.dropout(self.left(last), 0.3, self.training)
        return hidden @ self.right.weight[1:].T + self.bias

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        self.batches.append(batch)
        return {"ce": nn.functional.cross_entropy(self.logits(batch), batch.target - 1)}

    def score(self, batch: Batch) -> Tensor:
        return self.logits(batch)


def state_of(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}
