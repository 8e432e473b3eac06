"""`mmbench datasets match` and `export`: which recipe gives a paper's counts; prepared data for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mmbench.cli.options import DeclaredDataset, PreparedDataset, RawOption
from mmbench.cli.state import State
from mmbench.cli.tables import open_current, print_table

if TYPE_CHECKING:
    from mmbench.data.detective import Match, Verdict, Wanted

Count = Annotated[Optional[int], typer.Option(help="Count that the paper prints.")]  # noqa: UP045
SHOWN = 50


def register(app: typer.Typer) -> None:
    app.command(
        epilog="Example: mmbench datasets match amazon-games --users 24303 --items 10672 --inters 231780"
    )(match)
    app.command(epilog="Example: mmbench datasets export amazon-beauty --format recbole --to peers/dataset")(
        export
    )


def match(
    ctx: typer.Context,
    name: DeclaredDataset,
    users: Count = None,
    items: Count = None,
    inters: Count = None,
    raw: RawOption = None,
    every: Annotated[bool, typer.Option("--all", help="Show every recipe with equal counts.")] = False,
) -> None:
    """Find the raw file, rule for duplicates, rating filter and k-core that give these counts."""
    from mmbench.data import detective

    state: State = ctx.obj
    wanted = detective.Wanted(users, items, inters)

    def progress(message: str) -> None:
        state.err.print(f"{name}: {message}", markup=False)

    verdict = detective.match(name, wanted, state.data_dir, raw=raw, progress=progress)
    _print_verdict(state, verdict, wanted, every=every)


def _print_verdict(state: State, verdict: "Verdict", wanted: "Wanted", *, every: bool) -> None:
    tried = f"{verdict.n_recipes:,} recipes on {', '.join(verdict.files)}"
    if verdict.exact:
        state.out.print(f"exact: found among {tried}", markup=False)
    else:
        state.out.print(f"no exact match among {tried}; the nearest:", markup=False)
    rows = []
    for match in verdict.matches:
        counts = [f"{count:,}" for count in match.counts]
        shown = match.recipes[:SHOWN] if every else match.recipes[:1]
        rows += [
            [recipe.words(), *counts, _difference(match, wanted), recipe.filters() or ""] for recipe in shown
        ]
        if rest := len(match.recipes) - len(shown):
            rows[-1][0] += f" (and {rest:,} more with these counts{'' if every else ': --all'})"
    header = [
        "recipe",
        "users",
        "items",
        "interactions",
        "difference",
        "in datasets.toml, with protocol clean",
    ]
    print_table(state, header, rows)


def _difference(match: "Match", wanted: "Wanted") -> str:
    """Return `exact`, or by how much each count is off; a count that is too large by 1 includes a padding id."""
    differences = [
        f"{count - target:+,} {what}s"
        for what, count, target in zip(
            ("user", "item", "interaction"), match.counts, wanted.counts, strict=True
        )
        if target is not None and count != target and what not in match.padding
    ]
    if match.padding:
        article = {"user": "as a user", "item": "as an item"}
        differences.append(f"counts the padding id {' and '.join(article[what] for what in match.padding)}")
    return "; ".join(differences) or "exact"


def export(
    ctx: typer.Context,
    name: PreparedDataset,
    to: Annotated[Path, typer.Option(help="Folder for the files.")],
    form: Annotated[str, typer.Option("--format", help="recbole, csv or parquet.")] = "recbole",
    times: Annotated[
        str, typer.Option(help="seconds, or rank: small whole numbers, all different.")
    ] = "seconds",
) -> None:
    """Write prepared data, in its order, for other programs, with a table that reads it back."""
    from mmbench.data import export as exporting

    state: State = ctx.obj
    prepared = open_current(state, name)
    report = exporting.export(prepared, to, form=form, times=times)
    for file in report.files:
        state.out.print(str(file), markup=False)
    if report.n_merged:
        state.err.print(
            f"{prepared.name}: {report.n_merged:,} of {report.n_steps:,} steps in time vanish when times are read as "
            "float32 (RecBole); the order of the file keeps them apart under a stable sort, --times rank under any",
            markup=False,
        )
