"""Models of the tests of M3SRec."""

from typing import Any

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from tests.fixed import fill
from tests.models.toy import (
    toy_catalog,
    toy_model,
)

HISTORIES, TARGETS = [[1, 2, 3, 4], [5, 2], [4], [3, 1]], [5, 1, 3, 1]


NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0}


SMALL = {"hidden_dim": 4, "inner_dim": 6, "n_heads": 2, "n_experts": 2}


def make(name: str = "m3srec", catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    """Return a small model in float64 without dropout, whose weights let every term show."""
    model = toy_model(name, catalog or toy_catalog(), **(SMALL | NO_DROPOUT | settings)).double()
    fill(model)
    return model.eval()


def states_of(model: Recommender[Any], batch: Batch) -> Tensor:
    """Return u_m at the slots, [M, T, D]."""
    with torch.no_grad():
        states: Tensor = model.states(model.tables(batch.item_seq), batch)
    return states
