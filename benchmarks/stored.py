"""Commands over many stored runs: python benchmarks/stored.py [--tiny] [--keep FOLDER] [--write]

A run of SASRec on the demo, trained for two epochs, is stored again under many configurations, seeds and models, each
in its own folder and with its own seals, as that many runs would have left it. Then commands run on the folder, each
in a process of its own, and on a folder that holds the first run only, in turns: processor seconds of the whole
command, start of Python included. The first report finds no shelves of what earlier commands learned, the others do.
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.turns import ROOT, Timed, machine, table, write_section
from mmbench.atomic import hash_json
from mmbench.runs.shelves import FOLDER as SHELVES
from mmbench.runs.store import RunRecord, cell_path, read_all, write_rankings, write_record
from mmbench.settings.config import Origin, Setting

SEEDS = 10


def command(folder: Path, results: Path, *arguments: str) -> float:
    """Run a command of mmbench; return its processor seconds."""
    environment = {
        **os.environ, "MMBENCH_DATA": str(folder / "data"), "MMBENCH_RESULTS": str(results),
        "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "mmbench", *arguments],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(
            f"mmbench {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def copies(record: RunRecord, n_runs: int) -> Iterator[tuple[str, str, int]]:
    """Yield model, configuration and seed of every further run."""
    names = [
        record.model,
        "gru4rec",
        "bert4rec",
        "caser",
        "nextitnet",
        "lrurec",
        "tisasrec",
        "esasrec",
        "hm4sr",
    ]
    every = ((number, seed) for number in itertools.count() for seed in range(1, SEEDS + 1))
    for number, seed in itertools.islice(every, n_runs):
        yield names[number % len(names)], hash_json([number])[:10], seed


def multiply(record: RunRecord, results: Path, n_runs: int) -> None:
    """Store a run again `n_runs` times, each under another name."""
    rankings = [record.ranking(name) for name in ("valid", "test")]
    for index, (model, config_id, seed) in enumerate(copies(record, n_runs)):
        path = cell_path(results, dataset=record.dataset, model=model, config_id=config_id, seed=seed)
        settings = {**record.settings, "lr": Setting(0.001 + index // SEEDS * 1e-6, Origin.user)}
        again = replace(
            record, path=path, model=model, display=model, config_id=config_id, seed=seed, settings=settings
        )
        made = [replace(each, made_by=replace(each.made_by, run=again.title)) for each in rankings]
        write_rankings(path, made)
        write_record(again)


def prepared_folder(folder: Path, n_runs: int) -> None:
    """Prepare the demo, train the first run, and store it again in a second results folder."""
    single, many = folder / "single", folder / "many"
    command(folder, single, "prepare", "demo")
    command(folder, single, "run", "sasrec", "--dataset", "demo", "--epochs", "2", "--no-floors")
    record = next(read_all(single))
    multiply(record, many, n_runs)


FIRST = "mmbench report, the first"
COMMANDS: dict[str, Sequence[str]] = {
    FIRST: ("report",),
    "mmbench report --model sasrec": ("report", "--model", "sasrec"),
    "mmbench report": ("report",),
    "mmbench runs": ("runs",),
    "mmbench runs show RUN": ("runs", "show", "RUN"),
    "mmbench run --dry-run": ("run", "sasrec", "--dataset", "demo", "--dry-run", "--epochs", "2"),
}


def measure(folder: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return command -> folder -> processor seconds of each round; the folders alternate."""
    runs = {name: next(read_all(folder / name)) for name in ("single", "many")}
    measured: dict[str, dict[str, list[float]]] = {}
    for name, arguments in COMMANDS.items():
        measured[name] = {"single": [], "many": []}
        for _ in range(rounds):
            for of, record in runs.items():
                if name == FIRST:
                    shutil.rmtree(folder / of / SHELVES, ignore_errors=True)
                words = [f"{record.config_id}/{record.seed}" if word == "RUN" else word for word in arguments]
                measured[name][of].append(command(folder, folder / of, *words))
    return measured


def describe(measured: dict[str, dict[str, list[float]]], n_runs: int) -> str:
    facts = machine(1)
    rows = [
        [name, str(Timed(tuple(each["single"]))), str(Timed(tuple(each["many"])))]
        for name, each in measured.items()
    ]
    return f"""## Commands over {n_runs:,} stored runs

{facts["date"]}, {facts["processor"]}, load {facts["load"]} when it ended. Processor seconds of the whole
command, start of Python included; medians (least–most). The runs are copies of a run of the demo,
{SEEDS} seeds of each configuration. Made by `python benchmarks/stored.py`.

{table(["command", "one run", f"{n_runs:,} runs"], rows)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="few runs, to see that it works")
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--keep", type=Path, help="use this folder, and keep what is made in it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mmbench-stored-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "many").is_dir():
            prepared_folder(folder, 20 if arguments.tiny else arguments.runs)
        measured = measure(folder, 1 if arguments.tiny else arguments.rounds)
        n_runs = sum(1 for _ in (folder / "many").glob("*/*/*/*/run.json"))
    text = describe(measured, n_runs)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(measured), encoding="utf-8")
    if arguments.write:
        write_section("stored", text)


if __name__ == "__main__":
    main()
