"""Training and ranking on a GPU: python benchmarks/gpu.py --plan short [--write]

Data: generated, of the shapes of Amazon Beauty and Amazon Games, random features of text and image, categories.
Every model is trained as `mmbench run` trains it. `--plan short` answers the usual questions within five minutes,
the most important first; `--plan rivals` trains every model of the two papers at its own settings. Without a plan,
each combination of the named models, seeds and varied settings is trained:

    python benchmarks/gpu.py --data games --models hm4sr --seeds 1 10 --vary matmul float32 bfloat16

The first epochs (`--warm-up`) are not counted, the next (`--epochs`) are timed, each until the GPU has finished, and
in a last one some steps are profiled. Measured:

s per epoch      of all seeds together, which are trained as one stack; median (least-most) of the timed epochs
kernels a step   what ran on the GPU in the profiled steps, copies included (on a CPU: outermost operators)
busy             time of the kernels of a step over the time of a step. The first comes from the profile, the second
                 from the timed epochs, because a profiled step takes longer than others. On a GPU only
MiB              largest memory that the tensors of this configuration took on the GPU (CPU: resident, of all so far)
s of ranking     all test targets over the full catalogue, after the validation targets
official log     seconds per epoch that the log published with HM4SR's code prints for Games, over ours per seed

The plan also measures parts by themselves (gpu_parts.py): a step against its CUDA graph, catalogues of 200,000
items, the cross entropy, encoders. The tables are written to a dated file after every row, so what was measured is
kept when the time runs out.
"""

import argparse
import gc
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_parts as parts
from benchmarks.generated import histories, write
from benchmarks.turns import Timed, machine, short, table, write_section
from mmbench.data.store import Prepared
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import Cell
from mmbench.runs.schedule import execute, plan
from mmbench.runs.store import RunRecord
from mmbench.runtime import pick_device
from mmbench.settings.config import parse_value
from mmbench.training.files import LOG
from mmbench.training.progress import EpochReport

SHAPES = {
    "beauty": (22_363, 12_101, 198_502),
    "games": (24_303, 10_672, 231_780),
}  # users, items, interactions
SMALL = (60, 40, 500)
WIDTH = 768  # of the features of one modality
MODELS = ("sasrec", "hm4sr", "hm4sr:shared-pcl")
RIVALS = (
    "sasrec", "tedrec", "iisan", "unisrec", "missrec", "dif-sr", "nova", "m3srec", "mmmlp", "mmsr", "tmmsrec",
    "s3rec:no-pretraining", "hm4sr", "vbpr", "freedom", "maml", "mgat", "vbpr-itv", "trimlp", "mlp4rec", "ticoserec",
    "caser", "nextitnet",
)  # fmt: skip
VARIED: dict[str, tuple[Any, ...]] = {"matmul": ("float32", "tf32", "bfloat16"), "compile": (False, True)}
OFFICIAL = (60, 68)  # seconds per epoch in the official log of HM4SR on Games
HEADER = ("data", "model", "seeds", "settings", "s per epoch", "s per epoch and seed", "steps", "kernels a step",
          "busy", "MiB", "s of ranking", "official log")  # fmt: skip


