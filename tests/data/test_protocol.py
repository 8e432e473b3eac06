"""Names of prepared data sets, protocols and tie rules."""

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.data.protocol import (
    PROTOCOLS,
    PreparedName,
    Protocol,
    build_protocol,
    check_ties,
    differing_fields,
    random_seed,
)
from mmbench.errors import UsageError


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
        ("@clean", "not the name of a data set"),
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
def test_protocols_survive_json(name: str) -> None:
    protocol = build_protocol(name, ties="random:3")
    content = json.loads(json.dumps(protocol.to_json()))
    assert Protocol.from_json(content) == protocol
    assert (protocol.name, protocol.ties) == (name, "random:3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_len": "50"}, 'max_len: .*integer.*got "50"'),
        ({"max_len": 0}, "max_len: .*greater than or equal to 1"),
        ({"min_user": True}, "min_user: .*integer.*got true"),
        ({"min_user": -1}, "min_user: .*greater than or equal to 0"),
        ({"split": "tiem"}, "split: .*'leave-one-out', 'time', 'time-last' or 'time-random'"),
        ({"require": ["sound"]}, "require.0: .*'text' or 'image'"),
        ({"ties": "random"}, "ties: must be file, reverse or random:<seed>"),
        ({"mask_seen": "all"}, "mask_seen: "),
        ({"iterate": 1}, "iterate: "),
        ({"valid_share": 0.7, "test_share": 0.5}, "must be below 1 together"),
        ({"valid_share": -0.1}, "valid_share: "),
        ({"maxlen": 50}, "maxlen is unknown"),
        ({"patience": None}, "patience: .*got null"),
    ],
)
def test_a_protocol_that_is_none_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Protocol.from_json({**PROTOCOLS["clean"].to_json(), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", [field.name for field in fields(Protocol)])
def test_every_field_of_a_protocol_is_needed(field: str) -> None:
    content = PROTOCOLS["clean"].to_json()
    del content[field]
    with pytest.raises(ValueError, match=f"^{field} is missing$"):
        Protocol.from_json(content)


def test_what_two_protocols_differ_in() -> None:
    assert differing_fields(PROTOCOLS["hm4sr"], PROTOCOLS["clean"]) == ["name"]
    assert differing_fields(PROTOCOLS["clean"], build_protocol("clean", ties="reverse")) == ["ties"]


def test_own_filters_do_not_touch_a_papers_protocol() -> None:
    own = {"min_user": 0, "item_counts": "users", "require": ["text"]}
    clean = build_protocol("clean", ties="file", filters=own)
    assert (clean.min_user, clean.item_counts, clean.require) == (0, "users", ("text",))
    assert build_protocol("clean-time", ties="file", filters=own).item_counts == "users"
    assert build_protocol("hm4sr", ties="file", filters=own) == PROTOCOLS["hm4sr"]


def test_seed_of_tie_rule() -> None:
    assert [random_seed(order) for order in ("file", "reverse", "random:7")] == [None, None, 7]
    with pytest.raises(UsageError, match="did you mean 'reverse'"):
        check_ties("revers")
