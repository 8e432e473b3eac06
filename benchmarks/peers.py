"""mmbench beside its peers: python benchmarks/peers.py --python NAME=PATH ... [--dataset NAME] [--quality] [--write]

NAME is a peer, PATH the python of a virtual environment of its own, since peers need other libraries than mmbench:

    recbole   python3.11 -m venv R && R/bin/pip install recbole==1.2.1 "numpy<2" "pandas<2.2"
    rectools  python3.11 -m venv T && T/bin/pip install "rectools[torch]==0.17.0" "numpy<2"
    replay    python3.11 -m venv P && P/bin/pip install replay-rec==0.22.0 lightning

The same data (a prepared data set exported for RecBole; without --dataset generated ones of the shape of Amazon
Beauty; with --quality fewer, in which an item's successor is likely to follow it), the same sizes and learning rate,
as many targets a step as the peer allows, one machine, the same number of threads. Each contestant is a process; they
take turns, and the median of the rounds counts. RecBole takes part twice:

as shipped       RecBole as it is
defects removed  autograd's anomaly detection off, which importing its sequential models switches on, and the same
                 allocator settings as mmbench sets (by variables of glibc)

Measured: training, some steps a round, scaled to an epoch by each side's own number of steps; ranking the validation
targets of some users over the full catalogue with metrics, scaled to all users; peak resident memory of the process.
What an epoch trains on differs, so seconds per 100,000 learned predictions are given too. With --quality, on data in
which there is something to learn, also the time to the same validation NDCG@10 (benchmarks/quality.py).
Without --python only mmbench is measured.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contestants import MAX_LEN, MMBENCH, OURS, PEERS, TITLES, start_all
from benchmarks.generated import Histories, histories, with_successors, write
from benchmarks.quality import METRIC, SHARE, Course, Scorer, courses
from benchmarks.turns import Timed, Worker, in_turns, machine, per, short, table, write_section
from mmbench.cli.words import key_values
from mmbench.data.export import export
from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import UsageError, suggest
from mmbench.paths import data_dir

COLUMNS = (
    ("epoch", "s per epoch"),
    ("epoch_cpu", "processor s per epoch"),
    ("predictions_cpu", "processor s per 100,000 predictions"),
    ("ranking_cpu", "processor s of ranking"),
)
STRUCTURED, LIKELY = (
    (600, 300),
    0.7,
)  # users and items with --quality; how likely an item's successor follows it
SIZES = (  # the second part is about the models that are not SASRec
    "Width 64, 2 layers, 2 heads, inner width 256, cross entropy over all items",
    " (GRU4Rec: 64 and 128 wide, one layer; BERT4Rec: a fifth masked)",
)


def measure(workers: Mapping[str, Worker], wanted: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers of each contestant."""
    in_turns(workers, 1, "train", steps=1, seconds=0)  # warm up
    trained = in_turns(workers, wanted.rounds, "train", steps=wanted.steps, seconds=wanted.seconds)
    memory = {name: worker.ask("memory")["bytes"] for name, worker in workers.items()}
    ranked = in_turns(workers, wanted.rank_rounds, "rank", users=wanted.users)
    results = {}
    for name, worker in workers.items():
        n_steps, n_users = worker.facts["steps_per_epoch"], worker.facts["eval_users"]
        result: dict[str, Any] = {
            "facts": worker.facts,
            "steps_measured": sum(answer["steps"] for answer in trained[name]),
            "last_loss": trained[name][-1]["loss"],
            "memory_training": memory[name],
            "memory": worker.ask("memory")["bytes"],
        }
        for suffix, clock in (("", "seconds"), ("_cpu", "cpu")):
            result |= {
                f"epoch{suffix}": per(trained[name], "steps", clock).scaled(n_steps).values,
                f"predictions{suffix}": per(trained[name], "targets", clock).scaled(1e5).values,
                f"ranking{suffix}": per(ranked[name], "users", clock).scaled(n_users).values,
            }
        results[name] = result
    return results


def lines(model: str, results: Mapping[str, Any], reached: Mapping[str, Course]) -> list[list[str]]:
    """Return a table row per contestant; a ratio says how many times mmbench's median it is."""
    ours, rows = results[OURS], []
    for name, result in results.items():
        cells = []
        for column, _ in COLUMNS:
            timed = Timed(result[column])
            cells.append(f"{timed}{_ratio(name, timed.median, Timed(ours[column]).median)}")
        memory = [f"{result[part] / 2**20:,.0f}" for part in ("memory_training", "memory")]
        course = _course_cells(name, reached) if reached else []
        rows.append([TITLES[model], name, *cells, *memory, *course])
    return rows


