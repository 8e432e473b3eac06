"""Models and batches of the tests of S3-Rec."""

from typing import Any

import torch
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import plan_rows
from mmbench.models.registry import find
from tests.models.toy import (
    MAX_LEN,
    N_ITEMS,
    toy_catalog,
    toy_model,
)

SMALL = {"hidden_dim": 12, "inner_dim": 16, "dropout": 0.0, "attn_dropout": 0.0}


MASK = N_ITEMS + 1


def module() -> Any:
    return __import__("sys").modules[find("s3rec").load().__module__]


def make(**settings: Any) -> Any:
    return toy_model("s3rec", toy_catalog(), **(SMALL | {"attribute_min_count": 1} | settings)).double()


def pretraining(model: Any) -> Any:
    model.start_stage("pretrain")
    return model


def prefixes(view: Any, layout: Any = "packed") -> TrainBatch:
    rows = plan_rows(view.offsets, "sequence-prefix", MAX_LEN)
    return Batcher(view.items, view.times, layout=layout, max_len=MAX_LEN).training(rows)


WEIGHTS = {"aap": 0.2, "mip": 1.0, "map": 1.0, "sp": 0.5}


def unweighted(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: terms[name].item() / weight for name, weight in WEIGHTS.items()}


def attributes_by_hand() -> dict[int, set[Any]]:
    """What the toy catalogue says of its items."""
    catalog = toy_catalog()
    assert catalog.category_ids is not None
    assert catalog.category_offsets is not None
    assert catalog.brand_ids is not None
    owned: dict[int, set[Any]] = {}
    for item in range(1, N_ITEMS + 1):
        low, high = catalog.category_offsets[item : item + 2].tolist()
        owned[item] = {("category", c) for c in catalog.category_ids[low:high].tolist()}
        if brand := int(catalog.brand_ids[item]):
            owned[item].add(("brand", brand))
    return owned


def shaken(model: Any) -> Any:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def of_each_history(batch: TrainBatch, grid: Tensor) -> list[list[int]]:
    """The values of a grid [R, W] in the places of each history, row after row."""
    lists = []
    for values, segments in zip(grid.tolist(), batch.segment.tolist(), strict=True):
        for number in range(1, max(segments) + 1):
            lists.append(
                [value for value, segment in zip(values, segments, strict=True) if segment == number]
            )
    return lists
