"""The reference of settings and of metrics, from the classes that define them."""

import ast
import inspect
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterable

from docs.site.markup import cell, code, table
from mmbench.evaluation import metrics
from mmbench.models import registry
from mmbench.reporting.model_page import ModelPage
from mmbench.settings.config import Origin, TrainConfig, defaults_of
from mmbench.settings.describe import legal_values, value_text


def page(pages: Iterable[ModelPage]) -> str:
    """Return the page of all settings."""
    comments, defaults = comments_of(TrainConfig), defaults_of(TrainConfig)
    lines = [
        "# Settings",
        "",
        "Every setting is given with `--set key=value`, or `--set model.key=value` for one model; in",
        "Python with `settings={...}`. `mmbench show MODEL` prints the values of a model with their",
        "sources. A value comes from the last of these that has one:",
        "",
        ", ".join(f"*{origin}*" for origin in Origin) + ".",
        "",
        "Settings are part of the identity of a run: another value is another run.",
        "",
        "## Training and evaluation",
        "",
        "Every model has these settings.",
    ]
    lines += table(
        ["setting", "default", "may be", "meaning"],
        (
            [
                code(key),
                code(value_text(defaults[key])),
                code(legal_values(TrainConfig, key)),
                cell(comments[key]),
            ]
            for key in defaults
        ),
    )
    lines += ["## Of single models", "", "A name that several models have means the same in all of them."]
    lines += table(["setting", "models", "may be"], _own_settings(pages))
    return "\n".join(lines) + "\n"


def _own_settings(pages: Iterable[ModelPage]) -> Iterable[list[str]]:
    """Yield a row for each setting of a model's own class, with the models that have it."""
    models: dict[str, list[str]] = defaultdict(list)
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for model in pages:
        for row in model.settings:
            if row.of_model:
                models[row.key].append(f"[{model.display}](models/{model.name}.md)")
                values[row.key][row.may_be] = None
    for key in sorted(models):
        yield [code(key), ", ".join(models[key]), "; ".join(map(code, values[key]))]


def comments_of(cls: type) -> dict[str, str]:
    """Return the comment of each field of a class: on the lines above it that are comments only, or behind it."""
    source = inspect.getsource(cls)
    meanings: dict[str, str] = {}
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        first = node.lineno
        while lines[first - 2].lstrip().startswith("#"):
            first -= 1
        texts = [
            comments[number] for number in range(first, (node.end_lineno or first) + 1) if number in comments
        ]
        meanings[node.target.id] = " ".join(texts)
    return meanings


def metrics_page() -> str:
    """Return the page of all metrics."""
    lines = [
        "# Metrics",
        "",
        "Written NAME@K: `--metric NDCG@10`. r is the rank of the user's one held-out item, C the number of",
        "items ranked, K the cutoff. A metric of ranks is computed for each user and averaged; a metric",
        "of lists has a value for the catalogue, so no test over users applies to it.",
        "[Evaluation](../evaluation.md) says how ranks, ties and tests are made.",
    ]
    rows = []
    for name in metrics.NAMES:
        metric = metrics.parse_metric("AUC" if name == "AUC" else f"{name}@10")
        rows.append([code(name), cell(metric.formula("K")), metric.needs, metric.per])
    lines += table(["metric", "value", "computed from", "a value per"], rows)
    return "\n".join([*lines, "", "```text", inspect.getdoc(metrics) or "", "```"]) + "\n"


def all_pages() -> dict[str, ModelPage]:
    """Return the page of every registered model, by name."""
    from mmbench.reporting.model_page import page_of

    return {name: page_of(entry) for name, entry in registry.entries().items()}
