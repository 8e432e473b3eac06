"""mmbench beside RecBole 1.2.1: python benchmarks/peers.py --python PEER/bin/python [--dataset NAME] [--write]

PEER is a virtual environment of RecBole's own, since it needs older libraries than mmbench:

    python3.11 -m venv PEER && PEER/bin/pip install recbole==1.2.1 "numpy<2" "pandas<2.2"

The same data (a prepared data set exported for RecBole; without --dataset generated ones of the shape of Amazon
Beauty), the same sizes, one machine, the same number of threads. Each contestant is a process; they take turns, and
the median of the rounds counts. Contestants:

as shipped  RecBole as it is
fixed       RecBole without its defects: autograd's anomaly detection off, which importing its sequential models
            switches on, and the same allocator settings as mmbench sets (by variables of glibc)
mmbench     as it is

Measured: training, some steps a round, scaled to an epoch by each side's own number of steps; ranking the validation
targets of some users over the full catalogue with metrics, scaled to all users; peak resident memory of the process.
BERT4Rec's epochs differ in kind: RecBole masks every prefix of every history, mmbench every history once. So seconds
per 100,000 learned predictions are given too, and they are the ones to compare.
Without --python only mmbench is measured.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.generated import histories, write
from benchmarks.turns import Timed, Worker, in_turns, machine, per, short, table, write_section
from mmbench.data.export import export
from mmbench.data.split import make_split
from mmbench.data.store import Prepared, open_prepared
from mmbench.data.views import target_view
from mmbench.paths import data_dir

HERE = Path(__file__).resolve().parent
# The settings of prepare_process() as glibc reads them from the environment.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
MAX_LEN, BATCH = 50, 1024

ATTENTION = ({"n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256, "loss_type": "CE"},
             {"n_layers": 2, "n_heads": 2, "hidden_dim": 64, "inner_dim": 256})  # fmt: skip
# model -> RecBole's name, its settings, mmbench's; what both leave out are defaults that agree.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sasrec": ("SASRec", ATTENTION[0], ATTENTION[1]),
    "gru4rec": ("GRU4Rec", {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "loss_type": "CE"},
                {"emb_dim": 64, "hidden_dim": 128, "n_layers": 1}),
    "bert4rec": ("BERT4Rec", {**ATTENTION[0], "mask_ratio": 0.2},
                 {**ATTENTION[1], "mask_ratio": 0.2, "batch_unit": "rows"}),
}  # fmt: skip
SHIPPED, FIXED, OWN = "RecBole as shipped", "RecBole, defects removed", "mmbench"


def same_data(prepared: Prepared, facts: dict[str, Any]) -> None:
    """Stop unless RecBole sees the same users, items and validation targets."""
    split = make_split(prepared.protocol, np.asarray(prepared.times), np.asarray(prepared.offsets))
    view = target_view(prepared, split, "valid")
    names = [record["id"] for record in prepared.item_records]
    pairs = sorted(
        f"{prepared.user_ids[user]} {names[item - 1]}"
        for user, item in zip(view.user.tolist(), view.target.tolist(), strict=True)
    )
    known = {
        "users": prepared.n_users, "items": prepared.n_items, "eval_users": len(view),
        "train_targets": int(np.maximum(split.train_len - 1, 0).sum()),
        "eval_pairs": hashlib.sha256("\n".join(pairs).encode()).hexdigest(),
    }  # fmt: skip
    for name, value in known.items():
        if facts[name] != value:
            raise SystemExit(f"RecBole reads other data: {name} is {facts[name]}, mmbench has {value}")


def contestants(
    model: str, prepared: Prepared, exported: Path, given: argparse.Namespace, stack: ExitStack
) -> dict[str, Worker]:
    peer, theirs, ours = MODELS[model]
    folder = exported.parent
    workers = {}
    sides = ((SHIPPED, {}), (FIXED, ALLOCATOR)) if given.python else ()
    for name, env in sides:
        spec = {
            "model": peer, "dataset": exported.name, "folder": str(folder),
            "fixed": name == FIXED, "threads": given.threads,
            "settings": {**theirs, "MAX_ITEM_LIST_LENGTH": MAX_LEN, "train_batch_size": BATCH},
        }  # fmt: skip
        command = [given.python, HERE / "peer_recbole.py"]
        workers[name] = stack.enter_context(Worker(command, spec, cwd=folder, env=env))
        same_data(prepared, workers[name].facts)
    spec = {
        "model": model, "path": str(prepared.path.resolve()), "threads": given.threads,
        "settings": {**ours, "max_len": MAX_LEN, "batch_size": BATCH},
    }  # fmt: skip
    workers[OWN] = stack.enter_context(Worker([sys.executable, HERE / "worker.py"], spec, cwd=folder, env={}))
    return workers


def measure(model: str, prepared: Prepared, exported: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Contestant -> its numbers."""
    with ExitStack() as stack:
        workers = contestants(model, prepared, exported, given, stack)
        turn = {"steps": given.steps, "seconds": given.seconds}
        in_turns(workers, 1, "train", steps=1, seconds=0)  # warm up
        trained = in_turns(workers, given.rounds, "train", **turn)
        memory = {name: worker.ask("memory")["bytes"] for name, worker in workers.items()}
        ranked = in_turns(workers, given.rank_rounds, "rank", users=given.users)
        found = {}
        for name, worker in workers.items():
            n_steps, n_users = worker.facts["steps_per_epoch"], worker.facts["eval_users"]
            one: dict[str, Any] = {
                "facts": worker.facts,
                "steps_measured": sum(each["steps"] for each in trained[name]),
                "last_loss": trained[name][-1]["loss"],
                "memory_training": memory[name],
                "memory": worker.ask("memory")["bytes"],
            }
            for suffix, clock in (("", "seconds"), ("_cpu", "cpu")):
                one |= {
                    f"epoch{suffix}": per(trained[name], "steps", clock).scaled(n_steps).values,
                    f"predictions{suffix}": per(trained[name], "targets", clock).scaled(1e5).values,
                    f"ranking{suffix}": per(ranked[name], "users", clock).scaled(n_users).values,
                }
            found[name] = one
    return found


