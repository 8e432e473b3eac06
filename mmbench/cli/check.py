"""`mmbench check`: what every model must keep, asked of your own models as of those of mmbench."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli.state import State

if TYPE_CHECKING:
    from mmbench.contract.report import Finding

_EPILOG = """\b
Examples:
  mmbench --models-dir my-models check markov-mf
  mmbench check sasrec hm4sr:-pcl --dataset demo
  mmbench --models-dir my-models check markov-mf --canary"""
_MARKS = {"holds": "ok", "not asked": "-", "broken": "FAULT", "raises": "FAULT"}


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(check)


def check(
    ctx: typer.Context,
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Model names, with :variant if wanted.")
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Take catalogue, features and histories from this data set; by default from a toy data set.",
        ),
    ] = None,
    canary: Annotated[
        bool,
        typer.Option(
            "--canary",
            help="Instead, train on targets that nobody can predict: a model that hits them has seen the test.",
        ),
    ] = False,
) -> None:
    """Check models without a full training: shapes, padding, causality, gradients, what is stored, leaks.

    Prints a line for each check, with advice where it fails; the exit code is then 1.
    """
    state: State = ctx.obj
    from mmbench import api

    findings = api.check(models, dataset=dataset, canary=canary, data_dir=state.data_dir)
    faults = _print(state, findings)
    if faults:
        raise typer.Exit(1)


def _print(state: State, findings: "Iterable[Finding]") -> int:
    """Print each finding as it comes and a line for each model; return the number of faults."""
    counts: Counter[str] = Counter()
    model = ""
    for finding in findings:
        if finding.model != model:
            _print_sum(state, model, counts)
            model, counts = finding.model, Counter(faults=counts["faults"])
            state.out.print(model, markup=False, style="bold")
        counts[finding.status] += 1
        counts["faults"] += finding.is_fault
        advice = f"; {finding.advice}" if finding.advice else ""
        mark = _MARKS[finding.status]
        state.out.print(
            f"  {mark:5} {finding.check:9} {finding.text}{advice}",
            markup=False, highlight=False, style="red" if finding.is_fault else None,
        )  # fmt: skip
    _print_sum(state, model, counts)
    return counts["faults"]


def _print_sum(state: State, model: str, counts: Counter[str]) -> None:
    if model:
        faults = counts["broken"] + counts["raises"]
        state.out.print(
            f"  {model}: {counts['holds']} hold, {faults} broken, {counts['not asked']} not asked",
            markup=False,
        )
