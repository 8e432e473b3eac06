"""datasets.toml: strict reading, the user's own files, `datasets add`."""

import os
import tomllib
from pathlib import Path

import pytest

from mmbench.data.catalog import add_datasets, find_dataset, load_catalog, read_catalog, resolve_name
from mmbench.errors import UsageError
from mmbench.paths import datasets_file
from tests.data.raw_files import AMAZON_2014, TABLE, write_toml


@pytest.fixture(autouse=True)
def _no_own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMBENCH_DATASETS", raising=False)


def test_shipped_catalogue(tmp_path: Path) -> None:
    known = load_catalog(tmp_path)
    assert {"amazon-beauty", "amazon-home", "amazon-prime-pantry", "hm-fashion", "demo"} <= set(known)
    assert [name for name, spec in known.items() if spec.synthetic] == ["demo"]
    for name, spec in known.items():
        if name.startswith("amazon-"):
            of = {"amazon-2014": "hm4sr", "amazon-2018": "tmmsrec", "amazon-2023": "clean"}
            assert spec.protocol == of[spec.parser]
            assert all(file.urls and file.urls[0].startswith("https://") for file in spec.raw_files)
            assert all(url.rsplit("/", 1)[1] == file.name for file in spec.raw_files for url in file.urls)
            assert "cite" in spec.terms
            assert (spec.printed is None) == (spec.parser == "amazon-2023")
        if name.startswith(("yelp", "microlens")):  # behind terms that a person must accept
            assert not any(file.urls for file in spec.raw_files)
            assert "https://" in spec.notes


def test_slips_follow_from_the_printed_counts() -> None:
    """Toys: 14.58 actions per user and 17.03 per item are printed, its own counts give 8.63 and 14.06."""
    known = read_catalog(datasets_file())
    printed = known["amazon-toys"].printed
    assert printed is not None
    actual = {slip.statistic: (slip.printed, slip.correct) for slip in known["amazon-toys"].slips}
    assert actual == {
        "actions_per_user": (14.58, round(printed.interactions / printed.users, 2)),
        "actions_per_item": (17.03, round(printed.interactions / printed.items, 2)),
    }
    assert {(slip.statistic, slip.printed - slip.correct) for slip in known["amazon-home"].slips} == {
        ("users", 1.0),
        ("items", 1.0),
    }


FAULTS = [
    ("protocoll = 'clean'\n" + AMAZON_2014, "did you mean 'protocol'"),
    (TABLE + "columns.interactions = { usr = 'user' }", r"in columns.interactions: .*did you mean 'user'"),
    (
        TABLE.replace('"genres"', "3"),
        r"columns\.items\.categories: must be a string or a list \(got 3\)",
    ),
    (
        TABLE.replace('"genres"', "['genres', 4]"),
        r"columns\.items\.categories\.1: must be a string \(got 4\)",
    ),
    (TABLE.replace("name = \"events.tsv\"", "nam = 'events.tsv'"), r"in files.interactions: .*'name'"),
    ("title = 'x'\nfiles.interactions = { name = 'a' }", "parser is missing"),
    (AMAZON_2014.replace("amazon-2014", "amazon-2015"), r"parser: .*amazon-2014"),
    (AMAZON_2014 + "protocol = 'hm4rs'", "unknown protocol 'hm4rs'"),
    (AMAZON_2014 + "ties = 'random'", "unknown tie rule 'random'"),
    (AMAZON_2014 + "protocol = 'hm4sr'\nfilters = { min_user = 3 }", "filters cannot change protocol 'hm4sr'"),
    (AMAZON_2014 + "text_fields = ['titel']", "text field 'titel' does not exist"),
    (AMAZON_2014 + "columns.items = { item = 'x' }", "columns are fixed"),
    (AMAZON_2014 + "images = { name = 'images', member = 'picture.jpg' }", "names no column"),
    (AMAZON_2014 + "images = { name = 'images', member = '{title}.jpg' }", "only use {id}"),
    (AMAZON_2014 + "name = 'other'", "remove the key 'name'"),
    (AMAZON_2014.replace("meta_Demo", "../meta"), "leaves the raw folder"),
    (TABLE.replace('"items.tsv"', '"i.tsv", urls = ["ftp://x/i.tsv"]'), "not an http:// or https:// address"),
    (TABLE.replace('"items.tsv"', '"i.tsv", size = 0'), r"files.items.size: .*got 0"),
    (AMAZON_2014 + "synthetic = 'yes'", "synthetic: .*got 'yes'"),
    (AMAZON_2014 + "filters = { min_user = -1 }", "filters.min_user: .*got -1"),
    ("title = 'x'\nparser = 'amazon-2014'\nfiles.interactions = { name = 'a' }", "needs files.items"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), FAULTS)
