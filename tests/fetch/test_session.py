"""Which hosts may be asked, and that no password goes along unasked."""

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmbench.fetch.client import get, new_session
from mmbench.fetch.errors import FetchError
from mmbench.fetch.session import is_public
from tests.fetch.picture_server import Answer, PictureServer, page, serving

PRIVATE = [
    "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:c0a8:101::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PictureServer]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving({"/a": page(b"here")}) as running:
        yield running


def redirect(to: str) -> Any:
    def answer(response: Answer, count: int) -> None:
        response.send(302, Location=to)

    return answer


FORMS = ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "0", "x.localhost"]


@pytest.mark.parametrize("host", FORMS)
def test_no_form_of_this_machine_is_asked(host: str, server: PictureServer) -> None:
    port = server.server_address[1]
    with (
        new_session(allows_private=False) as session,
        pytest.raises(FetchError, match="--private-hosts") as caught,
    ):
        get(session, f"http://{host}:{port}/a")
    assert not caught.value.transient
    assert not server.asked


def test_a_name_that_means_this_machine_is_not_asked(
    server: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.server_address[1]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo",
        lambda host, *args, **kwargs: real("127.0.0.1" if "shop" in str(host) else host, *args, **kwargs),
    )  # fmt: skip
    with new_session(allows_private=False) as session, pytest.raises(FetchError, match="private network"):
        get(session, f"http://shop.example:{port}/a")
    assert not server.asked


def test_a_name_that_changes_its_meaning_is_not_asked(
    server: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public when it is looked up first, this machine when the connection is made."""
    port, real, calls = server.server_address[1], socket.getaddrinfo, [0]

    def rebound(host: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return real("1.1.1.1" if calls[0] == 1 else "127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    with new_session(allows_private=False) as session, pytest.raises(FetchError, match="private network"):
        get(session, f"http://shop.example:{port}/a")
    assert not server.asked


def test_a_redirect_to_this_machine_is_not_followed(
    server: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first server is reached as a public one would be; where it points to is looked at again."""
    with serving({"/inner": page(b"secret")}) as inner:
        server.pages["/out"] = redirect(f"{inner.url}/inner")
        from mmbench.fetch import session as module

        port = str(server.server_address[1])
        real = module.refuse_private
        allowed: list[str] = []

        def all_but_the_first(host: str, addresses: Iterator[str]) -> None:
            allowed.append(host)
            if len(allowed) > 3:  # by name, looked up, connected: the first server
                real(host, addresses)

        monkeypatch.setattr(module, "refuse_private", all_but_the_first)
        with new_session(allows_private=False) as session, pytest.raises(FetchError, match="private network"):
            get(session, f"http://127.0.0.1:{port}/out")
        assert server.asked["/out"] == 1
        assert not inner.asked


def test_private_hosts_are_asked_where_that_is_allowed(server: PictureServer) -> None:
    with new_session(allows_private=True) as session:
        assert get(session, f"{server.url}/a").content == b"here"


@pytest.mark.parametrize("is_redirected", [False, True])
def test_no_password_of_netrc_is_sent(
    is_redirected: bool, server: PictureServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\ndefault login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    seen: list[str | None] = []

    def look(response: Answer, count: int) -> None:
        seen.append(response.headers.get("Authorization"))
        response.send(200, b"here")

    server.pages |= {"/look": look, "/out": redirect("/look")}
    with new_session() as session:
        get(session, f"{server.url}/{'out' if is_redirected else 'look'}").close()
    assert seen == [None]


def test_a_password_in_the_address_goes_to_its_host_only(server: PictureServer) -> None:
    seen: list[str | None] = []

    def look(response: Answer, count: int) -> None:
        seen.append(response.headers.get("Authorization"))
        response.send(200, b"here")

    with serving({"/look": look}) as other:
        server.pages |= {
            "/look": look,
            "/out": redirect(f"{other.url}/look".replace("127.0.0.1", "localhost")),
        }
        address = server.url.replace("http://", "http://me:secret@")
        with new_session() as session:
            get(session, f"{address}/look").close()
            get(session, f"{address}/out").close()
    assert seen[0] is not None
    assert seen[0].startswith("Basic ")
    assert seen[1] is None
