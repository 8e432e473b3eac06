"""Layers and losses that several models share; what a new model needs first can be imported from here."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbench.nn.features import FeatureTable, LayerFeatures
    from mmbench.nn.layers import (
        Attention,
        Dropout,
        PostNormEncoder,
        PreQueryEncoder,
        init_normal,
        zero_padding,
    )
    from mmbench.nn.losses import bce, bpr, cross_entropy, info_nce, nce

    __all__ = [
        "Attention",
        "Dropout",
        "FeatureTable",
        "LayerFeatures",
        "PostNormEncoder",
        "PreQueryEncoder",
        "bce",
        "bpr",
        "cross_entropy",
        "info_nce",
        "init_normal",
        "nce",
        "zero_padding",
    ]
else:
    from mmbench.lazy import attach

    _HOMES = {
        "mmbench.nn.features": ("FeatureTable", "LayerFeatures"),
        "mmbench.nn.layers": (
            "Attention", "Dropout", "PostNormEncoder", "PreQueryEncoder", "init_normal", "zero_padding",
        ),
        "mmbench.nn.losses": ("bce", "bpr", "cross_entropy", "info_nce", "nce"),
    }  # fmt: skip
    __getattr__, __dir__, __all__ = attach(__name__, _HOMES)
