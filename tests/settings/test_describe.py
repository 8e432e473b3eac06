"""What a setting may be, in words."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from mmbench.settings.config import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    parse_value,
)
from mmbench.settings.describe import legal_values, value_text


@dataclass(frozen=True, kw_only=True)
class Config:
    n_layers: PositiveInt
    warm_up: NonNegativeInt
    lr: PositiveFloat
    weight: NonNegativeFloat
    dropout: Probability
    share: Fraction
    window: Annotated[float, Field(gt=0, le=1)]
    start: float
    use_bias: bool
    name: str
    loss: Literal["ce", "bce"]
    parts: tuple[Literal["id", "text"], ...]
    dilations: tuple[PositiveInt, ...]
    power: NonNegativeFloat | None
    top: Annotated[int, Field(le=9)]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("n_layers", "whole number > 0"),
        ("warm_up", "whole number >= 0"),
        ("lr", "number > 0"),
        ("weight", "number >= 0"),
        ("dropout", "0 <= number < 1"),
        ("share", "0 <= number <= 1"),
        ("window", "0 < number <= 1"),
        ("start", "number"),
        ("use_bias", "true | false"),
        ("name", "text"),
        ("loss", "ce | bce"),
        ("parts", "list of id | text"),
        ("dilations", "list of whole number > 0"),
        ("power", "number >= 0 | none"),
        ("top", "whole number <= 9"),
    ],
)
def test_legal_values(key: str, text: str) -> None:
    assert legal_values(Config, key) == text


@pytest.mark.parametrize("value", [1, 1.0, 1e-8, 0.3, True, False, "prefix", ["id", "text"], [1, 4], []])
def test_a_shown_value_can_be_given_to_set(value: Any) -> None:
    assert parse_value(value_text(value)) == value
    assert type(parse_value(value_text(value))) is type(value)
