"""Boards and entries as the texts that the pages show: everything is rounded here, and nothing elsewhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbench.board.curves import curve_svg
from mmbench.board.entries import MAIN, METRICS, Entry, chosen_settings
from mmbench.board.inside import HISTORY_LENGTH
from mmbench.board.ordering import MAIN_INDEX, Board, Overall, Place
from mmbench.board.printed import printed_rows
from mmbench.board.verification import Level
from mmbench.choices import MaskRule
from mmbench.fetch.files import size_text
from mmbench.models.registry import entries as registered
from mmbench.reporting.places import is_same
from mmbench.reporting.rounding import DASH, number
from mmbench.runs.store import slug
from mmbench.settings.config import Setting
from mmbench.settings.describe import value_text

MEANINGS: dict[Level, str] = {
    "claimed": "the bundle passed every check that needs no data",
    "re-scored": "its weights were ranked again here: the same ranks",
    "re-trained": "seeds that nobody could choose were trained again here: inside its interval",
}


@dataclass(frozen=True)
class Pages:
    """Which page an entry, a model and a bundle have."""

    runs: Mapping[str, str]  # by the key of the entry

    def run(self, entry: Entry) -> str:
        return self.runs[entry.key]

    @staticmethod
    def model(entry: Entry) -> str:
        return f"model-{slug(entry.record.model)}.html"

    @staticmethod
    def bundle(entry: Entry) -> str:
        return "" if entry.bundle is None else f"bundles/{entry.bundle.name}"


def run_page(entry: Entry) -> str:
    """Return the name of an entry's page, which changes with its content."""
    record = entry.record
    return f"run-{slug(record.dataset)}-{slug(record.model)}-{record.config_id}-{entry.content}.html"


# -- boards -----------------------------------------------------------------------------------------------


def board_view(board: Board, pages: Pages) -> dict[str, Any]:
    """Return what the page of a board shows."""
    first = board.entries[0]
    return {
        "dataset": board.dataset, "page": board.page, "fingerprint": board.fingerprint,
        "synthetic": first.record.synthetic, "n_users": f"{first.n_users:,}",
        "n_items": f"{first.record.n_items:,}", "protocol": _protocol(first.record.protocol),
        "metrics": [str(metric) for metric in METRICS], "main": str(MAIN),
        "rules": [
            {"name": rule, "is_own": rule == board.rules[0], "rows": _rows(board, rule, pages)}
            for rule in board.rules
        ],
        "resolution": None if board.resolution is None else number(board.resolution),
        "alpha": f"{board.alpha:.2g}", "n_rows": len(board.entries),
        "printed": [vars(row) for row in printed_rows(board.dataset)],
    }  # fmt: skip


def _protocol(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (key, value if isinstance(value, str) else json.dumps(value))
        for key, value in sorted(protocol.items())
    ]


def _rows(board: Board, rule: MaskRule, pages: Pages) -> list[dict[str, Any]]:
    places = board.places[rule]
    best = [_best(places, metric, rule) for metric in range(len(METRICS))]
    rows = []
    for place, before in zip(places, [None, *places], strict=False):
        row = _row(place, rule, best, pages)
        row["begins_group"] = before is not None and before.group != place.group
        rows.append(row)
    return rows


def _best(places: Sequence[Place], metric: int, rule: MaskRule) -> float:
    means = [place.entry.mean(metric, rule) for place in places if place.rank]
    return max((mean for mean in means if not np.isnan(mean)), default=np.nan)


def _row(place: Place, rule: MaskRule, best: Sequence[float], pages: Pages) -> dict[str, Any]:
    entry = place.entry
    record = entry.record
    cells = []
    for index in range(len(METRICS)):
        mean, values = entry.mean(index, rule), entry.values[rule][:, index]
        is_bold = entry.level == "re-trained" and is_same(mean, best[index])
        std = number(float(values.std(ddof=1))) if len(values) > 1 and not np.isnan(mean) else ""
        cells.append(
            {
                "text": _number(mean),
                "std": std,
                "sort": _sort(mean),
                "bold": is_bold,
                "main": index == MAIN_INDEX,
            }
        )
    return {
        "rank": place.rank or DASH, "group": place.group, "moved": place.moved, "name": entry.name,
        "label": _label(entry), "model_page": pages.model(entry), "run_page": pages.run(entry), "cells": cells,
        "n": len(entry.seeds), "n_failed": len(entry.failed), "leaky": record.leaky, "floor": entry.is_floor,
        "external": record.external, "budget": entry.budget,
        "parameters": f"{record.n_parameters:,}" if record.n_parameters else DASH,
        "parameters_sort": record.n_parameters, "hours": _hours(entry), "hours_sort": f"{entry.hours:.6f}",
        "loss": _loss(entry), "mask": record.mask_seen, "level": entry.level, "day": entry.day or DASH,
        "outdated": entry.outdated,
    }  # fmt: skip


