"""The batches of an epoch, of a single run or of several at once, laid out many steps at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import Rows
from mmbench.models.needs import Drawer, Needs, Prefixes, StepDrawer

STEPS_AT_ONCE = 32  # decides what a seed gives, because negatives are drawn for so many steps at once


@dataclass
class EpochPlan:
    """What an epoch of a run trains on."""

    epoch: int
    steps: list[Rows]
    generators: dict[str, torch.Generator]  # by the name of the extra that is drawn for targets


class Fed(Protocol):
    """A run that is fed with batches: a Trainer."""

    needs: Needs
    batcher: Batcher
    drawers: dict[str, Drawer | StepDrawer]


def batches_of_epoch(trainers: Sequence[Fed], plans: Sequence[EpochPlan]) -> Iterator[TrainBatch]:
    """Yield the batch of each step; with several runs its tensors have a leading axis [S].

    The next steps are laid out before the last of the current chunk is yielded, while a GPU is still busy.
    """
    waiting: list[TrainBatch] = []
    for chunk in _chunks(trainers, plans):
        yield from waiting
        yield from chunk[:-1]
        waiting = chunk[-1:]
    yield from waiting


def _chunks(trainers: Sequence[Fed], plans: Sequence[EpochPlan]) -> Iterator[list[TrainBatch]]:
    lead, group = trainers[0], len(trainers) if len(trainers) > 1 else 0
    for first in range(0, len(plans[0].steps), STEPS_AT_ONCE):
        steps = [plan.steps[first : first + STEPS_AT_ONCE] for plan in plans]
        in_turn = [rows for together in zip(*steps, strict=True) for rows in together]
        batches = lead.batcher.training_steps(in_turn, prefixes=lead.needs.has(Prefixes), group=group)
        for name in lead.drawers:
            batches = _with_drawn(name, batches, trainers, plans, group)
        yield batches


def _with_drawn(
    name: str,
    batches: list[TrainBatch],
    trainers: Sequence[Fed],
    plans: Sequence[EpochPlan],
    group: int,
) -> list[TrainBatch]:
    """Give each batch what is drawn under `name`; a run draws for all steps at once, from a generator of its own."""
    drawn = [
        list(_draw(trainer.drawers[name], plan.generators[name], batches, k if group else None))
        for k, (trainer, plan) in enumerate(zip(trainers, plans, strict=True))
    ]
    return [
        batch.with_drawn(**{name: torch.stack(parts) if group else parts[0]})
        for batch, parts in zip(batches, zip(*drawn, strict=True), strict=True)
    ]


def _draw(
    drawer: Drawer | StepDrawer,
    generator: torch.Generator,
    batches: Sequence[TrainBatch],
    run: int | None,
) -> Iterable[Tensor]:
    """Return what is drawn for each batch; with several runs, for the part of run number `run`."""
    if isinstance(drawer, StepDrawer):
        return drawer.draw_steps(len(batches), generator)
    users = [batch.user if run is None else batch.user[run] for batch in batches]
    targets = [batch.target if run is None else batch.target[run] for batch in batches]
    together = drawer.draw(torch.cat(users), torch.cat(targets), generator)
    return together.split([len(user) for user in users])
