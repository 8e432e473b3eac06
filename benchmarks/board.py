"""Bundles, verification and pages at size: python benchmarks/board.py [--tiny] [--keep FOLDER]

Made rankings of the shape of Amazon Beauty (22,363 users, 12,101 items, lists of 20), three seeds each. One bundle is
written and verified; then the pages of 200 configurations are built from their results folder.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmbench.atomic import hash_json
from mmbench.board.checks import offline_checks
from mmbench.board.entries import entries_of_results
from mmbench.board.opened import opened
from mmbench.board.site import build_site
from mmbench.board.writing import write_bundle
from mmbench.choices import RULES
from mmbench.evaluation.evidence import LIST_RULES, MadeBy, Ranking, TopLists
from mmbench.models import registry
from mmbench.runs.store import RunRecord, Selection, cell_path, write_rankings, write_record
from mmbench.settings.config import Origin, Setting

USERS, ITEMS, SEEDS, WIDTH = 22_363, 12_101, 3, 20
SETTINGS = {
    key: Setting(value, Origin.recipe, "paper") for key, value in registry.find("sasrec").values("").items()
}


def made_ranking(
    name: str, skill: float, rng: np.random.Generator, run: str, n_users: int, n_items: int
) -> Ranking:
    """Return a ranking whose lists agree with its counts."""
    target = np.random.default_rng(len(name)).integers(1, n_items + 1, n_users)  # that of every run
    greater = np.minimum((n_items * rng.random(n_users) ** skill).astype(np.int64), n_items - 1)
    first = rng.integers(1, n_items - 2 * WIDTH, n_users)[:, None] + np.arange(WIDTH)
    items = np.where(first >= target[:, None], first + 1, first)  # the target is left out
    rows = np.flatnonzero(greater < WIDTH)
    items[rows, greater[rows]] = target[rows]
    scores = np.broadcast_to(np.linspace(9, 1, WIDTH), items.shape).astype(np.float16)
    lists = {rule: TopLists(items.astype(np.int32), scores) for rule in LIST_RULES} if name == "test" else {}
    return Ranking(
        name=name, user=np.arange(n_users), target=target, n_items=n_items, lists=lists, made_by=MadeBy(run=run),
        counts={rule: (greater, np.zeros_like(greater)) for rule in RULES},
    )  # fmt: skip


def write_configuration(root: Path, number: int, n_users: int, n_items: int) -> Path:
    """Write the runs of one configuration; return its folder."""
    config_id = hash_json(number)[:10]
    for seed in range(1, SEEDS + 1):
        path = cell_path(root, dataset="made", model="sasrec", config_id=config_id, seed=seed)
        record = RunRecord(
            path=path, dataset="made", model="sasrec", display=f"SASRec {number}", config_id=config_id, seed=seed,
            status="finished", synthetic=True, protocol={"data": "0" * 64, "mask_seen": "none"}, n_items=n_items,
            settings={**SETTINGS, "lr": Setting(0.001 + number, Origin.user)}, n_parameters=1_000_000, n_epochs=100,
            selection=Selection("NDCG@10", 0.05, 90), seconds={"train": 600.0},
            curve=[{"epoch": float(k), "NDCG@10": 0.05 - abs(k - 90) / 2000} for k in range(1, 101)],
        )  # fmt: skip
        rngs = [np.random.default_rng([number, seed, k]) for k in range(2)]
        rankings = [
            made_ranking(name, 2 + number / 50, rng, record.title, n_users, n_items)
            for name, rng in zip(("valid", "test"), rngs, strict=True)
        ]
        write_rankings(path, rankings)
        write_record(record)
    return path.parent


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(root: Path, n_configurations: int, n_users: int, n_items: int) -> dict[str, float]:
    """Return sizes in MB and processor seconds."""
    results, bundle, bare = root / "results", root / "made.mmb.zip", root / "bare.mmb.zip"
    folders = [write_configuration(results, number, n_users, n_items) for number in range(n_configurations)]
    numbers = {
        "bundle_s": seconds(lambda: write_bundle(folders[0], bundle)),
        "bare_s": seconds(lambda: write_bundle(folders[0], bare, with_lists=False)),
        "bundle_mb": bundle.stat().st_size / 1e6,
        "bare_mb": bare.stat().st_size / 1e6,
    }

    def verify() -> None:
        with opened(bundle) as unpacked:
            list(offline_checks(unpacked))

    numbers["verify_s"] = seconds(verify)
    entries = []
    numbers["read_s"] = seconds(
        lambda: entries.extend(entries_of_results(results, on_left_out=lambda each: print(each.reason)))
    )
    site = root / "site"
    numbers["pages_s"] = seconds(lambda: build_site(entries, site, left_out=[], date="2026-01-01"))
    pages = {path.name: path.stat().st_size for path in site.glob("*.html")}
    numbers["site_mb"] = sum(pages.values()) / 1e6
    numbers["board_kb"] = max(size for name, size in pages.items() if name.startswith("board-")) / 1e3
    numbers["run_kb"] = max(size for name, size in pages.items() if name.startswith("run-")) / 1e3
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    sizes = (3, 200, 100) if arguments.tiny else (200, USERS, ITEMS)
    with tempfile.TemporaryDirectory(prefix="mmbench-board-") as temporary:
        numbers = measure(arguments.keep or Path(temporary), *sizes)
    print("| what | value |\n| --- | --- |")
    for name, value in numbers.items():
        print(f"| {name} | {value:.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers))


if __name__ == "__main__":
    main()
