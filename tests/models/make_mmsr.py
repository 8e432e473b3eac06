"""Models of the tests of MMSR."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.models.base import Catalog, Recommender
from tests.fixed import fill
from tests.models.toy import (
    toy_catalog,
    toy_model,
)

NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0}


VARIANTS = [
    "mmsr",
    *(f"mmsr:{variant}" for variant in ("as-released", "k3", "across-first", "inside-first", "positions")),
]


NAMES = pytest.mark.parametrize("name", VARIANTS)


def make(name: str = "mmsr", catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    """Return a small model in float64 without dropout, with few clusters, so that items share codes."""
    small = {"hidden_dim": 6, "n_clusters": 4}
    model = toy_model(name, catalog or toy_catalog(), **(small | NO_DROPOUT | settings)).double().eval()
    fill(model)
    return model


def padded(histories: list[list[int]]) -> Tensor:
    longest = max(map(len, histories))
    return torch.tensor([history + [0] * (longest - len(history)) for history in histories])


def random_histories(n: int) -> list[list[int]]:
    """Return histories of 1 to 8 of five items, so that steps repeat, return and stand still."""
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(1, 9, (n,), generator=generator).tolist()
    return [torch.randint(1, 6, (length,), generator=generator).tolist() for length in lengths]
