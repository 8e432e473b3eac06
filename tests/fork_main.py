"""The process of tests.forkserver: it imports torch and all of mmbench once, and forks for every command.

Requests and replies are lines of JSON on stdin and stdout: a request is a command (`child` reads its keys), replies are
{"pid": ...} when it begins and {"pid": ..., "code": ...} when it has ended. Workers that a command starts import this
module as their main one, so nothing is imported here before `main`.
"""

import gc
import io
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO


def import_everything() -> None:
    """Import what any command may need, with the recipes and classes of the models that ship with mmbench."""
    import importlib
    import pkgutil

    for name in ("torch", "torch._dynamo", "pandas", "scipy.stats", "tabulate", "joblib", "typer.rich_utils"):
        importlib.import_module(name)
    import mmbench
    from mmbench.models import registry

    for module in pkgutil.walk_packages(mmbench.__path__, "mmbench."):
        importlib.import_module(module.name)
    for entry in registry.entries().values():
        entry.load()
    build_commands_once()


def build_commands_once() -> None:
    """Build the tree of commands, half of what a command that prints a line costs, before the forks."""
    import functools

    import typer.main

    from mmbench.cli import app

    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(app)


def spoil(number: int, how: str) -> TextIO | None:
    """Put a stream into a situation (see tests.forkserver); return what the interpreter would write to."""
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
    raw = io.FileIO(number, "wb", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, line_buffering=number == 2)


def drop_capabilities() -> None:
    """Let the modes of files count for root, too."""
    import ctypes

    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capset(ctypes.byref(header), ctypes.byref(sets))


def enter(command: dict[str, Any]) -> None:
    """Make this process that of the command: its session, streams, folder and environment."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, command["out"], os.O_WRONLY),
        (2, command["err"], os.O_WRONLY),
    ):
        file = os.open(name, flags)
        os.dup2(file, number)
        os.close(file)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    sys.argv = ["mmbench", *command["args"]]
    sys.modules["__main__"].__package__ = ""  # else help calls the program "python -m tests.mmbench"
    out, err = spoil(1, command["stdout"]), spoil(2, command["stderr"])
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]  # None stands for a closed stream
    if command["is_unprivileged"]:
        drop_capabilities()
    starts_interpreters = "--jobs" in command["args"] or command["module"] != "mmbench.cli"
    if starts_interpreters and sys.platform == "linux":
        from tests.fork_nursery import start_from_a_nursery

        start_from_a_nursery()


def child(command: dict[str, Any]) -> None:
    """Call `main` of the command's module and end this process with its exit code."""
    import importlib

    enter(command)
    end_after(lambda: importlib.import_module(command["module"]).main())


def end_after(call: Callable[[], object]) -> None:
    """Make a call and end this process as an interpreter ends after it."""
    import traceback

    code = 0
    try:
        call()
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


def reply(**content: int) -> None:
    os.write(1, json.dumps(content).encode() + b"\n")


def begin(line: bytes) -> None:
    pid = os.fork()
    if pid == 0:
        child(json.loads(line))
    reply(pid=pid)


def reap() -> None:
    """Tell of every command that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        reply(pid=pid, code=os.waitstatus_to_exitcode(status))


def main() -> None:
    import_everything()
    gc.freeze()  # so that a collection in a child does not touch, and so copy, every page
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    rest = b""
    while True:
        ready = select.select([0, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            reap()
        if 0 in ready:
            part = os.read(0, 65536)
            if not part:
                return
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                begin(line)


if __name__ == "__main__":
    main()
