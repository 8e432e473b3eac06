"""Cost of models that read side information, against SASRec: python benchmarks/multimodal.py [--dataset NAME] [--write]

Each model has its recipe's settings, so that a ratio says what a row of a table costs and not only what a layer does.
An epoch is a plan of its steps (with whatever a model prepares for it) and all its steps, of which some are measured
and scaled; a model with several stages has a line for each. Processor time counts, because other jobs lengthen it less,
and the median of the steps. Memory is what a process needs beyond the libraries: data, model, optimiser, steps.

A model whose last stage takes more than 20 times SASRec's epoch is marked.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.turns import machine, short, table, write_section
from benchmarks.worker import Clock, peak_resident
from mmbench.contract.data_set import write_toy
from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import MmbenchError
from mmbench.models import registry
from mmbench.paths import data_dir
from mmbench.runs.build import build_model, load_data
from mmbench.runs.plan import make_cell
from mmbench.runtime import prepare_process
from mmbench.training.batches import EpochPlan, batches_of_epoch
from mmbench.training.trainer import Trainer

BASE = "sasrec"
SIDE = {"text", "image", "category"}
MOST = 20.0  # times SASRec's epoch; more is marked
HEADER = ("model", "stage", "steps", "processor s per step", "processor s per epoch", "times SASRec's", "MiB")


@dataclass(frozen=True)
class Cost:
    """What a stage of a model costs; `reason` says why it was not measured."""

    model: str
    stage: str = ""
    n_steps: int = 0
    step: float = 0.0  # processor seconds, the median
    epoch: float = 0.0  # processor seconds
    memory: int = 0  # bytes beyond the libraries
    is_last: bool = True
    reason: str = ""


def models() -> list[str]:
    """Return SASRec and all models that are trained and read side information."""
    names = [
        entry.name
        for entry in registry.entries().values()
        if SIDE & {*entry.recipe.inputs} and entry.load().trainable
    ]
    return [BASE, *sorted(name for name in names if name != BASE)]


def costs(name: str, prepared: Prepared, n_steps: int, folder: Path) -> Iterator[Cost]:
    """Yield the cost of each stage that is trained on the data set."""
    before = peak_resident()
    cell = make_cell(results_dir=folder, prepared=prepared, model=name, seed=1, overrides=[])
    data = load_data(prepared.path, prepared.hash)
    model, config = build_model(cell, data, "cpu")
    trainer = Trainer(model, data.train, lambda _: 0.0, config, seed=1, folder=folder)
    for number, stage in enumerate(trainer.stages):
        trainer.progress.stage = number
        trainer.start_stage()
        clock = Clock()
        plan = trainer.plan_epoch()
        planning = clock.read()["cpu"]
        seconds = list(_steps(trainer, plan, n_steps))
        step = statistics.median(seconds)
        yield Cost(
            name, stage.name, len(plan.steps), step, planning + step * len(plan.steps),
            peak_resident() - before, number == len(trainer.stages) - 1,
        )  # fmt: skip


def _steps(trainer: Trainer, plan: EpochPlan, n_steps: int) -> Iterator[float]:
    """Yield the processor seconds of some steps after the first, which also allocates."""
    part = EpochPlan(plan.epoch, plan.steps[: n_steps + 1], plan.generators)
    clock = Clock()
    for number, batch in enumerate(batches_of_epoch([trainer], [part])):
        trainer.step(batch)
        if number or len(part.steps) == 1:
            yield clock.read()["cpu"]
        clock = Clock()


def _answer(pipe: Connection, name: str, prepared: Prepared, n_steps: int) -> None:
    """Send the costs of a model; the process ends with it, and with it the memory."""
    with tempfile.TemporaryDirectory(prefix="mmbench-") as folder:
        try:
            prepare_process(1)
            found = list(costs(name, prepared, n_steps, Path(folder)))
        except MmbenchError as error:
            found = [Cost(name, reason=str(error))]
    pipe.send([asdict(cost) for cost in found])


def measure(names: Sequence[str], prepared: Prepared, n_steps: int) -> list[Cost]:
    """Return the costs of all models, each in a process of its own."""
    context, measured = multiprocessing.get_context("fork"), []
    for name in names:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(sender, name, prepared, n_steps))
        process.start()
        sender.close()
        try:
            measured += [Cost(**cost) for cost in receiver.recv()]
        except EOFError:
            process.join()
            measured.append(Cost(name, reason=f"the process ended with {process.exitcode}"))
        process.join()
        print(f"{name} done", file=sys.stderr)
    return measured


def ratio(cost: Cost, base: float) -> str:
    """Return how many times SASRec's epoch; more than MOST in a last stage is bold."""
    times = cost.epoch / base
    return f"**{short(times)}**" if cost.is_last and times > MOST else short(times)


def report(measured: Sequence[Cost]) -> str:
    """Return the table, SASRec's epoch in the first line."""
    base = next(cost.epoch for cost in measured if cost.model == BASE)
    return table(HEADER, [_row(cost, base) for cost in measured])


def _row(cost: Cost, base: float) -> tuple[str, ...]:
    if cost.reason:
        return (cost.model, cost.reason, "", "", "", "", "")
    numbers = (short(cost.step), short(cost.epoch), ratio(cost, base), f"{cost.memory / 2**20:,.0f}")
    return (cost.model, cost.stage, f"{cost.n_steps:,}", *numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", default="demo", help="a prepared data set")
    parser.add_argument(
        "--models", nargs="+", help="instead of all that read side information; sasrec comes along"
    )
    parser.add_argument("--steps", type=int, default=5, help="how many steps of an epoch are measured")
    parser.add_argument("--tiny", action="store_true", help="very small generated data, for tests")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    names = [BASE, *(name for name in options.models or models() if name != BASE)]
    with tempfile.TemporaryDirectory(prefix="mmbench-") as folder:
        prepared = write_toy(Path(folder)) if options.tiny else open_prepared(options.dataset, data_dir())
        measured = measure(names, prepared, options.steps)
    facts = machine(1)
    text = (
        f"{'Generated data' if options.tiny else options.dataset}, one thread of {facts['processor']}, "
        f"{facts['date']}; medians of {options.steps} steps.\n\n{report(measured)}"
    )
    print(text)
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "costs": [asdict(cost) for cost in measured]}))
    if options.write:
        write_section("multimodal", f"## Models that read side information, against SASRec\n\n{text}")


if __name__ == "__main__":
    main()
