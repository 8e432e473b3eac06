"""The one training loop: optimiser, stages, early stopping on validation, checkpoints. It never sees test.

`fit` gets training events and validation targets; the arrays that it is given hold no test item
(mmbench.data.views). Everything random in an epoch is drawn from seeds derived from (run seed, stage, epoch),
so a run that was killed goes on from its last finished epoch and ends with the same weights.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmbench import checkpoint
from mmbench.atomic import write_text
from mmbench.config import TrainConfig
from mmbench.data.rows import Batcher, NegativeSampler, Rows, plan_rows, plan_steps
from mmbench.data.views import TrainView
from mmbench.errors import RunError, UsageError
from mmbench.models.base import Recommender, Stage
from mmbench.nn import losses
from mmbench.runtime import autocast, derive_seed, tf32

# Steps between two looks at the loss, by device: each look waits for a GPU.
CHECK_EVERY_ON = {"cpu": 1, "cuda": 32}
BEST, RESUME, LOG = "best.safetensors", "resume.safetensors", "train.jsonl"


class Watcher(Protocol):
    """What a live view hears. `terms` are the epoch's running means."""

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None: ...
    def epoch(self, line: dict[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass
class Progress:
    """Where a training stands; what resume.safetensors remembers beside the tensors."""

    stage: int = 0
    epoch: int = 0  # finished epochs of the stage
    step: int = 0  # optimiser steps of the stage
    best: float = -math.inf
    best_epoch: int = 0
    bad: int = 0  # evaluations since the best
    stopped: str = ""
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "valid": 0.0})
    epoch_seconds: list[float] = field(default_factory=list)


