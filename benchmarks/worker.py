"""mmbench as a contestant: trains and ranks when told to (see turns.py). Not called by hand."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.generated import Histories, histories
from benchmarks.peer_worker import Clock, K, write_lists
from mmbench.data.batch import Batch
from mmbench.data.samples import Rows, plan_rows, plan_steps
from mmbench.data.split import leave_one_out
from mmbench.data.store import open_path
from mmbench.data.views import TrainView, target_view, training_view
from mmbench.evaluation.metrics import mean_value
from mmbench.evaluation.ranking import rank, rank_fully
from mmbench.models import registry
from mmbench.models.base import Catalog
from mmbench.runs.plan import make_configs
from mmbench.runtime import prepare_process
from mmbench.settings.config import Layer, Origin, TrainConfig, defaults_of, resolve
from mmbench.training.batches import STEPS_AT_ONCE, EpochPlan, batches_of_epoch
from mmbench.training.trainer import Trainer

N_CATEGORIES, OF_ITEM = 200, 3
METRICS = tuple(f"{name}@{k}" for name in ("HR", "NDCG", "MRR") for k in (5, 10))


def read(spec: dict[str, Any]) -> Histories:
    """The prepared data set `path`, else generated histories of the given shape."""
    if "path" not in spec:
        return histories(spec["users"], spec["items"])
    prepared = open_path(Path(spec["path"]))
    arrays = (np.asarray(array) for array in (prepared.items, prepared.times, prepared.offsets))
    return Histories(*arrays, prepared.n_items)


def make_catalog(data: Histories, train: TrainView, spec: dict[str, Any], max_len: int) -> Catalog:
    """With `features`, random ones of this width for text and image, and random categories."""
    n, width = data.n_items, spec.get("features", 0)
    extra: dict[str, Any] = {}
    if width:
        noise = torch.Generator().manual_seed(0)
        for name in ("text", "image"):
            extra[f"has_{name}"] = torch.arange(n + 1) > 0  # row 0 is padding
            extra[f"{name}_feat"] = torch.randn(n + 1, width, generator=noise) * extra[f"has_{name}"][:, None]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(n + 1) * OF_ITEM])
        extra["category_ids"] = torch.randint(N_CATEGORIES, (n * OF_ITEM,), generator=noise)
        extra |= {"category_offsets": offsets, "n_categories": N_CATEGORIES}
    return Catalog(
        n_items=n, n_users=data.n_users, max_len=max_len, train_offsets=torch.from_numpy(train.offsets),
        train_items=torch.from_numpy(train.items), train_times=torch.from_numpy(train.times), **extra,
    )  # fmt: skip


class Contestant:
    """A model under the trainer of mmbench, stepped from outside."""

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        prepare_process(spec["threads"])
        clock = Clock()
        self.path = spec.get("path", "")
        data = read(spec)
        split = leave_one_out(np.diff(data.offsets))
        view = training_view(data, split)  # type: ignore[arg-type]
        self.valid = target_view(data, split, "valid")  # type: ignore[arg-type]
        entry = registry.find(spec["model"])
        layers = [Layer(Origin.default, defaults_of(TrainConfig)), *entry.layers("")]
        settings = resolve(
            [*layers, Layer(Origin.user, spec["settings"])], known=entry.known_settings(), where=entry.name
        )
        model_config, self.config = make_configs(entry, settings)
        torch.manual_seed(1)
        model = entry.load()(model_config, make_catalog(data, view, spec, self.config.max_len))
        self.trainer = Trainer(model, view, lambda _: 0.0, self.config, seed=1, folder=folder)
        self.trainer.progress.stage = len(model.stages) - 1
        self.stage = self.trainer.stage
        self.trainer.start_stage()
        self.generators = {name: torch.Generator().manual_seed(1) for name in self.trainer.drawers}
        self.order = np.random.default_rng(1)
        self.rows, self.steps = self._plan()
        self.coming = self._stream()
        self.batches_ready: list[tuple[Rows, Batch]] = []
        self.facts = {
            "users": data.n_users, "items": data.n_items, "train_targets": int(self.rows.n_targets.sum()),
            "steps_per_epoch": len(self.steps), "eval_users": len(self.valid), "torch": torch.__version__,
            "setup": clock.read()["seconds"], "interactions": len(data.items),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }  # fmt: skip

    def _plan(self, samples: str | None = None) -> tuple[Rows, list[Rows]]:
        kind = samples or self.stage.samples
        rows = plan_rows(self.trainer.view.offsets, kind, self.config.max_len)
        size, unit = self.config.batch_size, self.config.batch_unit
        return rows, plan_steps(rows, batch_size=size, unit=unit, generator=self.order)

    def _stream(self) -> Iterator[Rows]:
        """Steps of one epoch after the other. The last step of an epoch is smaller, as in a real one."""
        while True:
            yield from self.steps
            self.steps = self._plan()[1]

    def plan(self, samples: str | None = None) -> dict[str, Any]:
        clock = Clock()
        rows, steps = self._plan(samples)
        return {**clock.read(), "rows": len(rows), "steps": len(steps)}

    def batches(self, steps: int) -> dict[str, Any]:
        """What of a step is laying out its batch."""
        clock, done = Clock(), 0
        while done < steps:
            done += len(self._lay_out())
        return {**clock.read(), "steps": done}

    def _lay_out(self) -> list[tuple[Rows, Batch]]:
        """The next steps with their batches, as many as a training lays out at once."""
        rows = [next(self.coming) for _ in range(STEPS_AT_ONCE)]
        plan = EpochPlan(1, rows, self.generators)
        return list(zip(rows, batches_of_epoch([self.trainer], [plan]), strict=True))

    def train(self, steps: int, seconds: float) -> dict[str, Any]:
        self.trainer.model.train()
        done = targets = 0
        clock, loss = Clock(), 0.0
        while done < steps or time.perf_counter() - clock.wall < seconds:
            self.batches_ready = self.batches_ready or self._lay_out()
            rows, batch = self.batches_ready.pop(0)
            loss = float(self.trainer.step(batch).values.sum())
            done, targets = done + 1, targets + self._learned(rows)
        return {**clock.read(), "steps": done, "targets": targets, "loss": loss}

    def _learned(self, rows: Rows) -> float:
        """Predictions that enter the loss; where a model masks by itself, their expected number."""
        if self.stage.samples != "sequence":
            return int(rows.n_targets.sum())
        config: Any = self.trainer.model.config
        none = (1 - config.mask_ratio) ** rows.length  # none drawn: then one is chosen
        masked = rows.length * config.mask_ratio + none
        return float(((1 - config.last_only) * masked + config.last_only).sum())

    def rank(self, users: int) -> dict[str, Any]:
        part = self.valid.spread(users)
        clock = Clock()
        ranks = rank(self.trainer.model, part)
        values = {name: mean_value(ranks, name) for name in METRICS}
        return {**clock.read(), "users": len(part), "metrics": values}

    def lists(self, file: str) -> dict[str, Any]:
        """Write the best items of every user, scored by their place, because stored scores are rounded."""
        prepared = open_path(Path(self.path))
        names = [record["id"] for record in prepared.item_records]
        ranking = rank_fully(self.trainer.model, self.valid, name="valid", lists=K)
        rows = (
            (prepared.user_ids[user], names[item - 1], K - place)
            for user, items in zip(ranking.user.tolist(), ranking.lists["none"].items.tolist(), strict=True)
            for place, item in enumerate(items)
            if item
        )
        write_lists(file, rows)
        return {"users": len(self.valid)}

    def memory(self) -> dict[str, Any]:
        return {"bytes": peak_resident()}


def peak_resident() -> int:
    """Largest resident set of this process. `ru_maxrss` would count what the parent held when it forked."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(
            line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not stand between the answers
    with tempfile.TemporaryDirectory(prefix="mmbench-") as folder:
        contestant = Contestant(json.loads(sys.argv[1]), Path(folder))
        print(json.dumps(contestant.facts), file=answers)
        for line in sys.stdin:
            command = json.loads(line)
            do = command.pop("do")
            print(json.dumps(getattr(contestant, do)(**command)), file=answers)


if __name__ == "__main__":
    main()
