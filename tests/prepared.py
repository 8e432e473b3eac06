"""A small prepared data set on disk, and `mmbench` run on it as a real process.

120 users, 60 items, 3 to 14 events each. Item i is usually followed by i + 7 (mod 60), so that a sequential
model can learn something in a few epochs; about one event in six shares its time with the one before; histories
hold repeats; items are in 1 to 2 of 6 categories, some in none; text and image features miss for some items.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmbench import sealed
from mmbench.data.manifest import Facts
from mmbench.data.protocol import Protocol
from mmbench.data.statistics import coverage, describe
from mmbench.data.store import Content, Prepared, write_prepared
from mmbench.features.manifest import MadeBy
from mmbench.features.store import write_features
from tests.forkserver import needs_own_interpreter, server

ROOT = Path(__file__).resolve().parents[1]
N_USERS, N_ITEMS = 120, 60
START = 1_400_000_000
PROTOCOL = Protocol(
    name="toy", duplicates="keep", min_user=3, min_item=1, item_counts="events", iterate=False, require=(),
    ties="file", split="leave-one-out", valid_share=0.0, test_share=0.0, max_len=10, mask_seen="none",
    selection_metric="NDCG@10", patience=3,
)  # fmt: skip


def random_histories(
    *, n_users: int = N_USERS, n_items: int = N_ITEMS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """items 1..n_items, times and offsets of users with 3 to 14 events."""
    rng = np.random.default_rng(seed)
    lengths = 3 + np.arange(n_users) % 12
    items, times = [], []
    for length in lengths:
        item, now = int(rng.integers(n_items)), START + int(rng.integers(0, 10_000_000))
        for _ in range(length):
            items.append(item + 1)
            times.append(now)
            item = (item + 7) % n_items if rng.random() < 0.8 else int(rng.integers(n_items))
            now += int(rng.integers(1, 500_000)) * int(rng.random() > 1 / 6)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return np.array(items), np.array(times), offsets


def write_data_set(
    data_dir: Path,
    name: str,
    histories: tuple[np.ndarray, np.ndarray, np.ndarray],
    records: Sequence[dict[str, Any]],
    *,
    protocol: Protocol = PROTOCOL,
    owned: Sequence[Sequence[int]] | None = None,
    n_categories: int = 0,
    user_ids: Sequence[str] | None = None,
    **facts: Any,
) -> Prepared:
    """Write a data set with the statistics that `prepare` would have counted.

    owned  categories of each item, numbers below n_categories
    facts  further fields of the manifest
    """
    items, times, offsets = histories
    owned = [[] for _ in records] if owned is None else owned
    full = [{"title": "", "brand": "", "categories": [], "text": "", "image": None, **one} for one in records]
    members = frozenset(str(one["image"]) for one in full if one["image"])
    statistics = describe(
        items=items, times=times, offsets=offsets, n_items=len(records), protocol=protocol,
        coverage=coverage(full, members),
    )  # fmt: skip
    known = {"dataset": name.split("@")[0], "title": name.title(), "synthetic": True, "created": 1.0, **facts}
    content = Content(
        items=items,
        times=times,
        offsets=offsets,
        item_records=full,
        user_ids=[f"u{u:05}" for u in range(len(offsets) - 1)] if user_ids is None else user_ids,
        category_names=[f"category {c}" for c in range(n_categories)],
        category_ids=np.array([c for one in owned for c in one]),
        category_offsets=np.concatenate([[0], np.cumsum([len(one) for one in owned])]),
    )
    return write_prepared(
        data_dir, Facts(name=name, protocol=protocol, statistics=statistics, **known), content
    )


def write_toy(
    data_dir: Path,
    name: str = "toy",
    *,
    features: bool = True,
    n_items: int = N_ITEMS,
    histories: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    created: float = 1.0,
    seed: int = 0,
    **protocol: Any,
) -> Prepared:
    """Write the data set `name`; keywords change its protocol."""
    prepared = write_data_set(
        data_dir,
        name,
        histories or random_histories(n_items=n_items, seed=seed),
        [{"id": f"i{i:05}", "title": f"thing {i}", "text": f"thing {i}"} for i in range(n_items)],
        protocol=replace(PROTOCOL, **protocol),
        owned=[[] if i % 10 == 3 else sorted({i % 6, (i * i) % 6}) for i in range(n_items)],
        n_categories=6,
        created=created,
    )
    if features:
        for modality, dim in (("text", 12), ("image", 8)):
            add_features(prepared, modality, "toy", dim=dim)
    return prepared


MADE = MadeBy(identity={"name": "test"})  # of nothing that the data set holds, as imported features are


def add_features(prepared: Prepared, modality: str, encoder: str, *, dim: int = 8, seed: int = 0) -> None:
    """Store random features of which one in ten is absent."""
    rng = np.random.default_rng(seed + dim)
    values = rng.normal(size=(prepared.n_items + 1, dim)).astype(np.float32)
    present = rng.random(prepared.n_items + 1) > 0.1
    write_features(prepared, modality, encoder, values, present, MadeBy(identity={"dim": dim, "seed": seed}))


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.strip()]


def environment(
    *, data: Path | None = None, results: Path | None = None, env: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The caller's environment without its mmbench settings, one thread, plain output."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("MMBENCH_")
        or key == "MMBENCH_PRIVATE_HOSTS"  # the servers of tests are on loopback
    }
    kept |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "COLUMNS": "120",
    }
    if data is not None:
        kept["MMBENCH_DATA"] = str(data)
    if results is not None:
        kept["MMBENCH_RESULTS"] = str(results)
    return kept | dict(env or {})


def start(
    *args: str | Path,
    data: Path | None = None,
    results: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[str]:
    """`python -m mmbench ...` as a process of its own group."""
    return subprocess.Popen(
        [sys.executable, "-m", "mmbench", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        env=environment(data=data, results=results, env=env), cwd=cwd or data or ROOT, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], *, timeout: float = 120) -> Outcome:
    """Wait for the end; a process that hangs is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_group(process)
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    return Outcome(process.returncode, out, err)


