"""RePlay as a contestant: trains and ranks when told to (see turns.py). Not called by hand; peers.py runs it with the
Python of RePlay's own environment.

What happens is what RePlay's guide to SASRec does: `SasRec.from_params` in its Lightning module, a `ParquetModule`
that reads the histories, a Lightning trainer without logging and checkpoints, stopped after the steps that are asked
for; its callback lists the best items and `OfflineMetrics` measures them. A step has so many users that it has the
wanted number of targets on average, because RePlay counts users. Of a history it trains on the last `max_len` targets
only, shorter ones predict their first item, too, and it computes the logits of the places that pad a history.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from lightning import Callback, Trainer, seed_everything  # noqa: E402
from peer_worker import RANKED_AT_ONCE, Clock, Events, K, serve, stopwatch, write_lists  # noqa: E402
from replay.data import FeatureHint, FeatureSource, FeatureType  # noqa: E402
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema  # noqa: E402
from replay.metrics import MRR, NDCG, HitRate, OfflineMetrics  # noqa: E402
from replay.nn.lightning import LightningModule  # noqa: E402
from replay.nn.lightning.callback import PandasTopItemsCallback  # noqa: E402
from replay.nn.lightning.optimizer import OptimizerFactory  # noqa: E402
from replay.nn.sequential import SasRec  # noqa: E402
from replay.nn.transform.template import make_default_sasrec_transforms  # noqa: E402

METRICS = [NDCG([5, 10]), MRR([5, 10]), HitRate([5, 10])]


class Contestant:
    def __init__(self, spec):
        torch.set_num_threads(spec["threads"])
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        seed_everything(1)
        self.events = events = Events(spec["events"])
        settings = dict(spec["settings"])
        self.lr, self.max_len = settings.pop("lr"), settings["max_sequence_length"]
        trained = [user for user in range(len(events.histories)) if len(events.training(user)) > 1]
        n_targets = sum(min(len(events.training(user)), self.max_len) for user in trained)
        self.size = events.users_a_step(spec["targets_a_step"], n_targets)
        n_items = len(events.item_ids)
        self.schema = TensorSchema(
            [
                TensorFeatureInfo(
                    name="item_id", is_seq=True, cardinality=n_items, padding_value=n_items,
                    embedding_dim=settings["embedding_dim"], feature_type=FeatureType.CATEGORICAL,
                    feature_hint=FeatureHint.ITEM_ID,
                    feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
                )
            ]
        )  # fmt: skip
        model = SasRec.from_params(schema=self.schema, **settings)
        self.module = LightningModule(model, optimizer_factory=OptimizerFactory(learning_rate=self.lr))
        self.folder = Path(tempfile.mkdtemp(dir=spec["folder"]))
        self.data = self._data("train", trained, self.max_len + 1)
        self.stopwatch = stopwatch(Callback, lambda batch: int(batch["target_padding_mask"].sum()))
        self.facts = {
            **events.facts(), "train_targets": n_targets, "torch": torch.__version__,
            "steps_per_epoch": -(-len(trained) // self.size), "users_a_step": self.size,
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        }  # fmt: skip

    def _data(self, stage, users, length):
        """Return the training histories of some users as RePlay's loader reads them."""
        file = self.folder / f"{stage}.parquet"
        histories = [self.events.training(user)[-length:] for user in users]
        pd.DataFrame({"user_id": list(users), "item_id": histories}).to_parquet(file)
        shapes = {"user_id": {}, "item_id": {"shape": length, "padding": len(self.events.item_ids)}}
        return ParquetModule(
            batch_size=self.size if stage == "train" else RANKED_AT_ONCE, metadata={stage: shapes},
            transforms={stage: make_default_sasrec_transforms(self.schema)[stage]}, **{f"{stage}_path": str(file)},
        )  # fmt: skip

    def _trainer(self, callback, **settings):
        return Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[callback], **settings,
        )  # fmt: skip

    def train(self, steps, seconds):
        watch = self.stopwatch(steps, seconds)
        self._trainer(watch, max_epochs=-1, limit_val_batches=0).fit(self.module, datamodule=self.data)
        return watch.answer()

    def _best(self, users):
        """Return a row per user and item of the list: user_id, item_id, rating."""
        top = PandasTopItemsCallback(top_k=K, query_column="user_id", item_column="item_id")
        data = self._data("predict", users, self.max_len)
        self._trainer(top, inference_mode=True).predict(
            self.module, datamodule=data, return_predictions=False
        )
        return top.get_result()

    def rank(self, users):
        chosen = self.events.evaluated(users)
        clock = Clock()
        targets = pd.DataFrame(
            {"user_id": chosen, "item_id": [self.events.histories[user][-2] for user in chosen]}
        )
        values = OfflineMetrics(METRICS, query_column="user_id")(self._best(chosen), targets)
        return {
            **clock.read(),
            "users": len(chosen),
            "metrics": {name: float(value) for name, value in values.items()},
        }

    def lists(self, file):
        best = self._best(range(len(self.events.histories)))
        columns = zip(best["user_id"], best["item_id"], best["rating"], strict=True)
        write_lists(
            file,
            (
                (self.events.user_ids[user], self.events.item_ids[item], float(score))
                for user, item, score in columns
            ),
        )
        return {"users": int(best["user_id"].nunique())}


if __name__ == "__main__":
    serve(Contestant)