class Gauge:
    """Hears of one training: waits for the GPU where an epoch ends, and profiles some steps of the last epoch."""

    def __init__(self, device: str, last: int) -> None:
        self.device, self.last, self.n_steps = device, last, 0
        self.profiler: profile | None = None  # at work
        self.first = 0
        self.kernels = self.busy = 0.0  # of a step: how many, how many seconds; 0 = the epoch was too short

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None:
        self.n_steps = n_steps
        if self.device.startswith("cuda") and (epoch == self.last or step == n_steps):
            torch.cuda.synchronize()
        if epoch == self.last and not self.kernels:  # one pair of calls is enough
            self._profile(step, over=step == n_steps)

    def _profile(self, step: int, *, over: bool) -> None:
        """From one call to the next: the trainer calls after every step on a CPU, after every 32nd on a GPU."""
        if self.profiler is None:
            if not over:
                kind = ProfilerActivity.CUDA if self.device.startswith("cuda") else ProfilerActivity.CPU
                self.profiler, self.first = profile(activities=[kind]), step
                self.profiler.start()
            return
        found = self.close()
        seconds = list(self._launches(found))
        self.kernels, self.busy = (one / (step - self.first) for one in (len(seconds), sum(seconds)))

    def _launches(self, found: profile) -> Iterator[float]:
        """Seconds on the GPU of everything that ran; on a CPU, where the host's time is all there is, zeros."""
        for event in found.events() or ():
            if not self.device.startswith("cuda"):
                if event.cpu_parent is None:
                    yield 0.0
            elif event.device_type == DeviceType.CUDA and not event.is_user_annotation:
                yield event.self_device_time_total / 1e6

    def close(self) -> profile:
        found, self.profiler = self.profiler, None
        assert found is not None
        found.stop()
        return found

    def epoch(self, report: EpochReport) -> None:
        """The trainer's log holds the seconds."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)


class Listener:
    """Hears of a run, and keeps a gauge for each training in it."""

    def __init__(self, device: str, last: int) -> None:
        self.device, self.last = device, last
        self.gauges: list[Gauge] = []

    def begins(self, cells: Sequence[Cell], number: int, total: int) -> Gauge:
        self.gauges.append(Gauge(self.device, self.last))
        return self.gauges[-1]

    def skipped(self, cell: Cell, record: RunRecord, *, other_code: bool) -> None: ...
    def damaged(self, cell: Cell, why: str) -> None: ...

    def missing(self, cells: Sequence[Cell], jobs: int) -> None: ...
    def waiting(self, cell: Cell) -> None: ...
    def queued(self, cells: Sequence[Cell], jobs: int) -> None: ...
    def ends(self, cell: Cell, record: RunRecord) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one configuration."""

    data: str
    model: str
    seeds: int
    settings: dict[str, Any]
    reason: str = ""  # why there are no numbers
    epoch: tuple[float, ...] = ()  # seconds of all seeds together, each timed epoch
    steps: int = 0  # of an epoch; seeds in a stack take theirs together
    kernels: float = 0.0
    busy: float = 0.0  # seconds of kernels a step
    memory: int = 0
    ranking: float = 0.0

    def cells(self) -> list[str]:
        named = " ".join(f"{key}={value}" for key, value in self.settings.items())
        start = [self.data, self.model, str(self.seeds), named or "–"]
        if self.reason:
            return [*start, self.reason, *["–"] * (len(HEADER) - len(start) - 1)]
        seconds = Timed(self.epoch)
        each = seconds.scaled(1 / self.seeds).median
        is_official = self.data == "games" and self.model.startswith("hm4sr")
        share = f"{100 * self.busy * self.steps / seconds.median:.0f}%" if self.busy else "–"
        return [
            *start, str(seconds), short(each), f"{self.steps:,}",
            f"{self.kernels:,.0f}" if self.kernels else "–", share, f"{self.memory / 2**20:,.0f}",
            short(self.ranking),
            " to ".join(short(one / each) for one in OFFICIAL) + " x" if is_official else "–",
        ]  # fmt: skip


def train(cells: Sequence[Cell], listener: Listener, device: str) -> list[RunRecord]:
    """Train and rank all seeds of one configuration, as one stack."""
    return execute(cells, watcher=listener, device=device, stack=len(cells))


def measure(
    prepared: Prepared, model: str, n_seeds: int, settings: Mapping[str, Any], given: argparse.Namespace
) -> Row:
    last = given.warm_up + given.epochs + 1
    fixed = {"max_epochs": last, "eval_every": last, **({"batch_size": 64} if given.small else {})}
    cells = plan(
        results_dir=Path(tempfile.mkdtemp(dir=given.folder)), datasets=[prepared], models=[model],
        seeds=range(1, n_seeds + 1), overrides=Overrides(everywhere={**fixed, **settings}),
    )  # fmt: skip
    gc.collect()
    if given.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    listener = Listener(given.device, last)
    records = train(cells, listener, given.device)
    for one in listener.gauges:
        if one.profiler is not None:  # the training failed meanwhile
            one.close()
    row = {"data": prepared.name, "model": model, "seeds": n_seeds, "settings": dict(settings)}
    failed = [one.reason for one in records if one.status != "finished"]
    if failed:
        return Row(**row, reason=f"failed: {failed[0]}")
    first = listener.gauges[0]
    return Row(
        **row, epoch=epoch_seconds(cells)[given.warm_up : -1],
        steps=sum(one.n_steps for one in listener.gauges), kernels=first.kernels, busy=first.busy,
        memory=max(one.peak_memory["device" if given.device.startswith("cuda") else "host"] for one in records),
        ranking=Timed(tuple(one.seconds["rank_test"] for one in records)).median,
    )  # fmt: skip


