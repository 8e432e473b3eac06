"""Options whose values are written with commas or as KEY=VALUE."""

from collections.abc import Iterable, Iterator

from mmbench.errors import UsageError


def words(texts: Iterable[str] | None) -> list[str]:
    """Return the values of a repeatable option: `-d a -d b` and `-d a,b` are the same."""
    return [part.strip() for text in texts or [] for part in text.split(",") if part.strip()]


def key_values(texts: Iterable[str] | None, *, form: str, option: str = "--set") -> Iterator[tuple[str, str]]:
    """Yield key and value of each text of an option; UsageError, with the form, for a text that lacks either."""
    for text in texts or []:
        key, _, value = text.partition("=")
        if not key or key.endswith(".") or not value:
            raise UsageError(f"{option} {text!r}: write it as {form}")
        yield key, value


def filters(texts: Iterable[str] | None, *, form: str) -> dict[str, list[str]]:
    """Return the wanted values of each key of `--set KEY=VALUE`."""
    wanted: dict[str, list[str]] = {}
    for key, value in key_values(texts, form=form):
        wanted.setdefault(key, []).append(value)
    return wanted


def single_values(texts: Iterable[str] | None, *, form: str, advice: str) -> dict[str, str]:
    """Return the value of each key of `--set KEY=VALUE`; UsageError, with the advice, for a key with two values."""
    wanted = filters(texts, form=form)
    for key, values in wanted.items():
        if len(set(values)) > 1:
            raise UsageError(f"--set {key}: {' and '.join(values)}; {advice}")
    return {key: values[0] for key, values in wanted.items()}
