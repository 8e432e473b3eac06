"""Many `mmbench` commands, each in a process of its own, as plain values that tests can put into a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.prepared import ROOT, Outcome, cli


@dataclass(frozen=True)
class Command:
    """Arguments of `mmbench`, with the folders it works in."""

    args: Sequence[str | Path]
    data: Path
    results: Path
    env: Mapping[str, str] = field(default_factory=dict)


def run_all(commands: Sequence[Command]) -> list[Outcome]:
    """Return the outcomes of the commands, run one after another in the project's folder."""
    return [
        cli(*command.args, data=command.data, results=command.results, env=command.env, cwd=ROOT)
        for command in commands
    ]
