"""The findings of several models, in their order."""

from collections.abc import Iterator, Sequence

from mmbench.contract import canary as canaries
from mmbench.contract.report import Finding, check_model, text_of
from mmbench.contract.subject import of_data_set, of_toy
from mmbench.data.store import Prepared


def findings_of(models: Sequence[str], prepared: Prepared | None, *, canary: bool) -> Iterator[Finding]:
    """Yield the findings of each model on a data set, or on the toy data set: of its checks, or of its canaries."""
    for name in models:
        if canary:
            yield from canaries.findings(name, prepared)
            continue
        try:
            subject = of_toy(name) if prepared is None else of_data_set(name, prepared)
        except Exception as error:
            yield Finding(name, "build", "raises", text_of(error), "correct the model's file or its recipe")
            continue
        yield from check_model(subject)
