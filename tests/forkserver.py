"""Run `mmbench` commands in processes of their own without paying for the start of an interpreter each time.

A server process imports torch and mmbench once and then forks for every command, so each command has a process,
arguments, an environment, a folder, stdout, stderr and an exit code to itself, and leaves nothing behind in the
server. What an interpreter reads only when it starts (the encoding of stdout, the number of threads) is that of
the server; `needs_own_interpreter` names the commands for which that matters.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

READ_AT_START = ("PYTHON", "OMP_", "MKL_", "KMP_", "LD_", "LC_", "LANG", "TORCH", "CUDA", "HF_")
WORKERS = ("--jobs", "-j", "--backend")  # their workers import the main module by its name

SERVER = """
import ctypes, io, json, os, signal, sys, traceback
import torch, torch._dynamo, pandas, scipy.stats, tabulate
import mmbench.__main__, mmbench.cli, mmbench.cli.live, mmbench.runs.schedule, mmbench.runs.execute
import mmbench.reporting.build, mmbench.data.prepare, mmbench.features.extract

def spoil(number, how):
    # Puts a stream in a situation (see ForkServer.run) and returns what the interpreter would write to.
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

def child(command):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, command["out"], os.O_WRONLY),
                                (2, command["err"], os.O_WRONLY)):
        file = os.open(name, flags)
        os.dup2(file, number)
        os.close(file)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    sys.argv = ["mmbench", *command["args"]]
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
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(code)

replies = os.fdopen(os.dup(1), "w")
requests = os.fdopen(os.dup(0), "r")
for line in requests:
    pid = os.fork()
    if pid == 0:
        child(json.loads(line))
    print(json.dumps({"pid": pid}), file=replies, flush=True)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps({"code": code}), file=replies, flush=True)
"""


def is_read_at_start(variable: str) -> bool:
    return variable.startswith(READ_AT_START)


def needs_own_interpreter(args: Sequence[str], env: Mapping[str, str]) -> bool:
    """Return whether a command cannot be forked: no fork here, a setting read at start, or workers."""
    return (
        not hasattr(os, "fork")
        or any(map(is_read_at_start, env))
        or any(arg.startswith(WORKERS) for arg in args)
    )


class ForkServer:
    """The server of this process; it ends with it."""

    def __init__(self, env: Mapping[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=dict(env), cwd=cwd, start_new_session=True,
        )  # fmt: skip
        self.buffer = b""
        atexit.register(self.process.kill)

    def run(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
        stdout: str = "utf-8",
        stderr: str = "utf-8",
        is_unprivileged: bool = False,
    ) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr of a command; AssertionError when it takes longer than `timeout` s.

        stdout, stderr   an encoding, "full", "closed", or "unread": a pipe whose reader has left
        is_unprivileged  root, too, may not write where the modes of files forbid it
        """
        with tempfile.TemporaryDirectory(prefix="mmbench-fork-") as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            out.touch()
            err.touch()
            request = {
                "args": list(args), "env": dict(env), "cwd": str(cwd), "out": str(out), "err": str(err),
                "stdout": stdout, "stderr": stderr, "is_unprivileged": is_unprivileged,
            }  # fmt: skip
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            pid = self._reply(60)["pid"]
            try:
                code = self._reply(timeout)["code"]
            except TimeoutError:
                os.killpg(pid, signal.SIGKILL)
                self._reply(60)
                texts = f"{out.read_text()}\n{err.read_text()}"
                raise AssertionError(f"still running after {timeout} s\n{texts}") from None
            return code, *(file.read_text(encoding="utf-8", errors="replace") for file in (out, err))

    def _reply(self, timeout: float) -> dict[str, int]:
        assert self.process.stdout is not None
        number = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            if not select.select([number], [], [], timeout)[0]:
                raise TimeoutError
            part = os.read(number, 4096)
            if not part:
                raise AssertionError(f"the server of commands ended with {self.process.wait()}")
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\n")
        reply: dict[str, int] = json.loads(line)
        return reply


def server(env: Mapping[str, str], cwd: Path) -> ForkServer:
    """Return this process's server for the settings in `env` that an interpreter reads at its start."""
    return _server(os.getpid(), tuple(sorted(item for item in env.items() if is_read_at_start(item[0]))), cwd)


@cache
def _server(owner: int, settings: tuple[tuple[str, str], ...], cwd: Path) -> ForkServer:
    return ForkServer({**os.environ, **dict(settings)}, cwd)
