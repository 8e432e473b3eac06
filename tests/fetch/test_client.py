"""How pauses are chosen and failures sorted."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mmbench.fetch.client import MAX_WAIT_S, get, new_session, retrying
from mmbench.fetch.errors import FetchError
from tests.fetch.server import Answer, Server


def pauses(error: FetchError, *, tries: int) -> list[float]:
    actual: list[float] = []

    def fails() -> None:
        raise error

    with pytest.raises(FetchError) as caught:
        retrying(tries=tries, first_wait_s=1.0).copy(sleep=actual.append)(fails)
    assert caught.value is error
    return actual


def test_pauses_double_and_are_spread() -> None:
    actual = pauses(FetchError("x", transient=True), tries=5)
    assert len(actual) == 4
    assert all(wait <= pause <= wait + 1 for wait, pause in zip((1, 2, 4, 8), actual, strict=True))


def test_what_cannot_get_better_is_tried_once() -> None:
    assert pauses(FetchError("x", transient=False), tries=5) == []


def test_no_server_makes_us_wait_for_hours() -> None:
    assert pauses(FetchError("x", transient=True, wait_s=7200), tries=2) == [MAX_WAIT_S]


def test_retry_after_may_be_a_date(server: Server) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    server.add("/a", b"", Answer(status=503, headers=(("Retry-After", moment),)))
    with new_session() as session, pytest.raises(FetchError) as caught:
        get(session, f"{server.base}/a")
    assert caught.value.wait_s == pytest.approx(60, abs=3)
    assert caught.value.transient


def test_a_nonsensical_retry_after_is_ignored(server: Server) -> None:
    server.add("/a", b"", Answer(status=503, headers=(("Retry-After", "soon"),)))
    with new_session() as session, pytest.raises(FetchError) as caught:
        get(session, f"{server.base}/a")
    assert caught.value.wait_s is None
