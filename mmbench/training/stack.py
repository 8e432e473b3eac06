"""Several seeds of one configuration trained as one: their parameters lie along a leading axis S.

Each run keeps its own model, optimiser, data order, early stop, log and checkpoints (a `Trainer`). For an epoch the
parameters and the optimisers' states are stacked, one vectorised pass trains all of them, and the slices go back.
So a run may leave when it stops, join again after a kill, or go on alone, and its files are those of a single run.

Every step holds the same number of targets in every run (mmbench.data.rows.plan_steps); bins are padded to the
fullest run's. The loss is summed over the runs, never averaged, so each gets its own gradient. A run's data order
and negatives are those it has alone; its dropout and other noise come from a stream that the stack shares.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mmbench.data.batch import Batch, Prefixes
from mmbench.models.base import Recommender
from mmbench.nn import losses
from mmbench.runtime import autocast, derive_seed, tf32
from mmbench.training.optim import clip_each, make_optimizer, parameters_of, trained
from mmbench.training.out_of_memory import go_on_with, tell
from mmbench.training.progress import StackWatcher
from mmbench.training.trainer import EpochPlan, Trainer, no_number

# Parts of a batch that are [rows, width].
GRIDS = ("item_seq", "time_seq", "position", "segment", "prefixes.source", "prefixes.segment")
Outcome = dict[str, float] | Exception


def why_not(trainer: Trainer) -> str:
    """Why a run cannot be trained in a stack; empty when it can."""
    if not trainer.needs.stackable:
        return "its loss is not computed for several models at once"
    if trainer.config.compile:
        return "compile = true is for single runs"
    if trainer.config.batch_unit == "rows":
        several = {trainer.samples_of(stage) for stage in trainer.stages} & {"all", "last-window"}
        if several:
            return f"steps of {trainer.config.batch_size} histories hold different numbers of targets"
    return ""


def fit_together(
    trainers: Sequence[Trainer], *, size: int, watcher: StackWatcher | None = None
) -> Iterator[tuple[int, Exception | None]]:
    """Train all to their ends, up to `size` at once; yields each one's number when it ends, with what stopped it.

    An error in a run's own part (its start, its validation, its files, its training alone) stops that run only.
    The first `size` that are left go on, those at the earliest epoch before the others, so that runs which a kill
    left an epoch behind catch up and join again. With `size` 1 each run is trained to its end before the next.
    """
    left = dict(enumerate(trainers))
    for number, trainer in enumerate(trainers):
        yield from _ended(left, number, _attempt(trainer.begin))
    while left:
        first = list(left)[:size]
        place = min(left[number].place for number in first)
        group = [number for number in first if left[number].place == place]
        began, is_full = time.perf_counter(), False
        try:
            found = train_epoch([left[number] for number in group], watcher)
        except torch.cuda.OutOfMemoryError:
            is_full = True  # gone on from outside the handler, whose traceback holds the memory
        except Exception as error:  # such as what torch says of operations that it cannot vectorise
            size = 1  # whose fault it was shows then
            text = f"trained seed after seed, the stack failed: {_first_line(error)}"
            tell(text, [one.progress for one in left.values()], watcher)
            continue
        if is_full:  # nothing of the epoch was kept
            size = _smaller([left[number] for number in group], watcher)
            continue
        seconds = (time.perf_counter() - began) / len(group)
        faults = [
            terms if isinstance(terms, Exception) else _attempt(left[number].end_epoch, terms, seconds)
            for number, terms in zip(group, found, strict=True)
        ]
        well = [left[number].progress for number, fault in zip(group, faults, strict=True) if fault is None]
        if watcher is not None and well:
            watcher.epoch(well)
        for number, fault in zip(group, faults, strict=True):
            yield from _ended(left, number, fault)


def _attempt(work: Callable[..., None], *given: Any) -> Exception | None:
    try:
        work(*given)
    except Exception as error:
        return error
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _ended(
    left: dict[int, Trainer], number: int, fault: Exception | None
) -> Iterator[tuple[int, Exception | None]]:
    """Take a run out that failed or is through."""
    if fault is not None or not left[number].is_running:
        del left[number]
        yield number, fault


def _smaller(group: Sequence[Trainer], watcher: StackWatcher | None) -> int:
    """The next smaller stack after the GPU's memory ran out for a group of several: with smaller chunks first."""
    runs, smaller = [one.progress for one in group], losses.smaller_chunk(_chunk(group))
    if smaller:
        for one in group:
            one.chunk = smaller
        go_on_with(f"{smaller} rows of logits at once", runs, watcher)
        return len(group)
    size = (len(group) + 1) // 2
    go_on_with(f"{size} seeds at once", runs, watcher)
    return size


