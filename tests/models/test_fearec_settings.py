"""FEARec: which settings reach the contrastive terms and the regulariser, and which band each layer has."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.models.registry import find
from tests.models.toy import toy_catalog, toy_model, toy_view, training_batch

FEAREC = sys.modules[find("fearec").load().__module__]
QUIET = {"dropout": 0.0, "attn_dropout": 0.0}


@pytest.mark.parametrize("similarity", ["dot", "cos"])
def test_similarity_and_temperature(similarity: str) -> None:
    settings: dict[str, Any] = {"contrast": "un", "un_weight": 0.5, "similarity": similarity}
    model = toy_model("fearec", toy_catalog(), **QUIET, temperature=0.25, **settings).double()
    batch = training_batch(model, toy_view())
    h = model.query(batch)
    expected = 0.5 * FEAREC.nce(h, h, temperature=0.25, similarity=similarity)
    torch.testing.assert_close(model.loss(batch)["un"], expected)


@pytest.mark.parametrize(("contrast", "n_terms"), [("un", 1), ("su", 1), ("us", 2), ("us_x", 1)])
def test_both_sides_of_a_term_learn(contrast: str, n_terms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def watch(a: Tensor, b: Tensor, **_: Any) -> Tensor:
        seen.extend([a.requires_grad, b.requires_grad])
        return a.sum() + b.sum()

    monkeypatch.setattr(FEAREC, "nce", watch)
    model = toy_model("fearec", toy_catalog(), contrast=contrast)
    model.loss(training_batch(model, toy_view()))
    assert seen == [True, True] * n_terms


def test_the_regulariser_has_the_weight_of_the_settings() -> None:
    light, heavy = (
        toy_model("fearec:regularised", toy_catalog(), freq_weight=weight) for weight in (0.1, 0.4)
    )
    batch, values = training_batch(light, toy_view()), []
    for model in (light, heavy):
        torch.manual_seed(0)
        values.append(model.loss(batch)["freq"].item())
    assert values[1] == pytest.approx(4 * values[0])
    assert values[0] > 0


def test_the_first_layer_reads_the_highest_frequencies() -> None:
    """15 bins at width 28; a layer reads 9 of them, and the second one begins 6 lower."""
    model = toy_model("fearec", toy_catalog(max_len=28), n_layers=2, global_ratio=0.6)
    bins = [block.attention.band.nonzero()[:, 0].tolist() for block in model.encoder.blocks]
    assert bins == [list(range(6, 15)), list(range(9))]
