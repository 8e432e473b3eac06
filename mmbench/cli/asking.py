"""A question before something is removed."""

import sys

import typer

from mmbench.errors import RunError, UsageError


def confirm(question: str) -> None:
    """Ask on the terminal; raise UsageError where nobody can answer, RunError for a no."""
    if not can_ask():
        raise UsageError(f"{question} No terminal to answer on; --yes removes without asking")
    if not typer.confirm(question, err=True):
        raise RunError("nothing was removed")


def can_ask() -> bool:
    return sys.stdin.isatty()
