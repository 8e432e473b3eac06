"""Models of the tests of MMMLP."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.models.base import Catalog, Recommender
from tests.fixed import fill
from tests.models.toy import (
    toy_catalog,
    toy_model,
)

HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]


VARIANTS = ["mmmlp", "mmmlp:as-released", "mmmlp:left", "mmmlp:-text", "mmmlp:-image", "mmmlp:id"]


NAMES = pytest.mark.parametrize("name", VARIANTS)


def make(name: str = "mmmlp", catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    """Return a small model in float64 and evaluation mode, whose weights let every bias show."""
    small = {"hidden_dim": 6, "n_layers": 2}
    model = toy_model(name, catalog or toy_catalog(), **(small | settings)).double().eval()
    fill(model)
    return model


def stream_by_hand(model: Recommender[Any], k: int, items: list[int]) -> Tensor:
    """Return all states of stream k, [L, D]."""
    is_together = len(model.mixers) == 1
    mixer, group = model.mixers[0 if is_together or k == 0 else 1], k if is_together else max(k - 1, 0)

    def norm(layer: nn.Module, x: Tensor, group: int, eps: float) -> Tensor:
        scale, shift = (getattr(layer, part).view(-1, 6)[group] for part in ("weight", "bias"))
        return F.layer_norm(x, (6,), scale, shift, eps=eps)

    def mlp(layer: Any, x: Tensor) -> Tensor:
        """x [channels, width], along the channels."""
        up, down = ((m.weight[group], m.bias.view(len(m.weight), -1)[group]) for m in (layer.up, layer.down))
        return F.conv1d(F.gelu(F.conv1d(x[None], up[0][..., None], up[1])), down[0][..., None], down[1])[0]

    if k == 0:
        x = norm(model.norm, model.item_emb.weight[items], 0, 1e-12)
        depth = model.config.n_layers
    else:
        table = list(model.features.values())[k - 1]
        vectors = table.feat[items] if table.map is None else table.map(table.feat[items])
        vectors = torch.stack([v if table.present[i] else 0 * v for v, i in zip(vectors, items, strict=True)])
        x = norm(model.content_norm, vectors, k - 1, 1e-12)
        depth = model.config.n_layers if model.config.content_depth == "stacked" else 1
    for _ in range(depth):
        x = x + mlp(mixer.time, norm(mixer.time_norm, x, group, 1e-5))
        x = x + mlp(mixer.channel, norm(mixer.channel_norm, x, group, 1e-5).T).T
    return x