def test_fault_is_one_line_with_file_and_table(tmp_path: Path, body: str, message: str) -> None:
    file = write_toml(tmp_path, body)
    with pytest.raises(UsageError, match=message) as caught:
        read_catalog(file)
    assert str(caught.value).startswith(f"{file} [mine]: ")
    assert "\n" not in str(caught.value)


def test_broken_toml_missing_file_and_stray_key(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    with pytest.raises(UsageError, match="cannot be read"):
        read_catalog(file)
    file.write_text("[a\n")
    with pytest.raises(UsageError, match=r"x\.toml: Expected .* \(at line 1, column 3\); correct the file"):
        read_catalog(file)
    file.write_text("title = 'x'\n")
    with pytest.raises(UsageError, match="outside a table"):
        read_catalog(file)


def test_own_files_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_toml(tmp_path / "one", AMAZON_2014 + "raw = 'files'", name="first")
    two = write_toml(tmp_path / "two", TABLE, name="second")
    monkeypatch.setenv("MMBENCH_DATASETS", os.pathsep.join([str(first), str(two)]))
    known = load_catalog(tmp_path)
    assert {"first", "second", "demo"} <= set(known)
    assert known["first"].raw_dir(tmp_path) == tmp_path / "one" / "files"
    assert known["second"].raw_dir(tmp_path) == tmp_path / "two"
    assert known["demo"].raw_dir(tmp_path) == tmp_path / "raw" / "demo"
    with pytest.raises(UsageError, match="did you mean 'second'"):
        find_dataset("secon", tmp_path)


def test_a_file_named_now_wins_over_one_added_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_datasets(write_toml(tmp_path / "one", TABLE, name="shop"), tmp_path)
    file = write_toml(tmp_path / "two", TABLE.replace("Mine", "Ours"), name="shop")
    monkeypatch.setenv("MMBENCH_DATASETS", str(file))
    assert find_dataset("shop", tmp_path).title == "Ours"
    again = write_toml(tmp_path / "three", AMAZON_2014, name="shop")
    monkeypatch.setenv("MMBENCH_DATASETS", os.pathsep.join([str(file), str(again)]))
    with pytest.raises(UsageError, match="'shop' is already defined in"):
        load_catalog(tmp_path)


def test_a_name_is_defined_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_DATASETS", str(write_toml(tmp_path, AMAZON_2014, name="demo")))
    with pytest.raises(UsageError, match="'demo' is already defined in"):
        load_catalog(tmp_path)


def test_add_copies_the_checked_table(tmp_path: Path) -> None:
    data = tmp_path / "data"
    file = write_toml(tmp_path / "shop", TABLE + 'notes = "\\"ä\\" \\\\ tab\\t"\nraw = "files"', name="shop")
    assert add_datasets(file, data) == ["shop"]
    spec = find_dataset("shop", data)
    assert spec == read_catalog(file)["shop"]
    assert spec.raw_dir(data) == tmp_path / "shop" / "files"
    assert (
        tomllib.loads((data / "datasets.toml").read_text(encoding="utf-8"))["shop"]["notes"] == '"ä" \\ tab\t'
    )
    # a second table joins the first; the same name again replaces it; without `raw` the files lie beside the toml
    add_datasets(write_toml(tmp_path / "other", AMAZON_2014, name="other"), data)
    add_datasets(write_toml(tmp_path / "again", TABLE, name="shop"), data)
    assert find_dataset("other", data).raw_dir(data) == tmp_path / "other"
    assert find_dataset("shop", data).raw_dir(data) == tmp_path / "again"


def test_add_refuses_shipped_names_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ships with mmbench"):
        add_datasets(write_toml(tmp_path, AMAZON_2014, name="amazon-toys"), tmp_path / "data")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(UsageError, match="holds no table"):
        add_datasets(tmp_path / "empty.toml", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_resolved_name_and_protocol(tmp_path: Path) -> None:
    _, name, rules = resolve_name("amazon-beauty@hm4sr", tmp_path, ties="random:3")
    assert name == "amazon-beauty@random:3"
    assert (rules.name, rules.ties, rules.min_item) == ("hm4sr", "random:3", 5)
    _, name, rules = resolve_name("movielens-posters@clean-time", tmp_path)
    assert (name, rules.min_user, rules.split) == ("movielens-posters@clean-time", 0, "time")