def make_optimizer(model: torch.nn.Module, config: TrainConfig, lr: float) -> torch.optim.Optimizer:
    parameters = [one for one in model.parameters() if one.requires_grad]
    groups = [
        {
            "params": [one for one in parameters if one.dim() > 1 or config.decay_1d],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [one for one in parameters if one.dim() <= 1 and not config.decay_1d],
            "weight_decay": 0.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=lr, betas=(config.beta1, config.beta2), eps=config.adam_eps, fused=True)


def learning_rate(config: TrainConfig, base: float, epoch: int, step: int) -> float:
    """Rate of 1-based `step` (of the stage) in 1-based `epoch`."""
    power = {"constant": 0, "exponential": epoch - 1, "exponential-early": epoch}[config.lr_schedule]
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    return base * config.lr_gamma**power * warm


class _Sums:
    """Sums of the loss terms of an epoch, kept on the device: reading a number makes the host wait for a GPU."""

    def __init__(self, *, check_every: int) -> None:
        self.check_every, self.n = check_every, 0
        self.totals: dict[str, Tensor] = {}
        self.unchecked: list[dict[str, Tensor]] = []

    def add(self, terms: dict[str, Tensor]) -> None:
        self.n += 1
        self.unchecked.append(terms)
        for name, term in terms.items():
            self.totals[name] = self.totals[name] + term.double() if name in self.totals else term.double()

    @property
    def due(self) -> bool:
        return len(self.unchecked) >= self.check_every

    def means(self, where: str, lr: float) -> dict[str, float]:
        """Mean of each term so far. RunError names the batch and the term that is no finite number."""
        found = {name: float(total) / self.n for name, total in self.totals.items()}
        if not all(map(math.isfinite, found.values())):
            first = self.n - len(self.unchecked) + 1
            for number, terms in enumerate(self.unchecked, start=first):
                for name, term in terms.items():
                    if not math.isfinite(float(term)):
                        raise RunError(
                            f"{where}, batch {number}: loss term {name!r} is {float(term)}; lower lr (now {lr:g}), "
                            "set grad_clip, or check the features"
                        )
        self.unchecked.clear()
        return found


class Trainer:
    """One run of one model. `fit()` trains to the end, or goes on from `folder`'s last finished epoch."""

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
        self.needs = model.needs
        self.batcher = Batcher(
            train.items, train.times, layout=self.needs.layout, max_len=config.max_len, device=device
        )
        self.sampler = self._make_sampler()
        self.progress = Progress()

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
        stages = self.model.stages
        for stage in stages:
            self.samples_of(stage)
        optimizer = self._restore(stages)
        while self.progress.stage < len(stages):
            stage = stages[self.progress.stage]
            if optimizer is None:
                optimizer = self._start(stage)
            self._run_stage(stage, optimizer)
            if stage.epochs is None:
                checkpoint.load_weights(self.model, self.folder / BEST)
            self.progress.stage += 1
            if self.progress.stage < len(stages):
                self._reset_progress()
                optimizer = self._start(stages[self.progress.stage])
                self._save(optimizer)
        return self.progress

    def _reset_progress(self) -> None:
        """A new stage counts its own epochs and looks for its own best; times and the curve go on."""
        fresh = Progress()
        for name in ("epoch", "step", "best", "best_epoch", "bad", "stopped"):
            setattr(self.progress, name, getattr(fresh, name))

    def _start(self, stage: Stage) -> torch.optim.Optimizer:
        # What a stage initialises anew must not depend on whether the stage before ran in this process.
        torch.manual_seed(derive_seed(self.seed, "stage", self.progress.stage))
        self.model.start_stage(stage.name)
        return make_optimizer(self.model, self.config, stage.lr or self.config.lr)

    def _restore(self, stages: tuple[Stage, ...]) -> torch.optim.Optimizer | None:
        """Go on from resume.safetensors when there is one; cut log lines of epochs that are trained again."""
        file, log = self.folder / RESUME, self.folder / LOG
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
        if not file.is_file():
            if lines:
                write_text(log, "")
            return None
        tensors, facts = checkpoint.load_tensors(file)
        try:
            self.progress = Progress(**facts)
            for stage in stages[: self.progress.stage]:
                self.model.start_stage(stage.name)
            optimizer = self._start(stages[self.progress.stage])
            checkpoint.load_weights(self.model, file)
            checkpoint.load_optimizer(optimizer, tensors)
        except (TypeError, ValueError, IndexError) as error:
            raise RunError(
                f"{file} was written by another version of mmbench ({error}); remove it and run the cell again"
            ) from error
        done = (self.progress.stage, self.progress.epoch)
        kept = [line for line in lines if line.endswith("\n") and _place(line) <= done]
        write_text(log, "".join(kept))
        return optimizer

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        tensors = {**checkpoint.model_tensors(self.model), **checkpoint.optimizer_tensors(optimizer)}
        facts = asdict(self.progress)
        facts["best"] = self.progress.best if math.isfinite(self.progress.best) else -1e300
        checkpoint.save_tensors(self.folder / RESUME, tensors, facts)

    def _run_stage(self, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        rows = plan_rows(self.view.offsets, self.samples_of(stage), self.config.max_len)
        if not len(rows):
            raise RunError("no training sample: every history is too short for this kind of samples")
        last = stage.epochs or self.config.max_epochs
        progress = self.progress
        while progress.epoch < last and not progress.stopped:
            began = time.perf_counter()
            with tf32(self.config.matmul):
                terms = self._train_epoch(stage, optimizer, rows, progress.epoch + 1)
            progress.epoch += 1
            spent = time.perf_counter() - began
            progress.seconds["train"] += spent
            progress.epoch_seconds.append(spent)
            line: dict[str, Any] = {
                "stage": progress.stage,
                "epoch": progress.epoch,
                "seconds": spent,
                "loss": terms,
            }
            if stage.epochs is None and (
                progress.epoch % self.config.eval_every == 0 or progress.epoch == last
            ):
                self._validate(line)
            self._log(line)
            self._save(optimizer)
        if stage.epochs is None:
            progress.stopped = progress.stopped or "max_epochs"
        elif progress.stage == len(self.model.stages) - 1:
            checkpoint.save_tensors(self.folder / BEST, checkpoint.model_tensors(self.model), {})
            progress.best_epoch, progress.stopped = progress.epoch, "fixed epochs"

    def _validate(self, line: dict[str, Any]) -> None:
        """Selection compares unrounded values; an equal value is no gain, so the earlier epoch stays."""
        progress, began = self.progress, time.perf_counter()
        try:
            value = self.validate(self.model)
        except RunError as error:
            raise RunError(f"epoch {progress.epoch}, validation: {error}") from error
        progress.seconds["valid"] += time.perf_counter() - began
        progress.curve.append({"epoch": progress.epoch, self.config.selection_metric: value})
        if value > progress.best:
            progress.best, progress.best_epoch, progress.bad = value, progress.epoch, 0
            checkpoint.save_tensors(
                self.folder / BEST, checkpoint.model_tensors(self.model), {"epoch": progress.epoch}
            )
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

    def _train_epoch(
        self, stage: Stage, optimizer: torch.optim.Optimizer, rows: Rows, epoch: int
    ) -> dict[str, float]:
        """One pass over the rows; returns the mean of each loss term."""
        key = (self.progress.stage, epoch)
        torch.manual_seed(derive_seed(self.seed, "noise", *key))
        generator = torch.Generator(device=self.device).manual_seed(derive_seed(self.seed, "negatives", *key))
        order = np.random.default_rng(derive_seed(self.seed, "order", *key))
        steps = plan_steps(
            rows, batch_size=self.config.batch_size, unit=self.config.batch_unit, generator=order
        )
        self.model.train()
        self.model.start_epoch(epoch)
        sums = _Sums(check_every=CHECK_EVERY_ON[self.device.partition(":")[0]])
        for number, chosen in enumerate(steps, start=1):
            self.progress.step += 1
            rate = learning_rate(self.config, stage.lr or self.config.lr, epoch, self.progress.step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            sums.add(self._step_or_less(optimizer, rows[chosen], generator))
            if sums.due or number == len(steps):
                means = sums.means(f"epoch {epoch}", rate)
                if self.watcher is not None:
                    self.watcher.step(epoch, number, len(steps), means)
        return means

    def _step_or_less(
        self, optimizer: torch.optim.Optimizer, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A step; when the GPU's memory runs out, again with smaller chunks of logits, as long as that helps."""
        while True:
            try:
                return self._step(optimizer, rows, generator)
            except torch.cuda.OutOfMemoryError as error:
                reason = str(error).split(". ")[0]
            # Outside the handler, whose traceback holds the step's memory.
            optimizer.zero_grad(set_to_none=True)
            if not losses.shrink_chunks():
                raise RunError(f"{reason}; lower batch_size (now {self.config.batch_size})")
            torch.cuda.empty_cache()
            warn = f"out of GPU memory; going on with {losses.CHUNK} rows of logits at once"
            if self.watcher is not None:
                self.watcher.note(warn)

    def _step(
        self, optimizer: torch.optim.Optimizer, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms, which are not waited for."""
        batch = self.batcher.training(rows, prefixes=self.needs.prefixes)
        if self.sampler is not None:
            negatives = self.sampler.draw(batch.user, self.needs.n_negatives, generator)
            batch = batch.with_negatives(negatives)
        with autocast(self.config.matmul, self.device):
            terms = self.model.loss(batch)
        total: Tensor = (
            torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))
        )
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def _log(self, line: dict[str, Any]) -> None:
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.watcher is not None:
            self.watcher.epoch(line)


def _place(line: str) -> tuple[int, int]:
    try:
        content = json.loads(line)
        return content["stage"], content["epoch"]
    except (ValueError, KeyError):  # a line that a kill cut short
        return (1 << 30, 0)
