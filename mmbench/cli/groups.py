"""`mmbench datasets NAME`: a group of commands that takes the name of a data set for `show NAME`."""

from typing import Any

from mmbench.cli.shape import Group
from mmbench.errors import UsageError, suggest


class NameOrCommand(Group):
    """A group that takes an unknown command for a data set; the name of neither fails with the nearest."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if self.get_command(ctx, word) is not None or word.startswith("-"):
            return super().resolve_command(ctx, args)
        from mmbench.data.catalog import load_catalog

        known = load_catalog(ctx.obj.data_dir)
        if word.partition("@")[0] not in known:
            raise UsageError(suggest(word, [*known, *self.commands], what="data set or command"))
        return super().resolve_command(ctx, ["show", *args])
