"""Settings of a run: types, defaults, where each value came from, and strict reading.

A run's settings are a flat list of keys: those of the model (a frozen dataclass in the model file) and those of
training and evaluation (`TrainConfig`). They come in layers, each of a single `Origin`; later layers win.
"""

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import Field, PydanticUserError, TypeAdapter, ValidationError

from mmbench import strict
from mmbench.choices import MaskRule
from mmbench.errors import UsageError, suggest
from mmbench.explain import explain
from mmbench.faults import cut, first_fault
from mmbench.settings.feature_change import FeatureText

LARGEST = 2**31 - 1  # numpy and torch overflow beyond it
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained, selected and ranked; the same keys for every model.

    The comment of a setting is its meaning in the reference of the documentation.
    """

    lr: PositiveFloat = 1e-3  # learning rate
    weight_decay: NonNegativeFloat = 0.0  # L2 penalty; adamw applies it apart from the gradient
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"  # changes the weights after each step
    beta1: Probability = 0.9  # decay of Adam's mean of gradients
    beta2: Probability = 0.999  # decay of Adam's mean of squared gradients
    adam_eps: PositiveFloat = 1e-8  # is added to the root of Adam's mean of squares
    grad_clip: NonNegativeFloat = 0.0  # largest global norm of the gradient, 0 = off
    decay_1d: bool = True  # false: biases and LayerNorms are left out of the weight decay
    lr_schedule: Literal["constant", "exponential", "exponential-early"] = "constant"  # see lr_gamma
    lr_gamma: PositiveFloat = 1.0  # exponential: epoch e has lr * gamma^(e-1), -early: lr * gamma^e
    warmup_steps: NonNegativeInt = 0  # the rate grows linearly to lr over so many steps
    batch_size: PositiveInt = 1024  # how many targets (or histories, see batch_unit) a step has
    batch_unit: Literal["targets", "rows"] = "targets"  # what batch_size counts; a row is a history
    # Which targets a history is trained on. all: each event after the first, in one pass; prefix: the same targets,
    # each with its own copy of the history before it; last-window: those of the newest max_len events; sequence: whole
    # histories, for models that mask by themselves; pairs: users and items; default: the first that the model names.
    samples: Literal["default", "all", "prefix", "last-window", "sequence", "sequence-prefix", "pairs"] = (
        "default"
    )
    max_len: PositiveInt = 50  # how many of the newest events a model reads
    max_epochs: PositiveInt = 100  # training stops here at the latest; --epochs sets it
    patience: PositiveInt = 10  # validations without a better value before training stops
    # strict: a larger value is a gain. recbole: four digits are compared, an equal value is a gain too, and the
    # training stops a validation later.
    patience_rule: Literal["strict", "recbole"] = "strict"
    eval_every: PositiveInt = 1  # epochs between validations
    selection_metric: str = "NDCG@20"  # the validation metric that selects the epoch
    # Where the epoch is selected. test-item: on the test targets, as some released code does; such rows carry a mark.
    validation: Literal["valid", "test-item"] = "valid"
    mask_seen: MaskRule = "none"  # known items that are not candidates; decides selection and tables
    text_encoder: str = "auto"  # whose text features are read; auto = those stored last, none = no text
    image_encoder: str = "auto"  # whose image features are read; as text_encoder
    text_features: FeatureText = "stored"  # what is read in place of them, such as shuffled:1
    image_features: FeatureText = "stored"  # as text_features
    precision: Literal["float32", "float64"] = "float32"  # of parameters and scores
    # Products in training. tf32: on GPUs that have it; bfloat16: autocast and tf32 on GPUs, and on CPUs with matrix
    # units (AMX) rounded inputs. `--set matmul=auto` is what the machine that plans the run has, before it has a name.
    matmul: Literal["float32", "tf32", "bfloat16"] = "float32"
    compile: bool = False  # torch.compile of the loss; minutes at the start, and no gain on a CPU

    def __post_init__(self) -> None:
        if self.precision == "float64" and self.matmul != "float32":
            raise ValueError(f"matmul = {self.matmul!r} is about float32 products; precision is float64")


class Origin(StrEnum):
    """Who gave a setting its value, from weakest to strongest.

    Only what a declared sweep varies (`experiment` too) is stronger than `user`.
    """

    default = "default"  # the configuration class
    protocol = "protocol"  # the data set's protocol
    recipe = "recipe"  # the model's recipe
    dataset = "dataset"  # the recipe's table for a data set
    variant = "variant"  # a variant of the recipe
    experiment = "experiment"  # a declared table or sweep of `reproduce`
    tuned = "tuned"  # a search under a budget
    user = "user"  # `--set`, `--epochs`, or an argument in Python


CHOSEN = (Origin.user, Origin.tuned)  # every table shows these values
DELIBERATE = (*CHOSEN, Origin.experiment)  # somebody set these for a run: they split rows


@dataclass(frozen=True)
class Setting(strict.Strict):
    """A value with its origin. `note` says more: "HM4SR sec. 5.1.4", the name of the protocol or the variant."""

    value: Any
    origin: Origin
    note: str = ""


@dataclass(frozen=True)
class Layer:
    """Values of a single origin.

    note   goes with every value: the name of the protocol, data set or variant
    notes  goes with the values of some keys and wins over `note`: the recipe's sources
    """

    origin: Origin
    values: Mapping[str, Any]
    note: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return how an error calls the layer: "variant official", "--set"."""
        return "--set" if self.origin is Origin.user else f"{self.origin} {self.note}".rstrip()

    def settings(self) -> dict[str, Setting]:
        return {
            key: Setting(value, self.origin, self.notes.get(key, self.note))
            for key, value in self.values.items()
        }


