"""Several seeds of a configuration trained as a stack: their parameters lie along a leading axis S.

Each run keeps its own model, optimiser, data order, early stop, log and checkpoints (a `Trainer`). For an epoch the
parameters and the optimisers' states are stacked, a vectorised pass trains all of them, and the slices go back.
So a run may leave when it stops, join again after a kill, or continue alone, and its files are those of a single run.

Every step holds the same number of targets in every run (mmbench.data.samples.plan_steps); bins are padded to the
fullest run's. The loss is summed over the runs, never averaged, so each gets its own gradient. A run's data order
and negatives are those it has alone; its dropout and other noise come from a stream that the stack shares.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mmbench.data.batch import TrainBatch
from mmbench.explain import first_line
from mmbench.models.base import Recommender
from mmbench.nn import losses
from mmbench.training.files import PREVIOUS, RESUME
from mmbench.training.graphs import StepGraphs
from mmbench.training.learner import Terms, check_depends, check_terms
from mmbench.training.optim import clip_each, make_optimizer, parameters_of, set_rate, trained
from mmbench.training.out_of_memory import continues_with
from mmbench.training.precision import autocast
from mmbench.training.progress import Watcher, report_epoch
from mmbench.training.trainer import Outcome, Trainer, train_epoch


def why_not(trainer: Trainer) -> str:
    """Return why a run cannot be trained in a stack; empty when it can."""
    if not trainer.needs.stackable:
        return "its loss is not computed for several models at once"
    for stage in trainer.stages:
        if stage.config.compile:
            return "compile = true is for single runs"
        if stage.config.batch_unit == "rows" and stage.samples in ("all", "last-window"):
            return f"steps of {stage.config.batch_size} histories hold different numbers of targets"
    return ""


def fit_together(
    trainers: Sequence[Trainer], *, size: int, watcher: Watcher | None = None
) -> Iterator[tuple[int, Exception | None]]:
    """Train all to their ends, up to `size` at once; yield the number of each run that ends, with what stopped it.

    An error in what a run does alone (its start, its validation, its files) stops that run only.
    The first `size` that are left continue, those at the earliest epoch before the others, so that runs of
    different stacks can join. With `size` 1 each run is trained to its end before the next.
    """
    return _Together(trainers, size, watcher).run()


class _Together:
    """Several runs, and the stack that trains some of them at present."""

    def __init__(self, trainers: Sequence[Trainer], size: int, watcher: Watcher | None) -> None:
        self.left, self.size, self.watcher = dict(enumerate(trainers)), size, watcher
        self.stack: Stack | None = None

    def run(self) -> Iterator[tuple[int, Exception | None]]:
        return_to_common_epoch(list(self.left.values()))
        for number, trainer in list(self.left.items()):
            yield from self._leave(number, _attempt(trainer.begin))
        while self.left:
            group = self._next_group()
            began, is_full = time.perf_counter(), False
            try:
                outcomes = self._train_epoch([self.left[number] for number in group])
            except torch.cuda.OutOfMemoryError:
                is_full = True  # handled outside, because the traceback holds the memory
            except Exception as error:  # such as what torch says of operations that it cannot vectorise
                self.size, self.stack = 1, None  # whose fault it was shows then
                self._tell(
                    f"trained seed after seed, the stack failed: {first_line(error)}", self.left.values()
                )
                continue
            if is_full:  # nothing of the epoch was kept
                self._take_less(group)
                continue
            faults = self._finish(group, outcomes, (time.perf_counter() - began) / len(group))
            for number in group:
                yield from self._leave(number, faults[number])

    def _next_group(self) -> list[int]:
        first = list(self.left)[: self.size]
        earliest = min(self.left[number].stage_epoch for number in first)
        return [number for number in first if self.left[number].stage_epoch == earliest]

    def _train_epoch(self, group: Sequence[Trainer]) -> list[Outcome]:
        if len(group) == 1:
            self.stack = None
            try:
                return train_epoch(group, group[0], self.watcher)
            except Exception as error:
                return [error]
        if self.stack is None or not self.stack.serves(group):
            self.stack = None  # frees its memory before the next takes memory
            self.stack = Stack(group)
        return self.stack.train_epoch(self.watcher)

    def _finish(
        self, group: Sequence[int], outcomes: Sequence[Outcome], seconds: float
    ) -> dict[int, Exception | None]:
        """Validate and save the epoch of each run, and only then settle: a kill in between can be undone."""
        faults: dict[int, Exception | None] = {}
        is_shared = len(group) > 1
        for number, outcome in zip(group, outcomes, strict=True):
            finish = partial(self.left[number].finish_epoch, keep_previous=is_shared)
            faults[number] = outcome if isinstance(outcome, Exception) else _attempt(finish, outcome, seconds)
        well = {
            number: terms for number, terms in zip(group, outcomes, strict=True) if faults[number] is None
        }
        if self.watcher is not None and well:
            runs = [self.left[number] for number in well]
            metric = runs[0].config.selection_metric
            outlook = max((run.outlook for run in runs), key=lambda outlook: outlook.n_left)
            losses: list[dict[str, float]] = list(well.values())  # type: ignore[arg-type]
            self.watcher.epoch(report_epoch([run.progress for run in runs], losses, metric, outlook))
        for number in well:
            faults[number] = _attempt(self.left[number].settle)
        return faults

    def _leave(self, number: int, fault: Exception | None) -> Iterator[tuple[int, Exception | None]]:
        """Remove a run that failed or is finished."""
        if fault is not None or not self.left[number].is_running:
            del self.left[number]
            yield number, fault

    def _take_less(self, group: Sequence[int]) -> None:
        """Use less memory after a group ran out of it: fewer rows of logits at first, then fewer seeds at once."""
        trainers = [self.left[number] for number in group]
        self.stack = None
        fewer = losses.fewer_rows(_rows_of_logits(trainers))
        if fewer:
            for trainer in trainers:
                trainer.memory.rows_of_logits = fewer
        else:
            self.size = (len(group) + 1) // 2
        torch.cuda.empty_cache()
        less = f"{fewer} rows of logits at once" if fewer else f"{self.size} seeds at once"
        self._tell(continues_with(less), trainers)

    def _tell(self, text: str, trainers: Iterable[Trainer]) -> None:
        """Note in the records of several runs what their results depend on, and show the note once."""
        for trainer in trainers:
            trainer.progress.note(text)
        if self.watcher is not None:
            self.watcher.note(text)


def return_to_common_epoch(trainers: Sequence[Trainer]) -> None:
    """Undo what some runs of a stack saved before a kill and the others had not: all train that epoch again.

    A run that saved keeps the state before until every run has, so its previous state tells where the others stand.
    """
    stage_epochs = [trainer.files.stage_epochs() for trainer in trainers]
    # Runs that have not saved the epoch have no state before the last, or nothing else.
    behind = {
        stored.get(RESUME) or stored.get(PREVIOUS) or (0, 0) for stored in stage_epochs if len(stored) < 2
    }
    for trainer, stored in zip(trainers, stage_epochs, strict=True):
        if PREVIOUS in stored and (RESUME not in stored or stored[PREVIOUS] in behind):
            trainer.files.go_back()


def _attempt(work: Callable[..., None], *arguments: Any) -> Exception | None:
    try:
        work(*arguments)
    except Exception as error:
        return error
    return None


def _rows_of_logits(trainers: Sequence[Trainer]) -> int:
    return min(trainer.memory.rows_of_logits for trainer in trainers)


@contextmanager
def padding_kept_out(model: nn.Module) -> Iterator[None]:
    """Block the gradient of embeddings' padding rows in every run while the block runs.

    Under vmap, torch itself blocks it in the first run only (torch 2.13).
    """
    tables = [
        module
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    ]
    rows = [table.padding_idx for table in tables]

    def rule(padding: int) -> Any:
        return lambda module, inputs, out: torch.where((inputs[0] == padding)[..., None], out.detach(), out)

    hooks = [
        table.register_forward_hook(rule(row))
        for table, row in zip(tables, rows, strict=True)
        if row is not None
    ]
    for table in tables:
        table.padding_idx = None
    try:
        yield
    finally:
        for table, row in zip(tables, rows, strict=True):
            table.padding_idx = row
        for hook in hooks:
            hook.remove()


class _Loss(nn.Module):
    """A module whose forward() is the model's loss, since `functional_call` calls forward()."""

    def __init__(self, model: Recommender[Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TrainBatch) -> dict[str, Tensor]:
        return self.model.loss(batch)


class Stack:
    """The stacked parameters, buffers and optimiser states of several runs at the same stage and epoch."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = list(trainers)
        self.models = [trainer.model for trainer in trainers]
        lead = trainers[0]
        self.config, self.device = lead.stage.config, lead.device
        self.loss = _Loss(lead.model)
        self.parameters = {
            name: _stacked(self.models, name, trains=parameter.requires_grad)
            for name, parameter in lead.model.named_parameters()
        }
        stacked = {name: self.parameters[name] for name in trained(lead.model)}
        self.optimizer, self.rate = make_optimizer(lead.model, lead.stage.config, stacked), math.nan
        self._load_optimizer()
        self.pass_all = vmap(self._terms, randomness="different")
        self.graphs = StepGraphs(self._step, self._tell) if lead.use_graphs else None
        self.stage = lead.progress.stage

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """The buffers in which the models differ, along S; taken at the first step, when `start_epoch` has set them.

        Buffers that all models share (features, masks) are not stacked.
        """
        lead, *others = self.models
        return {
            name: torch.stack([model.get_buffer(name) for model in self.models])
            for name, buffer in lead.named_buffers()
            if not all(torch.equal(buffer, model.get_buffer(name)) for model in others)
        }

    def serves(self, trainers: Sequence[Trainer]) -> bool:
        """Return whether these are the runs of this stack, with the same optimisers and buffers."""
        lead = trainers[0]
        return (
            self.trainers == list(trainers)
            and self.stage == lead.progress.stage
            and not lead.changes_between_epochs
        )

    def _tell(self, text: str) -> None:
        for trainer in self.trainers:
            trainer.progress.note(text)

    def _load_optimizer(self) -> None:
        of_runs = [parameters_of(trainer.learner.optimizer) for trainer in self.trainers]
        for number, parameter in enumerate(parameters_of(self.optimizer)):
            states = [
                trainer.learner.optimizer.state.get(parameters[number], {})
                for trainer, parameters in zip(self.trainers, of_runs, strict=True)
            ]
            for key, first in states[0].items():  # the runs are at the same step
                together = first.clone() if key == "step" else torch.stack([state[key] for state in states])
                self.optimizer.state[parameter][key] = together

    def _terms(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        tensors = {f"model.{name}": tensor for name, tensor in (parameters | buffers).items()}
        terms: dict[str, Tensor] = functional_call(self.loss, tensors, (TrainBatch.of(batch),))
        check_terms(terms, self.models[0])
        return terms

    # -- steps --------------------------------------------------------------------------------------------

    def set_rate(self, rate: float) -> None:
        if rate != self.rate:
            set_rate(self.optimizer, rate)
            self.rate = rate

    def step(self, batch: TrainBatch) -> Terms:
        """Take an optimiser step of all runs; `batch` and the terms have an axis [S]."""
        if self.graphs is not None and (terms := self.graphs.replay(batch)) is not None:
            return terms
        return self._step(batch)

    def _step(self, batch: TrainBatch) -> Terms:
        with autocast(self.config.matmul, self.device):
            terms = self.pass_all(self.parameters, self.buffers, batch.tensors())
        values = torch.stack(list(terms.values()))
        check_depends(values, self.models[0])
        self.optimizer.zero_grad(set_to_none=True)
        values.sum().backward()
        if self.config.grad_clip:
            clip_each(self.parameters.values(), self.config.grad_clip)
        self.optimizer.step()
        with torch.no_grad():
            self.loss.model.constrain(self.parameters)
        return Terms(tuple(terms), values.detach())

    # -- epochs -------------------------------------------------------------------------------------------

    def train_epoch(self, watcher: Watcher | None = None) -> list[Outcome]:
        """Train an epoch of all runs, and put the results into each run's model and optimiser."""
        fewer = losses.rows_at_once(_rows_of_logits(self.trainers))
        with fewer, padding_kept_out(self.trainers[0].model), warnings.catch_warnings():
            # torch computes some operations model after model and warns each time
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            outcomes = train_epoch(self.trainers, self, watcher)
        self.give_back()
        return outcomes

    @torch.no_grad()
    def give_back(self) -> None:
        """Copy each run's slice into its model and optimiser, and record the seeds that trained together."""
        seeds = {trainer.seed for trainer in self.trainers}
        for k, trainer in enumerate(self.trainers):
            for name, parameter in trainer.model.named_parameters():
                parameter.copy_(self.parameters[name][k])
            single = parameters_of(trainer.learner.optimizer)
            for alone, together in zip(single, parameters_of(self.optimizer), strict=True):
                for key, value in self.optimizer.state.get(together, {}).items():
                    trainer.learner.optimizer.state[alone][key] = (
                        value if key == "step" else value[k]
                    ).clone()
            trainer.progress.stack = sorted(seeds.union(trainer.progress.stack))


def _stacked(models: Sequence[Recommender[Any]], name: str, *, trains: bool) -> Tensor:
    return torch.stack([model.get_parameter(name).detach() for model in models]).requires_grad_(trains)