def _ratio(name: str, value: float, ours: float) -> str:
    return "" if name == OURS else f" = **{short(value / ours)} x**"


def _course_cells(name: str, reached: Mapping[str, Course]) -> list[str]:
    """Return what the columns of --quality hold: the best value, epochs and processor seconds to the goal."""
    course, ours = reached[name], reached[OURS]
    best = f"{course.best:.4f}".lstrip("0")
    if not course.reached:
        return [best, f"not in {len(course.epochs)}", f"more than {short(course.cpu)}"]
    return [best, str(course.reached), f"{short(course.cpu)}{_ratio(name, course.cpu, ours.cpu)}"]


def describe(wanted: argparse.Namespace, facts: dict[str, Any], rows: list[list[str]], measured: str) -> str:
    """Return the facts and the table; `measured` says how many steps an epoch was scaled from."""
    header = [
        "model",
        "contestant",
        *(title for _, title in COLUMNS),
        "MiB after training",
        "MiB after ranking",
    ]
    if wanted.quality:
        header += [f"best {METRIC}", "epochs to the goal", "processor s to the goal"]
    peers = [PEERS[name] for name in wanted.python]
    names = [peer.version.split()[0] for peer in peers]
    title = ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + "".join(names[-1:])
    versions = "; ".join(f"{name} with torch {torch}" for name, torch in facts["versions"].items())
    differences = "".join(f" {peer.differences}." for peer in peers)
    return f"""## mmbench beside {title or "nobody"}: {facts["data"]}

{facts["date"]}, {facts["processor"]}, threads: {facts["threads"]} of {facts["cores"]} cores,
load {facts["load"]} when it began. {facts["users"]:,} users, {facts["items"]:,} items,
{facts["interactions"]:,} interactions. {versions}. {SIZES[0]}{SIZES[1] * (wanted.models != ["sasrec"])},
length {MAX_LEN}, {wanted.batch:,} targets a step, learning rate {wanted.lr}. Medians of {wanted.rounds} rounds in turns
(least–most); bold: how many times mmbench's. Training is scaled to an epoch from the steps measured: {measured}.
Ranking: {min(wanted.users, facts["users"]):,} users a round, scaled to all, metrics included; rounds:
{wanted.rank_rounds}. Processor time is what the process used; other jobs lengthen it less than wall-clock
time.{differences}{_about_models(wanted)}{_about_quality(wanted)}
Made by `python benchmarks/peers.py`.

{table(header, rows)}
"""


def _about_models(wanted: argparse.Namespace) -> str:
    if "bert4rec" not in wanted.models:
        return ""
    return (
        " BERT4Rec: compare per prediction, because an epoch of RecBole masks every prefix of every history, those of "
        "mmbench and RecTools every history once."
    )


def _about_quality(wanted: argparse.Namespace) -> str:
    if not wanted.quality:
        return ""
    return (
        f" The goal is {SHARE:.0%} of mmbench's best validation {METRIC}; mmbench ranks the targets in the lists of "
        f"all contestants, and only training counts, at most {wanted.most_epochs} epochs."
        + " RecBole as shipped computes what it computes without its defects, so its epochs are those, in its own time."
        * ("recbole" in wanted.python)
    )


def steps_measured(model: str, results: Mapping[str, Any]) -> str:
    parts = [
        f"{result['steps_measured']} of {result['facts']['steps_per_epoch']}" for result in results.values()
    ]
    return f"{TITLES[model]} {' / '.join(parts)}"


