"""The model zoo: a table of all models and a page for each, from recipes and measured values."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from docs.site.markup import cell, code, table
from mmbench.reporting.model_page import ModelPage
from mmbench.settings.config import Origin
from mmbench.settings.describe import value_text
from mmbench.settings.recipe import Paper

METRIC = "NDCG@10"
KINDS = {
    "multimodal": "Multi-modal",
    "side-information": "Categories and brands",
    "sequential": "Sequential",
    "general": "Users by id, or no order",
}


def measured(docs: Path) -> dict[str, str]:
    """Return NDCG@10 as docs/measured.md has it beside the published value, by the name that tables print."""
    text = (docs / "measured.md").read_text(encoding="utf-8")
    section = text.partition("## HM4SR's table 1, Beauty")[2].partition("\n## ")[0]
    rows = [
        [part.strip() for part in line.strip("|").split("|")] for line in section.splitlines() if "|" in line
    ]
    column = rows[0].index(METRIC)
    return {re.split(r",| \(", row[0])[0]: row[column] for row in rows[2:]}


def zoo(pages: Mapping[str, ModelPage], docs: Path) -> str:
    """Return the page that lists all models."""
    lines = [
        "# Models",
        "",
        "Measured: NDCG@10 on Amazon Beauty with the model's recipe, one seed; in brackets the published",
        "value and the distance from it. [Measured](../measured.md) says how. A model without a number is",
        "implemented and tested, but was not yet trained to its end on these data.",
        "",
        "A variant is written `model:variant`; its model's page lists them with what they change.",
    ]
    kinds: dict[str, list[ModelPage]] = {kind: [] for kind in KINDS}
    for page in pages.values():
        kinds[next(kind for kind in KINDS if kind in page.tags or kind == "general")].append(page)
    numbers = measured(docs)
    for kind, title in KINDS.items():
        lines += ["", f"## {title}"]
        lines += table(
            ["model", "command line", "paper", "reads", "variants", "differences", "measured"],
            (
                [
                    f"[{cell(page.display)}](models/{page.name}.md)",
                    code(page.name),
                    cell(f"{page.paper.venue} {page.paper.year}" if page.paper else ""),
                    ", ".join(page.inputs),
                    str(len(page.variants) or ""),
                    str(len(page.deviations) or ""),
                    cell(numbers.get(page.display, "")),
                ]
                for page in kinds[kind]
            ),
        )
    return "\n".join(lines) + "\n"


def model(page: ModelPage, numbers: Mapping[str, str]) -> str:
    """Return the page of a model."""
    return "\n".join(_model(page, numbers)) + "\n"


def _model(page: ModelPage, numbers: Mapping[str, str]) -> Iterator[str]:
    yield from (f"# {cell(page.display)}", "", cell(page.summary) + ".", "")
    yield from _paper(page.paper) if page.paper else ()
    yield f"- Code: {code(page.file)}, class {code(page.model_class)}"
    yield f"- Reads: {', '.join(page.inputs)}"
    yield f"- Tags: {', '.join(page.tags)}"
    yield from ("", "Run it:", "", "```sh", *page.commands, "```", "")
    yield from _numbers(page, numbers)
    yield from ("", "## Settings", "")
    yield "Values that differ from the defaults, with their sources; [all settings](../settings.md)."
    yield from table(
        ["setting", "value", "source", "may be"],
        (
            [code(row.key), code(value_text(row.setting.value)), cell(row.setting.note), code(row.may_be)]
            for row in page.settings
            if row.of_model or row.setting.origin is not Origin.default
        ),
    )
    if page.variants:
        yield from ("", "## Variants")
        yield from table(
            ["variant", "what it is", "changes", "source"],
            (
                [code(row.name), cell(row.summary), _changes(row.changes), cell(row.source)]
                for row in page.variants
            ),
        )
    if page.deviations:
        yield from ("", "## Differences from paper and official code")
        yield from table(
            ["point", "paper", "code", "here", "switch"],
            (
                [cell(getattr(row, key)) for key in ("point", "paper", "code", "here", "switch")]
                for row in page.deviations
            ),
        )
    if page.search:
        yield from ("", "## Search space", "", "What [`mmbench tune`](../../tuning.md) tries.")
        yield from table(
            ["setting", "tried", "space", "source"],
            (
                [code(row.key), code(_tried(row.searched)), ", ".join(row.spaces), cell(row.searched.source)]
                for row in page.search
            ),
        )


def _paper(paper: Paper) -> Iterator[str]:
    title = f"[{cell(paper.title)}]({paper.url})" if paper.url else f"*{cell(paper.title)}*"
    yield f"- Paper: {title}, {cell(paper.authors)}, {cell(paper.venue)} {paper.year}"
    if paper.code:
        address, _, commit = paper.code.partition(" @ ")
        link = f"<{address}>" if address.startswith("https://") else cell(address)
        yield f"- Official code: {link}" + (f", commit {code(commit)}" if commit else "")


def _numbers(page: ModelPage, numbers: Mapping[str, str]) -> Iterator[str]:
    """Yield measured and published numbers."""
    if page.display in numbers:
        yield from ("", "## Measured", "")
        yield f"{METRIC} on Amazon Beauty, one seed, and in brackets the published value with the distance from it:"
        yield f"{cell(numbers[page.display])} ([Measured](../../measured.md))."
    if page.reported:
        keys = list(dict.fromkeys(key for values in page.reported.values() for key in values))
        yield from ("", "## Published", "", f"{cell(page.reported_source)}.")
        yield from table(
            ["data set", *keys],
            (
                [code(name), *(str(values.get(key, "")) for key in keys)]
                for name, values in page.reported.items()
            ),
        )


def _changes(changes: Mapping[str, tuple[object, object]]) -> str:
    return ", ".join(code(f"{key} = {value_text(after)}") for key, (_, after) in changes.items())


def _tried(searched: object) -> str:
    values = getattr(searched, "values", None)
    if values is not None:
        return ", ".join(map(value_text, values))
    low, high = searched.low, searched.high  # type: ignore[attr-defined]
    step = f", step {searched.step:g}" if searched.step else ""  # type: ignore[attr-defined]
    return f"{low:g} to {high:g}{step}" + (", in the logarithm" if searched.log else "")  # type: ignore[attr-defined]
