"""Members whose scores are combined, trained together or one after another. Axes: T targets, N items."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

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
