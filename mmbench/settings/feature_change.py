"""The settings `text_features` and `image_features`: what a model reads instead of its stored features.

    stored         the features as they are
    shuffled:SEED  the vectors permuted among the items that have the modality
    shuffled-together:SEED  the same permutation for both modalities, so that pairs of a text and a picture stay
    random:SEED    random directions, each as long as the vector it replaces
    gauss:SEED     draws from a normal distribution with the mean and the covariance of the stored vectors
    constant       the mean vector
    zero           zeros

Which items have the modality never changes, nor does the width.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator

SeededKind = Literal["shuffled", "shuffled-together", "random", "gauss"]
Kind = Literal["stored", "constant", "zero", "shuffled", "shuffled-together", "random", "gauss"]
SEEDED: tuple[SeededKind, ...] = get_args(SeededKind)
STORED = "stored"


@dataclass(frozen=True)
class FeatureChange:
    """What is done to the features of a modality; `seed` is 0 where nothing is drawn."""

    kind: Kind
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> "FeatureChange":
        """Return the change that a setting's text names; ValueError for another text."""
        if text in ("stored", "constant", "zero"):
            return cls(text)  # type: ignore[arg-type]
        name, _, seed = text.partition(":")
        for kind in SEEDED:
            if name == kind and re.fullmatch(r"0|[1-9][0-9]{0,8}", seed):
                return cls(kind, int(seed))
        raise ValueError(
            "must be stored, constant, zero, or with a seed shuffled:1, shuffled-together:1, random:1, gauss:1 "
            f"(got {text!r})"
        )


def _checked(text: str) -> str:
    FeatureChange.parse(text)
    return text


FeatureText = Annotated[str, AfterValidator(_checked)]
