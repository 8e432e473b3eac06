"""Memory and time of preparing a data set of the size of Amazon Home, or a table: python benchmarks/prepare.py FOLDER

Generates raw files in the 2014 formats into FOLDER (about 0.5 GB, kept for the next call), runs
`mmbench preprocess amazon-home` on them as a process of its own, and prints its peak memory and time.

prepare    mmbench as a process: 66,519 users, 28,237 items, 551,682 interactions; metadata of 436,988 items
in memory  (--in-memory) the same files the plain way: pandas reads the reviews, a list holds the metadata; nothing
           is filtered. Its memory and time relative to the first
literals   lines of the metadata by the literal parser of Python, and by ours; the median of rounds in turns

With --table a CSV of a million events of 100,000 users and 20,000 items with titles is generated instead, added as a
user's own data set and prepared; `--write` puts the cost into docs/benchmarks.md.
"""

import argparse
import ast
import gzip
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.turns import machine, table, write_section
from mmbench.data.raw import read_lines
from mmbench.data.records import literal_object

ROOT = Path(__file__).resolve().parents[1]
USERS, ITEMS, EVENTS, META = 66_519, 28_237, 551_682, 436_988
REVIEWS, METADATA = "reviews_Home_and_Kitchen_5.json.gz", "meta_Home_and_Kitchen.json.gz"
DAY = 86_400
PROSE = """the of stainless steel kitchen cotton soft pillow set inch with and for large small white black easy clean
dishwasher safe knife coffee maker glass wood table bed sheet queen king towel storage vacuum cup bowl it's don't
"non-stick" 12" piece quality durable design modern vintage handle lid microwave oven cook bake heat timer"""
WORDS = PROSE.split()
TABLE = (1_000_000, 100_000, 20_000)  # events, users, items of --table
TINY = (3_000, 300, 60)
DEFINITION = """[own-table]
title = "A user's own table"
parser = "table"
raw = "."
files.interactions.name = "events.csv"
files.items.name = "items.csv"
protocol = "clean"

[own-table.columns.interactions]
user = "user"
item = "item"
timestamp = "time"
unit = "s"

[own-table.columns.items]
item = "item"
title = "title"
"""


def text(rng: random.Random, mean: int) -> str:
    """About `mean` words, some with quotes and apostrophes."""
    return " ".join(rng.choices(WORDS, k=1 + int(rng.expovariate(1 / mean))))


def asin(number: int) -> str:
    return f"B{number:09}"


def events(rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """(user, item, day) sorted by item as the real files are; every user and item has at least five."""
    lengths = 5 + rng.multinomial(EVENTS - 5 * USERS, rng.dirichlet(np.full(USERS, 0.5)))
    user = np.repeat(np.arange(USERS), lengths)
    popularity = 1 / (np.arange(ITEMS) + 10.0)
    item = np.concatenate([np.repeat(np.arange(ITEMS), 5),
                           rng.choice(ITEMS, EVENTS - 5 * ITEMS, p=popularity / popularity.sum())])  # fmt: skip
    rng.shuffle(item)
    day = 13_000 + np.arange(EVENTS) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # no event twice
    order = np.argsort(item, kind="stable")
    yield from zip(user[order].tolist(), item[order].tolist(), day[order].tolist(), strict=True)


def review(rng: random.Random, user: int, item: int, day: int) -> str:
    return json.dumps(
        {
            "reviewerID": f"A{user:013}", "asin": asin(item * 15), "reviewerName": text(rng, 2), "helpful": [0, 0],
            "reviewText": text(rng, 90), "overall": float(rng.randint(1, 5)), "summary": text(rng, 4),
            "unixReviewTime": day * DAY, "reviewTime": "01 1, 2014",
        }
    )  # fmt: skip


def metadata(rng: random.Random, number: int) -> str:
    """An item's line; every 15th item is one that has reviews."""
    related = [asin(rng.randrange(META)) for _ in range(60)]
    record: dict[str, Any] = {
        "asin": asin(number), "description": text(rng, 90), "title": text(rng, 9), "price": rng.randint(1, 9999) / 100,
        "imUrl": f"http://ecx.images-amazon.com/images/I/{number}._SY300_.jpg", "brand": text(rng, 1),
        "related": {"also_bought": related[:40], "also_viewed": related[40:], "bought_together": related[:2]},
        "salesRank": {"Home &amp; Kitchen": rng.randint(1, 10**6)},
        "categories": [["Home & Kitchen", "Kitchen & Dining", rng.choice(WORDS), rng.choice(WORDS)]],
    }  # fmt: skip
    return repr(record)


def generate(folder: Path) -> None:
    """Both raw files, unless they are there."""
    if all((folder / name).is_file() for name in (REVIEWS, METADATA)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    lines: dict[str, Iterator[str]] = {
        REVIEWS: (review(rng, *one) for one in events(np.random.default_rng(0))),
        METADATA: (metadata(rng, number) for number in range(META)),
    }
    for name, some in lines.items():
        unfinished = folder / f"{name}.unfinished"
        with gzip.open(unfinished, "wt", compresslevel=1, encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in some)
        unfinished.rename(folder / name)


@dataclass(frozen=True)
class Cost:
    """Of one process: wall and processor seconds, peak memory in MiB."""

    seconds: float
    cpu: float
    memory: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.cpu:.1f} s of processor time), peak memory {self.memory:.0f} MiB"