def _label(entry: Entry) -> str:
    """Return the settings that somebody chose: "lr=0.01, max_epochs=4"."""
    return ", ".join(
        f"{key}={value_text(setting.value)}" for key, setting in chosen_settings(entry.record).items()
    )


def _loss(entry: Entry) -> str:
    if entry.record.external or entry.record.stopped == "closed form":
        return DASH
    loss, samples = entry.setting("loss"), entry.setting("samples")
    return ", ".join(part for part in (loss, samples if samples != "default" else "") if part) or DASH


def _hours(entry: Entry) -> str:
    if entry.record.external:
        return DASH
    device = str(entry.record.environment.get("device", ""))
    kind = "CPU" if device in ("", "cpu") else "GPU"
    hours = entry.hours
    text = (
        f"{hours:.1f} h"
        if hours >= 1
        else f"{60 * hours:.1f} min"
        if hours >= 1 / 60
        else f"{3600 * hours:.0f} s"
    )
    return f"{text} {kind}"


def _number(value: float) -> str:
    return DASH if np.isnan(value) else number(value)


def _sort(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.9f}"


# -- a configuration --------------------------------------------------------------------------------------


def run_view(entry: Entry, board: Board, pages: Pages, *, before: str) -> dict[str, Any]:
    """Return what the page of a configuration shows. before: the page that it replaced."""
    record = entry.record
    place = next(place for place in board.places[board.rules[0]] if place.entry is entry)
    metric = record.selection.metric if record.selection else ""
    return {
        "name": entry.name, "model": record.model, "dataset": record.dataset, "config_id": record.config_id,
        "board_page": board.page, "model_page": pages.model(entry), "rank": place.rank or DASH,
        "n_rows": len(board.entries), "level": entry.level, "meaning": MEANINGS[entry.level],
        "outdated": entry.outdated, "leaky": record.leaky, "synthetic": record.synthetic, "before": before,
        "metrics": [str(metric) for metric in METRICS],
        "seeds": [_seed(entry, k) for k in range(len(entry.seeds))],
        "rules": [{"name": rule, "means": [_number(entry.mean(m, rule)) for m in range(len(METRICS))]}
                  for rule in entry.rules],
        "failed": entry.failed.items(), "curve": curve_svg(entry.curves, metric), "selection": metric,
        "settings": [_setting(key, setting) for key, setting in sorted(record.settings.items())],
        "features": [(modality, use.encoder, use.identity[:12]) for modality, use in record.features.items()],
        "checks": entry.checks, "bundle": pages.bundle(entry),
        "bundle_size": _size(entry), "facts": _facts(entry), "notes": record.notes,
        "slices": _slices(entry), "cases": _cases(entry),
    }  # fmt: skip


def _seed(entry: Entry, k: int) -> dict[str, Any]:
    values = entry.values[entry.rules[0]][k]
    curve = entry.curves[k]
    return {
        "seed": entry.seeds[k], "values": [_number(float(value)) for value in values], "best": curve.best or DASH,
        "colour": k % 6,
    }  # fmt: skip


def _slices(entry: Entry) -> list[dict[str, Any]]:
    """Return MAIN in each slice of users, by family."""
    families = {} if entry.inside is None else entry.inside.slices
    return [
        {
            "family": family,
            "rows": [
                {
                    "name": piece.name, "n": f"{piece.n:,}", "of_hits": f"{piece.of_hits:.0%}",
                    "value": DASH if piece.value is None else number(piece.value),
                    "interval": "" if piece.interval is None else " to ".join(map(number, piece.interval)),
                }
                for piece in slices if piece.n
            ],
        }
        for family, slices in families.items()
    ]  # fmt: skip


def _cases(entry: Entry) -> list[dict[str, Any]]:
    """Return the lists of a few users, without the users' ids."""
    cases = () if entry.inside is None else entry.inside.cases
    return [
        {
            "history": [(event.item, event.time.date().isoformat()) for event in case.shown.history[-HISTORY_LENGTH:]],
            "n_events": f"{len(case.shown.history):,}", "entries": case.shown.entries, "target": case.shown.target,
            "line": case.shown.target_line, "pictures": case.pictures, "rule": case.shown.rule,
        }
        for case in cases
    ]  # fmt: skip


def _setting(key: str, setting: Setting) -> tuple[str, str, str, str]:
    return key, value_text(setting.value), str(setting.origin.value), setting.note


def _size(entry: Entry) -> str:
    return "" if entry.bundle is None else size_text(entry.bundle.stat().st_size)


