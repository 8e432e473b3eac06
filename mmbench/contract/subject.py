"""A model under test: how it is built, and the small data that the checks give it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.contract.toy import DAY, START, catalog_of, history_batch, toy_catalog, toy_view
from mmbench.data.loaded import load_data
from mmbench.data.store import Prepared
from mmbench.data.views import TrainView
from mmbench.models import registry
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.runs.build import cell_catalog
from mmbench.runs.plan import make_cell

SMALL = {"hidden_dim": 12, "emb_dim": 12, "inner_dim": 16, "n_heads": 2}
HISTORIES = ((4,), (1, 2, 3), (9, 8, 7, 6, 5, 4, 3), (30, 29), (5, 5, 5, 1))
TIMES = tuple(tuple(START + 3 * DAY * k + 40 * k * k for k in range(len(history))) for history in HISTORIES)
N_USERS = 20  # of a data set; the checks need few


def seed_cpu(seed: int) -> None:
    """Seed torch's default generator; `torch.manual_seed` also notes for a GPU who asked, which takes longer."""
    torch.default_generator.manual_seed(seed)


@dataclass(frozen=True)
class Subject:
    """A registered model, or a variant of it, and the data of its checks.

    histories, times  what it is ranked after; items of the catalogue
    settings          of its own that differ from its recipe's
    is_small          it is built with few dimensions (SMALL), where it has settings of these names
    """

    name: str
    catalog: Catalog
    view: TrainView
    histories: Sequence[Sequence[int]] = HISTORIES
    times: Sequence[Sequence[int]] = TIMES
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_small: bool = True

    @cached_property
    def entry(self) -> registry.ModelEntry:
        return registry.find(self.name)

    @property
    def trainable(self) -> bool:
        return self.entry.load().trainable

    @property
    def deterministic(self) -> bool:
        return self.entry.load().deterministic

    def small(self, *, dropout: bool = True) -> dict[str, Any]:
        """Return settings that make the model tiny, and its losses without noise when `dropout` is False."""
        names = {parameter.name for parameter in fields(self.entry.config_class())}
        chosen = {key: value for key, value in SMALL.items() if key in names and self.is_small}
        without: dict[str, Any] = {} if dropout else {key: 0.0 for key in names if key.endswith("dropout")}
        return {**chosen, **without, **self.settings}

    def config(self, *, dropout: bool = True, **settings: Any) -> Any:
        """Return the configuration of a small model, with some of its settings replaced."""
        if settings:
            return self.entry.config("toy", **(self.small(dropout=dropout) | settings))
        return self._configs[dropout]

    @cached_property
    def _configs(self) -> dict[bool, Any]:
        """Return the configuration with dropout, and without."""
        return {with_it: self.entry.config("toy", **self.small(dropout=with_it)) for with_it in (True, False)}

    def make(
        self, *, seed: int = 0, catalog: Catalog | None = None, dropout: bool = True, **settings: Any
    ) -> Recommender[Any]:
        """Return a new model; the same seed gives the same weights."""
        config = self.config(dropout=dropout, **settings)
        seed_cpu(seed)
        return self.entry.load()(config, self.catalog if catalog is None else catalog)

    @cached_property
    def example(self) -> Recommender[Any]:
        """Return a model to ask what it declares; nobody trains or changes it."""
        return self.make()

    @cached_property
    def known(self) -> dict[str, Any]:
        """Hold what several checks compute of this very subject."""
        return {}

    @property
    def needs(self) -> Needs:
        return self.example.needs

    def scores(self, model: Recommender[Any]) -> Tensor:
        """Return the scores of all items after each history, without gradients or dropout, [H, N]."""
        model.eval()
        with torch.no_grad():
            return model.score(history_batch(model, self.histories, times=self.times))

    def moved(self, seconds: int) -> "Subject":
        """Return the subject with all its events so many seconds later."""
        view = replace(self.view, times=self.view.times + seconds)
        catalog = replace(self.catalog, train_times=self.catalog.train_times + seconds)
        times = [[time + seconds for time in row] for row in self.times]
        return replace(self, view=view, catalog=catalog, times=times)


def of_toy(name: str, **settings: Any) -> Subject:
    """Return a model on the toy data set, with settings of its own in place of its recipe's."""
    return Subject(name, toy_catalog(), toy_view(), settings=settings)


def of_data_set(name: str, prepared: Prepared) -> Subject:
    """Return a model on the catalogue and features of a data set, and on the training events of a few of its users."""
    data = load_data(prepared.path, prepared.hash)
    with TemporaryDirectory() as folder:
        cell = make_cell(results_dir=Path(folder), prepared=prepared, model=name, seed=1, overrides=[])
        whole = cell_catalog(cell, data)
    n_users = min(N_USERS, prepared.n_users)
    end = int(data.train.offsets[n_users])
    view = TrainView(data.train.items[:end], data.train.times[:end], data.train.offsets[: n_users + 1])
    catalog = replace(
        whole, n_users=n_users, train_items=torch.from_numpy(view.items), train_times=torch.from_numpy(view.times),
        train_offsets=torch.from_numpy(view.offsets),
    )  # fmt: skip
    spans = [(int(start), k % 7 + 1) for k, start in enumerate(view.offsets[:-1][:5])]
    lasts = [min(start + length, int(view.offsets[k + 1])) for k, (start, length) in enumerate(spans)]
    cuts = [slice(start, last) for (start, _), last in zip(spans, lasts, strict=True)]
    return Subject(
        name, catalog, view,
        histories=[view.items[cut].tolist() for cut in cuts], times=[view.times[cut].tolist() for cut in cuts],
        is_small=False,
    )  # fmt: skip


def by_heart(subject: Subject, histories: np.ndarray, times: np.ndarray) -> tuple[TrainView, Catalog]:
    """Return histories [U, L] over items 1..U*L as training events, and a catalogue with toy features."""
    n_users, length = histories.shape
    view = TrainView(histories.ravel(), times.ravel(), np.arange(n_users + 1) * length)
    return view, catalog_of(view, n_items=n_users * length, max_len=subject.catalog.max_len)
