"""A tiny data set and weights made of sines, on which several papers' models were computed with code of others.

Tensor number k, flattened row by row with index i from 0, is 0.3 sin(0.7 i + k): the numbers in the tests can be
computed again anywhere. Six items with one or two of four categories, three histories with their next items.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from tests.models.toy import catalog_of, history_batch, view_of

N_ITEMS, MAX_LEN = 6, 4
CATEGORIES = [[], [0, 1], [1], [2, 3], [0], [3, 1], [2]]  # of padding and items 1 .. 6, counted from 0
HISTORIES, TARGETS = [[1, 2, 3], [4], [5, 6, 1, 2]], [4, 5, 3]
TOY_HISTORIES = [[4, 9, 2, 7], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]  # of items of the toy data set


def wave(k: int, *shape: int) -> Tensor:
    """Return 0.3 sin(0.7 i + k), float64."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.3 * torch.sin(0.7 * i + k)).view(*shape)


def bias_wave(k: int, n: int) -> Tensor:
    """Return 0.1 cos(i + k), float64 [n]."""
    return 0.1 * torch.cos(torch.arange(n, dtype=torch.float64) + k)


@torch.no_grad()
def put(module: nn.Module, name: str, *values: Tensor) -> None:
    """Give a parameter the rows of all `values`."""
    parameter = module.get_parameter(name)
    parameter.copy_(torch.cat(values).view_as(parameter))


def put_map(module: nn.Module, name: str, shape: Sequence[int], *numbers: int) -> None:
    """Give the linear map `name` the weights [out, in] and biases of tensors `numbers`, one below the other."""
    put(module, f"{name}.weight", *(wave(k, *shape) for k in numbers))
    if f"{name}.bias" in dict(module.named_parameters()):
        put(module, f"{name}.bias", *(bias_wave(k, shape[0]) for k in numbers))


def put_norm(module: nn.Module, name: str, k: int, dim: int) -> None:
    """Give the LayerNorm `name` the weights 1 + tensor k and its biases."""
    put(module, f"{name}.weight", 1 + wave(k, dim))
    put(module, f"{name}.bias", bias_wave(k, dim))


def catalog_with(categories: Sequence[Sequence[int]], **changes: Any) -> Catalog:
    """Return the catalogue of as many items (the first entry is padding's) with these categories."""
    counts = torch.tensor([len(members) for members in categories])
    given: dict[str, Any] = {
        "category_ids": torch.tensor([c for members in categories for c in members], dtype=torch.int64),
        "category_offsets": torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        "n_categories": 1 + max(c for members in categories for c in members),
    }
    plain = catalog_of(view_of(HISTORIES), n_items=len(categories) - 1, max_len=MAX_LEN, features=False)
    return Catalog(**{**vars(plain), **given, **changes})


def with_targets(batch: Batch, targets: Tensor) -> TrainBatch:
    """Return the batch with a target [T] for each slot."""
    return TrainBatch.of(batch.tensors() | {"target": targets})


def name_of(settings: dict[str, Any]) -> str:
    """Return the name of a case of a test by its settings."""
    return "-".join(map(str, settings.values())) or "default"


def queries(model: Recommender[Any], histories: Sequence[Sequence[int]] = TOY_HISTORIES) -> Tensor:
    """Return the states that follow histories, [T, D]."""
    with torch.no_grad():
        return model.query(history_batch(model, histories))
