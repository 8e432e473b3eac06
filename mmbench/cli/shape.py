"""The shape of the command line: global options at any position, commands in panels, help without types of Python."""

from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import OptionInfo

# Global options, and whether a value follows them.
GLOBAL = {
    "--data-dir": True, "--results-dir": True, "--models-dir": True, "--datasets": True, "--quiet": False,
    "-q": False, "--debug": False,
}  # fmt: skip
PANELS = {
    "Data": ("prepare", "preprocess", "extract", "datasets", "import-features"),
    "Train": ("run", "train", "tune", "fuse", "estimate", "models", "show", "new-model", "check"),
    "Results": (
        "report", "evaluate", "runs", "plot", "recommend", "knockout", "power", "why", "bundle", "verify",
        "leaderboard", "score",
    ),
    "Papers": ("reproduce", "audit"),
    "Setup": ("doctor",),
}  # fmt: skip
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}
_ORDER = [name for names in PANELS.values() for name in names]


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the global options first, wherever they stood; what follows `--` stays."""
    first: list[str] = []
    rest: list[str] = []
    remaining = list(arguments)
    while remaining:
        word = remaining.pop(0)
        name, has_value, _ = word.partition("=")
        if word == "--":
            return [*first, *rest, word, *remaining]
        if name not in GLOBAL or (has_value and not GLOBAL[name]):
            rest.append(word)
            continue
        first.append(word)
        if GLOBAL[name] and not has_value and remaining:
            first.append(remaining.pop(0))
    return [*first, *rest]


class WithoutTypes:
    """A command whose help shows no types of Python: `<list[str]>` beside an argument, `<bool>` beside a flag."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if isinstance(parameter, TyperArgument) or (parameter.metavar is None and parameter.is_flag):
                vars(parameter)["display_type_rich"] = _no_type
        return parameters


def _no_type(ctx: Any) -> None:
    """Return what typer shows of a type: nothing."""


class Command(WithoutTypes, TyperCommand):
    """A command of `mmbench`."""


class Group(WithoutTypes, TyperGroup):
    """A group of commands of `mmbench`."""


class Root(Group):
    """The command `mmbench`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        parsed: list[str] = super().parse_args(ctx, hoisted(args))
        return parsed

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands by panel, those of none at the end."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


def arrange(app: typer.Typer) -> None:
    """Give every command its panel, and its options names of values instead of Python types."""
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "").replace("_", "-")
        command.rich_help_panel = _PANEL_OF.get(name, command.rich_help_panel)
    for group in app.registered_groups:
        group.rich_help_panel = _PANEL_OF.get(str(group.name), group.rich_help_panel)
        if group.typer_instance is not None:
            _name_values(group.typer_instance)
    _name_values(app)


def _name_values(app: typer.Typer) -> None:
    """Name the value of every option that names none; a flag has none."""
    for command in app.registered_commands:
        command.cls = Command
    called = [app.registered_callback, *app.registered_commands]
    for callback in filter(None, (entry.callback for entry in called if entry is not None)):
        for hint in get_type_hints(callback, include_extras=True).values():
            kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            for option in extras:
                if isinstance(option, OptionInfo) and option.metavar is None:
                    option.metavar = _metavar(kind)


def _metavar(kind: Any) -> str | None:
    """Return what to type for a value of a type; None for a choice, whose words typer shows."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) in (Union, UnionType, list):
        return _metavar(parts[0])
    return {bool: "", int: "N", float: "X", str: "TEXT", Path: "PATH"}.get(kind)