def measure(command: list[str]) -> tuple[Cost, str]:
    """What a command costs, and its output. The peak is right as long as no earlier child was larger."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, cpu, after.ru_maxrss / 1024), done.stdout


IN_MEMORY = """
import ast, gzip, sys
import pandas as pd
reviews = pd.read_json(sys.argv[1], lines=True)
items = [ast.literal_eval(line) for line in gzip.open(sys.argv[2], "rt", encoding="utf-8")]
"""


def generate_table(folder: Path, size: tuple[int, int, int]) -> None:
    """Write the two tables and their definition: users and items by falling popularity, times in no order."""
    n_events, n_users, n_items = size
    folder.mkdir(parents=True, exist_ok=True)
    rng, words = np.random.default_rng(0), random.Random(0)
    popularity = 1 / (np.arange(n_items) + n_items / 100)
    columns = (
        rng.integers(0, n_users, n_events), rng.choice(n_items, n_events, p=popularity / popularity.sum()),
        rng.integers(13_000 * DAY, 16_000 * DAY, n_events),
    )  # fmt: skip
    with (folder / "events.csv").open("w", encoding="utf-8") as file:
        file.write("user,item,time\n")
        file.writelines(
            f"u{user:06},{asin(item)},{time}\n" for user, item, time in zip(*columns, strict=True)
        )
    with (folder / "items.csv").open("w", encoding="utf-8") as file:
        file.write("item,title\n")
        file.writelines(f"{asin(item)},{text(words, 9).replace(chr(34), '')}\n" for item in range(n_items))
    (folder / "own.toml").write_text(DEFINITION, encoding="utf-8")


def measure_table(folder: Path, size: tuple[int, int, int]) -> tuple[str, list[Cost]]:
    """Add and prepare the table; return a section for the page, and what both commands cost."""
    generate_table(folder, size)
    with tempfile.TemporaryDirectory(prefix="mmbench-") as data:
        program = [sys.executable, "-m", "mmbench", "--data-dir", data]
        costs = [measure([*program, "datasets", "add", str(folder / "own.toml")])[0]]
        cost, output = measure([*program, "prepare", "own-table"])
        costs.append(cost)
    counts = [line.split() for line in output.splitlines()]
    counts = [words for words in counts if len(words) == 2 and words[0] in ("users", "items", "interactions")]
    facts = machine(1)
    rows = [
        [f"`mmbench {name}`", f"{cost.cpu:.1f}", f"{cost.memory:,.0f}"]
        for name, cost in zip(("datasets add own.toml", "prepare own-table"), costs, strict=True)
    ]
    section = f"""## A table of {size[0]:,} events

{facts["date"]}, {facts["processor"]}, load {facts["load"]} when it ended. {size[1]:,} users and {size[2]:,} items in a
CSV file, in no order, and titles in another; prepared:
{", ".join(f"{number} {name}" for name, number in counts)}. Text features and the start of Python included.
Made by `python benchmarks/prepare.py FOLDER --table`.

{table(["command", "processor s", "peak MiB"], rows)}
"""
    return section, costs


def compare_literals(file: Path, n_lines: int, rounds: int) -> None:
    lines = [line for _, line in islice(read_lines(file), n_lines)]
    contestants: dict[str, Callable[[bytes], Any]] = {
        "ast.literal_eval": lambda line: ast.literal_eval(line.decode()),
        "ours": literal_object,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, read in contestants.items():
            began = time.perf_counter()
            for line in lines:
                read(line)
            seconds[name].append(time.perf_counter() - began)
    first, ours = (statistics.median(values) for values in seconds.values())
    print(f"literals   {n_lines:,} lines: ours needs {ours / first:.2f} of the time of ast.literal_eval")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the raw files; outside the repository")
    parser.add_argument("--in-memory", action="store_true", help="also load everything the plain way")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="a user's own table of a million events instead")
    parser.add_argument("--tiny", action="store_true", help="with --table: a small one, to see that it runs")
    parser.add_argument("--json", type=Path, help="with --table: write the costs to this file")
    parser.add_argument("--write", action="store_true", help="with --table: put it into docs/benchmarks.md")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.table:
        section, costs = measure_table(folder, TINY if given.tiny else TABLE)
        print(section)
        if given.json:
            given.json.write_text(json.dumps([asdict(cost) for cost in costs]), encoding="utf-8")
        if given.write:
            write_section("table", section)
        return
    generate(folder)
    with tempfile.TemporaryDirectory(prefix="mmbench-") as data:
        command = [sys.executable, "-m", "mmbench", "--data-dir", data, "preprocess", "amazon-home"]
        cost, output = measure([*command, "--raw", str(folder)])
    sizes = [(folder / name).stat().st_size / 2**20 for name in (REVIEWS, METADATA)]
    print(f"raw files  {sizes[0]:.0f} + {sizes[1]:.0f} MiB, packed")
    print(f"prepare    {cost}")
    print(
        "\n".join(line for line in output.splitlines() if line.startswith(("users", "items", "interactions")))
    )
    if given.in_memory:
        plain, _ = measure([sys.executable, "-c", IN_MEMORY, str(folder / REVIEWS), str(folder / METADATA)])
        print(
            f"in memory  {plain.cpu / cost.cpu:.1f} x the processor time, {plain.memory / cost.memory:.1f} x the memory"
        )
    compare_literals(folder / METADATA, 3_000, given.rounds)


if __name__ == "__main__":
    main()
