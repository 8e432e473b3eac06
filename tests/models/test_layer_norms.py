"""What LayerNorms add to the variance: each model's specification names it, and codes differ by seven orders."""

import pytest
from torch import nn

from mmbench.models.registry import find
from mmbench.nn.grouped import GroupedLayerNorm
from tests.models.toy import toy_catalog, toy_model

BERT, SASREC, TORCH = 1e-12, 1e-8, 1e-5  # BERT's, that of SASRec's authors, torch's default
EPS = {
    "sasrec": BERT, "bert4rec": BERT, "tisasrec": BERT, "fearec": BERT, "ticoserec": BERT, "late-fusion": BERT,
    "sasrec:official": SASREC, "tisasrec:official": SASREC, "tisasrec:paper": SASREC, "sasrec-ensemble": SASREC,
    "nextitnet": SASREC, "nextitnet:bottleneck": SASREC,
    "lrurec": TORCH, "esasrec": TORCH, "gsasrec": TORCH,
}  # fmt: skip


@pytest.mark.parametrize("name", EPS)
def test_every_layer_norm_has_the_eps_of_its_model(name: str) -> None:
    settings = {"n_layers": 2} if "n_layers" in find(name).own_settings() else {}
    modules = toy_model(name, toy_catalog(), **settings).modules()
    norms = [module for module in modules if isinstance(module, nn.LayerNorm | GroupedLayerNorm)]
    assert len(norms) > 2
    assert {norm.eps for norm in norms} == {EPS[name]}
