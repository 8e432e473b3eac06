"""RecTools as a contestant: trains and ranks when told to (see turns.py). Not called by hand; peers.py runs it with
the Python of RecTools' own environment.

What happens is what `SASRecModel.fit` does: its data preparator, its Lightning module, a Lightning trainer without
logging and checkpoints, stopped after the steps that are asked for; `recommend` and `calc_metrics` rank. A step has so
many users that it has the wanted number of targets on average, because RecTools counts users. Of a history it trains
on the last `max_len` targets only. The feed-forward layers of its SASRec are as wide as the model, without a choice.
"""

import logging
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from peer_worker import RANKED_AT_ONCE, Clock, Events, K, serve, stopwatch, write_lists  # noqa: E402
from pytorch_lightning import Callback, Trainer, seed_everything  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.metrics import MRR, NDCG, HitRate, calc_metrics  # noqa: E402
from rectools.models import BERT4RecModel, SASRecModel  # noqa: E402

MODELS = {"SASRec": SASRecModel, "BERT4Rec": BERT4RecModel}
METRICS = {
    f"{name}@{k}": metric(k=k)
    for name, metric in (("NDCG", NDCG), ("MRR", MRR), ("HR", HitRate))
    for k in (5, 10)
}


def frame(events, part):
    """Return events as RecTools reads them; `part` gives the items of a user number."""
    rows = [
        (user, item, 1.0, place)
        for user in range(len(events.histories))
        for place, item in enumerate(part(user))
    ]
    table = pd.DataFrame(rows, columns=[Columns.User, Columns.Item, Columns.Weight, Columns.Datetime])
    table[Columns.Datetime] = pd.to_datetime(table[Columns.Datetime], unit="s")
    return table


class Contestant:
    def __init__(self, spec):
        torch.set_num_threads(spec["threads"])
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        seed_everything(1)
        self.events = events = Events(spec["events"])
        max_len = spec["settings"]["session_max_len"]
        n_targets = sum(min(max(len(history) - 3, 0), max_len) for history in events.histories)
        size = events.users_a_step(spec["targets_a_step"], n_targets)
        self.model = model = MODELS[spec["model"]](
            **spec["settings"],
            batch_size=size,
            recommend_batch_size=RANKED_AT_ONCE,
            recommend_torch_device="cpu",
        )
        self.data = Dataset.construct(frame(events, events.training))
        model._build_model_from_dataset(self.data)
        self.loader = model.data_preparator.get_dataloader_train()
        model.is_fitted = True  # `recommend` asks; `_fit` would build and train at once
        self.stopwatch = stopwatch(Callback, lambda batch: int((batch["y"] != 0).sum()))
        self.facts = {
            **events.facts(), "train_targets": n_targets, "torch": torch.__version__,
            "steps_per_epoch": len(self.loader), "users_a_step": size,
            "parameters": sum(p.numel() for p in model.torch_model.parameters() if p.requires_grad),
        }  # fmt: skip

    def train(self, steps, seconds):
        watch = self.stopwatch(steps, seconds)
        trainer = Trainer(
            max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[watch],
        )  # fmt: skip
        trainer.fit(self.model.lightning_model, self.loader)
        return watch.answer()

    def _recommend(self, users):
        return self.model.recommend(users=users, dataset=self.data, k=K, filter_viewed=False)

    def rank(self, users):
        chosen = self.events.evaluated(users)
        clock = Clock()
        targets = pd.DataFrame(
            {Columns.User: chosen, Columns.Item: [self.events.histories[user][-2] for user in chosen]}
        )
        values = calc_metrics(METRICS, self._recommend(chosen), targets)
        return {
            **clock.read(),
            "users": len(chosen),
            "metrics": {name: float(value) for name, value in values.items()},
        }

    def lists(self, file):
        best = self._recommend(list(range(len(self.events.histories))))
        columns = zip(best[Columns.User], best[Columns.Item], best[Columns.Score], strict=True)
        write_lists(
            file,
            (
                (self.events.user_ids[user], self.events.item_ids[item], score)
                for user, item, score in columns
            ),
        )
        return {"users": int(best[Columns.User].nunique())}


if __name__ == "__main__":
    serve(Contestant)
