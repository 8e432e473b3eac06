"""Models and matrices of the tests of FREEDOM."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmbench.models.base import Catalog, Recommender
from tests.models.toy import (
    catalog_of,
    in_float64,
    set_weights,
    sines,
    toy_model,
    view_of,
)

WHOLE = {"edge_dropout": 0.0}


def exact_model(catalog: Catalog, **settings: Any) -> Recommender[Any]:
    with in_float64():
        return toy_model("freedom", catalog, **settings)


def with_double_features(catalog: Catalog) -> Catalog:
    return replace(catalog, text_feat=catalog.text_feat.double(), image_feat=catalog.image_feat.double())


HISTORIES = [[1, 2], [2, 3, 4], [4]]  # pairs (0,0) (0,1) (1,1) (1,2) (1,3) (2,3), items from 0


def official_catalog() -> Catalog:
    def table(feat: Tensor) -> Tensor:
        return torch.cat([torch.zeros(1, 3, dtype=torch.float64), feat])

    bare = catalog_of(view_of(HISTORIES), n_items=5, features=False)
    present = torch.arange(6) > 0
    return replace(
        bare, image_feat=table(sines(1, 5, 3, scale=1.0)), has_image=present,
        text_feat=table(sines(2, 5, 3, scale=1.0, rows=2.0, columns=1.0)), has_text=present,
    )  # fmt: skip


def official_model(**settings: Any) -> Recommender[Any]:
    chosen = {"hidden_dim": 2, "n_neighbours": 2, "auxiliary_weight": 0.1, **WHOLE} | settings
    model = exact_model(official_catalog(), **chosen)
    set_weights(
        model,
        {
            "user_emb.weight": sines(1, 3, 2, scale=0.5),
            "item_emb.weight": sines(2, 5, 2, scale=0.5, columns=3.0),
            "maps.image.weight": sines(3, 2, 3, scale=0.8, columns=1.0),
            "maps.text.weight": sines(4, 2, 3, scale=0.8),
        },
    )
    return model