def interpreters(texts: Iterable[str]) -> dict[str, Path]:
    """Return the python of each peer of `--python NAME=PATH`."""
    known = {}
    for name, path in key_values(texts, form="--python recbole=R/bin/python", option="--python"):
        if name not in PEERS:
            raise UsageError(f"--python {name}={path}: {suggest(name, list(PEERS), what='peer')}")
        if not Path(path).is_file():
            raise UsageError(
                f"--python {name}={path}: there is no such file; name the python of its environment"
            )
        known[name] = Path(path).absolute()  # not resolved: a virtual environment's python is a link
    return known


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="a peer's python; repeatable"
    )
    parser.add_argument(
        "--dataset", help="a prepared data set; default: generated, of the shape of Amazon Beauty"
    )
    parser.add_argument("--data-dir", type=Path, default=data_dir())
    parser.add_argument("--models", nargs="+", choices=MMBENCH, default=list(MMBENCH))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1024, help="targets a step")
    parser.add_argument("--lr", type=float, default=0.001, help="learning rate")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5, help="of training in a turn, at least")
    parser.add_argument("--seconds", type=float, default=3.0, help="of training in a turn, at least")
    parser.add_argument("--users", type=int, default=4096, help="ranked in a turn")
    parser.add_argument("--rank-rounds", type=int, default=4)
    parser.add_argument("--quality", action="store_true", help="also the time to the same quality")
    parser.add_argument("--most-epochs", type=int, default=100, help="with --quality")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--tiny", action="store_true", help="very small data, to see that it runs")
    wanted = parser.parse_args()
    if wanted.tiny:
        wanted.rounds, wanted.steps, wanted.seconds, wanted.users, wanted.rank_rounds = 2, 1, 0.0, 20, 1
        wanted.most_epochs = 2
    try:
        wanted.python = interpreters(wanted.python)
    except UsageError as error:
        parser.error(str(error))
    return wanted


def generated(wanted: argparse.Namespace) -> Histories:
    """Return histories of the shape of Amazon Beauty; with --quality fewer, whose items have likely successors."""
    if wanted.quality:
        return with_successors(histories(*((150, 80) if wanted.tiny else STRUCTURED)), LIKELY)
    return histories(*((150, 80) if wanted.tiny else ()))


def main() -> None:
    wanted = arguments()
    facts: dict[str, Any] = machine(wanted.threads)
    with tempfile.TemporaryDirectory(prefix="mmbench-") as name:
        folder = Path(name)
        if wanted.dataset:
            prepared = open_prepared(wanted.dataset, wanted.data_dir)
        else:
            prepared = write(folder / "data", "generated", generated(wanted))
        exported = export(prepared, folder / "export", form="recbole", times="rank").files[0].parent
        results, reached, rows, steps = {}, {}, [], []
        for model in wanted.models:
            results[model], reached[model] = compete(model, prepared, exported, wanted)
            rows += lines(model, results[model], reached[model])
            steps.append(steps_measured(model, results[model]))
        facts |= data_facts(wanted, prepared, results)
    text = describe(wanted, facts, rows, "; ".join(steps))
    print(text)
    if wanted.json:
        known = {
            model: {name: course.to_json() for name, course in of.items()} for model, of in reached.items()
        }
        content = {"facts": facts, "results": results, "courses": known}
        wanted.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    if wanted.write:
        write_section(f"peers {facts['data']}", text)


def compete(
    model: str, prepared: Prepared, exported: Path, wanted: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Course]]:
    """Return what the contestants of a model took, and with --quality how they reached the goal, from new weights."""
    with ExitStack() as stack:
        results = measure(start_all(model, prepared, exported, wanted, stack), wanted)
    print("\n".join("  ".join(line) for line in lines(model, results, {})), flush=True)
    if not wanted.quality:
        return results, {}
    with ExitStack() as stack:
        workers = start_all(model, prepared, exported, wanted, stack, with_same_course=False)
        scorer = Scorer(prepared, exported.parent / "lists.tsv")
        reached = courses(workers, scorer, OURS, wanted.most_epochs)
    return results, {name: reached.get(name) or _same_course(name, results, reached) for name in results}


def _same_course(title: str, results: Mapping[str, Any], reached: Mapping[str, Course]) -> Course:
    """Return the course of a contestant that computes the same as another, in its own time an epoch."""
    other = next(
        contestant.course_of
        for peer in PEERS.values()
        for contestant in peer.contestants
        if contestant.title == title
    )
    times = (
        Timed(results[title][key]).median / Timed(results[other][key]).median
        for key in ("epoch", "epoch_cpu")
    )
    return reached[other].scaled(*times)


def data_facts(wanted: argparse.Namespace, prepared: Prepared, results: Mapping[str, Any]) -> dict[str, Any]:
    titles = {title.title: peer.version for peer in PEERS.values() for title in peer.contestants}
    versions = {
        titles.get(name, name): result["facts"]["torch"]
        for of_model in results.values()
        for name, result in of_model.items()
    }
    name = wanted.dataset or ("generated data with successors" if wanted.quality else "generated data")
    return {
        "data": name, "users": prepared.n_users, "items": prepared.n_items,
        "interactions": len(prepared.items), "versions": versions,
    }  # fmt: skip


if __name__ == "__main__":
    main()
