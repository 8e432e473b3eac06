"""Which stored features a run reads."""

from dataclasses import dataclass

from mmbench import strict


@dataclass(frozen=True)
class FeatureUse(strict.Strict):
    """Which stored features a run reads.

    identity  hash of what made them: equal on every machine that made them from the same inputs in the same way
    content   hash of the stored numbers, which two machines may round differently; "" = unknown
    """

    encoder: str
    identity: str
    content: str = ""
