"""Standard output that is full, closed, unread or of a poor encoding: no traceback, and nothing computed is lost."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer.main
from PIL import Image

import mmbench
from mmbench.cli import app
from tests.cli.forks import Command, run_all
from tests.data.raw_files import AMAZON_2014, grid, write_2014, write_toml
from tests.prepared import SMALL, cells

WIDE = ("report", "show")  # commands with many letters beyond ASCII
PICTURED = f'{AMAZON_2014}\nimages = {{ name = "images", member = "{{id}}.png" }}'
QUICK = ("--no-floors", "--epochs", "1", *SMALL)


def names() -> Iterator[tuple[str, ...]]:
    """Yield every command, those of groups too."""
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        yield (name,)
        yield from ((name, inner) for inner in getattr(command, "commands", ()))


def arguments(run: Path, other: Path) -> dict[tuple[str, ...], tuple[object, ...]]:
    """Return what each command is asked."""
    return {
        ("run",): ("run", "sasrec", *QUICK),
        ("train",): ("train", "sasrec", *QUICK[1:]),
        ("evaluate",): ("evaluate", "--no-rescore", run),
        ("report",): ("report",),
        ("why",): ("why", run, other),
        ("power",): ("power", "--dataset", "toy"),
        ("recommend",): ("recommend", run, "--user", "u00001"),
        ("knockout",): ("knockout", run),
        ("models",): ("models",),
        ("show",): ("show", "hm4sr"),
        ("audit",): ("audit", "hm4sr/table1"),
        ("reproduce",): ("reproduce", "hm4sr/table1", "--dry-run"),
        ("datasets",): ("datasets",),
        ("datasets", "show"): ("datasets", "show", "amazon-beauty"),
        ("datasets", "stats"): ("datasets", "stats", "toy"),
        ("datasets", "pictures"): ("datasets", "pictures", "toy"),
    }


@pytest.fixture(scope="module")
def world(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Command], Path]:
    """Return every command in a good situation, and the results that they read."""
    results = tmp_path_factory.mktemp("streams")
    ready = run_all([Command(("run", "sasrec", "pop", "--epochs", "1", *SMALL), data_dir, results)])[0]
    assert ready.returncode == 0, ready.stderr
    run, other = sorted(cells(results), key=lambda path: "sasrec" not in str(path))[:2]
    asked = arguments(run, other)
    assert set(asked) <= set(names())
    return [Command(tuple(map(str, args)), data_dir, results) for args in asked.values()], results


def words(text: str) -> list[str]:
    """Return what every encoding has of a text: its ASCII words."""
    return re.findall(r"[A-Za-z][A-Za-z0-9_.:@/-]{2,}", text)


def test_every_encoding_prints_all_that_it_has(world: tuple[list[Command], Path]) -> None:
    """Each command once in ASCII, beside what it prints in UTF-8; two in more encodings."""
    commands, tried = world[0], list[Command]()
    for command in commands:
        encodings = ("ascii", "cp1252", "gbk") if command.args[0] in WIDE else ("ascii",)
        tried += [replace(command, stdout=encoding, stderr=encoding) for encoding in encodings]
    helps = [Command((*name, "--help"), commands[0].data, world[1], stdout="ascii") for name in names()]
    outcomes = run_all([*commands, *tried, *helps])
    right = dict(zip([command.args for command in commands], outcomes, strict=False))
    for command, outcome in zip([*commands, *tried, *helps], outcomes, strict=True):
        assert outcome.returncode == 0, f"{command.args} in {command.stdout}: {outcome.stderr}"
        assert words(outcome.stdout), command.args
        if command in tried:
            assert words(outcome.stdout) == words(right[command.args].stdout), f"{command.args}"


def test_output_that_cannot_be_written_ends_in_one_line(world: tuple[list[Command], Path]) -> None:
    """A reader that left, as `| head` does, is not an error; a closed output was closed on purpose."""
    commands = [replace(command, stdout="full") for command in world[0]]
    commands += [replace(commands[3], stdout=how) for how in ("unread", "closed")]
    for command, outcome in zip(commands, run_all(commands), strict=True):
        last = outcome.stderr.splitlines()[-1:]
        assert "Traceback" not in outcome.stderr, f"{command.args}: {outcome.stderr}"
        assert outcome.returncode == (command.stdout != "closed"), f"{command.args}: {outcome.stderr}"
        is_told = last == [
            "error: cannot write to the standard output: No space left on device; what was computed is stored"
        ]
        assert is_told == (command.stdout == "full"), f"{command.args} {command.stdout}: {outcome.stderr}"


def test_a_run_ends_well_whatever_becomes_of_both_streams(data_dir: Path, tmp_path: Path) -> None:
    situations, run = ("full", "unread", "closed"), ("run", "sasrec", *QUICK)
    runs = [Command(run, data_dir, tmp_path / how, stdout=how, stderr=how) for how in situations]
    dry = [Command((*run, "--dry-run"), data_dir, tmp_path / how) for how in situations]
    outcomes = run_all([*runs, *dry])
    for how, broken, after in zip(situations, outcomes, outcomes[3:], strict=False):
        assert broken.returncode == (how != "closed"), how
        assert re.fullmatch(r"finished .*seed_1\n", after.stdout), how
        for file in ("run.json", "rankings/test.npz"):
            assert (cells(tmp_path / how)[0] / file).is_file()


def test_nothing_is_to_do_in_data_that_may_only_be_read(tmp_path: Path) -> None:
    """The `chmod` that makes them so touches every file and changes no content."""
    data, raw = tmp_path / "data", tmp_path / "data" / "raw" / "mine"
    write_toml(data, PICTURED)
    write_2014(raw, grid())
    (raw / "images").mkdir()
    Image.effect_noise((8, 8), 99).save(raw / "images" / "i1.png")
    done = [("-q", "prepare", "mine"), ("-q", "preprocess", "mine"), ("-q", "extract", "mine")]
    todo = [(*args, "--force") for args in done[1:]] + [("-q", "prepare", "mine@random:1")]
    mmbench.prepare("mine", data_dir=data)
    paths = [data, *data.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        outcomes = run_all([Command(args, data, tmp_path, is_unprivileged=True) for args in [*done, *todo]])
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)
    for args, outcome in zip(done, outcomes, strict=False):
        assert outcome.returncode == 0, f"{args}: {outcome.stderr}"
    for args, outcome in zip(todo, outcomes[len(done) :], strict=True):
        assert outcome.returncode == 1, args
        assert re.fullmatch("error: cannot (write|use) .*: Permission denied; .*\n", outcome.stderr), args