def _chunk(group: Sequence[Trainer]) -> int:
    return min(one.chunk for one in group)


def train_epoch(trainers: Sequence[Trainer], watcher: StackWatcher | None = None) -> list[Outcome]:
    """One epoch of runs at the same place; the mean loss terms of each, or why it cannot go on."""
    if len(trainers) == 1:
        try:
            return [trainers[0].train_epoch()]
        except Exception as error:
            return [error]
    lead, stack = trainers[0], Stack(trainers)
    plans = [one.plan_epoch() for one in trainers]
    plan, seeds = plans[0], [one.seed for one in trainers]
    torch.manual_seed(derive_seed(seeds[0], "noise", lead.progress.stage, plan.epoch, "of", *seeds))
    faults = dict[int, Exception]()
    less = losses.chunks_of(_chunk(trainers))
    with less, tf32(lead.config.matmul), padding_kept_out(lead.model), warnings.catch_warnings():
        # torch computes some operations model after model and says so each time
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        for done, rate, means, bad in lead.steps(
            plan, stack.optimizer, lambda number: stack.step(number, plans)
        ):
            faults |= {k: no_number(plan.epoch, text, rate) for k, text in bad.items() if k not in faults}
            if watcher is not None:
                watcher.step(plan.epoch, done, len(plan.steps), _mean(means))
    stack.give_back(len(plan.steps))
    return [faults.get(k, means[k]) for k in range(len(trainers))]


def _mean(terms: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(one[name] for one in terms) / len(terms) for name in terms[0]}


@contextmanager
def padding_kept_out(model: nn.Module) -> Iterator[None]:
    """Inside, embeddings keep the gradient from their padding rows by a rule that holds for every run.

    torch's own, under vmap, keeps it from the first run's padding row only (torch 2.13).
    """
    tables = [one for one in model.modules() if isinstance(one, nn.Embedding) and one.padding_idx is not None]
    rows = [one.padding_idx for one in tables]

    def rule(padding: int) -> Any:
        return lambda module, given, out: torch.where((given[0] == padding)[..., None], out.detach(), out)

    hooks = [
        one.register_forward_hook(rule(row)) for one, row in zip(tables, rows, strict=True) if row is not None
    ]
    for one in tables:
        one.padding_idx = None
    try:
        yield
    finally:
        for one, row in zip(tables, rows, strict=True):
            one.padding_idx = row
        for hook in hooks:
            hook.remove()


