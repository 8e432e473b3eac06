"""Many `mmbench` commands, each in a process of its own, for the price of one start.

A fresh interpreter imports torch and then forks once per command: every command has its own process, arguments,
environment, stdout, stderr and exit code, but none pays the second and a half of the import.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.prepared import ROOT, Outcome, environment

SERVER = """
import ctypes, io, json, os, sys, tempfile, traceback
import torch, torch._dynamo, mmbench.cli, mmbench.runs.schedule, mmbench.cli.live, mmbench.reporting

def spoil(number, how):
    # Puts a stream in a situation (see Command) and returns what the interpreter would write to.
    if how == "closed":
        os.close(number)
        return None
    if how == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)
    if how == "unread":
        ours, theirs = os.pipe()
        os.dup2(theirs, number)
        os.close(ours)
    encoding = how if how not in ("closed", "full", "unread") else "utf-8"
    raw = io.open(number, "wb", 0, closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, line_buffering=number == 2)

def drop_capabilities():
    # Lets the modes of files count for root, too.
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capset(ctypes.byref(header), ctypes.byref(sets))

def child(command, out, err):
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.argv = ["mmbench", *command["args"]]
    os.environ.update(command["env"])
    sys.stdout, sys.stderr = spoil(1, command["stdout"]), spoil(2, command["stderr"])
    if command["is_unprivileged"]:
        drop_capabilities()
    code = 0
    try:
        mmbench.cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else (0 if end.code is None else 1)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)

for command in json.load(sys.stdin):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            child(command, out.fileno(), err.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        print(json.dumps([code, *texts]), flush=True)
"""


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


def run_all(commands: Sequence[Command]) -> list[Outcome]:
    """Outcomes of the commands, run one after another."""
    sent = [
        {
            "args": [str(argument) for argument in command.args],
            "stdout": command.stdout,
            "stderr": command.stderr,
            "is_unprivileged": command.is_unprivileged,
            "env": {
                "MMBENCH_DATA": str(command.data),
                "MMBENCH_RESULTS": str(command.results),
                **command.env,
            },
        }
        for command in commands
    ]
    done = subprocess.run(
        [sys.executable, "-c", SERVER], input=json.dumps(sent), env=environment(), cwd=ROOT,
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    outcomes = [Outcome(*json.loads(line)) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(commands), done.stderr
    return outcomes
