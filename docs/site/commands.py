"""The command reference, from the command line itself."""

import re
from collections.abc import Iterator
from typing import Any

import typer
from rich.markup import render
from typer._click.core import Context

from docs.site.markup import cell, code, table
from mmbench.cli import app


def page() -> str:
    """Return the page of all commands."""
    root = typer.main.get_command(app)
    context = Context(root, info_name="mmbench")
    lines = [
        "# Commands",
        "",
        "Written from the program's own help. Global options may stand anywhere in a command.",
        "Results go to stdout, progress and errors to stderr. The exit code is 0 on success, 1 after an",
        "error that one line explains, 2 for wrong usage, and 130 after Ctrl-C.",
        "",
        "## mmbench",
        *_parameters(root, context),
    ]
    for name in root.list_commands(context):  # type: ignore[attr-defined]
        lines += _command(root.commands[name], context, name, level=2)  # type: ignore[attr-defined]
    return "\n".join(lines) + "\n"


def _command(command: Any, parent: Any, name: str, *, level: int) -> Iterator[str]:
    """Yield the lines of a command and of its subcommands."""
    context = Context(command, info_name=name, parent=parent)
    yield from ("", f"{'#' * level} {context.command_path}", "", *_prose(command.help or ""))
    yield from ("", f"    {context.command_path} {_usage(command, context)}".rstrip(), "")
    yield from _parameters(command, context)
    yield from _examples(command.epilog or "")
    for child in sorted(getattr(command, "commands", {})):
        yield from _command(command.commands[child], context, child, level=level + 1)


def _usage(command: Any, context: Any) -> str:
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    return " ".join(["[OPTIONS]", *pieces])


def _prose(text: str) -> list[str]:
    paragraphs = re.split(r"\n\s*\n", render(text.replace("\b", "")).plain)
    return [line for paragraph in paragraphs if paragraph for line in (cell(paragraph), "")]


def _parameters(command: Any, context: Any) -> list[str]:
    """Return a table of arguments and options with their defaults; `--help` is in all commands and in no table."""
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        text, _, extra = record[1].partition("  [")
        # The type of an argument is one of Python's; its name says what it is.
        name = re.sub(r" <[^>]*>$", "", record[0])
        rows.append([code(name), cell(render(text).plain), cell(_limits(extra.removesuffix("]")))])
    return table(["argument or option", "meaning", "default, limits"], rows)


def _limits(text: str) -> str:
    """Return the default and the limits without the parentheses that mark a default in words."""
    return re.sub(r"^\((.*)\)", r"\1", text.removeprefix("default: ")).replace("env var:", "environment:")


def _examples(epilog: str) -> list[str]:
    lines = [line.strip() for line in epilog.replace("\b", "").splitlines()]
    lines = [line.removeprefix("Example: ") for line in lines if line and line != "Examples:"]
    return ["", *(f"    {line}" for line in lines), ""] if lines else []
