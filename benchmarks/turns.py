"""Contestants as processes that take turns: on a noisy machine only what ran side by side can be compared.

A worker reads one JSON object a line from its standard input and answers each with one line. Its first line tells
that it is ready, and facts about its data. Commands:

    {"do": "train", "steps": 4, "seconds": 2}  at least so many steps and so long -> steps, targets, loss
    {"do": "rank", "users": 4096}              -> users
    {"do": "plan"}                             -> rows, steps of an epoch
    {"do": "batches", "steps": 20}             -> steps, laying out their batches only (mmbench)
    {"do": "lists", "file": "lists.tsv"}       -> users, whose lists of best items for validation the file then has
    {"do": "memory"}                           -> bytes, peak resident memory of the process

All but the last two also give `seconds` by the wall and `cpu`, processor time of the worker, which other jobs on the
machine lengthen less.
"""

import json
import os
import platform
import statistics
import subprocess
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


class Worker:
    """A process that answers commands. A context manager: it is ended on the way out."""

    def __init__(
        self, command: Sequence[str | Path], spec: Mapping[str, Any], *, cwd: Path, env: Mapping[str, str]
    ) -> None:
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.name = str(spec["model"])
        threads = str(spec["threads"])
        self.process = subprocess.Popen(
            [*map(str, command), json.dumps(spec)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True, cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **env},
        )  # fmt: skip
        self.facts = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return dict(json.loads(line))
        self.process.wait()
        self.errors.seek(0)
        raise SystemExit(f"{self.name} ended ({self.process.returncode}):\n{self.errors.read()[-3000:]}")

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **details}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


@dataclass(frozen=True)
class Timed:
    """The values of some rounds: their median, and how far they lie apart."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def scaled(self, factor: float) -> "Timed":
        return Timed(tuple(value * factor for value in self.values))

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(min(self.values))}–{short(max(self.values))})"


def short(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def in_turns(
    workers: Mapping[str, Worker], rounds: int, do: str, **details: Any
) -> dict[str, list[dict[str, Any]]]:
    """Return each worker's answers; the workers alternate, so that all meet the same noise."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            answers[name].append(worker.ask(do, **details))
    return answers


def per(answers: Iterable[Mapping[str, Any]], unit: str, clock: str = "seconds") -> Timed:
    """Return the seconds per `unit` of each answer; `clock` "cpu": processor time of the worker."""
    return Timed(tuple(answer[clock] / answer[unit] for answer in answers))


def machine(threads: int) -> dict[str, Any]:
    """Return what the numbers were measured on and when; no host or user names."""
    processor = platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        lines = cpu.read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor
        )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "date": datetime.now(UTC).date().isoformat(), "processor": processor, "cores": os.cpu_count() or 0,
        "threads": threads, "load": round(load, 1), "system": platform.system(),
    }  # fmt: skip


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def filled(text: str, width: int = 100) -> list[str]:
    """Return the lines of a text in Markdown, its paragraphs filled; headings and tables stay."""
    lines: list[str] = []
    for part in text.strip().split("\n\n"):
        is_prose = not part.startswith(("#", "|"))
        lines += (
            textwrap.wrap(part, width, break_on_hyphens=False, break_long_words=False)
            if is_prose
            else part.splitlines()
        )
        lines.append("")
    return lines[:-1]


def write_section(key: str, text: str, page: Path = PAGE) -> None:
    """Put `text` in the place of the page's section `key`, or at its end; stop at a page whose markers do not pair up.

    Markers stand on lines of their own, and paragraphs are filled to the width of documents here.
    """
    begin, end = f"<!-- {key}: begin -->", f"<!-- {key}: end -->"
    old = page.read_text(encoding="utf-8") if page.is_file() else "# Benchmarks\n"
    lines = old.splitlines()
    if (lines.count(begin), lines.count(end)) not in ((0, 0), (1, 1)) or (begin in old) != (begin in lines):
        raise SystemExit(
            f"{page}: {begin} and {end} must stand on a line of their own each, both once; nothing written"
        )
    section = [begin, *filled(text), end]
    if begin in lines:
        new = [*lines[: lines.index(begin)], *section, *lines[lines.index(end) + 1 :]]
    else:
        new = [*old.rstrip().splitlines(), "", *section]
    page.write_text("\n".join(new) + "\n", encoding="utf-8")