def kill_group(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that `start` made and to its workers."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # it ended by itself


def cli(
    *args: str | Path,
    data: Path | None = None,
    results: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> Outcome:
    """Run `python -m mmbench ...` to its end, in a forked process where that makes no difference."""
    texts = [str(arg) for arg in args]
    if needs_own_interpreter(texts, env or {}):
        return finish(start(*args, data=data, results=results, env=env, cwd=cwd), timeout=timeout)
    full = environment(data=data, results=results, env=env)
    return Outcome(*server(full, ROOT).run(texts, env=full, cwd=cwd or data or ROOT, timeout=timeout))


def wait_for(condition: Any, *, seconds: float = 60, every: float = 0.01) -> None:
    """Return when `condition()` is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(every)


def cells(results: Path) -> list[Path]:
    """Folders of all cells that hold a record."""
    return sorted(file.parent for file in results.glob("*/*/*/seed_*/run.json"))


def rankings_of(cell: Path) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each stored ranking of a cell, by file."""
    return {
        file.name: sealed.read_arrays(file, advice="")[0]
        for file in sorted((cell / "rankings").glob("*.npz"))
    }


def same_counts(first: Path, second: Path) -> bool:
    """Whether two cells' rankings hold the same counts."""
    return _same_arrays(
        first, second, lambda name: "_" not in name or name.split("_")[0] in ("greater", "equal")
    )


def _same_arrays(first: Path, second: Path, is_compared: Callable[[str], bool]) -> bool:
    a, b = rankings_of(first), rankings_of(second)
    return bool(a) and a.keys() == b.keys() and all(
        a[file].keys() == b[file].keys()
        and all(np.array_equal(values, b[file][name]) for name, values in a[file].items() if is_compared(name))
        for file in a
    )  # fmt: skip


def same_ranks(first: Path, second: Path) -> bool:
    """Whether rankings hold the same counts and lists, and best weights the same bytes of each tensor."""
    return _same_arrays(first, second, lambda name: True) and same_weights(
        first / "best.safetensors", second / "best.safetensors"
    )


def same_weights(first: Path, second: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    if not first.is_file() and not second.is_file():
        return True
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


SMALL: Sequence[str] = ("--set", "hidden_dim=16", "--set", "inner_dim=16", "--set", "batch_size=64")
