"""How mmbench sends requests: a polite session, and failures sorted by whether another try can help.

Proxies and certificates come from the environment (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`), as usual.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from mmbench import __version__
from mmbench.choices import whole_number
from mmbench.fetch.errors import FetchError

if TYPE_CHECKING:
    import requests
    import tenacity

USER_AGENT = f"mmbench/{__version__} (research benchmark; data preparation)"
CONNECT_S, READ_S = 15.0, 60.0  # a server that sends nothing for READ_S is given up
MAX_REDIRECTS = 8
MAX_WAIT_S = 120.0  # the longest pause before another try, whatever Retry-After says
UNKNOWN_NAME = "no connection (the server's name is not known here)"
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def new_session(n_connections: int = 8, *, allows_private: bool = True) -> "requests.Session":
    """Return a session that sends no password of ~/.netrc and does not retry by itself.

    allows_private  whether it may ask hosts of private networks: not where addresses come from data
    """
    from mmbench.fetch.session import make_session

    session = make_session(n_connections, allows_private=allows_private)
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    session.max_redirects = MAX_REDIRECTS
    return session


@contextmanager
def faults_sorted() -> Iterator[None]:
    """Turn whatever `requests` raises while connecting or reading (or urllib3 in a raw read) into a FetchError."""
    import requests
    import urllib3.exceptions as raw

    try:
        yield
    except requests.TooManyRedirects as error:
        raise FetchError(f"redirected more than {MAX_REDIRECTS} times", transient=False) from error
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        raw.LocationValueError,
    ) as error:
        raise FetchError("the address is not valid", transient=False) from error
    except requests.exceptions.SSLError as error:
        raise FetchError("the server's certificate is not trusted", transient=False) from error
    except (requests.Timeout, raw.TimeoutError) as error:
        raise FetchError("the server did not answer in time", transient=True) from error
    except (requests.exceptions.ChunkedEncodingError, raw.ProtocolError, raw.DecodeError) as error:
        raise FetchError("the connection was cut", transient=True) from error
    except (requests.RequestException, raw.HTTPError) as error:
        raise FetchError(_no_connection(error), transient=True) from error


def _no_connection(error: Exception) -> str:
    """Return why there is no connection, from the exceptions of urllib3, whose texts are for programmers."""
    import requests
    import urllib3.exceptions as raw

    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", None) or cause
    if isinstance(error, requests.exceptions.ProxyError):
        return "no connection to the proxy"
    if isinstance(cause, raw.NameResolutionError):
        return UNKNOWN_NAME
    if isinstance(cause, raw.NewConnectionError):
        return "no connection (refused or unreachable)"
    if isinstance(cause, raw.ProtocolError):
        return "the connection was cut"
    return f"no connection ({type(cause).__name__})"


def get(
    session: "requests.Session",
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: tuple[float, float] = (CONNECT_S, READ_S),
    allowed: Collection[int] = (),
) -> "requests.Response":
    """Return the answer to a GET; its body is not read yet, so close it.

    Raises FetchError for every status from 400 that is not in `allowed`.
    """
    with faults_sorted():
        response = session.get(url, headers=headers, stream=True, timeout=timeout)
    if response.status_code < 400 or response.status_code in allowed:
        return response
    response.close()
    raise FetchError(
        f"HTTP {response.status_code} {response.reason or ''}".strip(),
        transient=response.status_code in TRANSIENT_STATUS,
        wait_s=_retry_after(response.headers.get("Retry-After")),
        status=response.status_code,
    )


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header (seconds or a date) requests, None if it is not usable."""
    if value is None:
        return None
    if (seconds := whole_number(value.strip())) is not None:
        return float(seconds)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def retrying(*, tries: int, first_wait_s: float = 1.0) -> "tenacity.Retrying":
    """Retry transient FetchErrors, up to `tries` tries with growing pauses; the last error is raised.

    A pause is random (so that workers do not return at once) around a doubling wait, or as long as the server requests.
    An unknown server name is tried at most twice, because the whole machine is probably without a network.
    """
    import tenacity

    doubling = tenacity.wait_exponential(multiplier=first_wait_s, max=MAX_WAIT_S)
    backoff = doubling + tenacity.wait_random(0, first_wait_s)

    def wait(state: "tenacity.RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        requested = error.wait_s if isinstance(error, FetchError) else None
        return min(max(requested or 0.0, backoff(state)), MAX_WAIT_S)

    def stop(state: "tenacity.RetryCallState") -> bool:
        error = state.outcome.exception() if state.outcome else None
        is_unknown = isinstance(error, FetchError) and error.reason == UNKNOWN_NAME
        return state.attempt_number >= (min(tries, 2) if is_unknown else tries)

    return tenacity.Retrying(
        stop=stop,
        wait=wait,
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, FetchError) and error.transient),
        reraise=True,
    )
