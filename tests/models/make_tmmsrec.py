"""Models and batches of the tests of TMMSRec."""

from typing import Any

import numpy as np
import torch

from mmbench.data.batch import Batch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import last_rows
from mmbench.models.base import Catalog
from mmbench.models.tmmsrec import TMMSRec
from tests.models.toy import (
    toy_catalog,
    toy_model,
    view_of,
)

TABLE_4 = ["id", "id+tie", "id+text", "id+text+tie", "id+image", "id+image+tie", "id+image+text"]


BACKBONES = ["gru4rec", "nextitnet", "mlp4rec"]


VARIANTS = [*TABLE_4, "np", "rp", "vp", "add", "linear", "mlp", *BACKBONES, "as-released", "leaky", "ce"]


HISTORIES = [[5, 2, 9, 1], [7, 3], [4, 4, 8, 11, 2, 30, 1]]


# The slips of the released code, taken back.
INTENDED = {
    "encoder": "own", "tie_layout": "interleaved", "padding_keys": False, "owned_items": "history",
    "tie_dropout": 0.0, "dropout": 0.5,
}  # fmt: skip


def make(name: str = "tmmsrec", catalog: Catalog | None = None, *, seed: int = 0, **settings: Any) -> TMMSRec:
    """In evaluation mode (no dropout) and float64, D = 24 unless given."""
    model = toy_model(name, catalog or toy_catalog(), seed=seed, **{"hidden_dim": 24, **settings})
    assert isinstance(model, TMMSRec)
    return model.double().eval()


def batch_of(layout: Any, histories: list[list[int]], times: list[list[int]] | None = None) -> Batch:
    view = view_of(histories, times)
    batcher = Batcher(view.items, view.times, layout=layout, max_len=8)
    return batcher.evaluation(last_rows(view.offsets, np.arange(len(histories)), 8))


def shaken(model: TMMSRec) -> TMMSRec:
    """Non-zero biases and norms everywhere, so that a forgotten one shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if "id" in model.modalities:
            model.item_emb.weight[0] = 0
    return model
