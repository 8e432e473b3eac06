"""Suggestions for names that nobody knows."""

import pytest

from mmbench.errors import counted, nearest, plural, suggest
from mmbench.models import registry
from mmbench.settings.words import OTHER_NAMES, unknown_setting

MODELS = ("sasrec", "bpr-mf", "hm4sr", "floor", "demo", "bert4rec", "itemknn")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("sasrce", "sasrec"),
        ("SASREX", "sasrec"),
        ("hm4s", "hm4sr"),
        ("itemkn", "itemknn"),
        ("bert4rek", "bert4rec"),
    ],
)
def test_a_name_with_a_slip_is_recognised(word: str, meant: str) -> None:
    """A letter changed, missing, too many, or exchanged with its neighbour."""
    assert suggest(word, MODELS, what="model") == f"unknown model {word!r}; did you mean {meant!r}?"


@pytest.mark.parametrize("word", ["foo", "markov-mf", "remove", "x"])
def test_another_name_is_not_taken_for_one_of_ours(word: str) -> None:
    assert nearest(word, MODELS) == []
    assert "known: bert4rec, bpr-mf" in suggest(word, MODELS, what="model")


def test_the_beginning_of_several_names_lists_them() -> None:
    names = ["hm4sr/fig3", "hm4sr/fig8", "hm4sr/table1", "tmmsrec/table2"]
    assert suggest("hm4sr", names, what="experiment").endswith(
        "these begin with it: hm4sr/fig3, hm4sr/fig8, hm4sr/table1"
    )
    many = [f"paper/table{n}" for n in range(30)]
    assert suggest("paper", many, what="experiment").count("paper/") == 8
    assert suggest("tmmsrec", names, what="experiment").endswith("did you mean 'tmmsrec/table2'?") or nearest(
        "tmmsrec", names
    ) == ["tmmsrec/table2"]


def test_settings_of_other_programs_are_answered_with_ours() -> None:
    known = registry.find("sasrec").known_settings()
    assert unknown_setting("learning_rate", known) == "unknown setting 'learning_rate'; did you mean 'lr'?"
    assert "did you mean 'dropout'" in unknown_setting("dropuot", known)
    assert unknown_setting("qqqqqqqqq", known).endswith("mmbench show MODEL lists the settings of a model")
    every = {key for entry in registry.entries().values() for key in entry.known_settings()}
    assert set(OTHER_NAMES.values()) <= every
    assert not set(OTHER_NAMES) & every


def test_models_are_known_as_tables_call_them() -> None:
    for name, entry in registry.entries().items():
        for text in (name, name.upper(), entry.recipe.display, entry.recipe.display.lower()):
            assert registry.canonical(text) == name
        for variant in entry.recipe.variants:
            assert registry.canonical(f"{entry.recipe.display}:{variant}") == f"{name}:{variant}"


@pytest.mark.parametrize(
    ("noun", "several"),
    [
        ("run", "runs"),
        ("search", "searches"),
        ("entry", "entries"),
        ("day", "days"),
        ("epoch", "epochs"),
        ("box", "boxes"),
    ],
)
def test_several_of_a_noun(noun: str, several: str) -> None:
    assert counted(2, noun) == f"2 {several}"
    assert counted(1, noun) == f"1 {noun}"


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (12_345, "12,345 runs")]
)
def test_a_number_stands_with_its_noun(number: int, expected: str) -> None:
    assert counted(number, "run") == expected
    assert expected.endswith(f" {plural(number, 'run')}")
