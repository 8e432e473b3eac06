"""Models of the tests of IISAN."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmbench.models.base import Catalog
from tests.models.toy import (
    toy_model,
)

SMALL = {"hidden_dim": 12, "inner_dim": 16, "bottleneck_dim": 6, "dropout": 0.0, "attn_dropout": 0.0}


OFFICIAL = {"loss": "inbatch", "positions": "left-padded"}


GROUP = {"image": 0, "text": 1, "inter": 2}


def make(catalog: Catalog, **settings: Any) -> Any:
    return toy_model("iisan", catalog, **(SMALL | settings)).double()


def with_states(catalog: Catalog, text: Tensor, image: Tensor) -> Catalog:
    return replace(catalog, layer_feat={"text": text, "image": image})


def shaken(model: Any) -> Any:
    """Give every parameter noise, so that none is 0 or 1 by its initialisation."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model
