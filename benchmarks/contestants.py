"""Who is measured beside mmbench, with which settings, and how their processes are started (see peers.py)."""

import argparse
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_worker import hash_pairs
from benchmarks.turns import Worker
from mmbench.data.split import make_split
from mmbench.data.store import Prepared
from mmbench.data.views import target_view

HERE = Path(__file__).resolve().parent
# The settings of prepare_process() as glibc reads them from the environment.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
MAX_LEN = 50
OURS = "mmbench"
MMBENCH: dict[str, dict[str, Any]] = {
    "sasrec": {"n_layers": 2, "n_heads": 2, "hidden_dim": 64, "inner_dim": 256},
    "gru4rec": {"emb_dim": 64, "hidden_dim": 128, "n_layers": 1},
    "bert4rec": {"n_layers": 2, "n_heads": 2, "hidden_dim": 64, "inner_dim": 256, "mask_ratio": 0.2,
                 "batch_unit": "rows"},
}  # fmt: skip
TITLES = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "bert4rec": "BERT4Rec"}


@dataclass(frozen=True)
class Contestant:
    """A peer as it is measured.

    title        how tables call it
    environment  variables of its process
    is_fixed     whether its defects are removed
    course_of    the title of a contestant that computes the same numbers in another time; "" without
    """

    title: str
    environment: Mapping[str, str] = field(default_factory=dict)
    is_fixed: bool = False
    course_of: str = ""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another program.

    version      as tables name it
    worker       the file that its own Python runs
    settings     of each model that it has, in its words; what both sides leave out are defaults that agree
    lr           its name for the learning rate
    contestants  as what it takes part
    is_whole     whether it trains on every target of every history, as mmbench does
    differences  in which it differs from mmbench, for the page
    """

    version: str
    worker: Path
    settings: Mapping[str, Mapping[str, Any]]
    lr: str
    contestants: tuple[Contestant, ...]
    is_whole: bool
    differences: str


_FIXED = "RecBole, defects removed"
_RECBOLE = {
    "n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256, "loss_type": "CE",
    "MAX_ITEM_LIST_LENGTH": MAX_LEN,
}  # fmt: skip
_RECTOOLS = {
    "n_blocks": 2, "n_heads": 2, "n_factors": 64, "loss": "softmax", "session_max_len": MAX_LEN,
}  # fmt: skip
PEERS: dict[str, Peer] = {
    "recbole": Peer(
        version="RecBole 1.2.1", worker=HERE / "peer_recbole.py", lr="learning_rate", is_whole=True,
        settings={
            "sasrec": _RECBOLE,
            "gru4rec": {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "loss_type": "CE",
                        "MAX_ITEM_LIST_LENGTH": MAX_LEN},
            "bert4rec": {**_RECBOLE, "mask_ratio": 0.2},
        },
        contestants=(Contestant("RecBole as shipped", course_of=_FIXED),
                     Contestant(_FIXED, ALLOCATOR, is_fixed=True)),
        differences="RecBole trains on every prefix of a history as a sample of its own",
    ),
    "rectools": Peer(
        version="RecTools 0.17.0", worker=HERE / "peer_rectools.py", lr="lr", is_whole=False,
        settings={
            "sasrec": {**_RECTOOLS, "dropout_rate": 0.5},
            "bert4rec": {**_RECTOOLS, "dropout_rate": 0.2, "mask_prob": 0.2},
        },
        contestants=(Contestant("RecTools"),),
        differences="RecTools trains on the last 50 targets of a history in one pass, fills steps by users, and its "
        "SASRec has inner width 64",
    ),
    "replay": Peer(
        version="RePlay 0.22.0", worker=HERE / "peer_replay.py", lr="lr", is_whole=False,
        settings={
            "sasrec": {"num_blocks": 2, "num_heads": 2, "embedding_dim": 64, "hidden_dim": 256, "dropout": 0.5,
                       "max_sequence_length": MAX_LEN},
        },
        contestants=(Contestant("RePlay"),),
        differences="RePlay does as RecTools does, predicts the first item of short histories, too, and has no "
        "BERT4Rec in its current interface",
    ),
}  # fmt: skip


def start_all(
    model: str,
    prepared: Prepared,
    exported: Path,
    wanted: argparse.Namespace,
    stack: ExitStack,
    *,
    with_same_course: bool = True,
) -> dict[str, Worker]:
    """Start the contestants that have a model, mmbench last, and check that all read the same data.

    exported          the folder of the data set as RecBole reads it; `wanted.python` has the interpreters by peer
    with_same_course  also those that compute the same numbers as another
    """
    workers = {}
    for name, python in wanted.python.items():
        peer = PEERS[name]
        for contestant in peer.contestants if model in peer.settings else ():
            if contestant.course_of and not with_same_course:
                continue
            spec = _spec(peer, model, contestant, exported, wanted)
            worker = Worker([python, peer.worker], spec, cwd=exported.parent, env=contestant.environment)
            workers[contestant.title] = stack.enter_context(worker)
            check_same_data(peer, prepared, worker.facts, wanted.batch)
    workers[OURS] = stack.enter_context(start_mmbench(model, prepared, wanted))
    return workers


def _spec(
    peer: Peer, model: str, contestant: Contestant, exported: Path, wanted: argparse.Namespace
) -> dict[str, Any]:
    return {
        "model": TITLES[model], "dataset": exported.name, "folder": str(exported.parent),
        "events": str(exported / f"{exported.name}.inter"), "fixed": contestant.is_fixed, "threads": wanted.threads,
        "targets_a_step": wanted.batch, "settings": {**peer.settings[model], peer.lr: wanted.lr},
    }  # fmt: skip


def start_mmbench(model: str, prepared: Prepared, wanted: argparse.Namespace) -> Worker:
    spec = {
        "model": model, "path": str(prepared.path.resolve()), "threads": wanted.threads,
        "settings": {**MMBENCH[model], "max_len": MAX_LEN, "batch_size": wanted.batch, "lr": wanted.lr},
    }  # fmt: skip
    return Worker([sys.executable, HERE / "worker.py"], spec, cwd=prepared.path, env={})


def check_same_data(peer: Peer, prepared: Prepared, facts: Mapping[str, Any], targets_a_step: int) -> None:
    """Stop unless a peer sees the same users, items and validation targets.

    A peer that trains on all targets must have as many as mmbench, and as many a step as it was told.
    """
    split = make_split(prepared.protocol, np.asarray(prepared.times), np.asarray(prepared.offsets))
    view = target_view(prepared, split, "valid")
    names = [record["id"] for record in prepared.item_records]
    pairs = (
        f"{prepared.user_ids[user]} {names[item - 1]}"
        for user, item in zip(view.user.tolist(), view.target.tolist(), strict=True)
    )
    known = {
        "users": prepared.n_users, "items": prepared.n_items, "eval_users": len(view), "eval_pairs": hash_pairs(pairs),
    }  # fmt: skip
    if peer.is_whole:
        known["train_targets"] = int(np.maximum(split.train_len - 1, 0).sum())
        known["steps_per_epoch"] = -(-known["train_targets"] // targets_a_step)
    for name, value in known.items():
        if facts[name] != value:
            raise SystemExit(
                f"{peer.version} is not comparable: {name} is {facts[name]}, mmbench has {value}; nothing is measured"
            )
