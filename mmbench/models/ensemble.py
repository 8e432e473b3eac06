"""Models of several members whose scores are combined, trained together or one after another.

Axes: T targets, N items. `Ensemble` builds on the contract of mmbench.models.base; its subclasses are model files.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender, Stage
from mmbench.nn.features import available

Combine = Literal["sum", "zscore", "prob"]


def combine_scores(scores: list[Tensor], how: Combine) -> Tensor:
    """Scores [T, N] of each member -> [T, N].

    "sum" as they are; "zscore" standardised over the items of each target first; "prob" softmax probabilities.
    """
    if how == "zscore":
        spread = [one.std(1, keepdim=True, correction=0).clamp(min=1e-12) for one in scores]
        scores = [(one - one.mean(1, keepdim=True)) / s for one, s in zip(scores, spread, strict=True)]
    elif how == "prob":
        scores = [one.softmax(1) for one in scores]
    return torch.stack(scores).sum(0)


class Members(nn.ModuleDict):
    """The members of an ensemble by name. A loss or a score is about those `asked`: all, unless one is trained.

    Members that are trained one after another are stages of the run, each with its own early stopping, so while a
    stage trains, its member alone is ranked. A stage ends by loading its best weights, after which all are asked
    again: the last stage leaves the whole ensemble behind.
    """

    def __init__(self, members: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__(dict(members))
        self.trained: str | None = None
        self.alone: str | None = None
        self.register_load_state_dict_post_hook(_ask_all)

    def start(self, name: str) -> nn.Module:
        """Train this member only; all others are frozen."""
        for other, member in self.items():
            member.requires_grad_(other == name)
        self.trained = self.alone = name
        return self[name]

    def start_epoch(self) -> None:
        """A run that goes on from a checkpoint has just loaded weights in the middle of its stage."""
        self.alone = self.trained

    def asked(self) -> Iterator[tuple[str, Any]]:
        return ((name, member) for name, member in self.items() if self.alone in (None, name))


def _ask_all(module: nn.Module, keys: Any) -> None:
    cast(Members, module).alone = None


def member_names(modalities: Iterable[str]) -> list[str]:
    """("id", "text", "id") -> ["id", "text", "id_2"]."""
    names: list[str] = []
    for modality in modalities:
        count = sum(one.partition("_")[0] == modality for one in names)
        names.append(modality if count == 0 else f"{modality}_{count + 1}")
    return names


@dataclass(frozen=True, kw_only=True)
class MembersConfig:
    # A repeat is one member more.
    modalities: tuple[Literal["id", "text", "image"], ...] = ("id", "text", "image")

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("modalities must name at least one of id, text, image")


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(MembersConfig):
    training: Literal["joint", "separate"] = "joint"  # one loss on the combined score, or members one by one
    combine: Combine = "sum"  # at ranking


M = TypeVar("M", bound=MembersConfig)
C = TypeVar("C", bound=EnsembleConfig)


class SeparateEnsemble(Recommender[M]):
    """One member per modality, trained one after another. A subclass says how they score and what they learn from.

    A member has `items` (ids -> vectors) and `restart()`, new draws of its weights: each stage begins with it.
    """

    def __init__(self, config: M, catalog: Catalog, member: Callable[[M, Catalog, str], nn.Module]) -> None:
        super().__init__(config, catalog)
        modalities = available(config.modalities, text=catalog.text_feat, image=catalog.image_feat)
        names = zip(member_names(modalities), modalities, strict=True)
        self.members = Members((name, member(config, catalog, modality)) for name, modality in names)

    @classmethod
    def reads(cls, config: M, modality: str) -> bool:
        return modality in config.modalities

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(Stage(name=name) for name in self.members)

    def start_stage(self, name: str) -> None:
        """A member starts from draws of its stage, which do not depend on what the other members are."""
        if name in self.members:
            cast(Any, self.members.start(name)).restart()

    def start_epoch(self, epoch: int) -> None:
        self.members.start_epoch()

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.members) if len(self.members) > 1 else ()

    @contextmanager
    def alone(self, part: str) -> Iterator[None]:
        before, self.members.alone = self.members.alone, part
        try:
            yield
        finally:
            self.members.alone = before

    def extra_state(self) -> dict[str, Any]:
        """The members, and the share of items that have no vector in a member."""
        tables = {name: one.items for name, one in self.members.asked() if hasattr(one.items, "present")}
        absent = {name: 1 - one.present[1:].double().mean().item() for name, one in tables.items()}
        return {"members": list(self.members), "share_without": absent}

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        """r of each member, [T, N]; their spread over items says whose opinion decides the sum."""
        raise TypeError(f"{type(self).__name__} does not say how its members score")


class Ensemble(SeparateEnsemble[C]):
    """Members that may be trained together, by a loss of their combined score."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage(),) if self.config.training == "joint" else super().stages

    @property
    def is_dot_product(self) -> bool:
        return self.config.combine == "sum"

    def score(self, batch: Batch) -> Tensor:
        scores = list(self.member_scores(batch).values())
        return scores[0] if len(scores) == 1 else combine_scores(scores, self.config.combine)
