"""Test targets are unreachable for whatever trains or chooses.

Each user's test target is an item, with a time, that occurs nowhere else and whose number no array of counts
or offsets can reach by chance. While the trainer of a real run is at work, every array that can be reached from
it - attributes, containers, closures of its callbacks, buffers of the model - is searched for them.
"""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmbench.data.store import Prepared
from mmbench.runs import execute
from mmbench.runs.plan import make_cell
from mmbench.settings.config import Layer, Origin
from mmbench.training.progress import Progress
from mmbench.training.trainer import Trainer
from tests.prepared import START, write_toy

N_USERS, N_ITEMS, FIRST_SECRET, SECRET_TIME = 30, 1200, 1000, 2_000_000_000


def write_sealed(folder: Path) -> Prepared:
    """30 users with 5 events among items 1..40; user u's sixth event, the test target, is item 1000 + u."""
    rng = np.random.default_rng(0)
    items = rng.integers(1, 41, (N_USERS, 6))
    times = START + np.cumsum(rng.integers(1, 10_000, (N_USERS, 6)), axis=1)
    items[:, 5] = FIRST_SECRET + np.arange(N_USERS)
    times[:, 5] = SECRET_TIME + np.arange(N_USERS)
    histories = items.ravel(), times.ravel(), np.arange(N_USERS + 1) * 6
    return write_toy(folder, "sealed", n_items=N_ITEMS, histories=histories)


def reachable(root: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of integers below an object, with the path to it. Modules and classes are not entered."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("trainer", root)]
    while waiting:
        path, thing = waiting.pop()
        if (
            id(thing) in seen
            or thing is None
            or isinstance(thing, (str, bytes, int, float, type, types.ModuleType))
        ):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            yield path, thing.detach().cpu().numpy()
            waiting += [(f"{path}.grad", thing.grad)]
        elif isinstance(thing, np.ndarray):
            yield path, np.asarray(thing)
            waiting.append((f"{path}.base", thing.base))
        elif isinstance(thing, dict):
            waiting += [(f"{path}[{key!r}]", value) for key, value in thing.items()]
        elif isinstance(thing, (list, tuple, set, frozenset)):
            waiting += [(f"{path}[{k}]", value) for k, value in enumerate(thing)]
        elif isinstance(thing, types.FunctionType):
            cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
            waiting += [(f"{path}<{name}>", cell.cell_contents) for name, cell in cells]
            waiting += [(f"{path}.defaults", thing.__defaults__), (f"{path}.keywords", thing.__kwdefaults__)]
        elif isinstance(thing, types.MethodType):
            waiting += [(f"{path}.self", thing.__self__), (f"{path}.func", thing.__func__)]
        else:
            waiting += [(f"{path}.{name}", value) for name, value in getattr(thing, "__dict__", {}).items()]
            for slot in getattr(type(thing), "__slots__", ()):
                waiting.append((f"{path}.{slot}", getattr(thing, slot, None)))


def leaks(root: Any) -> tuple[list[str], int]:
    """Paths of arrays with a secret item or time, and how many arrays were searched."""
    actual, searched = [], 0
    for path, array in reachable(root):
        searched += 1
        if not np.issubdtype(array.dtype, np.integer):
            continue
        is_secret = (array >= FIRST_SECRET) & (array < FIRST_SECRET + N_USERS)
        is_secret |= (array >= SECRET_TIME) & (array < SECRET_TIME + N_USERS)
        if is_secret.any():
            actual.append(path)
    return actual, searched


def run_watched(
    prepared: Prepared, folder: Path, model: str, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[list[str], int]:
    """Run a cell; search the trainer when its training is over and all of its state is there."""
    result: list[tuple[list[str], int]] = []

    class Watched(Trainer):
        def fit(self) -> Progress:
            progress = super().fit()
            result.append(leaks(self))
            return progress

    monkeypatch.setattr(execute, "Trainer", Watched)
    cell = make_cell(
        results_dir=folder, prepared=prepared, model=model, seed=1,
        overrides=[Layer(Origin.user, {"max_epochs": 1, **settings})],
    )  # fmt: skip
    record = execute.run_cell(cell, device="cpu", debug=True)
    assert record.ranks("test").n_candidates == N_ITEMS
    return result[0]


@pytest.mark.parametrize("model", ["sasrec", "bert4rec", "bpr-mf", "hm4sr"])
def test_no_test_target_is_reachable_from_the_trainer(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = write_sealed(tmp_path)
    actual, searched = run_watched(prepared, tmp_path / "results", model, monkeypatch)
    assert actual == []
    assert searched > 20


def test_the_search_does_find_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`validation = "test-item"`, a released slip that is offered as a switch, leaks by its purpose."""
    prepared = write_sealed(tmp_path)
    actual, _ = run_watched(
        prepared, tmp_path / "results", "sasrec", monkeypatch, validation="test-item", hidden_dim=8, n_heads=1
    )
    assert "trainer.validate<targets>.target" in actual


def test_runs_selected_on_the_test_item_are_marked(tmp_path: Path) -> None:
    prepared = write_sealed(tmp_path)
    for value, marked in (("valid", False), ("test-item", True)):
        cell = make_cell(
            results_dir=tmp_path, prepared=prepared, model="sasrec", seed=1,
            overrides=[Layer(Origin.user, {"max_epochs": 1, "hidden_dim": 8, "validation": value})],
        )  # fmt: skip
        assert execute.run_cell(cell, device="cpu", debug=True).leaky is marked
