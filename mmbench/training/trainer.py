"""The training loop: optimiser, stages, early stopping on validation, checkpoints.

The training arrays hold no validation and no test item (mmbench.data.views). `validate` ranks the validation targets;
only validation = "test-item", a released slip whose rows carry a mark, makes it rank the test targets.

Everything random in an epoch is drawn from seeds derived from (run seed, stage, epoch), so a run that was killed
continues from its last finished epoch and ends with the same weights.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mmbench.data.batch import TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import Rows, plan_rows, plan_steps
from mmbench.data.views import TrainView
from mmbench.errors import RunError
from mmbench.models.base import Recommender
from mmbench.models.needs import Drawer, StepDrawer
from mmbench.runtime import derive_seed
from mmbench.settings.config import TrainConfig
from mmbench.training import checkpoint
from mmbench.training.batches import EpochPlan, batches_of_epoch
from mmbench.training.files import BEST, CANDIDATE, StageEpoch, TrainingFiles
from mmbench.training.graphs import StepGraphs, why_no_graphs
from mmbench.training.learner import Learner, Terms
from mmbench.training.optim import learning_rate
from mmbench.training.out_of_memory import MemoryLimit
from mmbench.training.precision import on_own_stream, rounded_products
from mmbench.training.progress import (
    LossSums,
    Outlook,
    Progress,
    Watcher,
    is_gain,
    mean_terms,
    report_epoch,
)
from mmbench.training.sources import Pretraining, source_data
from mmbench.training.stages import StagePlan, plan_stages

Outcome = dict[str, float] | Exception  # mean loss terms of an epoch, or why the run cannot continue


class Stepper(Protocol):
    """Takes optimiser steps, for a run (Trainer) or for several together (mmbench.training.stack.Stack)."""

    def set_rate(self, rate: float) -> None: ...
    def step(self, batch: TrainBatch) -> Terms: ...


class Trainer:
    """A run of a model. `fit()` trains to the end, or resumes after the last finished epoch in `folder`.

    `begin`, `plan_epoch`, `finish_epoch` and `settle` are its parts, for mmbench.training.stack, which trains
    several runs at once.

    pretraining  the source data of stages with data = "source"; None without such stages
    """

    def __init__(
        self,
        model: Recommender[Any],
        train: TrainView,
        validate: Callable[[Recommender[Any]], float],
        config: TrainConfig,
        *,
        seed: int,
        folder: Path,
        device: str = "cpu",
        watcher: Watcher | None = None,
        use_graphs: bool = True,
        pretraining: Pretraining | None = None,
    ) -> None:
        # `on_log(line, epoch)` is called after each finished epoch; epochs count over all stages.
        self.on_log: Callable[[Mapping[str, Any], int], object] | None = None
        self.model, self.validate, self.config = model, validate, config
        self.seed, self.files, self.device, self.watcher = seed, TrainingFiles(folder), device, watcher
        self.needs, self.stages = model.needs, plan_stages(model, config)
        self.sources = source_data(model, self.stages, train, pretraining)
        self.allows_graphs = use_graphs
        self.progress = Progress()
        self.memory = MemoryLimit(device, f"lower batch_size (now {config.batch_size})", self.tell)
        # Of the current stage, set by `start_stage`:
        self.data, self.view = "target", train
        self.batcher: Batcher
        self.drawers: dict[str, Drawer | StepDrawer]
        self.learner: Learner
        self.use_graphs = False
        self.graphs: StepGraphs | None = None
        self._rows: tuple[int, Rows] | None = None  # with the stage's number

    def fit(self) -> Progress:
        """Train all stages; leave the best weights in the model and in best.safetensors."""
        self.begin()
        while self.is_running:
            began = time.perf_counter()
            (terms,) = train_epoch([self], self, self.watcher)
            if isinstance(terms, Exception):
                raise terms
            self.finish_epoch(terms, time.perf_counter() - began)  # counts, validates, logs and saves it
            if self.watcher is not None:
                metric = self.config.selection_metric
                self.watcher.epoch(report_epoch([self.progress], [terms], metric, self.outlook))
            self.settle()
        return self.progress

    @property
    def folder(self) -> Path:
        return self.files.folder

    def tell(self, text: str) -> None:
        """Note in the record what the result depends on, and show it."""
        self.progress.note(text)
        if self.watcher is not None:
            self.watcher.note(text)

    # -- steps --------------------------------------------------------------------------------------------

    @property
    def changes_between_epochs(self) -> bool:
        """Return whether the model may change its computation between epochs, so that captured graphs are dropped."""
        return type(self.model).start_epoch is not Recommender.start_epoch

    def set_rate(self, rate: float) -> None:
        self.learner.set_rate(rate)

    def step(self, batch: TrainBatch) -> Terms:
        """Take an optimiser step, as a CUDA graph where it is captured."""
        if self.graphs is not None and (terms := self.graphs.replay(batch)) is not None:
            return terms
        terms = self.memory.retry_with_less(
            lambda: self.learner.gradients(batch), self.learner.forget_gradients
        )
        self.memory.fail_if_full(self.learner.update)
        return terms

    # -- stages -------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return self.progress.stage < len(self.stages)

    @property
    def stage(self) -> StagePlan:
        return self.stages[self.progress.stage]

    @property
    def stage_epoch(self) -> StageEpoch:
        """Return (stage, finished epochs of it)."""
        return self.progress.stage, self.progress.epoch

    @property
    def outlook(self) -> Outlook:
        """Return how far the training can go after the epoch that is just finished."""
        progress, stage = self.progress, self.stage
        of_stage = 0 if progress.stopped else stage.last_epoch - progress.epoch
        return Outlook(
            stage=progress.stage + 1, n_stages=len(self.stages), n_epochs=stage.last_epoch,
            n_done=progress.earlier + progress.epoch,
            n_left=of_stage + sum(later.last_epoch for later in self.stages[progress.stage + 1 :]),
        )  # fmt: skip

    def begin(self) -> None:
        """Start, or continue after the last finished epoch."""
        if not self._restore():
            self.files.start_over()
            self.start_stage()
        self._leave_finished_stages()

    def start_stage(self) -> None:
        """Prepare the data, the model and the optimiser of the stage that begins or continues."""
        # What a stage initialises again must not depend on whether the stage before ran in this process.
        torch.manual_seed(derive_seed(self.seed, "stage", self.progress.stage))
        stage = self.stage
        self._take_data(stage.data)
        self.model.start_stage(stage.name)
        self.learner = Learner(self.model, stage.config, self.device)
        self.use_graphs = self.allows_graphs and not why_no_graphs(self.model, stage.config, self.device)
        self.graphs = StepGraphs(self.learner.step, self.tell) if self.use_graphs else None
        self.batcher = Batcher(
            self.view.items, self.view.times, layout=self.needs.layout, max_len=self.config.max_len,
            device=self.device, is_even=self.use_graphs,
        )  # fmt: skip
        drawers = {
            extra.name: extra.drawer(self.view, self.model.n_items, self.device)
            for extra in self.needs.extras
        }
        self.drawers = {name: drawer for name, drawer in drawers.items() if drawer is not None}

    def _take_data(self, data: str) -> None:
        """Train on the "target" or the "source" data from now on, and tell the model when they change."""
        if data != self.data and self.sources is not None:
            self.data = data
            self.view, catalog = self.sources[data]
            self.model.use_catalog(catalog)
            self.model.to(device=self.device, dtype=getattr(torch, self.config.precision))

    def _restore(self) -> bool:
        """Resume after the last finished epoch; return whether any was."""
        stored = self.files.load()
        if stored is None:
            return False
        file, tensors, facts = stored
        try:
            notes, self.progress = self.progress.notes, Progress(**facts)
            self.progress.note(*notes)
            for stage in self.stages[: self.progress.stage]:
                self._take_data(stage.data)
                self.model.start_stage(stage.name)
            self.start_stage()
            checkpoint.load_weights(self.model, file)
            checkpoint.load_optimizer(self.learner.optimizer, tensors)
        except (TypeError, ValueError, IndexError) as error:
            raise RunError(
                f"{file} was written by another version of mmbench ({error}); remove it and run the cell again"
            ) from error
        self.files.finish_interrupted(self.progress)
        return True

    def _leave_finished_stages(self) -> None:
        while self.is_running and (self.progress.stopped or self.progress.epoch >= self.stage.last_epoch):
            self._end_stage()

    def _end_stage(self) -> None:
        progress, is_last = self.progress, self.progress.stage == len(self.stages) - 1
        if self.stage.epochs is None:
            progress.stopped = progress.stopped or "max_epochs"
            self.files.load_best(self.model, progress.best_epoch)
        elif is_last:
            progress.best_epoch, progress.stopped = progress.epoch, "fixed epochs"
            self.files.save_weights(BEST, self.model, self.stage_epoch)
        progress.stage += 1
        if self.is_running:
            # A new stage counts epochs from 0 and looks for a new best; times and the curve continue.
            fresh = Progress()
            progress.earlier += progress.epoch
            for name in ("epoch", "step", "best", "best_epoch", "bad", "stopped"):
                setattr(progress, name, getattr(fresh, name))
            self.start_stage()
            self._save()
        else:
            self._take_data("target")

    def _save(self, *, keep_previous: bool = False) -> None:
        tensors = {
            **checkpoint.model_tensors(self.model),
            **checkpoint.optimizer_tensors(self.learner.optimizer),
        }
        self.files.save(tensors, self.progress, keep_previous=keep_previous)

    # -- epochs -------------------------------------------------------------------------------------------

    def plan_epoch(self) -> EpochPlan:
        """Plan the coming epoch (its steps in order, a generator for each thing drawn) and prepare the model for it."""
        number, epoch, stage = self.progress.stage, self.progress.epoch + 1, self.stage
        if self._rows is None or self._rows[0] != number:
            rows = plan_rows(self.view.offsets, stage.samples, self.config.max_len)
            if not len(rows):
                raise RunError("no training sample: every history is too short for this kind of samples")
            self._rows = number, rows
        order = np.random.default_rng(derive_seed(self.seed, "order", number, epoch))
        steps = plan_steps(
            self._rows[1], batch_size=stage.config.batch_size, unit=stage.config.batch_unit, generator=order
        )
        generators = {}
        for name in self.drawers:
            generators[name] = torch.Generator(device=self.device)
            generators[name].manual_seed(derive_seed(self.seed, name, number, epoch))
        self.model.train()
        # What a model draws here must not depend on whether this process trained the epochs before.
        torch.manual_seed(derive_seed(self.seed, "epoch", number, epoch))
        self.model.start_epoch(epoch)
        if self.graphs is not None and self.changes_between_epochs:
            self.graphs.forget()
        return EpochPlan(epoch, steps, generators)

    def finish_epoch(self, terms: dict[str, float], seconds: float, *, keep_previous: bool = False) -> None:
        """Count a trained epoch, validate, log and save it.

        keep_previous  keep the state of the epoch before until `settle`, because other seeds have not saved theirs
        """
        progress = self.progress
        progress.epoch += 1
        progress.seconds["train"] += seconds
        progress.epoch_seconds.append(seconds)
        line: dict[str, Any] = {
            "stage": progress.stage, "epoch": progress.epoch, "seconds": seconds, "loss": terms,
        }  # fmt: skip
        is_last = progress.epoch == self.stage.last_epoch
        if self.stage.epochs is None and (progress.epoch % self.stage.config.eval_every == 0 or is_last):
            self._validate(line)
        self.files.log({**line, "outlook": asdict(self.outlook)})
        self._save(keep_previous=keep_previous)
        if self.on_log is not None:
            self.on_log(line, progress.earlier + progress.epoch)

    def settle(self) -> None:
        """Accept a new best, and enter the next stage if the current one is over."""
        self.files.settle()
        self._leave_finished_stages()

    def _validate(self, line: dict[str, Any]) -> None:
        """Validate, keep the weights of a gain, and count evaluations without a gain (`is_gain`)."""
        progress, began = self.progress, time.perf_counter()
        rule = self.stage.config.patience_rule
        try:
            value = self.validate(self.model)
        except RunError as error:
            raise RunError(f"epoch {progress.epoch}, validation: {error}") from error
        progress.seconds["valid"] += time.perf_counter() - began
        stage = {"stage": progress.stage} if len(self.stages) > 1 else {}
        progress.curve.append({**stage, "epoch": progress.epoch, self.config.selection_metric: value})
        if is_gain(value, progress.best, rule):
            progress.best, progress.best_epoch, progress.bad = value, progress.epoch, 0
            self.files.save_weights(CANDIDATE, self.model, self.stage_epoch)
        else:
            progress.bad += 1
            if progress.bad >= self.stage.config.patience + (rule == "recbole"):
                progress.stopped = "patience"
        line.update(
            valid={self.config.selection_metric: value},
            best=progress.best,
            best_epoch=progress.best_epoch,
            bad=progress.bad,
        )


# -- the loop ---------------------------------------------------------------------------------------------


def train_epoch(
    trainers: Sequence[Trainer], stepper: Stepper, watcher: Watcher | None = None
) -> list[Outcome]:
    """Train an epoch of a run, or of several at the same epoch together; return the outcome of each."""
    lead, plans = trainers[0], [trainer.plan_epoch() for trainer in trainers]
    epoch, n_steps = plans[0].epoch, len(plans[0].steps)
    torch.manual_seed(_noise_seed(trainers, epoch))
    sums, faults = LossSums(lead.device, len(trainers)), dict[int, Exception]()
    config = lead.stage.config
    with on_own_stream(lead.device), rounded_products(config.matmul, lead.device):
        for step, batch in enumerate(batches_of_epoch(trainers, plans), start=1):
            rate = learning_rate(config, epoch, lead.progress.step + step)
            stepper.set_rate(rate)
            sums.add(stepper.step(batch))
            if sums.due or step == n_steps:
                means, bad = sums.look()
                faults = {k: not_finite(epoch, text, rate) for k, text in bad.items()} | faults
                if len(faults) == len(trainers):
                    break
                if watcher is not None:
                    watcher.step(epoch, step, n_steps, mean_terms(means))
    for trainer in trainers:
        trainer.progress.step += n_steps
    lead.memory.count_steps(n_steps)
    return [faults.get(k, means[k]) for k in range(len(trainers))]


def _noise_seed(trainers: Sequence[Trainer], epoch: int) -> int:
    """Return the seed of dropout and the like, of the run or shared by the runs of a stack."""
    seeds = [trainer.seed for trainer in trainers]
    together = ["of", *seeds] if len(seeds) > 1 else []
    return derive_seed(seeds[0], "noise", trainers[0].progress.stage, epoch, *together)


def not_finite(epoch: int, fault: str, lr: float) -> RunError:
    return RunError(f"epoch {epoch}, {fault}; lower lr (now {lr:g}), set grad_clip, or check the features")
