"""A kill inside this process: from one operation on the disk on, nothing that the work does reaches it any more."""

import os
import sys
from collections.abc import Callable

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_left: list[int] = []  # operations until the kill; empty = nobody is killed


class KilledError(BaseException):
    """What stands for a kill; no handler of errors may catch it."""


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if not _left:
        return
    is_write = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
    if is_write or event in _CHANGES:
        _left[0] -= 1
        if _left[0] <= 0:  # cleaning up after the kill is killed, too
            raise KilledError


sys.addaudithook(_watch)


def killed_at(call: int, work: Callable[[], object]) -> bool:
    """Do `work` and kill it before its `call`-th change of the disk; return whether it was killed."""
    _left[:] = [call]
    try:
        work()
    except KilledError:
        return True
    finally:
        _left.clear()
    return False
