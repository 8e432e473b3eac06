"""Models of the tests of MISSRec."""

import sys
from typing import Any

import torch
from torch import Tensor

from mmbench.models.base import Catalog, Recommender
from mmbench.models.registry import find
from tests.fixed import fill
from tests.models.toy import (
    history_batch,
    toy_catalog,
    toy_model,
)

MISSREC = sys.modules[find("missrec").load().__module__]


QUIET: dict[str, Any] = {"dropout": 0.0}


def make(name: str = "missrec", catalog: Catalog | None = None, **settings: Any) -> Any:
    """Return a small model in float64 whose weights let every bias show, after a discovery of interests."""
    small = {"hidden_dim": 8, "inner_dim": 12}
    model = toy_model(name, catalog or toy_catalog(), **(small | settings)).double()
    fill(model)
    torch.manual_seed(1)
    model.start_epoch(1)
    return model


PLAIN = [[4, 9, 2], [1], [6, 6, 8, 20, 30, 5, 5, 2], [17, 18]]


def states(model: Recommender[Any], histories: list[list[int]]) -> Tensor:
    with torch.no_grad():
        return model.eval().query(history_batch(model, histories))
