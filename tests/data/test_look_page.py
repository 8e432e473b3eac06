"""The page and the plots of data sets with everything, and with next to nothing."""

import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.features.store import write_features
from mmbench.look import style
from mmbench.look.gather import Look, as_json, look
from mmbench.look.page import html
from mmbench.look.plots import charts
from mmbench.look.save import save_plots
from mmbench.look.sheets import sheets
from mmbench.look.terminal import shape_rows
from tests.looking import write_data, write_pictures
from tests.prepared import MADE

WILD = [
    '<script>alert("x")</script>',
    "costs $5 & $6_{x",
    "日本語のタイトル",
    "</svg></figure><b>",
    "tab\tnul\x00",
    "",
]
N = 30


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """30 items with wild titles and noisy pictures (one file is missing, one item names none), two encoders."""
    folder = tmp_path_factory.mktemp("full")
    names = [f"{k}.jpg" if k != 2 else None for k in range(N)]
    images = write_pictures(folder / "pictures.zip", [name for name in names[1:] if name], size=(300, 400))
    records = [
        {"id": f"i<{k}>", "title": f"{WILD[k % 6]} {k}" if k != 5 else "", "text": f"word {k} " * (k + 1),
         "image": names[k], "categories": []} for k in range(N)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    histories = [
        [
            (int(item) + 1, int(at) * 86_400)
            for item, at in zip(rng.integers(0, N, 8), range(0, 800, 100), strict=True)
        ]
        for _ in range(20)
    ]
    prepared = write_data(
        folder, [*histories, [(k + 1, k) for k in range(N)]], n_items=N, records=records, pictures=images,
        name="full", categories=[[k % 3] for k in range(N)],
    )  # fmt: skip
    present = np.arange(N + 1) != 4
    write_features(prepared, "text", "bert+layers", rng.normal(size=(N + 1, 3, 4)), present, MADE)
    write_features(prepared, "image", "vit", rng.normal(size=(N + 1, 8)), present, MADE)
    return prepared


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """One user, one item again and again at one time; no texts, pictures, categories or features."""
    records = [{"id": "only", "title": "", "text": "", "image": None, "categories": []}]
    return write_data(
        tmp_path_factory.mktemp("bare"), [[(1, 5)] * 4], n_items=1, records=records, name="bare"
    )


class Page(HTMLParser):
    """Tags, what they load, and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_holds_everything_and_loads_nothing(full: Prepared) -> None:
    source = html(look(full), [["users", "21", "", "a <remark>"]])
    page = Page(source)
    assert len(source) < 3_000_000
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in page.loaded)
    assert source.count("http") == source.count("http://www.w3.org/")  # names of formats
    assert page.tags.count("script") == page.tags.count("b") == page.tags.count("link") == 0
    assert page.tags.count("svg") == 7
    assert page.tags.count("figure") == page.tags.count("figcaption") == 7 + 3  # the sheet and two encoders
    for text in (
        WILD[0],
        WILD[1],
        WILD[2],
        WILD[3],
        "tab nul",
        "i<5>",
        "a <remark>",
        "missing file",
        "no picture named",
    ):
        assert text in page.text, text
    assert "text: bert+layers" in page.text
    assert "(3 × 4 numbers, last layer)" in page.text
    assert source.count("data:image/jpeg") > 24


def test_colours_of_the_drawings_follow_the_page(full: Prepared) -> None:
    source = html(look(full), [])
    drawing = source[source.index("<svg") : source.index("</svg>")]
    assert "var(--blue)" in drawing
    assert "var(--ink)" in drawing
    assert not {"#0072b2", "#1b1f24", "#ffffff"} & set(drawing.replace(";", '"').replace(" ", '"').split('"'))


def test_a_page_of_next_to_nothing(bare: Prepared) -> None:
    actual = look(bare)
    assert [chart.name for chart in charts(actual)] == [
        "over-time",
        "intervals",
        "history-length",
        "popularity",
        "shares",
    ]
    assert sheets(actual) == []
    text = Page(html(actual, [])).text
    assert "All 4 interactions have the same time, 1970-01-01 (UTC)." in text
    assert "has no pictures" in text
    assert "mmbench extract bare" in text
    assert [row[0] for row in shape_rows(actual)] == [
        "interactions over time", "time between neighbours", "history lengths", "item popularity",
    ]  # fmt: skip


def test_every_plot_is_saved_twice_and_has_a_caption(
    full: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    monkeypatch.setattr(style, "DPI", 40)  # small pictures are quick to write

    before, pyplot = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    files = save_plots(look(full), tmp_path / "new" / "plots")
    names = [figure.name for figure in [*charts(look(full)), *sheets(look(full))]]
    assert {"contact-sheet", "nearest-text-bert+layers", "nearest-image-vit"} < set(names)
    expected = {f"{name}.{ending}" for name in names for ending in ("png", "svg")} | {"captions.txt"}
    assert {file.name for file in files} == {file.name for file in files[0].parent.iterdir()} == expected
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")
        elif file.suffix == ".svg":
            ElementTree.parse(file)
    captions = (files[0].parent / "captions.txt").read_text(encoding="utf-8").split("\n\n")
    assert [caption.splitlines()[0] for caption in captions] == names
    assert all(len(caption.splitlines()[1]) > 40 for caption in captions)
    assert ("matplotlib.pyplot" in sys.modules, dict(matplotlib.rcParams)) == (pyplot, before)


def test_the_numbers_as_json(full: Prepared, bare: Prepared) -> None:
    actual = json.loads(json.dumps(as_json(look(full)), allow_nan=False))
    assert sum(actual["over_time"]["counts"]) == 190
    assert sum(actual["history_length"]["counts"]) == 21
    assert sum(actual["intervals"]["counts"]) == 190 - 21
    assert actual["shares"]["image features vit"] == 29 / 30
    assert sum(actual["text_words"]["counts"]) == actual["text_words"]["n_items"] == 30
    nothing = json.loads(json.dumps(as_json(look(bare)), allow_nan=False))
    assert (nothing["pair"], nothing["text_words"]) == (None, None)


def test_pictures_that_are_gone_and_features_of_other_items_are_notes(full: Prepared, tmp_path: Path) -> None:
    file = write_pictures(tmp_path / "gone.zip", ["1.jpg"])
    records = [{**record, "id": f"other {record['id']}"} for record in full.item_records]
    histories = [[(k + 1, k) for k in range(N)]]
    other = write_data(tmp_path, histories, n_items=N, records=records, pictures=file, name="other")
    shutil.copytree(full.features_dir, other.features_dir)
    file.unlink()
    actual: Look = look(other)
    text = Page(html(actual, [])).text
    assert len(actual.notes) == 3
    assert "gone.zip" in text
    assert text.count("was made for another catalogue") == 2
    assert "pictures are gone" in text
