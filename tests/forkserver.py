"""Run `mmbench` commands in processes of their own without paying for the start of an interpreter each time.

A server process (tests.fork_main) imports torch and mmbench once and then forks for every command, so each command has
a process, arguments, an environment, a folder, stdout, stderr and an exit code to itself, and leaves nothing behind in
the server. What an interpreter reads only when it starts (the encoding of stdout, the number of threads) is that of
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
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

READ_AT_START = ("PYTHON", "OMP_", "MKL_", "KMP_", "LD_", "LC_", "LANG", "TORCH", "CUDA", "HF_")
# scikit-learn sets these when it is imported: as settings they would ask for a second server.
SET_BY_IMPORTS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
START_S = 600  # for the server to import everything, and to fork; a busy machine takes long


def is_read_at_start(variable: str) -> bool:
    return variable.startswith(READ_AT_START) and variable not in SET_BY_IMPORTS


def needs_own_interpreter(args: Sequence[str], env: Mapping[str, str]) -> bool:
    """Return whether a command is not forked: no fork here, a setting that is read at start, or a cluster's workers."""
    return not hasattr(os, "fork") or any(map(is_read_at_start, env)) or bool({"dask", "ray"} & set(args))


class Forked:
    """A command at work, with those methods of `subprocess.Popen` that tests use. It leads a group of its own."""

    def __init__(self, server: "ForkServer", pid: int, folder: "tempfile.TemporaryDirectory[str]") -> None:
        self.server, self.pid, self.folder = server, pid, folder

    @property
    def returncode(self) -> int | None:
        return self.server.codes.get(self.pid)

    def poll(self) -> int | None:
        self.server.listen(lambda: True, 0)
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        """Return the exit code, -N after signal N; subprocess.TimeoutExpired after `timeout` s."""
        if not self.server.listen(lambda: self.pid in self.server.codes, timeout):
            raise subprocess.TimeoutExpired("mmbench", timeout)
        return self.server.codes[self.pid]

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Wait for the end; return stdout and stderr."""
        self.wait(timeout)
        return self._text("out"), self._text("err")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _text(self, name: str) -> str:
        return Path(self.folder.name, name).read_text(encoding="utf-8", errors="replace")


class ForkServer:
    """The server of this process; it ends with it."""

    def __init__(self, env: Mapping[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_main"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=dict(env), cwd=cwd, start_new_session=True,
        )  # fmt: skip
        self.begun: list[int] = []
        self.codes: dict[int, int] = {}
        self.buffer = b""
        atexit.register(self.process.kill)

    def start(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        module: str = "mmbench.cli",
        stdout: str = "utf-8",
        stderr: str = "utf-8",
        is_unprivileged: bool = False,
    ) -> Forked:
        """Start a command, which is a call of `main` in a module.

        stdout, stderr   an encoding, "full", "closed", or "unread": a pipe whose reader has left
        is_unprivileged  root, too, may not write where the modes of files forbid it
        """
        folder = tempfile.TemporaryDirectory(prefix="mmbench-fork-")
        out, err = Path(folder.name, "out"), Path(folder.name, "err")
        out.touch()
        err.touch()
        request = {
            "module": module, "args": list(args), "env": dict(env), "cwd": str(cwd), "out": str(out), "err": str(err),
            "stdout": stdout, "stderr": stderr, "is_unprivileged": is_unprivileged,
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        assert self.listen(lambda: bool(self.begun), START_S), "the server of commands does not answer"
        return Forked(self, self.begun.pop(), folder)

    def run(self, args: Sequence[str], *, timeout: float, **options: object) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr of a command; AssertionError when it takes longer than `timeout` s."""
        command = self.start(args, **options)  # type: ignore[arg-type]
        try:
            out, err = command.communicate(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(command.pid, signal.SIGKILL)
            texts = "\n".join(command.communicate())
            raise AssertionError(f"still running after {timeout} s\n{texts}") from None
        return command.wait(), out, err

    def listen(self, is_enough: Callable[[], bool], timeout: float) -> bool:
        """Read replies until `is_enough()`, or for `timeout` s; return which of them."""
        until = time.monotonic() + timeout
        while True:
            left = 0.0 if is_enough() else until - time.monotonic()
            if not self._read(max(left, 0.0)) and left <= 0:
                return is_enough()

    def _read(self, timeout: float) -> bool:
        """Take in the replies that come within `timeout` s; return whether anything came."""
        assert self.process.stdout is not None
        number = self.process.stdout.fileno()
        if not select.select([number], [], [], timeout)[0]:
            return False
        part = os.read(number, 65536)
        if not part:
            raise AssertionError(f"the server of commands ended with {self.process.wait()}")
        *lines, self.buffer = (self.buffer + part).split(b"\n")
        for reply in map(json.loads, lines):
            if "code" in reply:
                self.codes[reply["pid"]] = reply["code"]
            else:
                self.codes.pop(reply["pid"], None)  # of an earlier process of that number
                self.begun.append(reply["pid"])
        return True


def server(env: Mapping[str, str], cwd: Path) -> ForkServer:
    """Return this process's server for the settings in `env` that an interpreter reads at its start."""
    return _server(os.getpid(), tuple(sorted(item for item in env.items() if is_read_at_start(item[0]))), cwd)


@cache
def _server(owner: int, settings: tuple[tuple[str, str], ...], cwd: Path) -> ForkServer:
    return ForkServer({**os.environ, **dict(settings)}, cwd)
