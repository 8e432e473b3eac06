"""The closed vocabularies that the domain and the command line share, and numbers as text.

Imports nothing of mmbench, so that `--help` stays fast.
"""

from typing import Literal, get_args

MaskRule = Literal["none", "train", "input"]  # see mmbench.evaluation.evidence
SplitName = Literal["valid", "test"]
Ties = Literal["expected", "optimistic", "pessimistic"]  # see mmbench.evaluation.metrics
TestName = Literal["t", "wilcoxon", "sign-flip", "users"]  # see mmbench.reporting.compare
Correction = Literal["holm", "bh", "none"]
Style = Literal["full", "paper"]  # see mmbench.reporting.layout
Rows = Literal["all", "recipe", "tuned", "both"]  # see mmbench.reporting.effort_rows
Format = Literal["terminal", "markdown", "latex", "html", "csv", "json"]

RULES: tuple[MaskRule, ...] = get_args(MaskRule)
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
TIE_RULES: tuple[Ties, ...] = get_args(Ties)
FORMATS: tuple[Format, ...] = get_args(Format)

DEFAULT_LISTS = 20  # items of each user's list of best items that a run stores

# Models that come along with every run -> the largest catalogue on which they do; None = any.
FLOORS: dict[str, int | None] = {
    "pop": None, "recent-pop": None, "repeat-last": None, "random": None, "itemknn": None, "rp3beta": None,
    "ease": 15_000,
}  # fmt: skip


def whole_number(text: str) -> int | None:
    """Return the number that up to 18 ASCII digits say, None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
