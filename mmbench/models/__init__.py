"""The contract for models, and the two systems that mmbench is about.

What a model file needs is here, and is imported when it is asked for:

    from mmbench.models import Batch, Catalog, PositiveInt, Recommender, TrainBatch
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbench.data.batch import Batch, TrainBatch
    from mmbench.models.base import Catalog, Recommender, Stage
    from mmbench.models.needs import Needs, Negatives, Prefixes, SlotAfter
    from mmbench.models.next_item import Loss, NextItem, Sampling
    from mmbench.models.transformer import TransformerConfig
    from mmbench.settings.config import (
        Fraction,
        NonNegativeFloat,
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
        Probability,
    )

    __all__ = [
        "Batch",
        "Catalog",
        "Fraction",
        "Loss",
        "Needs",
        "Negatives",
        "NextItem",
        "NonNegativeFloat",
        "NonNegativeInt",
        "PositiveFloat",
        "PositiveInt",
        "Prefixes",
        "Probability",
        "Recommender",
        "Sampling",
        "SlotAfter",
        "Stage",
        "TrainBatch",
        "TransformerConfig",
    ]
else:
    from mmbench.lazy import attach

    _HOMES = {
        "mmbench.data.batch": ("Batch", "TrainBatch"),
        "mmbench.models.base": ("Catalog", "Recommender", "Stage"),
        "mmbench.models.needs": ("Needs", "Negatives", "Prefixes", "SlotAfter"),
        "mmbench.models.next_item": ("Loss", "NextItem", "Sampling"),
        "mmbench.models.transformer": ("TransformerConfig",),
        "mmbench.settings.config": (
            "Fraction", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt", "Probability",
        ),
    }  # fmt: skip
    __getattr__, __dir__, __all__ = attach(__name__, _HOMES)
