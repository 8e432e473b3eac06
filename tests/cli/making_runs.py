"""Made-up results folders with a run of each state, and commands on them in this process."""

import json
from pathlib import Path

from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.training.progress import kept_epoch
from tests.reporting.conftest import fake_run


def invoke(results: Path, *args: str) -> str:
    """Return what `mmbench ARGS` prints on stdout; its errors are raised."""
    done = CliRunner().invoke(app, ["--results-dir", str(results), *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def write_log(
    path: Path, values: list[float], *, metric: str = "NDCG@20", rule: str = "strict", stage: int = 0
) -> None:
    """Add to the log of a training a stage whose epochs have these validation values and the losses 9, 8, ..."""
    path.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({
            "stage": stage, "epoch": n, "seconds": 1.0, "loss": {"ce": 9.5 - n, "aux": 0.5}, "valid": {metric: v},
            "best_epoch": kept_epoch(dict(enumerate(values[:n], start=1)), rule),
        })
        for n, v in enumerate(values, start=1)
    ]  # fmt: skip
    with (path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def fill(root: Path) -> dict[str, Path]:
    """Write one run of each state; return their folders."""
    finished = fake_run(
        root, "sasrec", seed=1, settings={"lr": 0.01, "dropout": 0.5}, chosen=("lr",), max_epochs=100,
        seconds={"train": 60.0, "valid": 5.0}, environment={"finished": "2026-01-02T03:04:05+00:00"},
    )  # fmt: skip
    write_log(finished.path, [0.1, 0.3, 0.2])
    failed = fake_run(root, "hm4sr", seed=2, reason="RuntimeError: no shape")
    smoke = fake_run(
        root, "gru4rec", dataset="beauty", seed=1, max_epochs=2, chosen=("max_epochs",), stopped="max_epochs"
    )
    interrupted = root / "toys" / "hm4sr--tmoe" / "aaaabbbb00" / "seed_3"
    write_log(interrupted, [0.1, 0.2])
    unreadable = fake_run(root, "pop", seed=1).path
    (unreadable / "run.json").write_text("{", encoding="utf-8")
    return {
        "finished": finished.path, "failed": failed.path, "smoke": smoke.path, "interrupted": interrupted,
        "unreadable": unreadable,
    }  # fmt: skip
