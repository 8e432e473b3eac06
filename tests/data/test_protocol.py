"""Names of prepared data sets, protocols and tie rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.data.protocol import PROTOCOLS, PreparedName, build_protocol, check_ties, random_seed
from mmbench.errors import UsageError

KEYS = {
    "name", "duplicates", "min_user", "min_item", "item_counts", "iterate", "require", "ties", "split",
    "valid_share", "test_share", "max_len", "mask_seen", "selection_metric", "patience",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("amazon-beauty", ("amazon-beauty", None, None)),
        ("amazon-beauty@clean", ("amazon-beauty", "clean", None)),
        ("amazon-beauty@random:12", ("amazon-beauty", None, "random:12")),
        ("amazon-beauty@tmmsrec@reverse", ("amazon-beauty", "tmmsrec", "reverse")),
    ],
)
def test_name_is_read(text: str, parts: tuple[str, str | None, str | None]) -> None:
    name = PreparedName.parse(text)
    assert (name.dataset, name.protocol, name.ties) == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a@rndom:1", "did you mean 'random:1'"),
        ("a@hm4rs", "did you mean 'hm4sr'"),
        ("a@random", "needs a seed"),
        ("a@random:-1", "needs a seed"),
        ("a@random:01", "needs a seed"),
        ("a@file@clean", "in this order"),
        ("a@clean@hm4sr", "in this order"),
        ("@clean", "no data set name"),
    ],
)
def test_bad_name_is_explained(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PreparedName.parse(text)


def test_defaults_are_left_out_of_the_name() -> None:
    name = PreparedName.parse("a@hm4sr@file")
    assert name.text(default_protocol="hm4sr", default_ties="file") == "a"
    assert name.text(default_protocol="clean", default_ties="reverse") == "a@hm4sr@file"


@given(
    protocol=st.sampled_from([None, *PROTOCOLS]),
    ties=st.one_of(
        st.none(), st.sampled_from(["file", "reverse"]), st.integers(0, 10**6).map("random:{}".format)
    ),
)
def test_names_survive_writing_and_reading(protocol: str | None, ties: str | None) -> None:
    name = PreparedName("a", protocol, ties)
    assert PreparedName.parse(name.text(default_protocol="-", default_ties="-")) == name


def test_options_and_name_must_agree() -> None:
    name = PreparedName.parse("a@random:1")
    assert name.override(protocol="clean", ties="random:1") == PreparedName("a", "clean", "random:1")
    with pytest.raises(UsageError, match="contradicts --ties"):
        name.override(protocol=None, ties="file")
    with pytest.raises(UsageError, match="did you mean 'tmmsrec'"):
        name.override(protocol="tmsrec", ties=None)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_every_key(name: str) -> None:
    assert set(build_protocol(name, ties="file")) == KEYS


def test_own_filters_do_not_touch_a_papers_protocol() -> None:
    own = {"min_user": 0, "item_counts": "users"}
    assert build_protocol("clean", ties="file", filters=own)["min_user"] == 0
    assert build_protocol("clean-time", ties="file", filters=own)["item_counts"] == "users"
    assert build_protocol("hm4sr", ties="file", filters=own)["min_user"] == 5


def test_a_built_protocol_is_nobody_elses() -> None:
    build_protocol("tmmsrec", ties="file")["require"].append("audio")
    assert build_protocol("tmmsrec", ties="file")["require"] == ["text", "image"]


def test_seed_of_tie_rule() -> None:
    assert [random_seed(one) for one in ("file", "reverse", "random:7")] == [None, None, 7]
    with pytest.raises(UsageError, match="did you mean 'reverse'"):
        check_ties("revers")
