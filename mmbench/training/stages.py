"""The stages of a training with their settings resolved, before anything is trained."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from mmbench.errors import UsageError
from mmbench.models.base import Recommender, Stage
from mmbench.models.needs import Needs
from mmbench.settings.config import TrainConfig, build

# Settings that selection, ranking and features share, and so the same in all stages.
OF_THE_RUN = (
    "max_len", "selection_metric", "validation", "mask_seen", "text_encoder", "image_encoder", "precision",
    "text_features", "image_features",
)  # fmt: skip


@dataclass(frozen=True)
class StagePlan:
    """A stage as it is trained."""

    name: str
    epochs: int | None  # None = up to config.max_epochs, with early stopping
    samples: str
    data: Literal["target", "source"]
    config: TrainConfig  # the run's settings with those of the stage in their place

    @property
    def last_epoch(self) -> int:
        return self.config.max_epochs if self.epochs is None else self.epochs


def plan_stages(model: Recommender[Any], config: TrainConfig) -> list[StagePlan]:
    """Return the stages of a model's training; UsageError names the first setting that cannot be."""
    return [_plan(model, stage, config) for stage in model.stages]


def _plan(model: Recommender[Any], stage: Stage, config: TrainConfig) -> StagePlan:
    name = type(model).__name__
    where = f"{name}, stage {stage.name!r}"
    for key in stage.settings:
        if key in OF_THE_RUN:
            raise UsageError(f"{where}: {key} is a setting of the whole run, the same in all stages")
        if key == "samples":
            raise UsageError(f"{where}: write Stage(samples=...), not settings={{'samples': ...}}")
    values = {parameter.name: getattr(config, parameter.name) for parameter in fields(config)}
    merged = build(TrainConfig, {**values, **stage.settings}, where=where) if stage.settings else config
    for extra in model.needs.extras:
        if reason := extra.misfit(merged):
            raise UsageError(f"{name} with these settings needs {reason}")
    return StagePlan(stage.name, stage.epochs, _samples(name, model.needs, stage, merged), stage.data, merged)


def _samples(name: str, needs: Needs, stage: Stage, config: TrainConfig) -> str:
    """Return the kind of samples of a stage; UsageError when the model cannot be trained on it."""
    wanted = stage.samples or config.samples
    wanted = needs.samples[0] if wanted == "default" else wanted
    if wanted not in needs.samples:
        raise UsageError(
            f"{name} cannot be trained on samples = {wanted!r}; it takes {', '.join(needs.samples)}"
        )
    return wanted
