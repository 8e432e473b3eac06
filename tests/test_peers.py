"""Peers beside mmbench: a fake one through every command, time to the same quality, real ones where they are named."""

import argparse
import math
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import contestants, worker
from benchmarks.contestants import PEERS, Contestant, Peer, check_same_data, start_all
from benchmarks.generated import histories, with_successors, write
from benchmarks.peers import _same_course, interpreters, lines, measure
from benchmarks.quality import PATIENCE, Course, Epoch, Scorer, courses
from benchmarks.turns import Worker
from mmbench.data.export import export
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import mean_value
from mmbench.evaluation.ranking import rank
from tests.prepared import ROOT
from tests.test_benchmarks import run

# A peer that learns nothing: its lists have the target first from the epoch on that its settings name.
FAKE = f"""
import sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from peer_worker import Clock, Events, K, serve, write_lists

class Fake:
    def __init__(self, spec):
        self.events, self.epoch, self.knows = Events(spec["events"]), 0, spec["settings"]["knows"]
        targets = sum(max(len(history) - 3, 0) for history in self.events.histories)
        n_steps = -(-targets // spec.get("targets_a_step", 100))
        self.facts = {{**self.events.facts(), "train_targets": targets, "steps_per_epoch": n_steps, "torch": "none"}}

    def train(self, steps, seconds):
        self.epoch += 1
        return {{"seconds": 2.0, "cpu": 1.0, "steps": steps, "targets": 10 * steps, "loss": 1.0}}

    def rank(self, users):
        return {{**Clock().read(), "seconds": 1.0, "cpu": 1.0, "users": len(self.events.evaluated(users))}}

    def lists(self, file):
        rows = []
        for user, history in zip(self.events.user_ids, self.events.histories):
            others = [item for item in range(len(self.events.item_ids)) if item != history[-2]][:K]
            items = [history[-2], *others[1:]] if self.epoch >= self.knows else others
            rows += [(user, self.events.item_ids[item], -place) for place, item in enumerate(items)]
        write_lists(file, rows)
        return {{"users": len(self.events.user_ids)}}

serve(Fake)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write(tmp_path_factory.mktemp("peers"), "generated", histories(40, 25))


@pytest.fixture(scope="module")
def exported(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return export(prepared, folder, form="recbole", times="rank").files[0].parent


def fake_peer(file: Path, *, knows: int) -> Peer:
    file.write_text(FAKE, encoding="utf-8")
    return replace(
        PEERS["rectools"], worker=file, settings={"sasrec": {"knows": knows}}, contestants=(Contestant("Fake"),),
        is_whole=True,
    )  # fmt: skip


def test_a_peer_is_started_measured_and_trained_to_the_goal(
    prepared: Prepared, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = fake_peer(tmp_path / "fake.py", knows=4)
    monkeypatch.setitem(PEERS, "fake", peer)
    ours = fake_peer(tmp_path / "ours.py", knows=2)

    def start_ours(model: str, prepared: Prepared, wanted: argparse.Namespace) -> Worker:
        del prepared, wanted
        spec = {"model": model, "events": str(exported / f"{exported.name}.inter"), "settings": {"knows": 2}}
        return Worker([sys.executable, ours.worker], {**spec, "threads": 1}, cwd=tmp_path, env={})

    monkeypatch.setattr(contestants, "start_mmbench", start_ours)
    wanted = argparse.Namespace(
        python={"fake": Path(sys.executable)}, threads=1, batch=100, lr=0.01, rounds=2, steps=3, seconds=0.0, users=7,
        rank_rounds=1,
    )  # fmt: skip
    with ExitStack() as stack:
        workers = start_all("sasrec", prepared, exported, wanted, stack)
        assert list(workers) == ["Fake", "mmbench"]
        results = measure(workers, wanted)
    assert results["Fake"]["epoch_cpu"] == (1.0, 1.0)  # three steps of an epoch of three took a second
    assert results["Fake"]["ranking_cpu"] == (pytest.approx(40 / 7),)
    with ExitStack() as stack:
        workers = start_all("sasrec", prepared, exported, wanted, stack)
        reached = courses(workers, Scorer(prepared, tmp_path / "lists.tsv"), "mmbench", 50)
    assert (reached["mmbench"].reached, len(reached["mmbench"].epochs)) == (2, 2 + PATIENCE)
    assert (reached["Fake"].reached, reached["Fake"].cpu, reached["Fake"].best) == (4, 4.0, 1.0)
    assert [epoch.value for epoch in reached["Fake"].epochs] == [0.0, 0.0, 0.0, 1.0]
    assert lines("sasrec", results, reached)[0][-3:] == ["1.0000", "4", "4.00 = **2.00 x**"]


@pytest.mark.parametrize("name", ["users", "eval_pairs", "train_targets", "steps_per_epoch"])
def test_a_peer_with_other_data_or_steps_is_refused(prepared: Prepared, exported: Path, name: str) -> None:
    from benchmarks.peer_worker import Events

    events = Events(exported / f"{exported.name}.inter")
    targets = int(np.maximum(np.diff(prepared.offsets) - 3, 0).sum())
    facts: dict[str, Any] = {**events.facts(), "train_targets": targets, "steps_per_epoch": targets // 50 + 1}
    assert targets % 50
    check_same_data(PEERS["recbole"], prepared, facts, 50)
    with pytest.raises(SystemExit, match=f"is not comparable: {name} is other, mmbench has"):
        check_same_data(PEERS["recbole"], prepared, {**facts, name: "other"}, 50)


class Planted:
    """A worker whose lists have the target of every second user at a place."""

    def __init__(self, prepared: Prepared, place: int) -> None:
        self.prepared, self.place = prepared, place

    def ask(self, do: str, *, file: str) -> dict[str, Any]:
        assert do == "lists"
        rows, names = ["user\titem\tscore"], [record["id"] for record in self.prepared.item_records]
        for user, name in enumerate(self.prepared.user_ids):
            history = self.prepared.items[self.prepared.offsets[user] : self.prepared.offsets[user + 1]]
            target = int(history[-2])
            items = [item for item in range(1, 15) if item != target][:10]
            if user % 2 == 0:
                items[self.place - 1] = target
            rows += [f"{name}\t{names[item - 1]}\t{-place}" for place, item in enumerate(items)]
        Path(file).write_text("\n".join(rows) + "\n", encoding="utf-8")
        return {"users": len(self.prepared.user_ids)}


@pytest.mark.parametrize("place", [1, 3, 10])
def test_the_value_of_lists_is_that_of_the_places_of_the_targets(
    prepared: Prepared, tmp_path: Path, place: int
) -> None:
    worker: Any = Planted(prepared, place)
    actual = Scorer(prepared, tmp_path / "lists.tsv").value(worker)
    assert actual == pytest.approx(0.5 / math.log2(place + 1))


def test_the_lists_of_mmbench_have_the_value_of_its_ranks(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "prepare_process", lambda threads: None)
    spec = {"model": "sasrec", "path": str(prepared.path), "threads": 1, "settings": {"hidden_dim": 8}}
    contestant: Any = worker.Contestant(spec, tmp_path)
    contestant.ask = lambda do, **details: getattr(contestant, do)(**details)
    ranks = rank(contestant.trainer.model, contestant.valid)
    actual = Scorer(prepared, tmp_path / "lists.tsv").value(contestant)
    assert actual == pytest.approx(mean_value(ranks, "NDCG@10"), abs=1e-12)


def test_a_contestant_that_computes_the_same_has_the_epochs_of_the_other_in_its_own_time() -> None:
    epochs = (Epoch(1.0, 1.0, 0.1), Epoch(2.0, 2.0, 0.4))
    other = {"epoch": (3.0, 1.0, 2.0), "epoch_cpu": (1.0,)}
    results = {
        "RecBole as shipped": {"epoch": (4.0,), "epoch_cpu": (3.0,)},
        "RecBole, defects removed": other,
    }
    course = _same_course("RecBole as shipped", results, {"RecBole, defects removed": Course(epochs, 2)})
    assert course == Course((Epoch(2.0, 3.0, 0.1), Epoch(4.0, 6.0, 0.4)), 2)


def test_an_item_is_followed_by_its_successor_as_often_as_wanted() -> None:
    made = with_successors(histories(2_000, 50), 0.7)
    first = np.setdiff1d(np.arange(len(made.items)), made.offsets) - 1  # all but the last of each user
    counts = np.zeros((51, 51), int)
    np.add.at(counts, (made.items[first], made.items[first + 1]), 1)
    shares = counts.max(1)[1:] / counts.sum(1)[1:]
    assert len(set(counts.argmax(1)[1:])) == 50  # a successor of its own each
    assert abs(shares.mean() - 0.7) < 0.03


def test_a_contestant_that_stays_below_the_goal_says_after_how_many_epochs() -> None:
    epochs = tuple(Epoch(float(n), float(n), 0.1 * n) for n in (1, 2))
    result: dict[str, Any] = dict.fromkeys(("epoch", "epoch_cpu", "predictions_cpu", "ranking_cpu"), (1.0,))
    result |= {"memory_training": 2**20, "memory": 2**20}
    reached = {"Fake": Course(epochs, 0), "mmbench": Course(epochs, 2)}
    rows = lines("sasrec", {"Fake": result, "mmbench": result}, reached)
    assert rows[0][-3:] == [".2000", "not in 2", "more than 2.00"]
    assert rows[1][-3:] == [".2000", "2", "2.00"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recbole", "write it as --python recbole="),
        ("recbol=python", "did you mean"),
        ("replay=/no/such/python", "there is no such file"),
    ],
)
def test_a_wrong_interpreter_is_one_line(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        interpreters([text])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "variable"),
    [("recbole", "MMBENCH_RECBOLE"), ("rectools", "MMBENCH_RECTOOLS"), ("replay", "MMBENCH_REPLAY")],
)
def test_real_peers_read_the_same_data(tmp_path: Path, name: str, variable: str) -> None:
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no python with {PEERS[name].version}")
    models = list(PEERS[name].settings)
    numbers = run(
        "peers", tmp_path, "--models", *models, "--python", f"{name}={os.environ[variable]}", "--quality"
    )
    titles = [contestant.title for contestant in PEERS[name].contestants]
    for model in models:
        assert list(numbers["results"][model]) == [*titles, "mmbench"]
    of_model = numbers["results"]["sasrec"]
    assert all(len(course["epochs"]) in (1, 2) for course in numbers["courses"]["sasrec"].values())
    if name == "recbole":
        shipped, fixed, ours = (result["facts"] for result in of_model.values())
        assert shipped["anomaly_detection"]
        assert not fixed["anomaly_detection"]
        # Padding is not a class here, but has a row in both tables.
        assert shipped["parameters"] == fixed["parameters"] == ours["parameters"]
