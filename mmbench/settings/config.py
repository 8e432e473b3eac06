"""Settings of a run: types, defaults, where each value came from, and strict reading.

A run's settings are one flat list of keys: the model's own (a frozen dataclass in the model file) and those
of training and evaluation (`TrainConfig`). Order of precedence, later wins:
default < the data set's protocol < recipe < the recipe's per-dataset table < variant < `--set`.
"""

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from mmbench.errors import UsageError, suggest

LARGEST = 2**31 - 1  # of what is counted: beyond it numpy and torch overflow
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained, selected and ranked; the same keys for every model."""

    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    adam_eps: PositiveFloat = 1e-8
    grad_clip: NonNegativeFloat = 0.0  # largest global norm of the gradient, 0 = off
    decay_1d: bool = True  # False: biases and LayerNorms are left out of the weight decay
    lr_schedule: Literal["constant", "exponential", "exponential-early"] = "constant"
    lr_gamma: PositiveFloat = 1.0  # epoch e uses lr * gamma^(e-1); "-early": lr * gamma^e
    warmup_steps: NonNegativeInt = 0  # the rate grows linearly to lr over so many steps
    batch_size: PositiveInt = 1024  # of `batch_unit`
    batch_unit: Literal["targets", "rows"] = "targets"  # a step's size counts targets or histories
    samples: Literal["default", "all", "prefix", "last-window", "sequence", "sequence-prefix", "pairs"] = (
        "default"
    )
    max_len: PositiveInt = 50
    max_epochs: PositiveInt = 100
    patience: PositiveInt = 10  # evaluations without a better value before training stops
    eval_every: PositiveInt = 1  # epochs between validations
    selection_metric: str = "NDCG@20"
    validation: Literal["valid", "test-item"] = (
        "valid"  # "test-item": a released slip; marks the run as leaky
    )
    mask_seen: Literal["none", "train", "input"] = "none"
    text_encoder: str = "auto"  # "auto" = the data set's; else an encoder's name; "none" = no text
    image_encoder: str = "auto"
    precision: Literal["float32", "float64"] = "float32"  # of the parameters, and of the ranking
    # Products in training. "tf32": on GPUs that have it; "bfloat16": autocast, and tf32 for what stays float32.
    matmul: Literal["float32", "tf32", "bfloat16"] = "float32"
    compile: bool = False  # torch.compile of the loss; minutes at the start, and no gain on a CPU

    def __post_init__(self) -> None:
        if self.precision == "float64" and self.matmul != "float32":
            raise ValueError(f"matmul = {self.matmul!r} is about float32 products; precision is float64")


@dataclass(frozen=True)
class Setting:
    value: Any
    source: str


def parse_value(text: str) -> Any:
    """`--set` values: TOML scalars and arrays, else the text itself (`prefix`, `test-item`)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def defaults_of(cls: type) -> dict[str, Any]:
    """Field name -> default of a configuration dataclass; every field must have one."""
    found = {}
    for one in fields(cls):
        if one.default is not MISSING:
            found[one.name] = one.default
        elif one.default_factory is not MISSING:
            found[one.name] = one.default_factory()
        else:
            raise TypeError(f"{cls.__name__}.{one.name} has no default")
    return found


def check_keys(given: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Unknown keys fail at once, with the nearest known one."""
    known = list(known)
    for key in given:
        if key not in known:
            raise UsageError(f"{where}: {suggest(key, known, what='setting')}")


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """A validated instance of a configuration dataclass. Types are strict except int -> float, list -> tuple."""
    check_keys(values, (one.name for one in fields(cls)), where=where)  # type: ignore[arg-type]
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{where}: {key}: must be a finite number (got {value})")
    try:
        # Through JSON: pydantic's strict mode takes a dataclass from keys and values only there.
        return TypeAdapter(cls).validate_json(json.dumps(dict(values), default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "settings"
        given = "" if first["type"] == "value_error" else f" (got {first['input']!r})"
        raise UsageError(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}{given}") from None


def resolve(
    layers: Iterable[tuple[str, Mapping[str, Any]]], *, known: Iterable[str], where: str
) -> dict[str, Setting]:
    """Merge (source, values) layers, later wins; each key remembers the source that set it."""
    known = list(known)
    merged: dict[str, Setting] = {}
    for source, values in layers:
        check_keys(values, known, where=f"{where} ({source})")
        merged.update({key: Setting(value, source) for key, value in values.items()})
    return dict(sorted(merged.items()))
