"""Many `mmbench` commands, each in a process of its own, as plain values that tests can put into a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.prepared import ROOT, Outcome, environment, server


@dataclass(frozen=True)
class Command:
    """Arguments of `mmbench`, with the folders it works in.

    stdout, stderr   an encoding, "full", "closed", or "unread": a pipe whose reader has left
    is_unprivileged  root, too, may not write where the modes of files forbid it
    """

    args: Sequence[str | Path]
    data: Path
    results: Path
    env: Mapping[str, str] = field(default_factory=dict)
    stdout: str = "utf-8"
    stderr: str = "utf-8"
    is_unprivileged: bool = False


def run_all(commands: Sequence[Command], *, timeout: float = 600) -> list[Outcome]:
    """Return the outcomes of the commands, run one after another in the project's folder."""
    outcomes = []
    for command in commands:
        env = environment(data=command.data, results=command.results, env=command.env)
        situation = {
            "stdout": command.stdout, "stderr": command.stderr, "is_unprivileged": command.is_unprivileged,
        }  # fmt: skip
        outcomes.append(
            Outcome(
                *server(environment(), ROOT).run(
                    [str(arg) for arg in command.args], env=env, cwd=ROOT, timeout=timeout, **situation
                )
            )
        )
    return outcomes
