"""A configuration says that it reads a modality exactly if the modality's features move its numbers.

Run: pytest tests/models/test_reads.py -k maml
"""

from dataclasses import replace

import pytest
import torch

from mmbench.models import registry
from mmbench.models.base import Catalog
from tests.models.toy import history_batch, toy_catalog, toy_model, toy_view, training_batch

CHOOSING = ("vbpr-itv", "maml", "mgat", "freedom")  # models with the setting `modalities`
NAMES = [name for name in registry.all_names() if name.partition(":")[0] in CHOOSING]


def numbers_of(name: str, catalog: Catalog) -> list[float]:
    """Return the loss terms and the scores of all items for three users."""
    model = toy_model(name, catalog, seed=5, hidden_dim=8)
    batch = training_batch(model, toy_view())
    torch.manual_seed(0)
    terms = [term.item() for term in model.loss(batch).values()]
    with torch.no_grad():
        return terms + model.eval().score(history_batch(model, [[1]] * 3)).flatten().tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_modality_is_read_exactly_if_its_features_move_a_number(name: str, modality: str) -> None:
    catalog = toy_catalog()
    feat = getattr(catalog, f"{modality}_feat")
    stretched = feat * torch.linspace(0.2, 2.0, feat.shape[1])  # rows of zeros stay zero
    other = replace(catalog, **{f"{modality}_feat": stretched})
    config = toy_model(name, catalog, hidden_dim=8).config
    is_read = registry.find(name).load().reads(config, modality)
    assert (numbers_of(name, other) != numbers_of(name, catalog)) == is_read
