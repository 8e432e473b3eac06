"""`mmbench report --slice FAMILY,... --together`: what a gain depends on, for the terminal or as CSV."""

from typing import TYPE_CHECKING

from mmbench.cli.state import State

if TYPE_CHECKING:
    from mmbench.reporting.slices_together import Explained, FamilyEffect

FIELDS = (
    "dataset", "metric", "compared", "row", "users", "gain", "family", "reference", "family_p_holm", "slice", "n",
    "difference", "low", "high", "p_holm",
)  # fmt: skip


def csv_lines(explained: "Explained") -> list[list[object]]:
    """Return a line for each label beside its family's reference."""
    lines: list[list[object]] = []
    for family in explained.families:
        for effect in family.labels:
            line: list[object] = [
                explained.dataset, str(explained.metric), explained.compared, explained.other, explained.n,
                explained.gain, family.family, family.reference, family.p, effect.label, effect.n, effect.difference,
                *(effect.interval or (None, None)), effect.p,
            ]  # fmt: skip
            lines.append(["" if value is None else value for value in line])
    return lines


def show(state: State, explained: "Explained") -> None:
    """Print what the gain over a row depends on."""
    from mmbench.cli.tables import print_table, with_interval
    from mmbench.reporting.rounding import number

    targets = "test" if explained.split == "test" else "validation"
    text = (
        f"{explained.compared} minus {explained.other}: {explained.metric} on {explained.dataset}, {targets} targets, "
        f"mask rule {explained.rule}, {explained.n:,} users, mean gain {number(explained.gain, sign=True)}"
    )
    state.out.print(text, markup=False)
    for family in explained.families:
        state.out.print(_heading(family), markup=False)
        lines = [
            [f"  {effect.label}", f"{effect.n:,}", *with_interval(effect.difference, effect.interval, sign=True),
             _p(effect.p)]
            for effect in family.labels
        ]  # fmt: skip
        if lines:
            print_table(state, ["  slice", "n", "gains more by", "95 % interval", "p (Holm)"], lines)
    left_out = f" {explained.left_out:,} users in smaller slices are left out." if explained.left_out else ""
    state.out.print(
        "Each family with the others held equal: least squares of the users' gains on all labels, HC3 errors; families "
        f"by Wald's test. –: follows from the labels above it, or does not vary.{left_out}\n",
        markup=False,
    )  # fmt: skip


def _heading(family: "FamilyEffect") -> str:
    against = f"{family.family}, against {family.reference} ({family.n_reference:,} users)"
    if not family.labels:
        return f"{against}: all users are there"
    if family.p is None and any(effect.difference is not None for effect in family.labels):
        return f"{against}: no test, the gains do not vary"
    if family.p is None:
        return f"{against}: nothing that the families above do not say"
    return f"{against}: does the gain depend on it? p {_p(family.p)} (Holm)"


def _p(p: float | None) -> str:
    from mmbench.reporting.rounding import DASH, p_value

    return DASH if p is None else p_value(p)
