"""RecBole as a contestant: trains and ranks when told to (see turns.py). Not called by hand; peers.py runs it with the
Python of RecBole's own environment, so it imports RecBole, torch, numpy and the standard library only.

What happens is what `recbole.quick_start.run_recbole` does: its Config, its data sets and loaders, its Trainer's
`_train_epoch` and `evaluate`. Left out: the count of FLOPs before training, logging, checkpoints. To run at all with
the libraries of today it needs: the type names that numpy removed (np.bool8, np.float, ...), put back here as RecBole
1.2.1 itself puts back others; `quick_start` is not imported, because it wants ray; the best model is not loaded before
evaluating, because torch.load refuses RecBole's checkpoints. With `fixed`, autograd's anomaly detection, which
importing RecBole's sequential models switches on (sine.py), is switched off again.
"""

import logging
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peer_worker import Clock, K, hash_pairs, serve, write_lists

warnings.filterwarnings("ignore")
for _name, _kind in (("bool8", np.bool_), ("float_", np.float64), ("complex_", np.complex128),
                     ("unicode_", np.str_), ("string_", np.bytes_), ("long", np.int64)):  # fmt: skip
    if _name not in vars(np):
        setattr(np, _name, _kind)

import torch  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402


class Part:
    """The next batches of a RecBole loader, which goes on where it stopped; other attributes are the loader's."""

    def __init__(self, loader, *, endless):
        self.loader, self.endless = loader, endless
        self.coming, self.n_batches, self.until, self.counts = iter(loader), 0, 0.0, None
        self.done = self.targets = 0

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def next(self, n_batches, seconds):
        self.n_batches, self.until = n_batches, time.perf_counter() + seconds
        self.done = self.targets = 0
        return self

    def __iter__(self):
        while self.done < self.n_batches or time.perf_counter() < self.until:
            try:
                batch = next(self.coming)
            except StopIteration:
                self.coming = iter(self.loader)
                if not self.endless:
                    return
                continue
            self.done += 1
            self.targets += self._count(batch)
            yield batch

    @staticmethod
    def _count(batch):
        """Predictions that enter the loss."""
        if isinstance(batch, tuple):  # evaluation
            return len(batch[0])
        return int((batch["MASK_INDEX"] > 0).sum()) if "MASK_INDEX" in batch.columns else len(batch)


class Evaluated(Part):
    """The same for the loader of evaluation; `evaluate` asks what kind of loader it was given."""

    @property
    def __class__(self):
        return type(self.loader)


class Contestant:
    def __init__(self, spec):
        torch.set_num_threads(spec["threads"])
        settings = {
            "data_path": spec["folder"], "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "train_neg_sample_args": None, "use_gpu": False, "show_progress": False, "state": "ERROR",
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
            "metrics": ["NDCG", "MRR", "Hit"], "topk": [5, 10], "valid_metric": "NDCG@10",
            "checkpoint_dir": "saved", "train_batch_size": spec["targets_a_step"], **spec["settings"],
        }  # fmt: skip
        arguments, sys.argv = sys.argv, sys.argv[:1]  # RecBole reads the command line
        config = Config(model=spec["model"], dataset=spec["dataset"], config_dict=settings)
        sys.argv = arguments
        logging.disable(logging.CRITICAL)
        init_seed(config["seed"], config["reproducibility"])
        data = create_dataset(config)
        train, valid, _ = data_preparation(config, data)
        model = get_model(config["model"])(config, train._dataset)
        self.trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        self.trainer.eval_collector.data_collect(train)
        if spec["fixed"]:
            torch.autograd.set_detect_anomaly(False)
        columns = [
            valid._dataset.id2token(name, valid._dataset.inter_feat[name].numpy())
            for name in ("user_id", "item_id")
        ]
        self.data = data
        self.facts = {
            "users": data.user_num - 1, "items": data.item_num - 1, "train_targets": len(train._dataset),
            "steps_per_epoch": len(train), "eval_users": len(valid._dataset), "torch": torch.__version__,
            "eval_pairs": hash_pairs(" ".join(pair) for pair in zip(*columns, strict=True)),
            "anomaly_detection": torch.is_anomaly_enabled(),
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "numpy": np.__version__, "allocator": os.environ.get("MALLOC_MMAP_THRESHOLD_", "default"),
        }  # fmt: skip
        self.train_part, self.valid_part = Part(train, endless=True), Evaluated(valid, endless=False)

    def train(self, steps, seconds):
        part = self.train_part.next(steps, seconds)
        clock = Clock()
        loss = self.trainer._train_epoch(part, 0)
        return {**clock.read(), "steps": part.done, "targets": part.targets, "loss": loss / part.done}

    def rank(self, users):
        """Whole batches, until `users` are reached."""
        size = self.valid_part.loader.step
        part = self.valid_part.next(-(-users // size), 0.0)
        clock = Clock()
        values = self.trainer.evaluate(part, load_best_model=False)
        return {**clock.read(), "users": part.targets, "metrics": dict(values)}

    def lists(self, file):
        """Write the best items of every user, as the trainer's evaluation scores them: nothing is masked."""
        names, rows = self.data.field2id_token["item_id"], []
        self.trainer.model.eval()
        with torch.no_grad():
            for batch in self.valid_part.loader:
                scores = self.trainer.model.full_sort_predict(batch[0]).view(len(batch[0]), -1)
                scores[:, 0] = -np.inf  # padding
                best = scores.topk(K)
                users = self.data.id2token("user_id", batch[0]["user_id"].numpy())
                for user, items, values in zip(
                    users, best.indices.tolist(), best.values.tolist(), strict=True
                ):
                    rows += [(user, names[item], value) for item, value in zip(items, values, strict=True)]
        write_lists(file, rows)
        return {"users": len(rows) // K}


if __name__ == "__main__":
    serve(Contestant)
