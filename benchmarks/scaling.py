"""Cost against size: python benchmarks/scaling.py [--large] [--write]

Generated histories of the shape of Amazon Beauty, users times 1, 4, 16 and items times 1, 4, 16; each size is a
process of its own, they take turns, and the median of the rounds counts. Growth is relative to the first size. The
table gives processor time, because other jobs on the machine lengthen it less; --json has both clocks.

step      one optimiser step of 1,024 targets; an epoch is that times its steps, which grow with the users
ranking   1,000 users over the full catalogue
plan      the rows of an epoch and its shuffled steps, once an epoch: touches every user
batch     laying out the batch of a step (packing, gathers), a part of the step
memory    peak resident memory of the process: libraries, data, model, optimiser, a step, a slice of the ranking

HM4SR reads random text and image features of width 768 and random categories. --large measures 1,000,000 users and
200,000 items instead, a column for SASRec with cross entropy over all items, for SASRec with sampled softmax over
negatives that a step shares, and for HM4SR: setting up, planning an epoch for all positions and for prefixes, some
steps, a slice of the ranking; the whole is to fit into 8 GB.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.generated import ITEMS, USERS
from benchmarks.turns import Timed, Worker, in_turns, machine, per, short, table, write_section

HERE = Path(__file__).resolve().parent
SIZES = ((1, 1), (4, 1), (16, 1), (1, 4), (1, 16))  # of users, of items
LARGE = (1_000_000, 200_000)
MODELS: dict[str, dict[str, Any]] = {"sasrec": {}, "hm4sr": {"features": 768}}
SHARED = {"loss": "ss", "share": "step", "n_negatives": 1024}
# A column of the table -> the model, and the settings that differ from its recipe.
LARGE_COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {
    "SASRec, all items": ("sasrec", {}),
    "SASRec, 1,024 shared negatives": ("sasrec", SHARED),
    "HM4SR": ("hm4sr", {}),
}
# By the clock of the wall, then by processor time of the worker, which other jobs on the machine lengthen less.
COLUMNS = (("step", "s per step"), ("step_cpu", "processor s per step"), ("epoch_cpu", "processor s per epoch"),
           ("ranking_cpu", "processor s to rank 1,000 users"), ("plan_cpu", "processor ms to plan an epoch"),
           ("batch_cpu", "processor ms per batch"))  # fmt: skip
CLOCKS = {"": "seconds", "_cpu": "cpu"}


def start(
    model: str, users: int, items: int, given: argparse.Namespace, settings: Mapping[str, Any] | None = None
) -> Worker:
    """Start a process that trains a model on generated data of a size."""
    spec = {
        "model": model, "users": users, "items": items, "threads": given.threads, "settings": settings or {},
        **MODELS[model],
    }  # fmt: skip
    command = [sys.executable, HERE / "worker.py"]
    return Worker(command, spec, cwd=Path(tempfile.gettempdir()), env={})


def measure(workers: dict[str, Worker], given: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers of each size: seconds, except plan and batch, which are milliseconds."""
    in_turns(workers, 1, "train", steps=1, seconds=0)  # warm up
    planned = in_turns(workers, given.rounds, "plan")
    laid_out = in_turns(workers, given.rounds, "batches", steps=given.batches)
    trained = in_turns(workers, given.rounds, "train", steps=given.steps, seconds=given.seconds)
    ranked = in_turns(workers, given.rounds, "rank", users=given.users)
    results = {}
    for name, worker in workers.items():
        n_steps = worker.facts["steps_per_epoch"]
        result: dict[str, Any] = {"facts": worker.facts, "memory": worker.ask("memory")["bytes"]}
        for suffix, clock in CLOCKS.items():
            step = per(trained[name], "steps", clock)
            plan = Timed(tuple(answer[clock] for answer in planned[name]))
            result |= {
                f"step{suffix}": step.values,
                f"epoch{suffix}": tuple(seconds * n_steps + plan.median for seconds in step.values),
                f"ranking{suffix}": per(ranked[name], "users", clock).scaled(1000).values,
                f"plan{suffix}": plan.scaled(1000).values,
                f"batch{suffix}": per(laid_out[name], "steps", clock).scaled(1000).values,
            }
        results[name] = result
    return results


