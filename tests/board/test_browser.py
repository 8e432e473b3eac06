"""The pages in a real browser, from the disk: light and dark, on a phone, by keyboard, without a request."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmbench.board.entries import entries_of_results
from mmbench.board.site import build_site
from tests.board.browser import Browser, find_browser
from tests.board.test_ordering import ranks_at
from tests.reporting.conftest import fake_run, paper_like

EVIL = "<img src=https://evil.example/x onerror=window.hurt=1><script>window.hurt=1</script>"
PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boards with printed numbers, a hostile name, and an order that depends on the mask rule."""
    root = tmp_path_factory.mktemp("browser")
    paper_like(root / "results", seeds=2, datasets=("amazon-toys",))
    for model, greater, masked in (("hm4sr", 2, 2), ("sasrec", 5, 0), ("gru4rec", 7, 7)):
        curve = [{"epoch": k, "NDCG@20": 0.1 + k / 100} for k in range(1, 31)]
        fake_run(
            root / "results", model, dataset="demo", ranks=ranks_at(greater), under={"input": ranks_at(masked)},
            curve=curve, n_parameters=10**greater, display=EVIL if model == "gru4rec" else model,
        )  # fmt: skip
    entries = list(entries_of_results(root / "results", on_left_out=lambda each: pytest.fail(each.reason)))
    build_site(entries, root / "site", left_out=[], date="2026-01-01")
    return root / "site"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def board_of(site: Path, dataset: str = "demo") -> Path:
    (page,) = site.glob(f"board-{dataset}-*.html")
    return page


MODELS = """Array.from(document.querySelectorAll("section.rule:not([hidden]) tbody tr:not([hidden])"))
  .map((row) => row.querySelector("th a").getAttribute("href").split("-")[2])"""
CONTRAST = """(() => {
  const light = (text) => { const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const back = (node) => { for (let each = node; each; each = each.parentElement) {
    const colour = getComputedStyle(each).backgroundColor; if (!/, 0\\)$|transparent/.test(colour)) return colour; }
    return "rgb(255, 255, 255)"; };
  let worst = 99;
  for (const node of document.querySelectorAll("main *, nav *, footer")) {
    if (![...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !node.getClientRects().length
        || node.closest("svg")) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(back(node))].sort((x, y) => y - x);
    worst = Math.min(worst, (a + .05) / (b + .05));
  }
  return worst; })()"""


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_are_readable_and_ask_for_nothing(
    browser: Browser, site: Path, width: int, is_dark: bool
) -> None:
    grounds = set()
    for page in sorted(site.glob("*.html")):
        browser.open(page, width=width, is_dark=is_dark)
        assert browser.requests == [page.resolve().as_uri()]
        assert browser.complaints == []
        assert browser.evaluate("window.hurt === undefined")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, page.name
        assert browser.evaluate(CONTRAST) >= 4.5, page.name  # WCAG AA
        grounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == {"rgb(20, 23, 28)" if is_dark else "rgb(255, 255, 255)"}


def test_the_switch_shows_the_other_mask_rule(browser: Browser, site: Path) -> None:
    browser.open(board_of(site))
    assert browser.evaluate(MODELS) == ["hm4sr", "sasrec", "gru4rec"]
    marks = 'Array.from(document.querySelectorAll("section.rule:not([hidden]) .moved")).map((each) => each.textContent)'
    assert browser.evaluate(marks) == ["↓1", "↑1"]
    browser.evaluate('document.querySelector("input[value=input]").click()')
    assert browser.evaluate(MODELS) == ["sasrec", "hm4sr", "gru4rec"]


def test_columns_are_sorted_by_keyboard(browser: Browser, site: Path) -> None:
    browser.open(board_of(site))
    headers = 'Array.from(document.querySelectorAll("section.rule:not([hidden]) thead th"))'
    column = f'{headers}.find((each) => each.textContent.startsWith("Parameters"))'
    browser.evaluate(f'{column}.querySelector("button").focus()')
    browser.press("Enter", 13)
    assert browser.evaluate(f"{column}.getAttribute('aria-sort')") == "descending"
    assert browser.evaluate(MODELS) == ["gru4rec", "sasrec", "hm4sr"]
    browser.press("Enter", 13)
    assert browser.evaluate(f"{column}.getAttribute('aria-sort')") == "ascending"
    assert browser.evaluate(MODELS) == ["hm4sr", "sasrec", "gru4rec"]


def test_everything_is_reached_by_the_tab_key(browser: Browser, site: Path) -> None:
    """From the top: the link to the content, the pages, the filter, the switch, every column's button, the rows."""
    browser.open(board_of(site))
    reached = []
    for _ in range(40):
        browser.press("Tab", 9)
        reached.append(
            browser.evaluate(
                "(() => { const e = document.activeElement; return e.className || e.id || e.name || e.tagName })()"
            )
        )
    assert reached[0] == "skip"
    assert {"filter", "rule", "scroll", "BUTTON", "A"} <= set(reached)


def test_the_filter_leaves_rows_with_all_words(browser: Browser, site: Path) -> None:
    browser.open(board_of(site))
    narrow = """(() => { const field = document.getElementById("filter"); field.value = "%s";
      field.dispatchEvent(new Event("input")); })()"""
    browser.evaluate(narrow % "SASREC claimed")
    assert browser.evaluate(MODELS) == ["sasrec"]
    assert browser.evaluate('document.getElementById("shown").textContent') == "1 of 3 rows"
    browser.evaluate(narrow % "")
    assert len(browser.evaluate(MODELS)) == 3


def test_without_scripts_both_rules_are_shown_and_no_control(browser: Browser, site: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(board_of(site))
        document = browser.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
        for selector, shown in (("#rule-none", True), ("#rule-input", True), (".controls", False)):
            node = browser.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
            try:
                browser.call("DOM.getBoxModel", nodeId=node)
                is_shown = True
            except AssertionError:  # what is not drawn has no box
                is_shown = False
            assert is_shown == shown, selector
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_curve_is_drawn(browser: Browser, site: Path) -> None:
    (page,) = site.glob("run-demo-sasrec-*.html")
    browser.open(page)
    box = browser.evaluate(
        '(() => { const b = document.querySelector("polyline").getBoundingClientRect(); return [b.width, b.height] })()'
    )
    assert min(box) > 50
    browser.open(board_of(site, "amazon-toys"))
    assert browser.evaluate('document.querySelectorAll(".printed tbody tr").length') > 10
