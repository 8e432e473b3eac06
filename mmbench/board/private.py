"""Paths and names of people and machines: found in what is passed on, and taken out of it."""

import getpass
import re
import socket
from typing import Any

from mmbench import strict
from mmbench.runs.store import RunRecord, Stored

_PATH = re.compile(
    r"(?<![\w.:/\\~])(?:~/|/(?=[^\s/]+/)|[A-Za-z]:[\\/]|\\\\)"  # where a path from a root begins
    r"(?:[^\s/\\:'\",;()\[\]<>]+[/\\])*([^\s/\\:'\",;()\[\]<>]*)"
)
_NO_NAMES = {"root", "user", "users", "test", "home", "localhost", "mmbench", "model", "data", "demo"}
FREE_TEXT = ("notes", "reason", "failed")  # keys of texts that people and libraries wrote


def first_path(text: str) -> str | None:
    """Return the first absolute path in a text, None where there is none."""
    match = _PATH.search(text)
    return match[0] if match else None


def without_private(value: Any, *, is_free_text: bool = False) -> Any:
    """Return JSON content in which every absolute path is its last part.

    In texts under the keys of FREE_TEXT, the names of this machine and of its user become "host" and "user".
    """
    if isinstance(value, str):
        return _clean(value, is_free_text)
    if isinstance(value, dict):
        return {
            key: without_private(part, is_free_text=is_free_text or key in FREE_TEXT)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_private(part, is_free_text=is_free_text) for part in value]
    return value


def clean_record(record: RunRecord) -> RunRecord:
    """Return the record of a run as it may be passed on; its folder is still the run's."""
    content = strict.dump(record)
    del content["path"]
    return RunRecord(path=record.path, **vars(strict.read(Stored, without_private(content))))


def _clean(text: str, is_free_text: bool) -> str:
    text = _PATH.sub(lambda match: match[1] or "folder", text)
    for word, name in _names() if is_free_text else ():
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", word, text)
    return text


def _names() -> list[tuple[str, str]]:
    """Return (what stands in for it, name) of this machine and of its user; no names that are common words."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        user = ""
    names = [("host", socket.gethostname()), ("user", user)]
    return [(word, name) for word, name in names if len(name) > 2 and name.lower() not in _NO_NAMES]
