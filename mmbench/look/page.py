"""An HTML page about a data set that loads nothing: light and dark, readable on paper."""

from importlib.resources import files
from typing import Any

from mmbench.look.gather import Look
from mmbench.look.nearest import Nearest
from mmbench.look.pictures import data_url
from mmbench.look.plots import Plot, charts, day
from mmbench.look.sheets import nearest_caption, sheet_caption
from mmbench.look.style import inline_svg, styled, svg
from mmbench.visible import visible_if_text

SHEET_PIXELS, SMALL_PIXELS = 128, 80
_PARTS = {
    "Time": ("over-time", "intervals", "pair"),
    "Users and items": ("history-length", "popularity"),
    "Ties, repeats and coverage": ("shares", "text-length"),
}


def html(look: Look, statistics: list[list[str]]) -> str:
    """Return the page; `statistics` are rows [statistic, computed, printed, remark]."""
    from jinja2 import Environment, StrictUndefined

    source = (files("mmbench.look") / "page.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, finalize=visible_if_text).from_string(
        source
    )
    manifest = look.prepared.manifest
    plots = {plot.name: plot for plot in charts(look)}
    return template.render(
        name=look.name,
        title=manifest.title,
        synthetic=look.prepared.synthetic,
        prepared=day(manifest.created),
        hash=look.prepared.hash[:12],
        protocol=manifest.protocol.to_json(),
        source=manifest.printed.source if manifest.printed else "",
        statistics=statistics,
        parts={
            heading: [_figure(plots[name]) for name in names if name in plots]
            for heading, names in _PARTS.items()
        },
        sheet=_sheet(look),
        sheet_caption=sheet_caption(look),
        encoders=[_encoder(look, encoder) for encoder in look.nearest],
        notes=look.notes,
    )


def _figure(plot: Plot) -> dict[str, str]:
    from markupsafe import Markup

    with styled(plot.name):
        drawn = plot.draw()
    # Matplotlib escapes every text that it writes into the drawing.
    return {"svg": Markup(inline_svg(svg(drawn, plot.name), plot.name)), "caption": plot.caption}


def _picture(look: Look, item: int, pixels: int) -> dict[str, Any]:
    """Return what the template shows of an item: its title and its picture's `url`, or the `reason` for none."""
    picture = look.thumbnails.get(item)
    shown: dict[str, Any] = {
        "title": look.title(item),
        "url": None,
        "reason": picture if isinstance(picture, str) else "",
    }
    if picture is not None and not isinstance(picture, str):
        small = picture.copy()
        small.thumbnail((pixels, pixels))
        shown["url"] = data_url(small)
    return shown


def _sheet(look: Look) -> list[dict[str, Any]]:
    if not look.has_pictures:
        return []
    counts = dict(zip(look.popularity.items.tolist(), look.popularity.counts.tolist(), strict=True))
    return [{**_picture(look, item, SHEET_PIXELS), "count": counts[item]} for item in look.sheet]


def _encoder(look: Look, encoder: Nearest) -> dict[str, Any]:
    rows = []
    for query, neighbours in encoder.neighbours.items():
        cells = [
            {**_picture(look, item, SMALL_PIXELS), "cosine": f"{cosine:.2f}"} for item, cosine in neighbours
        ]
        rows.append({"query": _picture(look, query, SMALL_PIXELS), "cells": cells})
    return {
        "modality": encoder.modality,
        "name": encoder.encoder,
        "caption": nearest_caption(look, encoder),
        "hash": encoder.manifest.use.identity[:12],
        "made": day(encoder.manifest.created),
        "rows": rows,
    }
