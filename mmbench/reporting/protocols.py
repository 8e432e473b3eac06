"""Which runs may share a table: a comparison of their protocols, and the options that select a side.

Two runs on a data set are comparable when the fingerprints of their protocols agree. If they do not, the error
names each field that differs and the option of `mmbench report` that keeps a side.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbench.data.store import open_prepared
from mmbench.errors import MmbenchError, ProtocolMismatchError, UsageError, suggest
from mmbench.runs.plan import Cell
from mmbench.runs.store import RunRecord, fingerprint_of
from mmbench.settings.config import parse_value

DATA = "data_hash"
CURRENT = "--current-data"
_Facts = dict[str, Any]


def check_protocols(dataset: str, records: Sequence[RunRecord], *, ignored: Sequence[str] = ()) -> None:
    """Refuse runs of a data set whose protocols differ, naming the fields, the rows and a way out.

    ignored  fields of the protocol that may differ
    """
    sides: dict[str, list[RunRecord]] = {}
    for record in records:
        compared = {key: value for key, value in record.protocol.items() if key not in ignored}
        sides.setdefault(fingerprint_of(compared), []).append(record)
    if len(sides) < 2:
        return
    facts = [_facts(runs[0], ignored) for runs in sides.values()]
    difference = "; ".join(
        f"{name} is {' against '.join(_values(name, facts))}" for name in _differing(facts)
    )
    rows = [", ".join(dict.fromkeys(_who(record) for record in runs)) for runs in list(sides.values())[:2]]
    total = f" ({len(sides)} protocols in all)" if len(sides) > 2 else ""
    raise ProtocolMismatchError(
        f"{dataset}: rows measured under different protocols cannot share a table: {difference}; "
        f"first: {rows[0]}; second: {rows[1]}{total}; {_way_out(facts)}"
    )


def check_planned(cells: Sequence[Cell]) -> None:
    """Refuse cells whose results could not share a table, before they cost hours."""
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        sides: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell.dataset == dataset:
                sides.setdefault(cell.fingerprint, []).append(cell)
        facts = [_flat(first.protocol) for first, *_ in sides.values()]
        differing = _differing(facts)
        if not differing:
            continue
        name = differing[0]
        models = [", ".join(dict.fromkeys(cell.model for cell in side)) for side in sides.values()]
        values = [
            f"{_short(fields.get(name))} ({names})" for fields, names in zip(facts, models, strict=True)
        ]
        raise ProtocolMismatchError(
            f"{dataset}: these cells could not share a table: {name} is {' against '.join(values)}; give all models "
            f"the same value ({' or '.join(_options(name, facts))}), or run each side separately (run has --no-floors)"
        )


def keep_settings(records: Sequence[RunRecord], wanted: Mapping[str, Sequence[str]]) -> list[RunRecord]:
    """Keep the runs that have any of the values of each key: a setting, or else a field of the protocol.

    Values are texts as typed (`0.2`, `true`, `train`). Raises UsageError for a key or a value that no run has.
    """
    kept = list(records)
    for key, texts in wanted.items():
        stored = [_stored(record) for record in records]
        if not any(key in fields for fields in stored):
            known = {name for fields in stored for name in fields}
            raise UsageError(f"--set {key}: {suggest(key, known, what='setting of these runs')}")
        values = [fields[key] for fields in stored if key in fields]
        for text in texts:
            if not any(_same(value, text) for value in values):
                listing = ", ".join(dict.fromkeys(map(_text, values)))
                raise UsageError(f"--set {key}={text}: no run has this value; stored: {listing}")
        kept = [record for record in kept if _has_value(_stored(record), key, texts)]
    if not kept:
        options = " ".join(f"--set {key}={text}" for key, texts in wanted.items() for text in texts)
        raise UsageError(f"no run has all of {options}; leave some out")
    return kept


def _has_value(fields: _Facts, key: str, texts: Sequence[str]) -> bool:
    return key in fields and any(_same(fields[key], text) for text in texts)


def typed(value: Any) -> list[str]:
    """Return a value, or each of a list of alternatives, as it would be typed after `--set KEY=`."""
    values = value if isinstance(value, list | tuple) else [value]
    return [part if isinstance(part, str) else json.dumps(part, default=str) for part in values]


def keep_data(records: Sequence[RunRecord], hashes: Mapping[str, str]) -> list[RunRecord]:
    """Keep the runs whose data have the hash that `hashes` gives for their data set; drop other data sets."""
    return [record for record in records if record.data_hash == hashes.get(record.dataset)]


def keep_current(records: Sequence[RunRecord], data_dir: Path) -> tuple[list[RunRecord], list[str]]:
    """Return the runs whose data set is still prepared as it was then, and a line per data set that loses all.

    Raises UsageError when no run is left.
    """
    hashes, reasons = {}, {}
    for name in dict.fromkeys(record.dataset for record in records):
        reasons[name] = f"no run on {name} was made with the data as it is prepared now; run the models again"
        try:
            hashes[name] = open_prepared(name, data_dir).hash
        except MmbenchError as error:
            reasons[name] = str(error)
    kept = keep_data(records, hashes)
    with_runs = {record.dataset for record in kept}
    lost = [reason for name, reason in reasons.items() if name not in with_runs]
    if not kept:
        raise UsageError(f"{CURRENT}: {lost[0]}")
    return kept, lost


def _facts(record: RunRecord, ignored: Sequence[str] = ()) -> _Facts:
    """Return the fields that decide comparability; the data are represented by their hash."""
    flat = _flat(record.protocol).items()
    return {DATA: record.data_hash, **{key: value for key, value in flat if key not in ("data", *ignored)}}


def _flat(value: Mapping[str, Any], prefix: str = "") -> _Facts:
    """Return nested fields under names joined by dots."""
    flat: _Facts = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return flat


def _stored(record: RunRecord) -> _Facts:
    return {**_facts(record), **{key: setting.value for key, setting in record.settings.items()}}


def _same(value: Any, text: str) -> bool:
    """Return whether a typed text means the stored value: 1e-3 is 0.001 and 0 is 0.0, but 1 is not true."""
    meant = parse_value(text)
    return text == value or (meant == value and isinstance(meant, bool) == isinstance(value, bool))


def _differing(facts: Sequence[_Facts]) -> list[str]:
    names = sorted({name for fields in facts for name in fields})
    return [name for name in names if len({_text(fields.get(name)) for fields in facts}) > 1]


def _way_out(facts: Sequence[_Facts]) -> str:
    """Return the options that keep a side; fields that split no further runs need none."""
    by_data = [
        [fields for fields in facts if fields[DATA] == data]
        for data in dict.fromkeys(fields[DATA] for fields in facts)
    ]
    names: list[str] = []
    ways = [CURRENT] if len(by_data) > 1 else []
    for name in dict.fromkeys(name for side in by_data for name in _differing(side)):
        options = _options(name, facts)
        if options and _parts(facts, [*names, name]) > _parts(facts, names):
            names.append(name)
            ways.append(" or ".join(options))
    if not ways:
        return "remove the folders of a side"
    rest = "" if _parts(facts, names) == len(facts) else ", or remove the folders of a side"
    return f"choose a side: mmbench report {' and '.join(ways)}{rest}"


def _parts(facts: Sequence[_Facts], names: Sequence[str]) -> int:
    """Return how many kinds of runs the data and these fields distinguish."""
    return len({tuple(_text(fields.get(name)) for name in (DATA, *names)) for fields in facts})


def _options(name: str, facts: Sequence[_Facts]) -> list[str]:
    """Return `--set` with each value that can be typed."""
    values = [fields[name] for fields in facts if isinstance(fields.get(name), (str, int, float))]
    return [f"--set {shlex.quote(f'{name}={text}')}" for text in dict.fromkeys(map(_text, values))]


def _values(name: str, facts: Sequence[_Facts]) -> list[str]:
    return list(dict.fromkeys(_short(fields.get(name)) for fields in facts))


def _who(record: RunRecord) -> str:
    return f"{record.model} ({record.config_id})"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else text[:12] + "..."