def lines(model: str, results: dict[str, Any]) -> list[list[str]]:
    """Return a table row per size, with its growth over the first."""
    first = next(iter(results.values()))
    rows = []
    for name, result in results.items():
        facts = result["facts"]
        cells = []
        for column, _ in COLUMNS:
            timed = Timed(result[column])
            growth = "" if result is first else f" = {short(timed.median / Timed(first[column]).median)} x"
            cells.append(f"{timed}{growth}")
        size = [f"{facts['users']:,}", f"{facts['items']:,}", f"{facts['steps_per_epoch']:,}"]
        rows.append([model, name, *size, *cells, f"{result['memory'] / 2**20:,.0f}"])
    return rows


def head(facts: dict[str, Any]) -> str:
    return (
        f"{facts['date']}, {facts['processor']}, threads: {facts['threads']} of {facts['cores']} cores, "
        f"load {facts['load']} when it began.\nMedians of {facts['rounds']} rounds in turns (least–most)."
    )


def compare_sizes(given: argparse.Namespace, facts: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    results, rows = {}, []
    users, items = (40, 30) if given.tiny else (USERS, ITEMS)
    for model in given.models:
        with ExitStack() as stack:
            workers = {
                f"users x{u}, items x{i}": stack.enter_context(start(model, u * users, i * items, given))
                for u, i in (SIZES[::2] if given.tiny else SIZES)
            }
            results[model] = measure(workers, given)
        rows += lines(model, results[model])
        print("\n".join("  ".join(line) for line in lines(model, results[model])), flush=True)
    header = ["model", "size", "users", "items", "steps", *(title for _, title in COLUMNS), "MiB"]
    text = f"""## Cost against size

{head(facts)} After "=": growth over the first size.
Made by `python benchmarks/scaling.py`.

{table(header, rows)}
"""
    return text, results


def measure_large(given: argparse.Namespace, facts: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Measure each column of LARGE_COLUMNS, a process after the other, because each needs gigabytes."""
    results = {
        title: measure_column(model, settings, given)
        for title, (model, settings) in LARGE_COLUMNS.items()
        if model in given.models
    }
    columns = [large_cells(measured) for measured in results.values()]
    rows = [[label, *(cells[label] for cells in columns)] for label in columns[0]]
    known = next(iter(results.values()))["facts"]
    text = f"""## {known["users"]:,} users and {known["items"]:,} items

{head(facts)} The epoch is scaled from the steps.
{known["interactions"]:,} interactions. HM4SR reads text and image features of {MODELS["hm4sr"]["features"]} numbers.
Made by `python benchmarks/scaling.py --large`.

{table(["what", *results], rows)}
"""
    return text, results


def measure_column(model: str, settings: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    users, items = (60, 50) if given.tiny else LARGE
    with start(model, users, items, given, settings) as worker:
        at_start = worker.ask("memory")["bytes"]
        measured: dict[str, Any] = measure({model: worker}, given)[model]
        prefixes = [worker.ask("plan", samples="prefix")["cpu"] * 1000 for _ in range(given.rounds)]
    return measured | {"memory_at_start": at_start, "plan_prefixes_cpu": tuple(prefixes)}


def large_cells(measured: dict[str, Any]) -> dict[str, str]:
    """Return a column of the table by the labels of its rows."""
    known = measured["facts"]
    whole_ranking = Timed(measured["ranking_cpu"]).median * known["eval_users"] / 1000
    return {
        "s to generate the data and set up": short(known["setup"]),
        "steps of an epoch": f"{known['steps_per_epoch']:,}",
        **{title: str(Timed(measured[column])) for column, title in COLUMNS},
        "processor ms to plan an epoch of prefixes": str(Timed(measured["plan_prefixes_cpu"])),
        "processor s to rank all users, scaled": short(whole_ranking),
        "MiB after setting up": f"{measured['memory_at_start'] / 2**20:,.0f}",
        "MiB in all": f"{measured['memory'] / 2**20:,.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true", help="1,000,000 users and 200,000 items")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of training in a turn, at least")
    parser.add_argument("--seconds", type=float, default=2.0, help="of training in a turn, at least")
    parser.add_argument("--batches", type=int, default=20, help="laid out in a turn")
    parser.add_argument("--users", type=int, default=1000, help="ranked in a turn")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--tiny", action="store_true", help="very small data, to see that it runs")
    given = parser.parse_args()
    if given.tiny:
        given.rounds, given.steps, given.seconds, given.users, given.batches = 1, 1, 0.0, 10, 1
    facts = {**machine(given.threads), "rounds": given.rounds}
    text, results = (measure_large if given.large else compare_sizes)(given, facts)
    print(text)
    if given.json:
        given.json.write_text(json.dumps({"facts": facts, "results": results}, indent=1), encoding="utf-8")
    if given.write:
        write_section("scaling large" if given.large else "scaling", text)


if __name__ == "__main__":
    main()
