"""Sessions of `requests` that send no password and, where addresses come from data, ask public hosts only.

A catalogue of pictures is text from outside: an address in it, or to which a server redirects, may name a service
of the user's machine or network. Every host is looked up, and refused when any of its addresses is not public.
"""

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from mmbench.fetch.errors import FetchError

NAT64 = ipaddress.ip_network("64:ff9b::/96")
OPTION = "--private-hosts"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def make_session(n_connections: int, *, allows_private: bool) -> requests.Session:
    """Return a session that keeps `n_connections` open per host and tries nothing again by itself."""
    session = PasswordlessSession()
    kind = HTTPAdapter if allows_private else PublicAdapter
    for scheme in ("http://", "https://"):
        session.mount(scheme, kind(pool_connections=32, pool_maxsize=n_connections, max_retries=0))
    return session


class PasswordlessSession(requests.Session):
    """Proxies and certificates come from the environment, the passwords of ~/.netrc do not."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _password_of_address

    def rebuild_auth(self, prepared_request: Any, response: requests.Response) -> None:
        """Drop the password on the way to another host, and look for no other."""
        old, new = response.request.url, prepared_request.url
        if old and self.should_strip_auth(old, new):
            prepared_request.headers.pop("Authorization", None)


def _password_of_address(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Use name and password where the address itself has them."""
    user, password = requests.utils.get_auth_from_url(request.url or "")
    return requests.auth.HTTPBasicAuth(user, password)(request) if user else request


# -- public hosts -----------------------------------------------------------------------------------------


def is_public(address: Address) -> bool:
    """Return whether an address lies on the internet; an embedded IPv4 address decides, where there is any."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if any(part is not None and not is_public(part) for part in inner):
            return False
        if address.ipv4_mapped is not None:
            return True
    return address.is_global and not address.is_multicast


def refuse_private(host: str, addresses: Iterator[str]) -> None:
    """Raise FetchError when any address of a host is not public."""
    for text in addresses:
        if not is_public(ipaddress.ip_address(text.partition("%")[0])):
            raise FetchError(
                f"{host} is a host of a private network; if it is meant, add {OPTION}", transient=False
            )


def look_up(host: str) -> Iterator[str]:
    """Yield the addresses of a host; none when its name is not known, which the connection then says."""
    try:
        entries = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    yield from (str(entry[4][0]) for entry in entries)


class _Public:
    """A connection that is refused to hosts which are not public; looked at again once it stands."""

    host: str

    def _new_conn(self) -> socket.socket:
        refuse_private(self.host, look_up(self.host))
        connection: socket.socket = super()._new_conn()  # type: ignore[misc]
        try:  # the name may have meant something else by now
            refuse_private(self.host, iter([connection.getpeername()[0]]))
        except FetchError:
            connection.close()
            raise
        return connection


class _PublicHTTP(_Public, HTTPConnection): ...


class _PublicHTTPS(_Public, HTTPSConnection): ...


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls: Any = _PublicHTTP


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls: Any = _PublicHTTPS


class PublicAdapter(HTTPAdapter):
    """Refuses hosts of private networks. Behind a proxy only literal addresses are known here."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        host = urlsplit(request.url or "").hostname or ""
        refuse_private(host, _named_outright(host))
        return super().send(request, *args, **kwargs)


def _named_outright(host: str) -> Iterator[str]:
    """Yield the address that a host name is a form of, as 127.1, 0x7f000001 and localhost are."""
    if host == "localhost" or host.endswith(".localhost"):
        yield "127.0.0.1"
        return
    try:
        yield str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        try:
            yield socket.inet_ntoa(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return