def epoch_seconds(cells: Sequence[Cell]) -> tuple[float, ...]:
    """Seconds of every epoch, those of all seeds added up; the log of a seed in a stack has its share."""
    logs = [[json.loads(line) for line in (one.path / LOG).read_text("utf-8").splitlines()] for one in cells]
    return tuple(sum(line["seconds"] for line in lines) for lines in zip(*logs, strict=True))


def describe(rows: Sequence[Row], measured: Sequence[parts.Part], facts: Mapping[str, Any]) -> str:
    shapes = "; ".join(
        f"{name}: {users:,} users, {items:,} items, {events:,} interactions"
        for name, (users, items, events) in facts["shapes"].items()
    )
    return f"""## On {facts["device"]}

{facts["date"]}, {facts["device"]}, torch {facts["torch"]}, {facts["cores"]} cores of {facts["processor"]}.
Generated data of the shape of {shapes}; features {facts["width"]} wide.
Medians (least–most) of {facts["epochs"]} epochs after {facts["warm_up"]} of warming up.
A step has {facts["targets"]} targets of a seed, unless the settings say otherwise.
Official log: its {OFFICIAL[0]} to {OFFICIAL[1]} s per epoch for HM4SR on Games, divided by ours per seed.
Made by `python benchmarks/gpu.py`.

{table(HEADER, [one.cells() for one in rows])}

{table(parts.HEADER, [one.cells() for one in measured]) if measured else ""}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--plan", choices=["short", "rivals"], help="what is measured, in place of the next four options"
    )
    parser.add_argument("--seconds", type=float, default=290, help="a plan begins nothing after so long")
    parser.add_argument("--data", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--models", nargs="+", help="names as of `mmbench run`; also of the rivals")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[1], help="how many, for each of these numbers"
    )
    parser.add_argument(
        "--vary", nargs="+", action="append", metavar=("KEY", "VALUE"), help="a setting's values"
    )
    parser.add_argument("--warm-up", type=int, default=1, help="epochs before the timed ones")
    parser.add_argument("--epochs", type=int, default=3, help="timed ones")
    parser.add_argument("--out", type=Path, help="the table's file; default: gpu-DATE.md")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument(
        "--kernels", type=Path, help="of a plan: list the kernels of a step in files of this folder"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--small", "--tiny", action="store_true", help="very small data, to see that it runs")
    given = parser.parse_args()
    if min(given.epochs, *given.seeds) < 1 or given.warm_up < 0:
        parser.error("--epochs and --seeds begin at 1, --warm-up at 0")
    given.models = given.models or (RIVALS if given.plan == "rivals" else MODELS)
    given.device = pick_device(given.device)
    given.vary = {key: tuple(map(parse_value, values)) for key, *values in given.vary or ()} or VARIED
    return given


def configurations(
    names: Sequence[str], given: argparse.Namespace
) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """Data set, model, number of seeds, settings."""
    for data, model, seeds in itertools.product(names, given.models, given.seeds):
        for values in itertools.product(*given.vary.values()):
            settings = dict(zip(given.vary, values, strict=True))
            if seeds == 1 or not settings.get("compile"):  # a stack is not compiled
                yield data, model, seeds, settings


Job = Callable[[], "Sequence[Row | parts.Part]"]


def combinations(prepared: Mapping[str, Prepared], given: argparse.Namespace) -> Iterator[Job]:
    """One training for each combination that the options name."""
    for data, model, seeds, settings in configurations(list(prepared), given):
        yield partial(lambda *about: [measure(*about)], prepared[data], model, seeds, settings, given)


def write_kernels(folder: Path, shape: tuple[int, int, int], device: str, width: int) -> list[Row]:
    """The kernels of a step that take the most time, a file for each model."""
    for model in ("sasrec", "hm4sr"):
        text = parts.kernels(model, shape, device, width)
        (folder / f"kernels-{model}.txt").write_text(text, encoding="utf-8")
    return []


def short_plan(prepared: Mapping[str, Prepared], given: argparse.Namespace) -> Iterator[Job]:
    """The questions of a first look at a card, the most important first."""
    games, beauty = (
        next(one for name, one in prepared.items() if name.startswith(kind)) for kind in ("games", "beauty")
    )
    shape = SMALL if given.small else SHAPES["games"]
    width = 8 if given.small else WIDTH

    def trained(data: Prepared, model: str, seeds: int = 1, **settings: Any) -> Job:
        return lambda: [measure(data, model, seeds, settings, given)]

    for data, model in itertools.product((games, beauty), ("hm4sr", "sasrec")):
        yield trained(data, model)
    for model in ("sasrec", "hm4sr:shared-pcl", "hm4sr"):
        yield partial(parts.eager_and_graph, model, shape, given.device, width)
    if given.kernels:
        yield partial(write_kernels, given.kernels, shape, given.device, width)
    for model in ("sasrec", "hm4sr"):
        yield trained(games, model, 2 if given.small else 10)
    for model in ("sasrec", "hm4sr"):
        yield trained(games, model, 2 if given.small else 10, matmul="tf32")
    large = (300, 500, 100) if given.small else (60_000, 200_000, 10_000)
    yield partial(parts.large_catalogue, given.device, users=large[0], items=large[1], ranked=large[2])
    for n_targets in (1_024, 8_192):
        sizes = (n_targets // 64, 500) if given.small else (n_targets, 200_000)
        kinds = ("ours", "ours, tf32", "torch", "torch, tf32")
        yield partial(parts.losses_over, *sizes, given.device, variants=kinds)
    for model in ("gru4rec", "bert4rec", "tisasrec", "lrurec", "fearec"):
        yield trained(beauty, model)
    yield partial(parts.encoders, given.device, is_small=given.small)
    for matmul, model in itertools.product(("tf32", "bfloat16"), ("hm4sr", "sasrec")):
        yield trained(games, model, matmul=matmul)
    if not given.small:  # compiling takes half a minute
        yield partial(parts.losses_over, 8_192, 200_000, given.device, variants=("torch, compiled, tf32",))


def rivals_plan(prepared: Mapping[str, Prepared], given: argparse.Namespace) -> Iterator[Job]:
    """An epoch of every model that the two papers compare with, at its own settings, and SASRec to compare with."""
    (beauty,) = prepared.values()
    for model in given.models:
        yield partial(lambda name: [measure(beauty, name, 1, {}, given)], model)
    for model in ("nova", "dif-sr", "tedrec") if tuple(given.models) == RIVALS else ():
        yield partial(lambda name: [measure(beauty, name, 2 if given.small else 10, {}, given)], model)


def main() -> None:
    given = arguments()
    began = time.perf_counter()
    if given.plan:
        given.data = list(SHAPES) if given.plan == "short" else ["beauty"]
    shapes = {
        f"{name}-small" if given.small else name: SMALL if given.small else SHAPES[name]
        for name in given.data
    }
    is_gpu = given.device.startswith("cuda")
    facts = {
        **machine(torch.get_num_threads()), "shapes": shapes, "width": 8 if given.small else WIDTH,
        "device": torch.cuda.get_device_name(given.device) if is_gpu else "CPU", "torch": torch.__version__,
        "epochs": given.epochs, "warm_up": given.warm_up, "targets": "64" if given.small else "1,024",
    }  # fmt: skip
    out = given.out or Path(f"gpu-{facts['date']}.md")
    rows: list[Row] = []
    found: list[parts.Part] = []
    with tempfile.TemporaryDirectory(prefix="mmbench-") as name:
        given.folder = Path(name)
        prepared = {
            one: write(
                given.folder, one, histories(users, items, n_events=events), features=facts["width"],
                layers=13 if "iisan" in given.models else 0,
            )
            for one, (users, items, events) in shapes.items()
        }  # fmt: skip
        plans = {"short": short_plan, "rivals": rivals_plan, None: combinations}
        jobs = plans[given.plan](prepared, given)
        for job in jobs:
            if given.plan and time.perf_counter() - began > given.seconds:
                print("the time is over; the rest was left out", file=sys.stderr)
                break
            for one in job():
                (rows if isinstance(one, Row) else found).append(one)  # type: ignore[arg-type]
                spent = time.perf_counter() - began
                print(f"{spent:6.1f} s ", "  ".join(one.cells()), file=sys.stderr, flush=True)
            out.write_text(describe(rows, found, facts), encoding="utf-8")
            if given.json:
                numbers = {
                    "facts": facts, "results": [asdict(one) for one in rows], "parts": [asdict(one) for one in found],
                }  # fmt: skip
                given.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    text = describe(rows, found, facts)
    print(text)
    if given.write:
        write_section(f"gpu {facts['device']}", text)


if __name__ == "__main__":
    main()