class _Loss(nn.Module):
    """`functional_call` calls forward(); this one is the loss."""

    def __init__(self, model: Recommender[Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.loss(batch)


class Stack:
    """The stacked parameters, buffers and optimiser state of an epoch."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = trainers
        self.models = [one.model for one in trainers]
        lead = trainers[0]
        self.loss = _Loss(lead.model)
        self.parameters = {
            name: _stacked(self.models, name, trains=one.requires_grad)
            for name, one in lead.model.named_parameters()
        }
        # Buffers that are the same in all models (features, masks) stay one.
        self.buffers = {
            name: torch.stack([one.get_buffer(name) for one in self.models])
            for name, own in lead.model.named_buffers()
            if not all(torch.equal(own, one.get_buffer(name)) for one in self.models[1:])
        }
        stacked = {name: self.parameters[name] for name in trained(lead.model)}
        self.optimizer = make_optimizer(lead.model, lead.config, lead.lr, stacked)
        self._load_optimizer()
        self.pass_all = vmap(self._terms, randomness="different")

    def _load_optimizer(self) -> None:
        own = [parameters_of(one.optimizer) for one in self.trainers]
        for number, parameter in enumerate(parameters_of(self.optimizer)):
            states = [
                one.optimizer.state.get(parameters[number], {})
                for one, parameters in zip(self.trainers, own, strict=True)
            ]
            for key, first in states[0].items():  # the runs are at the same step
                together = first.clone() if key == "step" else torch.stack([state[key] for state in states])
                self.optimizer.state[parameter][key] = together

    def _terms(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        tensors = {f"model.{name}": one for name, one in (parameters | buffers).items()}
        terms: dict[str, Tensor] = functional_call(self.loss, tensors, (_unflatten(batch),))
        return terms

    def step(self, number: int, plans: Sequence[EpochPlan]) -> dict[str, Tensor]:
        """One optimiser step of all runs; the loss terms, each [S]."""
        lead = self.trainers[0]
        batch = stack_batches(
            [
                one.batch(plan.steps[number], plan.negatives)
                for one, plan in zip(self.trainers, plans, strict=True)
            ]
        )
        with autocast(lead.config.matmul, lead.device):
            terms = self.pass_all(self.parameters, self.buffers, batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        if lead.config.grad_clip:
            clip_each(self.parameters.values(), lead.config.grad_clip)
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def give_back(self, n_steps: int) -> None:
        """Put the slices into the runs' own models and optimisers; count the steps, and say who was there."""
        seeds = {one.seed for one in self.trainers}
        for k, trainer in enumerate(self.trainers):
            for name, own in trainer.model.named_parameters():
                own.copy_(self.parameters[name][k])
            pairs = zip(parameters_of(trainer.optimizer), parameters_of(self.optimizer), strict=True)
            for alone, together in pairs:
                for key, value in self.optimizer.state.get(together, {}).items():
                    trainer.optimizer.state[alone][key] = (value if key == "step" else value[k]).clone()
            trainer.progress.step += n_steps
            trainer.progress.stack = sorted(seeds.union(trainer.progress.stack))


def _stacked(models: Sequence[Recommender[Any]], name: str, *, trains: bool) -> Tensor:
    return torch.stack([one.get_parameter(name).detach() for one in models]).requires_grad_(trains)


# -- batches ----------------------------------------------------------------------------------------------


def stack_batches(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Fields of several batches with a leading axis S, rows and width padded to the largest; `_unflatten` reads one."""
    flat = [dict(_flatten(one)) for one in batches]
    width = _widest([one["item_seq"] for one in flat])
    width_of = {"slot": ("item_seq", width), "prefixes.source": ("item_seq", width)}
    if "prefixes.slot" in flat[0]:
        width_of["prefixes.slot"] = ("prefixes.source", _widest([one["prefixes.source"] for one in flat]))
    found = {}
    for name in flat[0]:
        values = [one[name] for one in flat]
        if name in width_of:
            grid, wide = width_of[name]
            values = [
                _moved(value, one[grid].shape[1], wide) for value, one in zip(values, flat, strict=True)
            ]
        found[name] = _pad_and_stack(values) if name in GRIDS else torch.stack(values)
    return found


def _flatten(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for one in fields(batch):
        value = getattr(batch, one.name)
        if isinstance(value, Prefixes):
            yield from ((f"prefixes.{part.name}", getattr(value, part.name)) for part in fields(value))
        elif value is not None:
            yield one.name, value


def _unflatten(tensors: dict[str, Tensor]) -> Batch:
    inner = {
        name.removeprefix("prefixes."): one for name, one in tensors.items() if name.startswith("prefixes.")
    }
    outer = {name: one for name, one in tensors.items() if "." not in name}
    return Batch(**outer, prefixes=Prefixes(**inner) if inner else None)


def _widest(grids: Sequence[Tensor]) -> int:
    return max(one.shape[1] for one in grids)


def _moved(index: Tensor, width: int, wide: int) -> Tensor:
    """An index into places [R * width] as one into [R * wide]."""
    return index if width == wide else index.div(width, rounding_mode="floor") * wide + index.remainder(width)


def _pad_and_stack(grids: Sequence[Tensor]) -> Tensor:
    """[R_s, W_s] -> [S, R, W], zeros (padding) behind the shorter ones."""
    n_rows, width = max(len(one) for one in grids), _widest(grids)
    return torch.stack([F.pad(one, (0, width - one.shape[1], 0, n_rows - len(one))) for one in grids])
