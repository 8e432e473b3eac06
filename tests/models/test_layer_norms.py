"""What LayerNorms add to the variance: a specification names it, and codes differ by seven orders of magnitude."""

import pytest
from torch import nn

from mmbench.models.registry import find
from mmbench.nn.grouped import GroupedLayerNorm
from mmbench.nn.layers import PostNormEncoder, PreQueryEncoder
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


@pytest.mark.parametrize("n_groups", [None, 2])
def test_encoders_give_their_eps_to_every_layer_norm(n_groups: int | None) -> None:
    sizes = {"dim": 4, "inner_dim": 6, "n_layers": 2, "n_heads": 1, "dropout": 0.0}
    encoders = (
        PostNormEncoder(**sizes, attn_dropout=0.0, eps=0.125, n_groups=n_groups),
        PreQueryEncoder(**sizes, project_out=True, eps=0.125, n_groups=n_groups),
    )
    for encoder, n_norms in zip(encoders, (4, 5), strict=True):
        norms = [
            module for name, module in encoder.named_modules() if name.rpartition(".")[2].startswith("norm")
        ]
        assert [norm.eps for norm in norms] == [0.125] * n_norms
