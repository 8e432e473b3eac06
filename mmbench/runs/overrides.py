"""Settings that are laid over the recipes of a run's models: the user's, a search's, a declared experiment's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmbench.errors import UsageError, suggest
from mmbench.models import registry
from mmbench.runs.plan import effective_settings
from mmbench.runtime import pick_device
from mmbench.settings.config import Layer, Origin
from mmbench.settings.words import unknown_setting


@dataclass(frozen=True)
class Overrides:
    """What is set for the models of a run, on top of their recipes.

    everywhere  the user's settings for all models that have them
    by_model    the user's settings for single models
    tuned       settings that a search found, by data set and model; the user's are stronger
    declared    settings of a declared experiment; the user's are stronger
    swept       what a declared sweep varies; stronger than the user's
    """

    everywhere: Mapping[str, Any] = field(default_factory=dict)
    by_model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    declared: Mapping[str, Any] = field(default_factory=dict)
    swept: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[tuple[str, str], Layer] = field(default_factory=dict)

    @classmethod
    def of(
        cls, settings: Mapping[str, Any], *, epochs: int | None = None, device: str = "auto"
    ) -> "Overrides":
        """Return the user's settings, of which some are of one model only: "lr", "hm4sr.dropout", "hm4sr:-tmoe.lr".

        epochs  the largest number of epochs of all models; UsageError where `settings` has another
        device  where the models are trained: it decides what `matmul = "auto"` is, so that a row never mixes two
        """
        everywhere: dict[str, Any] = {}
        by_model: dict[str, dict[str, Any]] = {}
        for text, value in settings.items():
            model, _, name = text.rpartition(".")
            if (name, value) == ("matmul", "auto"):
                value = fastest_matmul_of(device)
            (by_model.setdefault(model, {}) if model else everywhere)[name] = value
        if epochs is not None and everywhere.setdefault("max_epochs", epochs) != epochs:
            raise UsageError(f"{epochs} epochs and max_epochs = {everywhere['max_epochs']}: give one of them")
        return cls(everywhere, by_model)

    def of_user(self, model: str, known: Iterable[str]) -> dict[str, Any]:
        """Return what the user set for a model that has the settings `known`.

        Of what is set for all models, a model has nothing about a modality that it does not read.
        """
        known, base = set(known) - registry.find(model).unread_settings(), model.partition(":")[0]
        shared = {key: value for key, value in self.everywhere.items() if key in known}
        for name in dict.fromkeys((base, model)):
            shared |= self.by_model.get(name, {})
        return shared

    def layers(self, model: str, known: Iterable[str], dataset: str = "") -> list[Layer]:
        """Return the layers of settings of a model on a data set, from weakest to strongest."""
        layers = (
            Layer(Origin.experiment, self.declared),
            self.tuned.get((dataset, model), Layer(Origin.tuned, {})),
            Layer(Origin.user, self.of_user(model, known)),
            Layer(Origin.experiment, self.swept),
        )
        return [layer for layer in layers if layer.values]


def fastest_matmul_of(device: str) -> str:
    """Return what the setting `matmul = "auto"` means for a device, which may be "auto" too."""
    from mmbench.matrix_units import fastest_matmul

    return fastest_matmul(pick_device(device))


def check_overrides(overrides: Overrides, models: Sequence[str], *, option: str = "--set") -> None:
    """Raise UsageError for a user's key that no chosen model has, and for a model that is not chosen.

    option  where the user wrote the key, for the message
    """
    known = {name: registry.find(name).known_settings() for name in models}
    every = sorted({key for keys in known.values() for key in keys})
    unread = set.intersection(*(registry.find(name).unread_settings() for name in models))
    for key in overrides.everywhere:
        if key in unread:
            modality = key.partition("_")[0]
            raise UsageError(f"{option} {key}: no model of this run reads {modality} features; leave it out")
        if key not in every:
            raise UsageError(f"{option} {key}: {unknown_setting(key, every)}")
    names = {*models, *(name.partition(":")[0] for name in models)}
    for name, settings in overrides.by_model.items():
        if name not in names:
            raise UsageError(f"{option} {name}.…: {suggest(name, names, what='model of this run')}")
        entry = registry.find(name)
        keys = entry.known_settings()
        for key in settings:
            if key not in keys:
                raise UsageError(f"{option} {name}.{key}: {unknown_setting(key, keys)}")
            if key not in effective_settings(entry):
                raise UsageError(f"{option} {name}.{key}: {name} has no use for this setting")
