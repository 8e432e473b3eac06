"""The one training loop: optimiser, stages, early stopping on validation, checkpoints. It never sees test.

`fit` gets training events and validation targets; the arrays that it is given hold no test item
(mmbench.data.views). Everything random in an epoch is drawn from seeds derived from (run seed, stage, epoch),
so a run that was killed goes on from its last finished epoch and ends with the same weights.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.atomic import write_text
from mmbench.data.batch import Batch
from mmbench.data.rows import Batcher, NegativeSampler, Rows, plan_rows, plan_steps
from mmbench.data.views import TrainView
from mmbench.errors import RunError, UsageError, out_of_memory
from mmbench.models.base import Recommender, Stage
from mmbench.nn import losses
from mmbench.runtime import autocast, compiled, derive_seed, tf32
from mmbench.settings.config import TrainConfig
from mmbench.training import checkpoint
from mmbench.training.optim import learning_rate, make_optimizer, set_rate
from mmbench.training.out_of_memory import go_on_with, keep_noise
from mmbench.training.progress import LossSums, Progress, Watcher

BEST, RESUME, LOG = "best.safetensors", "resume.safetensors", "train.jsonl"
# The weights of a new best until RESUME knows of it: a kill in between abandons the epoch, and these with it.
CANDIDATE = "candidate.safetensors"


@dataclass
class EpochPlan:
    """What one epoch of one run trains on."""

    epoch: int
    steps: list[Rows]
    negatives: torch.Generator


class Trainer:
    """One run of one model. `fit()` trains to the end, or goes on from `folder`'s last finished epoch.

    `begin`, `plan_epoch` and `end_epoch` are its parts, for mmbench.training.stack, which trains several runs at once.
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
    ) -> None:
        self.model, self.view, self.validate, self.config = model, train, validate, config
        self.seed, self.folder, self.device, self.watcher = seed, folder, device, watcher
        self.needs, self.stages = model.needs, model.stages
        if self.needs.whole_rows and config.batch_unit == "targets":
            raise UsageError(
                f"{type(model).__name__} with these settings needs whole histories in a step; "
                "set batch_unit = rows (batch_size then counts histories)"
            )
        self.batcher = Batcher(
            train.items, train.times, layout=self.needs.layout, max_len=config.max_len, device=device
        )
        self.sampler = self._make_sampler()
        self.progress = Progress()
        self.chunk = losses.CHUNK  # rows of logits at once; fewer from where the GPU's memory runs out on
        self.optimizer: torch.optim.Optimizer
        self.loss = compiled(model.loss) if config.compile else model.loss
        self._rows: tuple[int, Rows] | None = None  # of a stage

    def _make_sampler(self) -> NegativeSampler | None:
        if not self.needs.n_negatives:
            return None
        users, items = self.view.users, self.view.items
        if self.needs.negatives_exclude == "first":
            first = self.view.offsets[:-1][np.diff(self.view.offsets) > 0]
            users, items = users[first], items[first]
        return NegativeSampler(
            users, items, n_users=len(self.view.offsets) - 1, n_items=self.model.n_items, device=self.device
        )

    def samples_of(self, stage: Stage) -> str:
        """Kind of samples of a stage; UsageError when the model cannot be trained on it."""
        wanted = stage.samples or self.config.samples
        wanted = self.needs.samples[0] if wanted == "default" else wanted
        if wanted not in self.needs.samples:
            raise UsageError(
                f"{type(self.model).__name__} cannot be trained on samples = {wanted!r}; "
                f"it takes {', '.join(self.needs.samples)}"
            )
        return wanted

    def fit(self) -> Progress:
        """Train all stages; leaves the best weights in the model and in best.safetensors."""
        self.begin()
        while self.is_running:
            began = time.perf_counter()
            terms = self.train_epoch()
            self.end_epoch(terms, time.perf_counter() - began)
        return self.progress

    # -- stages -------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return self.progress.stage < len(self.stages)

    @property
    def stage(self) -> Stage:
        return self.stages[self.progress.stage]

    @property
    def place(self) -> tuple[int, int]:
        """(stage, finished epochs of it)."""
        return self.progress.stage, self.progress.epoch

    @property
    def lr(self) -> float:
        return self.config.lr if self.stage.lr is None else self.stage.lr

    def begin(self) -> None:
        """Start, or go on from the last finished epoch."""
        for stage in self.stages:
            self.samples_of(stage)
        if not self._restore():
            self._start()
        self._settle()

    def _start(self) -> None:
        # What a stage initialises anew must not depend on whether the stage before ran in this process.
        torch.manual_seed(derive_seed(self.seed, "stage", self.progress.stage))
        self.model.start_stage(self.stage.name)
        self.optimizer = make_optimizer(self.model, self.config, self.lr)

    def _settle(self) -> None:
        """Leave stages that are over."""
        while self.is_running and (self.progress.stopped or self.progress.epoch >= self._last_epoch):
            self._end_stage()

    @property
    def _last_epoch(self) -> int:
        return self.config.max_epochs if self.stage.epochs is None else self.stage.epochs

    def _end_stage(self) -> None:
        progress = self.progress
        if self.stage.epochs is None:
            progress.stopped = progress.stopped or "max_epochs"
            self._load_best()
        elif progress.stage == len(self.stages) - 1:
            progress.best_epoch, progress.stopped = progress.epoch, "fixed epochs"
            self._save_weights(BEST)
        progress.stage += 1
        if self.is_running:
            # A new stage counts its own epochs and looks for its own best; times and the curve go on.
            fresh = Progress()
            progress.earlier += progress.epoch
            for name in ("epoch", "step", "best", "best_epoch", "bad", "stopped"):
                setattr(progress, name, getattr(fresh, name))
            self._start()
            self._save()

    def _load_best(self) -> None:
        """The weights of the stage's best epoch; RunError when the file is of another epoch."""
        file = self.folder / BEST
        found = checkpoint.load_weights(self.model, file).get("epoch")
        if found != self.progress.best_epoch:
            raise RunError(
                f"{file} holds epoch {found}, but epoch {self.progress.best_epoch} is the best; "
                f"remove it and {RESUME} and run the cell again"
            )

    def _restore(self) -> bool:
        """Go on from resume.safetensors when there is one; cut log lines of epochs that are trained again."""
        file, log = self.folder / RESUME, self.folder / LOG
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
        if not file.is_file():
            (self.folder / CANDIDATE).unlink(missing_ok=True)
            if lines:
                write_text(log, "")
            return False
        tensors, facts = checkpoint.load_tensors(file)
        try:
            said, self.progress = self.progress.notes, Progress(**facts)
            self.progress.note(*said)
            for stage in self.stages[: self.progress.stage]:
                self.model.start_stage(stage.name)
            self._start()
            checkpoint.load_weights(self.model, file)
            checkpoint.load_optimizer(self.optimizer, tensors)
        except (TypeError, ValueError, IndexError) as error:
            raise RunError(
                f"{file} was written by another version of mmbench ({error}); remove it and run the cell again"
            ) from error
        kept = [line for line in lines if line.endswith("\n") and _place(line) <= self.place]
        write_text(log, "".join(kept))
        self._settle_candidate()
        return True

    def _settle_candidate(self) -> None:
        """Finish what a kill cut short: a new best that RESUME knows of is kept, one of an abandoned epoch is not."""
        file, own = self.folder / CANDIDATE, [self.progress.stage, self.progress.best_epoch]
        if file.is_file():
            _, facts = checkpoint.load_tensors(file)
            if [facts.get("stage"), facts.get("epoch")] == own:
                os.replace(file, self.folder / BEST)
            else:
                file.unlink()

    def _save_weights(self, name: str) -> None:
        facts = {"stage": self.progress.stage, "epoch": self.progress.epoch}
        checkpoint.save_tensors(self.folder / name, checkpoint.model_tensors(self.model), facts)

    def _save(self) -> None:
        tensors = {
            **checkpoint.model_tensors(self.model),
            **checkpoint.optimizer_tensors(self.optimizer),
        }
        facts = asdict(self.progress)
        facts["best"] = self.progress.best if math.isfinite(self.progress.best) else -1e300
        checkpoint.save_tensors(self.folder / RESUME, tensors, facts)

    # -- epochs -------------------------------------------------------------------------------------------

    def plan_epoch(self) -> EpochPlan:
        """The coming epoch: its steps in their order, and the generator of its negatives. Readies the model."""
        number, epoch = self.progress.stage, self.progress.epoch + 1
        if self._rows is None or self._rows[0] != number:
            rows = plan_rows(self.view.offsets, self.samples_of(self.stage), self.config.max_len)
            if not len(rows):
                raise RunError("no training sample: every history is too short for this kind of samples")
            self._rows = number, rows
        order = np.random.default_rng(derive_seed(self.seed, "order", number, epoch))
        steps = plan_steps(
            self._rows[1], batch_size=self.config.batch_size, unit=self.config.batch_unit, generator=order
        )
        generator = torch.Generator(device=self.device)
        generator.manual_seed(derive_seed(self.seed, "negatives", number, epoch))
        self.model.train()
        self.model.start_epoch(epoch)
        return EpochPlan(epoch, steps, generator)

    def batch(self, rows: Rows, negatives: torch.Generator) -> Batch:
        """The batch of a step, with its negatives."""
        batch = self.batcher.training(rows, prefixes=self.needs.prefixes)
        if self.sampler is None:
            return batch
        return batch.with_negatives(self.sampler.draw(batch.user, self.needs.n_negatives, negatives))

    def train_epoch(self) -> dict[str, float]:
        """One pass over the rows; returns the mean of each loss term."""
        plan = self.plan_epoch()
        torch.manual_seed(derive_seed(self.seed, "noise", self.progress.stage, plan.epoch))

        def step(number: int) -> dict[str, Tensor]:
            return self._step(plan.steps[number], plan.negatives)

        with tf32(self.config.matmul):
            for done, rate, means, faults in self.steps(plan, self.optimizer, step):
                if faults:
                    raise no_number(plan.epoch, faults[0], rate)
                if self.watcher is not None:
                    self.watcher.step(plan.epoch, done, len(plan.steps), means[0])
        self.progress.step += len(plan.steps)
        return means[0]

    def steps(
        self, plan: EpochPlan, optimizer: torch.optim.Optimizer, step: Callable[[int], dict[str, Tensor]]
    ) -> Iterator[tuple[int, float, list[dict[str, float]], dict[int, str]]]:
        """Do `step(0)`, `step(1)`, .. of an epoch, each at its learning rate.

        Yields at every look at the loss: how many steps are done, the rate, and what `LossSums.look` finds.
        """
        sums, before, n_steps = LossSums(self.device), self.progress.step, len(plan.steps)
        for number in range(n_steps):
            rate = learning_rate(self.config, self.lr, plan.epoch, before + number + 1)
            set_rate(optimizer, rate)
            sums.add(step(number))
            if sums.due or number + 1 == n_steps:
                yield number + 1, rate, *sums.look()

    def _step(self, rows: Rows, negatives: torch.Generator) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms, which are not waited for."""
        terms = self._gradients_or_less(rows, negatives)
        try:
            if self.config.grad_clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
            self.optimizer.step()
        except torch.cuda.OutOfMemoryError as error:  # not done again: some weights may have moved
            raise self._out_of_memory(str(error)) from None
        return terms

    def _gradients_or_less(self, rows: Rows, negatives: torch.Generator) -> dict[str, Tensor]:
        """When the GPU's memory runs out, again with the same noise and smaller chunks, as long as that helps."""
        set_back = keep_noise(self.device, negatives)
        while True:
            try:
                with losses.chunks_of(self.chunk):
                    return self._gradients(rows, negatives)
            except torch.cuda.OutOfMemoryError as error:
                reason = str(error)
            # Outside the handler, whose traceback holds the step's memory.
            self.optimizer.zero_grad(set_to_none=True)
            smaller = losses.smaller_chunk(self.chunk)
            if not smaller:
                raise self._out_of_memory(reason)
            self.chunk = smaller
            set_back()
            go_on_with(f"{smaller} rows of logits at once", [self.progress], self.watcher)

    def _gradients(self, rows: Rows, negatives: torch.Generator) -> dict[str, Tensor]:
        """A step's loss terms; leaves the gradients of their sum in the parameters."""
        batch = self.batch(rows, negatives)
        with autocast(self.config.matmul, self.device):
            terms = self.loss(batch)
        total: Tensor = (
            torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))
        )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        return {name: term.detach() for name, term in terms.items()}

    def _out_of_memory(self, reason: str) -> RunError:
        return out_of_memory(reason, f"lower batch_size (now {self.config.batch_size})")

    def end_epoch(self, terms: dict[str, float], seconds: float) -> None:
        """Count a trained epoch, validate, log and save it; then go to the next stage if this one is over."""
        progress, stage = self.progress, self.stage
        progress.epoch += 1
        progress.seconds["train"] += seconds
        progress.epoch_seconds.append(seconds)
        line: dict[str, Any] = {
            "stage": progress.stage, "epoch": progress.epoch, "seconds": seconds, "loss": terms,
        }  # fmt: skip
        is_last = progress.epoch == self._last_epoch
        if stage.epochs is None and (progress.epoch % self.config.eval_every == 0 or is_last):
            self._validate(line)
        self._log(line)
        self._save()
        if (self.folder / CANDIDATE).is_file():
            os.replace(self.folder / CANDIDATE, self.folder / BEST)
        self._settle()

    def _validate(self, line: dict[str, Any]) -> None:
        """Selection compares unrounded values; an equal value is no gain, so the earlier epoch stays."""
        progress, began = self.progress, time.perf_counter()
        try:
            value = self.validate(self.model)
        except RunError as error:
            raise RunError(f"epoch {progress.epoch}, validation: {error}") from error
        progress.seconds["valid"] += time.perf_counter() - began
        place = {"stage": progress.stage} if len(self.stages) > 1 else {}
        progress.curve.append({**place, "epoch": progress.epoch, self.config.selection_metric: value})
        if value > progress.best:
            progress.best, progress.best_epoch, progress.bad = value, progress.epoch, 0
            self._save_weights(CANDIDATE)
        else:
            progress.bad += 1
            if progress.bad >= self.config.patience:
                progress.stopped = "patience"
        line.update(
            valid={self.config.selection_metric: value},
            best=progress.best,
            best_epoch=progress.best_epoch,
            bad=progress.bad,
        )

    def _log(self, line: dict[str, Any]) -> None:
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.watcher is not None:
            self.watcher.epoch(line)


def no_number(epoch: int, fault: str, lr: float) -> RunError:
    return RunError(f"epoch {epoch}, {fault}; lower lr (now {lr:g}), set grad_clip, or check the features")


def _place(line: str) -> tuple[int, int]:
    try:
        content = json.loads(line)
        return content["stage"], content["epoch"]
    except (ValueError, KeyError):  # a line that a kill cut short
        return (1 << 30, 0)
