"""Cleaning and joining of item texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.data.text import clean, is_page_script, join_text, sentence


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("Salt &amp;amp; Pepper", "Salt & Pepper"),
        ('15" screen\nnew\u2028line', "15 screen new line"),
        ("<b>Bold</b>&nbsp;move", "Bold move"),
        ("Women's <3", "Women's <3"),
        ("&lt;i&gt;x&lt;/i&gt;", "x"),
    ],
)
def test_clean(raw: str, text: str) -> None:
    assert clean(raw) == text


@given(st.text())
def test_cleaned_text_is_one_line_and_stable(raw: str) -> None:
    text = clean(raw)
    assert text.splitlines() in ([], [text])
    assert '"' not in text
    assert clean(text) == text


@pytest.mark.parametrize(("raw", "text"), [("a", "a."), ("a...", "a."), ("a. ", "a."), ("", ""), (" . ", "")])
def test_sentence(raw: str, text: str) -> None:
    assert sentence(raw) == text


RECORD = {
    "title": "Lip Balm",
    "brand": "Acme.",
    "categories": [["Beauty", "Lips"], ["Beauty", "Care"]],
    "plot": "",
}


def test_fields_in_the_order_of_the_data_set() -> None:
    assert join_text(RECORD, ["title", "categories", "brand"]) == "Lip Balm. Beauty, Lips, Care. Acme."
    assert join_text(RECORD, ["categories", "brand", "title"]) == "Beauty, Lips, Care. Acme. Lip Balm."
    assert join_text(RECORD, ["plot", "director"]) == ""


def test_peer_bug_long_text_becomes_empty() -> None:
    """HM4SR's code empties a text of 2,000 characters or more."""
    assert len(join_text({"title": "word " * 1000}, ["title"])) == 5000


def test_page_script_is_no_title() -> None:
    assert is_page_script("var aPageStart = (new Date()).getTime();")
    assert not is_page_script("Getting time right")
