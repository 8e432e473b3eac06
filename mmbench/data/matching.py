"""Whether the names that a file uses are those of another: how many are, and a name of each side if some are not."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

Rule = Callable[[str], str]
# What programs change in an id when they take it for a number, and what they leave around it.
ID_RULES: dict[str, Rule] = {
    "blanks": lambda name: "".join(name.split()),
    "a decimal point": lambda name: re.sub(r"\.0+$", "", name),
    "leading zeros": lambda name: name.lstrip("0"),
    "capital letters": str.casefold,
}
# A zip has a folder around its files, a camera writes .JPG.
FILE_RULES: dict[str, Rule] = {
    "the folder": lambda name: PurePosixPath(name).name,
    "capital letters": str.casefold,
    "the ending": lambda name: name.rpartition(".")[0] or name,
    **{label: ID_RULES[label] for label in ("blanks", "leading zeros")},
}


@dataclass(frozen=True)
class Match:
    """How many of the names that are looked for exist.

    missing     the first that does not, or the first of these that has a near name; None when all exist
    other       the existing name most like it, else the first of all; None when there is no name
    difference  says in what the two differ, "" when they are not similar
    """

    n_wanted: int
    n_met: int
    missing: str | None = None
    other: str | None = None
    difference: str = ""

    @property
    def is_whole(self) -> bool:
        return self.n_met == self.n_wanted

    def words(self, kind: str, user: str, source: str) -> str:
        """Return, for example, `3 of 9 item ids of a.csv are in b.csv: '12.0' is not, but '12' is (a decimal point)`.

        kind, user, source  name the kind of names, the file that uses them, and the file in which they are looked for
        """
        counts = f"{self.n_met:,} of {self.n_wanted:,} {kind} of {user} are in {source}"
        if self.missing is None:
            return counts
        example = f"{self.missing!r} is not there"
        if self.difference:
            return f"{counts}: {example}, but {self.other!r} is, which differs in {self.difference}"
        return f"{counts}: {example}" + (f", where names look like {self.other!r}" if self.other else "")


def match_names(wanted: Iterable[str], known: Collection[str], rules: dict[str, Rule]) -> Match:
    """Compare names with those that exist; `rules` are the ways of writing in which near names may differ."""
    names = list(wanted)
    missing = [name for name in names if name not in known]
    n_met = len(names) - len(missing)
    if not missing:
        return Match(len(names), n_met)
    near = {_folded(name, rules): name for name in sorted(known, reverse=True)}
    for name in missing:
        other = near.get(_folded(name, rules))
        if other is not None:
            return Match(len(names), n_met, name, other, _difference(name, other, rules))
    return Match(len(names), n_met, missing[0], min(known, default=None))


def _folded(name: str, rules: dict[str, Rule]) -> str:
    for rule in rules.values():
        name = rule(name)
    return name


def _difference(first: str, second: str, rules: dict[str, Rule]) -> str:
    """Return the rules without which two near names differ, such as "blanks and leading zeros"."""
    others = {label: {key: rule for key, rule in rules.items() if key != label} for label in rules}
    needed = [label for label in rules if _folded(first, others[label]) != _folded(second, others[label])]
    return " and ".join(needed) or "spelling"
