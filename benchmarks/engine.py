"""What each part of the engine buys, as ratios inside one run: python benchmarks/engine.py [--users 22363]

Machines are noisy, so the contestants take turns and the median of the rounds is compared; only the ratios are
worth quoting. Data: generated, of the shape of Amazon Beauty (users, items, mean history length).

steps      SASRec, one optimiser step of 1,024 targets:
             packed        all positions, histories packed into bins of 64 (the default)
             padded        all positions, each history right padded to the longest of the step
             prefix        one sample per prefix, packed
             prefix fixed  one sample per prefix, padded to 50: what most toolkits do
loss       cross entropy over the catalogue: chunked with gradients formed forward, against torch's
dropout    8 random bits per element against torch's
ranking    counting against a full sort, per chunk of users
evidence   ranking a fifth of the users with SASRec: ranks under a single mask rule, under all three, and with lists of
           the twenty best items under two rules, which every run stores

Processor time, so that other jobs matter less.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmbench.data.batcher import Batcher
from mmbench.data.samples import plan_rows, plan_steps
from mmbench.data.views import TargetView
from mmbench.evaluation.ranking import count, rank, rank_fully
from mmbench.models import registry
from mmbench.models.base import Catalog, Recommender
from mmbench.nn.layers import dropout
from mmbench.nn.losses import cross_entropy
from mmbench.runtime import prepare_process

MAX_LEN, ITEMS = 50, 12_101


def compare(title: str, contestants: dict[str, Callable[[], object]], rounds: int) -> None:
    """Run the contestants in turns; print the median of each relative to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for work in contestants.values():
        work()  # warm up
    for _ in range(rounds):
        for name, work in contestants.items():
            began = time.process_time()
            work()
            seconds[name].append(time.process_time() - began)
    first = statistics.median(next(iter(seconds.values())))
    print(title)
    for name, values in seconds.items():
        print(f"  {name:14} {statistics.median(values) / first:7.2f} x")


def make_data(n_users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = 3 + rng.geometric(1 / 5.9, n_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return rng.integers(1, ITEMS + 1, offsets[-1]), np.zeros(offsets[-1], dtype=np.int64), offsets


def sasrec(offsets: np.ndarray) -> Recommender[Any]:
    entry = registry.find("sasrec")
    events = torch.zeros(1, dtype=torch.int64)
    catalog = Catalog(
        n_items=ITEMS,
        n_users=len(offsets) - 1,
        max_len=MAX_LEN,
        train_items=events,
        train_times=events,
        train_offsets=torch.from_numpy(offsets).clamp(max=1),
    )
    return entry.load()(entry.config(), catalog)


def step_of(
    samples: str, layout: Any, data: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Callable[[], object]:
    """One SASRec step over rows of this kind, laid out like this."""
    items, times, offsets = data
    model = sasrec(offsets)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    rows = plan_rows(offsets, samples, MAX_LEN)
    steps = plan_steps(rows, batch_size=1024, unit="targets", generator=np.random.default_rng(1))
    batcher = Batcher(items, times, layout=layout, max_len=MAX_LEN)
    number = iter(range(10**9))

    def work() -> None:
        batch = batcher.training(steps[next(number) % len(steps)])
        optimizer.zero_grad(set_to_none=True)
        sum(model.loss(batch).values()).backward()
        optimizer.step()

    return work


def loss_of(own: bool) -> Callable[[], object]:
    query, table = torch.randn(1024, 64, requires_grad=True), torch.randn(ITEMS, 64, requires_grad=True)
    target = torch.randint(1, ITEMS + 1, (1024,))

    def work() -> None:
        found = cross_entropy(query, table, target) if own else F.cross_entropy(query @ table.T, target - 1)
        found.backward()

    return work


def dropout_of(own: bool) -> Callable[[], object]:
    x = torch.randn(17, 2, 64, 64, requires_grad=True)
    return lambda: (dropout(x, 0.5, True) if own else F.dropout(x, 0.5)).sum().backward()


def ranking_of(own: bool) -> Callable[[], object]:
    scores, target = torch.randn(346, ITEMS), torch.randint(1, ITEMS + 1, (346,))
    if own:
        return lambda: count(scores, target)
    return lambda: (scores.argsort(1, descending=True) == target[:, None] - 1).nonzero()


def evidence_of(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict[str, Callable[[], object]]:
    items, times, offsets = data
    n = (len(offsets) - 1) // 5
    end = offsets[n]
    ends = offsets[1 : n + 1] - 1  # each user's last event is the target
    inputs = np.ones(end, dtype=bool)
    inputs[ends] = False
    view = TargetView(
        items[:end][inputs], times[:end][inputs], offsets[: n + 1] - np.arange(n + 1), np.arange(n), items[ends],
        np.diff(offsets[: n + 1]) - 2,
    )  # fmt: skip
    model = sasrec(offsets).eval()
    return {
        "one rule": lambda: rank(model, view),
        "three rules": lambda: rank_fully(model, view, name="test"),
        "and lists": lambda: rank_fully(model, view, name="test", lists=20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=22_363)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    prepare_process(given.threads)
    data = make_data(given.users)
    kinds = {"packed": ("all", "packed"), "padded": ("all", "padded"),
             "prefix": ("prefix", "packed"), "prefix fixed": ("prefix", "fixed")}  # fmt: skip
    compare("steps", {name: step_of(*kind, data) for name, kind in kinds.items()}, given.rounds)
    compare("loss", {"ours": loss_of(True), "torch": loss_of(False)}, given.rounds)
    compare("dropout", {"ours": dropout_of(True), "torch": dropout_of(False)}, given.rounds)
    compare("ranking", {"counting": ranking_of(True), "sorting": ranking_of(False)}, given.rounds)
    compare("evidence", evidence_of(data), given.rounds)


if __name__ == "__main__":
    main()