def _facts(entry: Entry) -> list[tuple[str, str]]:
    """Return how the runs were made, as (name, text); what a bundle does not say is left out."""
    record = entry.record
    environment: Mapping[str, Any] = record.environment
    libraries = environment.get("libraries", {})
    code = environment.get("code", {})
    facts = {
        "Settings": entry.budget, "Parameters": f"{record.n_parameters:,}" if record.n_parameters else "",
        "Training": f"{_hours(entry)} a seed" if not record.external else "",
        "Epochs": str(record.n_epochs or ""), "Stopped": record.stopped,
        "Device": f"{environment.get('device', '')}, {environment.get('threads', '')} threads".strip(", "),
        "Code": f"mmbench {code.get('mmbench', '')} {code.get('commit', '')}".strip(),
        "Libraries": ", ".join(f"{name} {version}" for name, version in libraries.items() if version),
        "Finished": str(environment.get("finished", "")),
    }  # fmt: skip
    return [(name, text) for name, text in facts.items() if text]


# -- models -----------------------------------------------------------------------------------------------


def model_view(
    model: str, placed: Sequence[tuple[Board, Entry]], pages: Pages, names: Mapping[str, str]
) -> dict[str, Any]:
    """Return what the page of a model shows: what it is; its results as Task, Data set, Metric, Result, Rank."""
    base, _, variant = model.partition(":")
    entry = registered().get(base)
    paper = entry.recipe.paper if entry else None
    summary = (
        entry.recipe.summary
        if entry
        else "Lists or code of others: this version of mmbench has no such model."
    )
    if entry and variant in entry.recipe.variants:
        summary = f"{summary}; {entry.recipe.variants[variant].summary}"
    links = [(name, url) for name, url in (("paper", paper.url), ("code", paper.code))] if paper else []
    return {
        "name": names[model], "model": model, "summary": summary, "paper": paper,
        "links": [(name, url.split("@")[0]) for name, url in links if url.startswith(("https://", "http://"))],
        "tags": entry.recipe.tags if entry else (), "inputs": entry.recipe.inputs if entry else (),
        "rows": [
            {
                "dataset": board.dataset, "board_page": board.page, "metric": str(metric),
                "result": _number(row.mean(index, board.rules[0])), "rank": _rank(board, row, index),
                "n_rows": len(board.entries), "label": _label(row), "run_page": pages.run(row), "level": row.level,
            }
            for board, row in placed for index, metric in enumerate(METRICS)
        ],
    }  # fmt: skip


def _rank(board: Board, entry: Entry, metric: int) -> str:
    """Return 1 + the number of ranked rows whose mean of this metric is higher."""
    rule = board.rules[0]
    means = [place.entry.mean(metric, rule) for place in board.places[rule] if place.rank]
    own_mean = entry.mean(metric, rule)
    if entry.record.leaky or np.isnan(own_mean):
        return DASH
    return str(1 + sum(mean > own_mean and not is_same(mean, own_mean) for mean in means))


def overall_view(rows: Sequence[Overall]) -> list[dict[str, Any]]:
    """Return the rows across data sets, rounded."""
    return [
        {
            "name": row.name, "page": f"model-{slug(row.model)}.html", "rank": f"{row.rank:.2f}",
            "rank_interval": f"{row.rank_interval[0]:.2f} to {row.rank_interval[1]:.2f}", "wins": f"{row.wins:.0%}",
            "wins_interval": f"{row.wins_interval[0]:.0%} to {row.wins_interval[1]:.0%}",
            "elo": f"{row.elo:.0f}", "elo_interval": f"{row.elo_interval[0]:.0f} to {row.elo_interval[1]:.0f}",
            "behind": f"{100 * row.behind:.1f}",
            "behind_interval": f"{100 * row.behind_interval[0]:.1f} to {100 * row.behind_interval[1]:.1f}",
        }
        for row in rows
    ]  # fmt: skip


def index_view(boards: Sequence[Board], pages: Pages) -> list[dict[str, Any]]:
    """Return a row per board: for each metric the best value and whose it is."""
    rows = []
    for board in boards:
        rule = board.rules[0]
        ranked = [place.entry for place in board.places[rule] if place.rank]
        cells = []
        for index in range(len(METRICS)):
            have = [entry for entry in ranked if not np.isnan(entry.mean(index, rule))]
            best = max(have, key=lambda entry: entry.mean(index, rule), default=None)
            cells.append(
                None if best is None
                else {"value": _number(best.mean(index, rule)), "name": best.name, "page": pages.run(best),
                      "bold": best.level == "re-trained"}
            )  # fmt: skip
        first = board.entries[0]
        rows.append({
            "dataset": board.dataset, "page": board.page, "fingerprint": board.fingerprint[:8],
            "n_users": f"{first.n_users:,}", "n_items": f"{first.record.n_items:,}", "n_rows": len(board.entries),
            "synthetic": first.record.synthetic, "mask": rule, "cells": cells,
        })  # fmt: skip
    return rows
