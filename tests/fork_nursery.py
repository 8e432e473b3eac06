"""Let the interpreters that a forked command starts be forks as well: joblib's workers, the processes of benchmarks.

The nursery is a process that a command forks before it does anything else, so that what the nursery forks is as new as
an interpreter that has just imported torch and mmbench: nothing is computed, no thread runs. As with a start, the
command is the parent of its workers, and they have the files, the folder and the environment that it gives them. What
an interpreter reads only when it starts is that of the server (tests.forkserver). tests/cli/test_run.py starts real
workers.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
ABOVE = 500  # no file of a worker has a number from here on
N_FILES = 64  # of a worker, at most


class Nursery:
    """The nursery of this process; it ends when this process ends."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # a worker whose parent ended becomes our child
        self.requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self.requests.close()
            _serve(theirs)
        theirs.close()

    def start(
        self,
        command: Sequence[str],
        files: Mapping[int, int],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
    ) -> int:
        """Fork a process for the command of an interpreter; return its number.

        files   the number that each file has in the worker -> its number here
        """
        request = {"command": list(command), "numbers": list(files), "env": dict(env), "cwd": cwd}
        socket.send_fds(self.requests, [json.dumps(request).encode()], list(files.values()))
        return int(self.requests.recv(100))


def start_from_a_nursery() -> None:
    """Let joblib and `subprocess` start interpreters from a nursery of this process."""
    from joblib.externals.loky.backend import fork_exec

    nursery = Nursery()

    def start_worker(
        command: Sequence[str], keep_fds: Sequence[int], env: Mapping[str, str] | None = None
    ) -> int:
        return nursery.start(
            command, {int(fd): int(fd) for fd in keep_fds}, env={**os.environ, **(env or {})}
        )

    fork_exec.fork_exec = start_worker
    Popen.nursery = nursery
    subprocess.Popen = Popen  # type: ignore[misc]


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """A process as `subprocess` starts it, but a fork where it is an interpreter that runs a module or a file."""

    nursery: Nursery

    def _execute_child(self, args: Any, *rest: Any) -> None:
        _, _, _, _, cwd, env, _, _, _, *pipes = rest[:15]
        is_interpreter = not isinstance(args, str) and args[0] == sys.executable and args[1] != "-c"
        if not is_interpreter:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        files = {
            number: fd
            for number, fd in zip((0, 1, 2), (pipes[0], pipes[3], pipes[5]), strict=True)
            if fd != -1
        }
        self.pid = self.nursery.start(
            [str(arg) for arg in args], files, env=os.environ if env is None else env, cwd=cwd and str(cwd)
        )
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _serve(requests: socket.socket) -> None:
    """Fork a worker for each request until the command ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        line, fds, _, _ = socket.recv_fds(requests, 1 << 20, N_FILES)
        if not line:
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                for fd in (read, write, requests.fileno()):
                    os.close(fd)
                _work(json.loads(line), fds)
            os.write(write, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        requests.send(os.read(read, 100))
        for fd in (read, write, *fds):
            os.close(fd)


def _work(request: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Make this process the worker of a request, and end it."""
    from tests.fork_main import end_after

    signal.signal(signal.SIGINT, signal.default_int_handler)
    _number(request["numbers"], fds)
    os.environ.clear()
    os.environ.update(request["env"])
    if request["cwd"]:
        os.chdir(request["cwd"])
    end_after(_call_of(request["command"][1:]))


def _number(numbers: Sequence[int], fds: Sequence[int]) -> None:
    """Give the files their numbers, and the standard streams what these then are."""
    apart = [fcntl.fcntl(fd, fcntl.F_DUPFD, ABOVE) for fd in fds]
    for fd in fds:
        os.close(fd)
    for number, fd in zip(numbers, apart, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if number in numbers:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _call_of(args: Sequence[str]) -> Callable[[], object]:
    """Return what an interpreter with these arguments runs."""
    import runpy

    if args[0] == "-m":
        sys.argv = [args[1], *args[2:]]
        return partial(runpy.run_module, args[1], run_name="__main__", alter_sys=True)
    sys.argv = list(args)
    sys.path.insert(0, str(Path(args[0]).parent))
    return partial(runpy.run_path, args[0], run_name="__main__")
