"""mmbench.strict: JSON becomes a dataclass as a whole or not at all."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from mmbench import strict


@dataclass(frozen=True, kw_only=True)
class Inner(strict.Strict):
    share: float
    kind: Literal["a", "b"]


@dataclass(frozen=True, kw_only=True)
class Outer(strict.Strict):
    name: str
    counts: tuple[int, ...]
    inner: Inner
    by_name: dict[str, Inner]
    absent: Inner | None = None

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ValueError("such a name is forbidden")


INNER = {"share": 0.5, "kind": "a"}
GOOD: dict[str, Any] = {
    "name": "x",
    "counts": [1, 2],
    "inner": INNER,
    "by_name": {"k": INNER},
    "absent": None,
}


def test_what_is_dumped_is_read() -> None:
    value = strict.read(Outer, GOOD)
    assert value == Outer(
        name="x", counts=(1, 2), inner=Inner(share=0.5, kind="a"), by_name={"k": Inner(share=0.5, kind="a")}
    )
    assert strict.dump(value) == json.loads(json.dumps(strict.dump(value))) == GOOD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "^name: .*string.*got 3"),
        ({"counts": [1, "2"]}, r"^counts\.1: .*integer.*got \"2\""),
        ({"counts": [True]}, r"^counts\.0: .*integer.*got true"),
        ({"counts": "12"}, "^counts: "),
        ({"inner": {"share": 0.5}}, r"^inner\.kind is missing$"),
        ({"inner": {**INNER, "colour": 1}}, r"^inner\.colour is unknown$"),
        ({"inner": {**INNER, "kind": "c"}}, r"^inner\.kind: .*'a' or 'b'"),
        ({"inner": {**INNER, "share": float("nan")}}, r"^inner\.share: .*finite"),
        ({"by_name": {"k": None}}, r"^by_name\.k: "),
        ({"name": "forbidden"}, "such a name is forbidden"),
        ({"more": 1}, "^more is unknown$"),
    ],
)
def test_what_does_not_fit_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        strict.read(Outer, {**GOOD, **changes})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("content", [None, [], "x", 3, {}])
def test_what_is_no_such_object_is_refused(content: Any) -> None:
    with pytest.raises(ValueError):
        strict.read(Outer, content)
