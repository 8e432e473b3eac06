"""Audits as text: terminal, Markdown, CSV (a line per finding), JSON (everything)."""

import csv
import io
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, get_args

from mmbench.audit.counts import agreement_text
from mmbench.audit.finding import MEANINGS, WEIGHTS, Audit, Finding, HitColumn, Weight
from mmbench.errors import UsageError, suggest

if TYPE_CHECKING:
    from rich.console import Console

Format = Literal["terminal", "markdown", "csv", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
CSV_FIELDS = ("table", "weight", "check", "dataset", "method", "numbers", "rule", "arithmetic", "hints")
STYLES: dict[Weight, str] = {"impossible": "bold red", "contradiction": "bold yellow", "remark": "bold cyan"}
PLURALS: dict[Weight, str] = {
    "impossible": "impossible",
    "contradiction": "contradictions",
    "remark": "remarks",
}
LIST_HEAD = ("table", "numbers", *(PLURALS[weight] for weight in WEIGHTS), "paper")
_WIDTH = 116  # longer lines are hard to read
_SINGULARS = {"contradictions": "contradiction", "remarks": "remark"}


def to_text(audits: Sequence[Audit], fmt: Format) -> str:
    """Return full audits as text; `print_terminal` prints the format `terminal`."""
    writers = {"markdown": markdown, "csv": findings_csv, "json": full_json}
    if fmt not in writers:
        raise UsageError(suggest(fmt, writers, what="format"))
    return writers[fmt](audits)


def list_rows(audits: Sequence[Audit]) -> list[list[str]]:
    """Return a row per table with the number of findings of each weight, under LIST_HEAD."""
    return [
        [
            audit.name,
            f"{audit.n_numbers}",
            *(f"{len(audit.of(weight)) or ''}" for weight in WEIGHTS),
            audit.title,
        ]
        for audit in audits
    ]


def summary(audit: Audit) -> str:
    """Return `3 impossible, 2 contradictions`, or that nothing was found."""
    counts = [(len(audit.of(weight)), PLURALS[weight]) for weight in WEIGHTS]
    texts = [f"{n} {_SINGULARS.get(name, name) if n == 1 else name}" for n, name in counts if n]
    return ", ".join(texts) or "nothing found"


def heading(audit: Audit) -> str:
    return f"{audit.name}: {audit.title}, {audit.source}; {audit.n_numbers} numbers: {summary(audit)}"


def where(finding: Finding) -> str:
    """Return `sasrec on amazon-toys: NDCG@5 .0348, ...`."""
    row = " on ".join(part for part in (finding.method, finding.dataset) if part)
    return f"{row}: {', '.join(finding.numbers)}"


def hit_table(audit: Audit) -> tuple[list[str], list[list[str]]]:
    """Return a head (in two lines) and rows: the hits of each method, a column per data set and metric."""
    methods = dict.fromkeys(count.method for column in audit.columns for count in column.counts)
    head = ["hits", *(f"{column.dataset}\n{column.metric} of {column.users:,}" for column in audit.columns)]
    by_column = [
        {count.method: ("~" if column.says_nothing else "") + str(count) for count in column.counts}
        for column in audit.columns
    ]
    return head, [[method, *(hits.get(method, "") for hits in by_column)] for method in methods]


def _head(column: HitColumn) -> str:
    return f"{column.dataset} {column.metric}"


def print_terminal(audit: Audit, console: "Console") -> None:
    """Print headings by weight and four lines per finding, wrapped to a terminal's width, unwrapped elsewhere."""
    from rich.text import Text

    width = min(console.width, _WIDTH) if console.is_terminal else None

    def emit(text: str, style: str = "", indent: str = "") -> None:
        lines = [text] if width is None else textwrap.wrap(text, width - len(indent) or 1) or [""]
        for line in lines:
            console.print(Text(indent + line, style), soft_wrap=True, highlight=False, markup=False)

    emit(heading(audit), "bold")
    for weight in WEIGHTS:
        findings = audit.of(weight)
        if not findings:
            continue
        emit("")
        emit(f"{PLURALS[weight].upper()}: {MEANINGS[weight]}", STYLES[weight])
        for finding in findings:
            emit(where(finding), "bold", "  ")
            for text, style in (
                (finding.rule, ""),
                (finding.arithmetic, "cyan"),
                *((hint, "dim") for hint in finding.hints),
            ):
                emit(text, style, "      ")
    if audit.columns:
        emit("")
        _print_hits(audit, console)
        for column in audit.columns:
            emit(f"{_head(column)}: {agreement_text(column, column.strict)}.")
    emit("")
    for note in audit.notes:
        emit(note, "dim")


def _print_hits(audit: Audit, console: "Console") -> None:
    from tabulate import tabulate

    head, rows = hit_table(audit)
    align = ["left", *["right"] * (len(head) - 1)]
    text = tabulate(rows, headers=head, tablefmt="plain", disable_numparse=True, colalign=align)
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def markdown(audits: Sequence[Audit]) -> str:
    return "\n".join(_markdown(audit) for audit in audits)


def _markdown(audit: Audit) -> str:
    parts = [
        f"## {_md(audit.name)}\n\n{_md(audit.title)}, {_md(audit.source)}. "
        f"{audit.n_numbers} numbers: {summary(audit)}.\n"
    ]
    for weight in WEIGHTS:
        findings = audit.of(weight)
        if findings:
            parts.append(f"### {PLURALS[weight].capitalize()}: {MEANINGS[weight]}\n")
            parts += [_md_finding(finding) for finding in findings]
    if audit.columns:
        head, rows = hit_table(audit)
        parts.append(pipes(head, rows))
        parts += [
            f"- {_md(_head(column))}: {_md(agreement_text(column, column.strict))}."
            for column in audit.columns
        ]
        parts.append("")
    return "\n".join([*parts, *(f"*{_md(note)}*\n" for note in audit.notes)])


def _md_finding(finding: Finding) -> str:
    lines = [finding.rule, finding.arithmetic, *finding.hints]
    return "\n".join([f"- **{_md(where(finding))}**", *(f"  - {_md(line)}" for line in lines), ""])


def pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a pipe table: the first column left, the others right."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    lines = [[_md(cell) for cell in head], rule, *([_md(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _md(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]~])", r"\\\1", text).replace("\n", " ")


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()


def findings_csv(audits: Sequence[Audit]) -> str:
    rows = [
        [audit.name, finding.weight, finding.check, finding.dataset, finding.method, "; ".join(finding.numbers),
         finding.rule, finding.arithmetic, "; ".join(finding.hints)]
        for audit in audits
        for finding in audit.findings
    ]  # fmt: skip
    return _csv(CSV_FIELDS, rows)


def full_json(audits: Sequence[Audit]) -> str:
    content = [
        {"name": audit.name, **asdict(audit), "columns": [_json_column(column) for column in audit.columns]}
        for audit in audits
    ]
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _json_column(column: HitColumn) -> dict[str, Any]:
    counts = [
        {"method": count.method, "printed": count.rate.text, "hits": count.hits, "reading": count.reading}
        for count in column.counts
    ]
    return {**asdict(column), "counts": counts}


def listing(audits: Sequence[Audit], fmt: Format) -> str:
    """Return the list of tables in a format other than `terminal`."""
    if fmt == "markdown":
        return pipes(LIST_HEAD, list_rows(audits))
    if fmt == "csv":
        return _csv(LIST_HEAD, list_rows(audits))
    content = [
        {
            "table": audit.name,
            "numbers": audit.n_numbers,
            **{PLURALS[weight]: len(audit.of(weight)) for weight in WEIGHTS},
        }
        for audit in audits
    ]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
