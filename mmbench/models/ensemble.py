"""Models of several members whose scores are combined, trained together or in turn.

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
    """Return the combined scores [T, N] of members' scores, [T, N] each.

    "sum" adds them as they are, "zscore" standardises them over the items of each target first, "prob" adds softmax
    probabilities.
    """
    if how == "zscore":
        spreads = [member.std(1, keepdim=True, correction=0).clamp(min=1e-12) for member in scores]
        centred = [member - member.mean(1, keepdim=True) for member in scores]
        scores = [member / spread for member, spread in zip(centred, spreads, strict=True)]
    elif how == "prob":
        scores = [member.softmax(1) for member in scores]
    return torch.stack(scores).sum(0)


class Members(nn.ModuleDict):
    """The members of an ensemble by name. Losses and scores cover the `active` members: all, unless a stage trains.

    Members that are trained in turn are stages of the run, each with early stopping of its own, so while a stage
    trains, its member is ranked alone. A stage ends by loading its best weights, which activates all members: the
    last stage leaves the whole ensemble.
    """

    def __init__(self, members: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__(dict(members))
        self.trained: str | None = None
        self.alone: str | None = None
        self.register_load_state_dict_post_hook(_activate_all)

    def start(self, name: str) -> nn.Module:
        """Train this member only; all others are frozen."""
        for other, member in self.items():
            member.requires_grad_(other == name)
        self.trained = self.alone = name
        return self[name]

    def start_epoch(self) -> None:
        """Rank the trained member alone: a run that resumes has just loaded weights in the middle of its stage."""
        self.alone = self.trained

    def active(self) -> Iterator[tuple[str, Any]]:
        """Return the names and members that scores and losses cover."""
        return ((name, member) for name, member in self.items() if self.alone in (None, name))


def _activate_all(module: nn.Module, keys: Any) -> None:
    cast(Members, module).alone = None


def member_names(modalities: Iterable[str]) -> list[str]:
    """Return names without repeats: ("id", "text", "id") -> ["id", "text", "id_2"]."""
    names: list[str] = []
    for modality in modalities:
        count = sum(name.partition("_")[0] == modality for name in names)
        names.append(modality if count == 0 else f"{modality}_{count + 1}")
    return names


@dataclass(frozen=True, kw_only=True)
class MembersConfig:
    # A repeated modality adds a member.
    modalities: tuple[Literal["id", "text", "image"], ...] = ("id", "text", "image")

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("modalities must name at least one of id, text, image")


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(MembersConfig):
    training: Literal["joint", "separate"] = "joint"  # a loss of the combined score, or members in turn
    combine: Combine = "sum"  # is how a ranking combines scores


M = TypeVar("M", bound=MembersConfig)
C = TypeVar("C", bound=EnsembleConfig)


class SeparateEnsemble(Recommender[M]):
    """A member per modality, trained in turn. A subclass says how they score and what they learn from.

    A member has `items` (ids -> vectors) and `restart()`, which draws its weights again when its stage begins.
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
        """Start the stage's member from fresh draws, which do not depend on the other members."""
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
        """Return the members, and the share of items that have no vector in each."""
        tables = {name: member.items for name, member in self.members.active()}
        flags = {name: table.present for name, table in tables.items() if hasattr(table, "present")}
        absent = {name: 1 - present[1:].double().mean().item() for name, present in flags.items()}
        return {"members": list(self.members), "share_without": absent}

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Return r of each member, [T, N]; the member whose scores spread most decides the sum."""
        raise TypeError(f"{type(self).__name__} does not say how its members score")


class Ensemble(SeparateEnsemble[C]):
    """Members that may be trained together, on a loss of their combined score."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage(),) if self.config.training == "joint" else super().stages

    @property
    def is_dot_product(self) -> bool:
        return self.config.combine == "sum"

    def score(self, batch: Batch) -> Tensor:
        scores = list(self.member_scores(batch).values())
        return scores[0] if len(scores) == 1 else combine_scores(scores, self.config.combine)
