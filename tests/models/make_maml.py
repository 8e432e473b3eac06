"""Models of the tests of MAML."""

from typing import Any

import torch
from torch import Tensor

from mmbench.models.base import Catalog, Recommender
from tests.models.toy import (
    toy_catalog,
    toy_model,
)

STILL = {"dropout": 0.0, "attn_dropout": 0.0}


PLAIN = {"centre": False, "feature_norm": "none"}


AS_THE_CODE = {"loss_reduction": "sum", "covariance": "signed", **PLAIN, **STILL}


def exact_model(catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    """Return a model in float64 whose weights are far from their small beginnings."""
    model = toy_model(
        "maml", catalog or toy_catalog(), **({"hidden_dim": 4, "inner_dim": 6} | settings)
    ).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model.item_emb.weight[0] = 0.0
    return model


def unit(x: Tensor) -> Tensor:
    return x / max(float(x.norm()), 1e-6)


def joined_by_hand(catalog: Catalog, item: int) -> Tensor:
    """Text before image, each centred and divided by its mean norm over the items that have it."""
    parts = []
    for name in ("text", "image"):
        feat, has = getattr(catalog, f"{name}_feat").double(), getattr(catalog, f"has_{name}")
        centred = feat[has] - feat[has].mean(0)
        scale = centred.norm(dim=1).mean()
        parts.append((feat[item] - feat[has].mean(0)) / scale if has[item] else torch.zeros_like(feat[item]))
    return torch.cat(parts)