def parse_value(text: str) -> Any:
    """Return the value that a `--set` text means: a TOML scalar or array, else the text itself (`prefix`).

    UsageError for a value that no setting can have, such as thousands of digits or brackets.
    """
    try:
        content = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--set {cut(text)}: {explain(error)}") from error
    return content["value"] if len(content) == 1 else text


def defaults_of(cls: type) -> dict[str, Any]:
    """Return the defaults of a configuration dataclass, by field, without fields that have none."""
    defaults = {}
    for parameter in fields(cls):
        if parameter.default is not MISSING:
            defaults[parameter.name] = parameter.default
        elif parameter.default_factory is not MISSING:
            defaults[parameter.name] = parameter.default_factory()
    return defaults


def check_keys(keys: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raise UsageError for a key that is not known, with the nearest that is."""
    known = list(known)
    for key in keys:
        if key not in known:
            raise UsageError(f"{where}: {suggest(key, known, what='setting')}")


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Return a validated instance of a configuration dataclass; UsageError names the first bad key.

    Types are strict except int -> float and list -> tuple.
    """
    check_keys(values, (parameter.name for parameter in fields(cls)), where=where)  # type: ignore[arg-type]
    built: T = _validated(cls, values, where=where, key="")
    return built


def check_value(cls: type, key: str, value: Any, *, where: str) -> Any:
    """Return a value as the setting `key` of a configuration dataclass holds it.

    UsageError if the setting cannot have the value; only `build` sees which values exclude each other.
    """
    return _validated(cls, value, where=where, key=key)


@cache
def _adapter(cls: type, key: str) -> TypeAdapter[Any]:
    """Return what validates the setting `key` of a class, or all its settings if that is empty; made in 3 ms."""
    return TypeAdapter(get_type_hints(cls, include_extras=True)[key] if key else cls)


def _validated(cls: type, value: Any, *, where: str, key: str) -> Any:
    """Return a value validated as the setting `key` of a class, or as all its settings if that is empty."""
    for name, part in value.items() if isinstance(value, Mapping) else ((key, value),):
        if isinstance(part, float) and not math.isfinite(part):
            raise UsageError(f"{where}: {name}: must be a finite number (got {part})")
    content = dict(value) if isinstance(value, Mapping) else value
    try:
        # Through JSON: pydantic's strict mode takes a dataclass from keys and values only there.
        text = json.dumps(content, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: {key or 'settings'}: {explain(error)}") from None
    try:
        return _adapter(cls, key).validate_json(text, strict=True)
    except (PydanticUserError, NameError):
        raise UsageError(
            f"{where}: {_without_type(cls)} has a type that no value of a recipe can have; "
            "use int, float, bool, str, a Literal, or a tuple of these"
        ) from None
    except ValidationError as error:
        raise UsageError(f"{where}: {_explain(error, content, key)}") from None


def _without_type(cls: type) -> str:
    """Return the first setting of a class whose type cannot be validated, with the class that declares it."""
    unknown = _undefined_name(cls)
    for parameter in fields(cls):
        kind = parameter.type if isinstance(parameter.type, str) else repr(parameter.type)
        if unknown in kind if unknown else not _has_adapter(cls, parameter.name):
            return f"the setting {parameter.name}: {cut(kind)} of {cls.__name__}"
    return f"a setting of {cls.__name__}"


def _undefined_name(cls: type) -> str:
    """Return a name in the annotations of a class that is imported for type checkers only; "" if there is none."""
    try:
        get_type_hints(cls)
    except NameError as error:
        return str(error.name)
    return ""


def _has_adapter(cls: type, key: str) -> bool:
    try:
        _adapter(cls, key)
    except PydanticUserError:
        return False
    return True


def _explain(error: ValidationError, content: Any, key: str) -> str:
    """Return the first fault of a validation as "key: what is wrong"."""
    fault = first_fault(error, content)
    name = ".".join(filter(None, [key, fault.where])) or "settings"
    if fault.kind == "missing":
        return f"{name}: has no value; give it a default in its class or state it in the recipe's [settings]"
    return fault.sentence(inside=key or ("" if fault.path else "settings"))


def resolve(layers: Iterable[Layer], *, known: Iterable[str], where: str) -> dict[str, Setting]:
    """Merge layers, later wins, into settings by key. UsageError for a key that is not `known`."""
    known = list(known)
    merged: dict[str, Setting] = {}
    for layer in layers:
        check_keys(layer.values, known, where=f"{where} ({layer.title})")
        merged.update(layer.settings())
    return dict(sorted(merged.items()))