COLUMNS = (("epoch", "s per epoch"), ("epoch_cpu", "processor s per epoch"),
           ("predictions_cpu", "processor s per 100,000 predictions"), ("ranking", "s of ranking"),
           ("ranking_cpu", "processor s of ranking"))  # fmt: skip


def lines(model: str, found: dict[str, Any]) -> list[list[str]]:
    """One table row per contestant; a ratio says how many times mmbench's median it is."""
    own, rows = found[OWN], []
    for name, one in found.items():
        cells = []
        for column, _ in COLUMNS:
            timed, base = Timed(one[column]), Timed(own[column])
            ratio = "" if name == OWN else f" = **{short(timed.median / base.median)} x**"
            cells.append(f"{timed}{ratio}")
        memory = [f"{one[part] / 2**20:,.0f}" for part in ("memory_training", "memory")]
        rows.append([MODELS[model][0], name, *cells, *memory])
    return rows


def describe(given: argparse.Namespace, facts: dict[str, Any], results: dict[str, Any]) -> str:
    """The facts, and the table."""
    titles = [title for _, title in COLUMNS]
    header = ["model", "contestant", *titles, "MiB after training", "MiB after ranking"]
    body = table(header, [line for model, found in results.items() for line in lines(model, found)])
    shape = f"{facts['users']:,} users, {facts['items']:,} items, {facts['interactions']:,} interactions"
    steps = "; ".join(
        f"{MODELS[model][0]} "
        + " / ".join(
            f"{one['steps_measured']} of {one['facts']['steps_per_epoch']}" for one in found.values()
        )
        for model, found in results.items()
    )
    versions = "; ".join(f"{name} {text}" for name, text in facts["versions"].items())
    return f"""## mmbench beside RecBole: {facts["data"]}

{facts["date"]}, {facts["processor"]}, threads: {facts["threads"]} of {facts["cores"]} cores,
load {facts["load"]} when it began. {shape}.
{versions}. Width 64, 2 layers, 2 heads, inner width 256,
length {MAX_LEN}, {BATCH:,} samples a step, cross entropy over all items (GRU4Rec: 64 and 128 wide, one layer;
BERT4Rec: a fifth masked). Medians of {given.rounds} rounds in turns
(least–most); bold: how many times mmbench's. Training is scaled to an epoch from the steps measured: {steps}.
Ranking: {given.users:,} users a round, {given.rank_rounds} rounds, scaled to all, metrics included.
Processor time is what the process used; other jobs lengthen it less than the time by the wall. BERT4Rec: compare per
prediction, because an epoch of RecBole masks every prefix of every history, one of mmbench every history once.
Made by `python benchmarks/peers.py`.

{body}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, help="python of an environment with RecBole 1.2.1")
    parser.add_argument(
        "--dataset", help="a prepared data set; default: generated, of the shape of Amazon Beauty"
    )
    parser.add_argument("--data-dir", type=Path, default=data_dir())
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5, help="of training in a turn, at least")
    parser.add_argument("--seconds", type=float, default=3.0, help="of training in a turn, at least")
    parser.add_argument("--users", type=int, default=4096, help="ranked in a turn")
    parser.add_argument("--rank-rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--tiny", action="store_true", help="very small data, to see that it runs")
    given = parser.parse_args()
    if given.tiny:
        given.rounds, given.steps, given.seconds, given.users, given.rank_rounds = 2, 1, 0.0, 20, 1
    if given.python:
        given.python = given.python.absolute()  # not resolved: a venv's python is a link
    return given


def main() -> None:
    given = arguments()
    facts: dict[str, Any] = machine(given.threads)
    with tempfile.TemporaryDirectory(prefix="mmbench-") as name:
        folder = Path(name)
        if given.dataset:
            prepared = open_prepared(given.dataset, given.data_dir)
        else:
            size = (150, 80) if given.tiny else ()
            prepared = write(folder / "data", "generated", histories(*size))
        report = export(prepared, folder / "export", form="recbole", times="rank")
        exported = report.files[0].parent
        results = {}
        for model in given.models:
            results[model] = measure(model, prepared, exported, given)
            print("\n".join("  ".join(line) for line in lines(model, results[model])), flush=True)
        first = next(iter(results.values()))
        facts |= {
            "data": given.dataset or "generated data", "users": prepared.n_users, "items": prepared.n_items,
            "interactions": len(prepared.items),
            "versions": {"mmbench with torch" if name == OWN else "RecBole 1.2.1 with torch": one["facts"]["torch"]
                         for name, one in first.items()},
        }  # fmt: skip
    text = describe(given, facts, results)
    print(text)
    if given.json:
        given.json.write_text(json.dumps({"facts": facts, "results": results}, indent=1), encoding="utf-8")
    if given.write:
        write_section(f"peers {facts['data']}", text)


if __name__ == "__main__":
    main()
