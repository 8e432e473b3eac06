"""Canaries: targets that cannot be predicted. A model that ranks them above chance has seen them.

The items of the test targets, and those of the validation targets, are exchanged between users at random. The engine
then prepares, trains and ranks as ever. Under the lists of a model that has not seen which user got which item, all
assignments of the items to the users are equally probable, so that the mean and the variance of its hits are known
exactly (Hoeffding 1951, a combinatorial central limit theorem): with a[u, v] = 1 where the item of user v is in the
list of user u, else 0, and d = a with its row and column means taken out,

    E = sum a / U        Var = sum d^2 / (U - 1)

Popularity is in E, since popular items are in more lists and are more often a target.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mmbench.choices import SPLITS, SplitName
from mmbench.contract.data_set import add_features, write_data_set, write_toy
from mmbench.contract.report import Finding, Status, text_of
from mmbench.contract.toy import N_STATES
from mmbench.data.split import make_split
from mmbench.data.store import Prepared
from mmbench.evaluation.ranking import rank_fully
from mmbench.models import registry
from mmbench.runs.execute import run_cell
from mmbench.runs.plan import make_cell
from mmbench.runs.rerank import reopen
from mmbench.settings.config import Layer, Origin

LIST_LENGTH = 10
EPOCHS = 3
FAR = 4.0  # standard deviations above chance: once in 10,000 models that are honest
SMALL = {"hidden_dim": 12, "inner_dim": 16, "emb_dim": 12, "n_heads": 2}
FAST = {"lr": 0.01, "batch_size": 128, "max_epochs": EPOCHS, "eval_every": EPOCHS}


@dataclass(frozen=True)
class Canary:
    """How many planted targets of a split are in the lists of their users, and what chance gives."""

    split: SplitName
    hits: int
    expected: float
    deviation: float

    @property
    def z(self) -> float:
        """Return by how many deviations the hits are above chance."""
        if self.deviation > 0:
            return (self.hits - self.expected) / self.deviation
        return 0.0 if abs(self.hits - self.expected) < 1e-9 else float("inf")

    @property
    def sings(self) -> bool:
        """Whether the model has seen the targets."""
        return bool(self.z > FAR)

    def __str__(self) -> str:
        return f"{self.hits} {self.split} targets in the lists, chance gives {self.expected:.1f} ± {self.deviation:.1f}"


def judge(lists: np.ndarray, targets: np.ndarray, *, split: SplitName) -> Canary:
    """Compare the hits of lists int [U, K] on targets [U], both items 1..N (0 = empty), with those of chance."""
    n_users, size = len(targets), int(max(lists.max(initial=0), targets.max(initial=0))) + 1
    times_target = np.bincount(targets, minlength=size)
    times_listed = np.bincount(lists.ravel(), minlength=size)
    times_target[0] = times_listed[0] = 0
    of_list = times_target[lists].sum(1).astype(float)  # row sums of a: targets that each list holds
    of_target = times_listed[targets].astype(float)  # its column sums
    total = of_list.sum()
    spread = total - ((of_list**2).sum() + (of_target**2).sum()) / n_users + (total / n_users) ** 2
    deviation = np.sqrt(max(spread, 0.0) / max(n_users - 1, 1))
    hits = int((lists == targets[:, None]).any(1).sum())
    return Canary(split, hits, total / n_users, float(deviation))


def plant(prepared: Prepared, data_dir: Path, *, seed: int = 0) -> Prepared:
    """Write a copy of a data set whose validation and test items have changed places between users; features stay."""
    rng, items = np.random.default_rng(seed), np.array(prepared.items)
    split = make_split(prepared.protocol, np.asarray(prepared.times), np.asarray(prepared.offsets))
    for position in (split.valid_pos, split.test_pos):
        users = np.flatnonzero(position >= 0)
        events = np.asarray(prepared.offsets)[users] + position[users]
        items[events] = items[rng.permutation(events)]
    offsets = np.asarray(prepared.category_offsets)
    planted = write_data_set(
        data_dir, prepared.name, (items, np.asarray(prepared.times), np.asarray(prepared.offsets)),
        prepared.item_records, protocol=prepared.protocol,
        owned=[prepared.category_ids[start:end].tolist() for start, end in pairwise(offsets)],
        n_categories=len(prepared.category_names), user_ids=prepared.user_ids, has_times=prepared.has_times,
    )  # fmt: skip
    if prepared.features_dir.is_dir() and not planted.features_dir.exists():
        planted.features_dir.symlink_to(prepared.features_dir.resolve(), target_is_directory=True)
    return planted


def write_canaries(data_dir: Path, models: Sequence[str]) -> Prepared:
    """Write the toy data set with planted targets, and with the features per layer that some of the models ask for."""
    toy = write_toy(data_dir / "intact")
    entries = [registry.find(model) for model in models]
    for values in (entry.values("") for entry in entries if entry.load().reads_layers):
        for modality in ("text", "image"):
            add_features(toy, modality, str(values[f"{modality}_encoder"]), dim=12, layers=N_STATES)
    return plant(toy, data_dir)


def sing(model: str, planted: Prepared, results_dir: Path) -> list[Canary]:
    """Train a model as ever on planted data, for a few epochs, and judge its lists on validation and test.

    Nothing is selected by validation: it is looked at once. Errors of the run are raised.
    """
    cell = make_cell(
        results_dir=results_dir, prepared=planted, model=model, seed=1,
        overrides=[Layer(Origin.user, _settings(model))],
    )  # fmt: skip
    record = run_cell(cell, device="cpu", debug=True, lists=0)
    run = reopen(record, data_dir=planted.data_dir, device="cpu")
    canaries = []
    for split in SPLITS:
        view = run.data.targets(split)
        ranking = rank_fully(run.model, view, name=split, lists=LIST_LENGTH)
        canaries.append(judge(ranking.lists["none"].items, view.target, split=split))
    return canaries


def _settings(model: str) -> dict[str, Any]:
    """Return settings of a short training; those of epochs of a model's own stages are short too."""
    entry = registry.find(model)
    stages = {key: 1 for key in entry.own_settings() if key.endswith("epochs")}
    small = {key: value for key, value in SMALL.items() if key in entry.own_settings()}
    return {**small, **stages, **(FAST if entry.load().trainable else {})}


def findings(model: str, prepared: Prepared | None) -> Iterator[Finding]:
    """Yield the canaries' findings about a model, a line per split, by default on the toy data set."""
    with TemporaryDirectory() as folder:
        try:
            root = Path(folder)
            planted = write_canaries(root, [model]) if prepared is None else plant(prepared, root)
            canaries = sing(model, planted, root / "results")
        except Exception as error:
            yield Finding(
                model,
                "canary",
                "raises",
                text_of(error),
                "fix the error; `mmbench check` says more",
            )
            return
    for canary in canaries:
        status: Status = "broken" if canary.sings else "holds"
        advice = f"find where the model reads {canary.split} targets: a file, a global, a view" * canary.sings
        yield Finding(model, f"canary {canary.split}", status, str(canary), advice)
