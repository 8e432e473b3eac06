"""The gradient of a training step by finite differences: none of its paths is cut.

Dropout is on; each evaluation of the loss has the same noise.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmbench.data.batch import TrainBatch
from mmbench.models.base import Recommender
from mmbench.models.registry import find
from tests.models.toy import gradients, in_float64, toy_catalog, toy_model, toy_view, training_batch

STEP = 1e-6
SIZES = {
    "hidden_dim": 8,
    "emb_dim": 8,
    "inner_dim": 10,
    "state_dim": 6,
    "n_heads": 2,
    "n_layers": 2,
    "n_blocks": 1,
}
MODELS: dict[str, dict[str, Any]] = {
    "sasrec": {}, "sasrec:official": {"l2_emb": 0.1}, "bert4rec": {},
    "gru4rec": {"loss": "bpr"}, "gru4rec:official": {"hidden_dropout": 0.3, "n_samples": 20},
    "lrurec": {}, "lrurec:paper": {}, "tisasrec": {}, "tisasrec:official": {}, "tisasrec:paper": {},
    "fearec:regularised": {}, "fearec": {"contrast": "us", "similarity": "cos"}, "ticoserec": {},
    "caser": {"window": 3, "reg_weight": 0.1}, "caser:official": {}, "nextitnet": {"reg_weight": 0.1},
    "nextitnet:official": {}, "trimlp": {}, "trimlp:left-pad": {}, "mlp4rec": {}, "esasrec": {"n_negatives": 5},
    "gsasrec": {"n_negatives": 5}, "gsasrec:tied": {}, "gsasrec:as-released": {"n_negatives": 5},
    "sasrec-ensemble": {}, "late-fusion": {}, "bpr-mf": {"reg_weight": 0.1},
}  # fmt: skip


def lively(name: str, settings: dict[str, Any]) -> Recommender[Any]:
    """Return a small model in training, with weights so large that no gradient is nearly zero."""
    names = set(find(name).own_settings())
    with in_float64():
        sizes = {key: value for key, value in (SIZES | settings).items() if key in names}
        model = toy_model(name, toy_catalog(), **sizes).double().train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx == 0:
                module.weight[0] = 0.0
    model.start_epoch(100)
    return model


def loss_of(model: Recommender[Any], batch: TrainBatch) -> float:
    torch.manual_seed(0)
    with torch.no_grad():
        return sum(term.item() for term in model.loss(batch).values())


def random_direction(model: Recommender[Any]) -> dict[str, Tensor]:
    """Return a step for each parameter, 0 for rows of padding, which are read but never learn."""
    generator = torch.Generator().manual_seed(1)
    steps = {
        path: torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for path, parameter in model.named_parameters()
    }
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module.padding_idx == 0:
            steps[f"{path}.weight"][0] = 0.0
    return steps


def move(model: Recommender[Any], direction: dict[str, Tensor], length: float) -> None:
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.add_(length * direction[path])


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_changes_as_the_gradient_says(name: str) -> None:
    model = lively(name, MODELS[name])
    batch, direction = training_batch(model, toy_view(n_users=8)), random_direction(model)
    torch.manual_seed(0)
    _, actual = gradients(model, batch)
    assert actual.keys() == direction.keys()
    slope = sum(float((gradient * direction[path]).sum()) for path, gradient in actual.items())
    move(model, direction, STEP)
    above = loss_of(model, batch)
    move(model, direction, -2 * STEP)
    assert slope == pytest.approx((above - loss_of(model, batch)) / (2 * STEP), rel=1e-6)
