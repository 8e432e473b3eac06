"""What goes wrong with a request."""


class FetchError(Exception):
    """A try that failed. `transient`: the same request may succeed later; `wait_s`: what the server asked for.

    `status`: of the server's answer, None when there was none.
    """

    def __init__(
        self, reason: str, *, transient: bool, wait_s: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.reason, self.transient, self.wait_s, self.status = reason, transient, wait_s, status
