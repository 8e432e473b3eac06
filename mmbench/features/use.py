"""Which stored features a run reads."""

from dataclasses import dataclass

from mmbench.features.store import FeatureSet


@dataclass(frozen=True)
class FeatureUse:
    """Which stored features a run reads.

    identity  what made them: equal on every machine that made them from the same inputs in the same way
    content   hash of the stored numbers, which two machines may round differently; "" = not known
    """

    encoder: str
    identity: str
    content: str = ""


def use_of(features: FeatureSet) -> FeatureUse:
    """Return how a run names these features."""
    return FeatureUse(features.encoder, features.hash, features.hash)
