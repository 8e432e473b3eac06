"""The batches of an epoch, of one run or of several at once, laid out many steps at a time."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmbench.data.batch import Batch

if TYPE_CHECKING:
    from mmbench.training.trainer import EpochPlan, Trainer

STEPS_AT_ONCE = 32  # part of what a seed gives: negatives are drawn for so many steps at once


def batches_of_epoch(trainers: "Sequence[Trainer]", plans: "Sequence[EpochPlan]") -> Iterator[Batch]:
    """Yield the batch of each step; with several runs its tensors have a leading axis [S].

    The next steps are laid out before the last of the current ones is given out, while a GPU is still busy.
    """
    waiting: list[Batch] = []
    for chunk in _chunks(trainers, plans):
        yield from waiting
        yield from chunk[:-1]
        waiting = chunk[-1:]
    yield from waiting


def _chunks(trainers: "Sequence[Trainer]", plans: "Sequence[EpochPlan]") -> Iterator[list[Batch]]:
    lead, group = trainers[0], len(trainers) if len(trainers) > 1 else 0
    for first in range(0, len(plans[0].steps), STEPS_AT_ONCE):
        steps = [plan.steps[first : first + STEPS_AT_ONCE] for plan in plans]
        in_turn = [rows for together in zip(*steps, strict=True) for rows in together]
        batches = lead.batcher.training_steps(in_turn, prefixes=lead.needs.prefixes, group=group)
        yield batches if lead.sampler is None else _with_negatives(batches, trainers, plans, group)


def _with_negatives(
    batches: list[Batch], trainers: "Sequence[Trainer]", plans: "Sequence[EpochPlan]", group: int
) -> list[Batch]:
    """Give each batch its negatives; a run draws for all steps at once, from a generator of its own."""
    drawn = [
        list(_draw(trainer, plan, [batch.user[k] if group else batch.user for batch in batches]))
        for k, (trainer, plan) in enumerate(zip(trainers, plans, strict=True))
    ]
    return [
        batch.with_negatives(torch.stack(parts) if group else parts[0])
        for batch, parts in zip(batches, zip(*drawn, strict=True), strict=True)
    ]


def _draw(trainer: "Trainer", plan: "EpochPlan", users: Sequence[Tensor]) -> Iterable[Tensor]:
    assert trainer.sampler is not None
    together = trainer.sampler.draw(torch.cat(list(users)), trainer.needs.n_negatives, plan.negatives)
    return together.split([len(user) for user in users])
